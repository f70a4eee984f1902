"""The exercises: made from their solutions, unsolved they fail their checks, solved they pass."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

TURN = "# --- your turn"


@pytest.fixture(scope="module")
def workshop(project):
    return project / "notebooks" / "workshop"


@pytest.fixture(scope="module")
def make(workshop):
    return load(workshop, "make_exercises")


def code_cells(path) -> list[str]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_seven_and_they_are_what_the_script_makes(make, workshop):
    made = make.made()
    assert len(made) == 7
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run notebooks/workshop/make_exercises.py"
    assert sorted(made) == sorted(workshop.glob("exercise_*.ipynb"))


def test_no_exercise_gives_its_solution_away(make, workshop):
    for path in workshop.glob("solution_*.ipynb"):
        for source in filter(lambda text: TURN in text, code_cells(path)):
            stub = make.stub_out(source)
            answer = re.search(rf"{TURN}.*?# --- end", source, re.DOTALL)[0].splitlines()
            kept = [line for line in answer if not line.strip().startswith("#") and line.strip() in stub]
            assert not kept, (path.name, kept)
            compile(stub, path.name, "exec")


@pytest.mark.parametrize(
    "source", ["# --- end", "# --- your turn: x\n# stub: 1", "# --- your turn: x\n1\n# --- end",
               "# --- your turn: x\n# --- your turn: y\n# stub: 1\n# --- end"],
)  # fmt: skip
def test_marks_that_do_not_match_are_refused(make, source):
    with pytest.raises(ValueError):
        make.stub_out(source)


@given(st.lists(st.from_regex(r"[a-z]{1,8} = \d{1,4}", fullmatch=True), max_size=6))
def test_code_without_marks_stays_as_it_is(make, lines):
    assert make.stub_out("\n".join(lines)) == "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 3, 4, 5, 6, 7])
def test_each_stub_fails_its_check_and_the_solution_passes(make, workshop, monkeypatch, capsys, number):
    """Runs a solution cell by cell; at each turn first the stub is tried in its place."""
    monkeypatch.syspath_prepend(str(workshop))
    monkeypatch.chdir(workshop)
    import checks

    (path,) = workshop.glob(f"solution_{number}_*.ipynb")
    cells = code_cells(path)
    solved, turns = {"__name__": "__main__"}, 0
    for position, source in enumerate(cells):
        if TURN in source:
            turns += 1
            unsolved = dict(solved)
            exec(compile(make.stub_out(source), path.name, "exec"), unsolved)
            check = next(
                i for i, text in enumerate(cells) if i > position and re.search(r"^(\w+ = )?checks\.", text, re.M)
            )
            with pytest.raises(checks.NotYet) as caught:
                for text in cells[position + 1 : check + 1]:
                    exec(compile(text, path.name, "exec"), unsolved)
            assert len(str(caught.value).split()) >= 4
        exec(compile(source, path.name, "exec"), solved)
    assert turns >= 2
    passed = capsys.readouterr().out.count("✓")
    assert passed >= turns


@pytest.mark.slow
def test_in_jupyter_an_unsolved_check_is_one_sentence(workshop, tmp_path):
    """The real thing once: a kernel that runs the exercise with the fewest imports to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--allow-errors",
         "--output-dir", str(tmp_path), str(workshop / "exercise_4_evaluation.ipynb")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    notebook = json.loads((tmp_path / "exercise_4_evaluation.ipynb").read_text(encoding="utf-8"))
    errors = [
        output for cell in notebook["cells"] for output in cell.get("outputs", ()) if output["output_type"] == "error"
    ]
    assert len(errors) == 4
    for error in errors:
        assert error["ename"] == "NotYet"
        assert error["traceback"] == [f"✗ Not yet. {error['evalue']}"]


def load(workshop, name: str):
    spec = importlib.util.spec_from_file_location(name, workshop / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkpoint_brings_what_a_notebook_needs_and_keeps_what_was_there(workshop, tmp_path, capsys):
    from nbutils.core import outputs_root
    from nbutils.pipeline.run import Run
    from nbutils.pipeline.steps import CHAIN

    ready = Run("ready", tmp_path)
    for file in {file for step in CHAIN for file in step.makes}:
        ready.path(file).write_text(file)
    for step in CHAIN:
        ready.record(step.name, parameters={"RUN_NAME": "ready"}, finished="yes")
    (outputs_root() / "tutorial").mkdir(parents=True)
    (outputs_root() / "tutorial" / "mine.txt").touch()
    checkpoint = load(workshop, "checkpoint")

    assert checkpoint.main([str(ready.folder), "3"]) == 0
    run = Run("tutorial")
    run.need(*CHAIN[2].needs)
    assert not (run.folder / "model").exists()
    assert list(run.read()["steps"]) == [step.name for step in CHAIN[:2]]
    assert (outputs_root() / "tutorial-before" / "mine.txt").exists()

    ready.path("dev_dataset.json").write_text("dev")
    assert checkpoint.main([str(ready.folder), "4"]) == 0
    assert (run.folder / "dev_dataset.json").exists()
    assert not (run.folder / "results").exists()

    assert checkpoint.main([str(ready.folder), "6"]) == 0
    assert (run.folder / "results" / "metrics.csv").exists()
    assert (run.folder / "model" / "modules.json").read_text() == "model/modules.json"
    assert (outputs_root() / "tutorial-before-3" / "train_dataset.json").exists()

    assert checkpoint.main([str(ready.folder), "7"]) == 2
    assert checkpoint.main([str(tmp_path / "nowhere"), "2"]) == 2
    assert (run.folder / "model").exists()
    assert "is missing" in capsys.readouterr().err


# The checks' own judgement, where an exercise's stub does not reach it.


@pytest.fixture
def checks(workshop, monkeypatch):
    monkeypatch.syspath_prepend(str(workshop))
    import checks

    return checks


def test_a_loss_with_a_known_mistake_is_told_which(checks):
    import numpy as np

    owner = [0, 0, 1, 1]

    def loss(scores, wrong, scale=20, mean=True, sign=1, siblings=False, own=True):
        powers = np.exp(scale * scores)
        wrong = ~np.eye(len(scores), dtype=bool) if siblings else wrong
        values = -np.log(powers.diagonal() / (own * powers.diagonal() + (powers * wrong).sum(axis=1)))
        return sign * (values.mean() if mean else values.sum())

    checks.loss(loss, owner)
    mistakes = {"scale": {"scale": 1}, "sum": {"mean": False}, "sign": {"sign": -1}, "masked": {"siblings": True},
                "missing": {"own": False}}  # fmt: skip
    for word, mistake in mistakes.items():
        with pytest.raises(checks.NotYet, match=word):
            checks.loss(lambda scores, wrong, mistake=mistake: loss(scores, wrong, **mistake), owner)

    def by_product(scores, wrong):
        own = np.exp(20 * scores).diagonal()
        return -np.log(own / (own + np.exp(20 * scores * wrong).sum(axis=1))).mean()

    with pytest.raises(checks.NotYet, match="power of 0"):
        checks.loss(by_product, owner)
    with pytest.raises(checks.NotYet, match="columns"):
        checks.loss(lambda scores, wrong: loss(scores.T, wrong), owner)
    with pytest.raises(checks.NotYet, match="logarithm"):
        checks.loss(lambda scores, wrong: loss(scores, wrong) / np.log(10), owner)


def test_intervals_of_common_mistakes_are_told_apart(checks):
    import numpy as np

    random = np.random.default_rng(1)
    before = random.uniform(0, 1, 200)
    after = np.clip(before + random.normal(0.03, 0.1, 200), 0, 1)
    draws = random.integers(0, 200, (4000, 200))
    checks.paired_interval(*np.percentile((after - before)[draws].mean(axis=1), [2.5, 97.5]), before, after)
    separate = after[draws].mean(axis=1) - before[random.integers(0, 200, (4000, 200))].mean(axis=1)
    with pytest.raises(checks.NotYet, match="other questions"):
        checks.paired_interval(*np.percentile(separate, [2.5, 97.5]), before, after)
    with pytest.raises(checks.NotYet, match="narrow"):
        checks.paired_interval(*np.percentile((after - before)[draws].mean(axis=1), [25, 75]), before, after)
    with pytest.raises(checks.NotYet, match="narrow"):  # 90 %
        checks.paired_interval(*np.percentile((after - before)[draws].mean(axis=1), [5, 95]), before, after)
    near = after - (after - before).mean() + 0.004
    with pytest.raises(checks.NotYet, match="subtract"):
        checks.paired_interval(*np.percentile((before - near)[draws].mean(axis=1), [2.5, 97.5]), before, near)
    with pytest.raises(checks.NotYet, match="means"):
        checks.paired_interval(*np.percentile(after - before, [2.5, 97.5]), before, after)
    with pytest.raises(checks.NotYet, match="wide"):
        checks.paired_interval(*np.percentile((after - before)[draws[:, :60]].mean(axis=1), [2.5, 97.5]), before, after)


def test_metrics_with_a_known_mistake_are_told_which(checks):
    import pandas as pd

    ranks = pd.Series([1, 2, 5, 20, None], dtype="Float64")
    checks.metric(3 / 5, ranks, "hit_rate")
    checks.metric((1 + 1 / 2 + 1 / 5) / 5, ranks, "mrr")
    mistakes = [
        (3 / 4, "hit_rate", "not found"),
        (2 / 5, "hit_rate", "fifth"),
        ((1 + 1 / 2 + 1 / 5 + 1 / 20) / 5, "mrr", "Beyond rank 10"),
        ((1 + 1 / 2 + 1 / 5) / 3, "mrr", "beyond 10; they"),
        ("x", "mrr", "number"),
        (ranks, "mrr", "of type Series"),
        (60, "hit_rate", "between 0 and 1"),
    ]
    for value, kind, words in mistakes:
        with pytest.raises(checks.NotYet, match=words):
            checks.metric(value, ranks, kind)


def test_answers_of_the_wrong_kind_are_told_so(checks):
    import numpy as np
    import pandas as pd

    sizes = [64, 256, 1024]
    checks.same_amount_of_text({size: np.int64(2048 // size) for size in sizes}, sizes, 2048)
    evaluation = pd.read_csv(Path(checks.__file__).with_name("evaluation.csv"))
    with pytest.raises(checks.NotYet, match="list"):
        checks.labels(None)
    with pytest.raises(checks.NotYet, match="list"):
        checks.judged(None, evaluation)
    with pytest.raises(checks.NotYet, match="dict"):
        checks.plan({"a": 128, "b": 256, "c": 512})


def test_a_sweep_whose_runs_have_no_name_or_no_notebook_is_told_so(checks, tmp_path):
    plan = {"a": {}, "b": {}}
    (tmp_path / "tutorial").mkdir()
    with pytest.raises(checks.NotYet, match="names a run's folder"):
        checks.executed(plan, "b", {"b": "CHUNK_SIZE"}, tmp_path)
    (tmp_path / "tutorial").rename(tmp_path / "a")
    (tmp_path / "a" / "run.json").write_text('{"steps": {"01_build_corpus": {"finished": "now"}}}')
    with pytest.raises(checks.NotYet, match="0 executed notebooks"):
        checks.executed(plan, "b", {"b": "CHUNK_SIZE"}, tmp_path)
    for name in plan:
        (tmp_path / f"{name}.ipynb").touch()
    checks.executed(plan, "b", {"b": "CHUNK_SIZE"}, tmp_path)


def test_the_recorded_evaluation_is_complete(workshop):
    import pandas as pd

    table = pd.read_csv(workshop / "evaluation.csv")
    assert set(table.question_set) == {"synthetic", "gold"}
    assert (table.groupby("question_set").size() >= 100).all()
    ranks = table[["base", "fine_tuned", "bm25"]]
    assert ranks.stack().between(1, 100).all()


def test_the_recorded_curve_is_complete(workshop):
    import pandas as pd

    table = pd.read_csv(workshop / "curve.csv")
    parts = [name for name in table if name.startswith("chunks_")]
    sizes = [int(name.removeprefix("chunks_")) for name in parts]
    assert sizes[0] == 0 and sizes == sorted(set(sizes)) and len(sizes) == 5
    assert len(table) >= 300 and table[parts].isin([0, 1]).all(axis=None) and table.notna().all(axis=None)


def chunk(file: str, header: str | None):
    from llama_index.core.schema import TextNode

    return TextNode(text="text", metadata={"file_name": file} | ({"header": header} if header else {}))


def test_headers_that_do_not_tell_documents_or_sections_apart_are_told_so(checks):
    good = [chunk(f"{file}.pdf", f"{file} · {section}") for file in "ab" for section in range(5)]
    checks.headers(good)
    with pytest.raises(checks.NotYet, match="no header"):
        checks.headers([*good, chunk("a.pdf", None)])
    with pytest.raises(checks.NotYet, match=r"'a · 1' stands before chunks of a\.pdf and of c\.pdf"):
        checks.headers([*good, chunk("c.pdf", "a · 1")])
    with pytest.raises(checks.NotYet, match=r"All chunks of c\.pdf have nearly the same header"):
        checks.headers([*good, chunk("c.pdf", "c")])


def test_shares_that_were_counted_wrongly_are_told_so(checks):
    with pytest.raises(checks.NotYet, match="without"):
        checks.says_the_year(0.75, ["in 2023", "a", "b", "c"])
    rows = {"with": [{"is_hit": False, "retrieved": ["x", "a"], "expected": "b"},
                     {"is_hit": True, "retrieved": ["b", "x"], "expected": "b"}]}  # fmt: skip
    file_of = {"a": "1.pdf", "b": "1.pdf", "x": "2.pdf"}
    checks.document_shares({"with": 0.5}, {"with": 0.5}, rows, file_of)
    with pytest.raises(checks.NotYet, match="hits"):
        checks.document_shares({"with": 1.0}, {"with": 0.5}, rows, file_of)
    with pytest.raises(checks.NotYet, match="all five"):
        checks.document_shares({"with": 0.5}, {"with": 1.0}, rows, file_of)


def test_what_follows_from_the_last_step_of_a_curve(checks):
    for answer, low, high in [("would probably help", 0.01, 0.05), ("would hardly help", -0.01, 0.01),
                              ("may or may not help", -0.01, 0.05)]:  # fmt: skip
        checks.more_documents(answer, low, high)
        for wrong in {"would probably help", "would hardly help", "may or may not help"} - {answer}:
            with pytest.raises(checks.NotYet, match="Are you that sure"):
                checks.more_documents(wrong, low, high)


def test_the_rules_of_the_exercise_are_those_of_the_verdict(checks):
    """The rules that a learner writes, tried with the package's own."""
    from nbutils.evaluation.verdict import Effect, _kind

    def effect(outcome, difference=0.0):
        return Effect("fine-tuned", "base", "gold", 0.5, 0.5, difference, 0, 0, 0.5, 200, 100, outcome)

    checks.verdicts(
        lambda gold, synthetic, difference: _kind(
            effect(gold, difference), [effect(synthetic)], [None, None], None, 0.02
        )
    )
    with pytest.raises(checks.NotYet, match="first that applies"):
        checks.verdicts(lambda gold, synthetic, difference: synthetic)
    with pytest.raises(checks.NotYet, match="from the top"):
        checks.outcomes(lambda difference, low, high, p: "better" if low > 0 else "unclear")
