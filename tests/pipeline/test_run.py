import json

import nbformat
import pytest

from nbutils.core import UserError
from nbutils.pipeline import run as runs
from nbutils.pipeline.run import CHAIN, Run, check_parameters, notebook_parameters, read_profile


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/tmp/x", ".hidden", "a" * 200, "a\nb"])
def test_a_run_name_that_would_leave_outputs_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="RUN_NAME"):
        Run(name, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_every_notebook_declares_its_parameters_with_type_and_help():
    for step in CHAIN:
        for parameter in notebook_parameters(step.name).values():
            assert parameter.type in ("str", "int", "float", "bool", "list", "dict"), parameter
            assert len(parameter.help) > 10, parameter
            assert parameter.convert(parameter.default) == parameter.default


def test_one_name_means_one_type_and_default_in_all_notebooks():
    seen = {}
    for parameter in runs.all_parameters():
        assert seen.setdefault(parameter.name, (parameter.type, parameter.default)) == (
            parameter.type,
            parameter.default,
        )


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("CHUNK_SIZE", "384", 384),
        ("TRAIN_FILES", "a.pdf", ["a.pdf"]),
        ("TRAIN_FILES", "[a.pdf, b.pdf]", ["a.pdf", "b.pdf"]),
        ("TRAIN_FILES", "[draft] a.pdf", ["[draft] a.pdf"]),
        ("LEARNING_RATE", "2e-5", 2e-5),
        ("LEARNING_RATE", 1, 1.0),
        ("TRUST_REMOTE_CODE", "true", True),
        ("LLM", "openai:gpt-4o-mini", "openai:gpt-4o-mini"),
    ],
)
def test_text_from_the_command_line_becomes_the_declared_type(name, given, meant):
    value = check_parameters({name: given})[name]
    assert value == meant
    assert type(value) is type(meant)


def test_text_becomes_a_mapping():
    parameter = runs.Parameter("X", "dict", {}, "some switches", "01_build_corpus")
    assert parameter.convert("{a: 10}") == {"a": 10}
    with pytest.raises(UserError, match="type dict"):
        parameter.convert("a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"CHUNKSIZE": 1}, "CHUNKSIZE.*Did you mean CHUNK_SIZE"),
        ({"chunk_size": 1}, "Did you mean CHUNK_SIZE"),
        ({"ZZZ": 1}, "nbutils params"),
        ({"CHUNK_SIZE": "many"}, "CHUNK_SIZE.*int"),
        ({"CHUNK_SIZE": 1.5}, "CHUNK_SIZE.*int"),
        ({"CHUNK_SIZE": True}, "CHUNK_SIZE.*int"),
        ({"TRUST_REMOTE_CODE": "perhaps"}, "TRUST_REMOTE_CODE.*bool"),
        ({"LLM": "sk-" + "a" * 30}, "environment"),
        ({"EPOCHS": -1}, "EPOCHS is -1; it must be at least 0"),
        ({"LEARNING_RATE": "nan"}, "LEARNING_RATE is nan"),
        ({"CHUNK_SIZE": 32}, r"CHUNK_OVERLAP is 40; it must be below CHUNK_SIZE \(32\)"),
        ({"VALIDATION_SHARE": 30}, "VALIDATION_SHARE is 30"),
        ({"ENGINE": "llamaindex"}, "ENGINE is 'llamaindex'.*llama-index"),
        ({"GOLD_QUESTIONS": "nowhere.csv"}, "GOLD_QUESTIONS: there is no file nowhere.csv"),
        ({"TRAIN_FILES": [], "VAL_FILES": ["nowhere.pdf"]}, "TRAIN_FILES: No files.*VAL_FILES: There is no.*nowhere"),
    ],
)
def test_a_wrong_parameter_is_named_before_any_work(values, message, tmp_path):
    with pytest.raises(UserError, match=message):
        runs.run("x", values, outputs=tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_profiles_hold_only_known_parameters(project):
    for path in (project / "notebooks" / "profiles").glob("*.yaml"):
        values = read_profile(path.stem)
        assert check_parameters(values) == values, path


@pytest.mark.parametrize(("text", "message"), [("- a\n- b\n", "map"), ("a: [1\n", "YAML")])
def test_a_profile_that_is_no_mapping_is_refused(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_profile(tmp_path / "p.yaml")


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(UserError, match="offline"):
        read_profile("nope")


def test_a_step_before_the_one_it_needs_says_which_to_run(tmp_path):
    run = Run("new", tmp_path)
    with pytest.raises(UserError, match=r"train_dataset.json is missing. Run 02_generate_questions.ipynb"):
        run.need("train_dataset.json")


def test_two_processes_cannot_run_the_same_run(tmp_path):
    with Run("x", tmp_path).lock(), pytest.raises(UserError, match="another process"), Run("x", tmp_path).lock():
        pass


def test_a_damaged_record_is_named(tmp_path):
    run = Run("x", tmp_path)
    (run.folder / "run.json").write_text("{")
    with pytest.raises(UserError, match=r"x/run.json is damaged"):
        run.read()


def test_the_record_keeps_every_step(tmp_path):
    run = Run("x", tmp_path)
    run.record("01_build_corpus", seconds=1.0)
    run.record("02_generate_questions", seconds=2.0)
    record = json.loads((run.folder / "run.json").read_text())
    assert [step["seconds"] for step in record["steps"].values()] == [1.0, 2.0]
    assert record["versions"]["sentence-transformers"]


def test_the_fingerprint_follows_files_and_parameters(tmp_path):
    run, step = Run("x", tmp_path), CHAIN[0]
    file = tmp_path / "a.txt"
    file.write_text("one")
    parameters = {"TRAIN_FILES": [str(file)], "CHUNK_SIZE": 256}
    first = run.fingerprint(step, parameters)
    assert run.fingerprint(step, parameters) == first
    assert run.fingerprint(step, {**parameters, "CHUNK_SIZE": 512}) != first
    file.write_text("two")
    assert run.fingerprint(step, parameters) != first


def test_committed_notebooks_keep_the_design(project):
    for step in CHAIN:
        notebook = nbformat.read(project / "notebooks" / f"{step.name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert len(notebook.cells) - len(code) >= len(code), f"{step.name}: less prose than code"
        lengths = sorted(len([line for line in cell.source.splitlines() if line.strip()]) for cell in code)
        assert lengths[len(lengths) // 2] <= 6, f"{step.name}: median cell of {lengths[len(lengths) // 2]} lines"
        assert lengths[-1] <= 40, step.name
        assert not any("def " in cell.source for cell in code), f"{step.name}: plumbing belongs in nbutils"


def test_committed_notebooks_are_clean_and_executed_in_order(project):
    for step in CHAIN:
        notebook = nbformat.read(project / "notebooks" / f"{step.name}.ipynb", as_version=4)
        text = nbformat.writes(notebook)
        assert "/home/" not in text and str(project.parent) not in text and "/tmp/" not in text, step.name
        assert len(text) < 1_500_000, f"{step.name}: {len(text)} bytes"
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1)), step.name
        outputs = [output for cell in code for output in cell.outputs]
        assert not any(output.output_type == "error" for output in outputs), step.name
        assert not any("widget" in mime for output in outputs for mime in output.get("data", {})), step.name
