"""Parameters: what the notebooks declare, and values as people and files write them."""

from pathlib import Path

import pytest

from nbutils.core import UserError
from nbutils.pipeline import run as runs
from nbutils.pipeline.parameters import (
    Parameter,
    all_parameters,
    check_parameters,
    notebook_parameters,
    read_profile,
    read_yaml,
)
from nbutils.pipeline.steps import CHAIN


def test_every_notebook_declares_its_parameters_with_type_and_help():
    for step in CHAIN:
        for parameter in notebook_parameters(step.name).values():
            assert parameter.type in ("str", "int", "float", "bool", "list", "dict"), parameter
            assert len(parameter.help) > 10, parameter
            assert parameter.convert(parameter.default) == parameter.default


def test_one_name_means_one_type_and_default_in_all_notebooks():
    seen = {}
    for parameter in all_parameters():
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
        ("CHUNK_SIZE", "0512", 512),
        ("LANGUAGE", 5, "5"),
        ("TRAIN_FILES", [Path("a.pdf"), "b.pdf"], ["a.pdf", "b.pdf"]),
        ("LANGUAGE", "no", "no"),
        (
            "FILTERS",
            "{prose: false, round_trip: 010, near_duplicates: 0.5}",
            {"prose": False, "round_trip": 10, "near_duplicates": 0.5},
        ),
        ("VAL_FILES", "[]", []),
        ("GOLD_QUESTIONS", "", ""),
        ("TRAIN_FILES", "data/sk-vyrocna-sprava-2023.pdf", ["data/sk-vyrocna-sprava-2023.pdf"]),
        ("LLM", "openai-like:m@http://localhost:8000/v1", "openai-like:m@http://localhost:8000/v1"),
    ],
)
def test_text_from_the_command_line_becomes_the_declared_type(name, given, meant):
    value = check_parameters({name: given})[name]
    assert value == meant
    assert type(value) is type(meant)


def test_text_becomes_a_mapping():
    parameter = Parameter("X", "dict", {}, "some switches", "01_build_corpus")
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
        ({"LLM": ["a", "b"]}, "LLM.*str"),
        ({"TRUST_REMOTE_CODE": "perhaps"}, "TRUST_REMOTE_CODE.*bool"),
        ({"LLM": "sk-" + "a" * 30}, "environment"),
        ({"TRAIN_FILES": ["a.pdf", "sk-proj-x_" + "b" * 24]}, "TRAIN_FILES.*environment"),
        ({"FILTERS": {"key": "hf_" + "a1" * 16}}, "FILTERS.*environment"),
        ({"TRAIN_FILES": "https://me:secret@example.org/a.pdf"}, "TRAIN_FILES.*password"),
        ({"LLM": "openai-like:m@https://u:p@example.org/v1"}, "LLM.*password"),
        ({"TRAIN_FILES": "https://example.org/a.pdf?api_key=0123456789"}, "TRAIN_FILES.*key"),
        ({"TRAIN_FILES": ""}, "TRAIN_FILES is empty"),
        ({"VAL_FILES": ["a.pdf", " "]}, "VAL_FILES is empty"),
        ({"BASE_MODEL": ""}, "BASE_MODEL is empty"),
        ({"TRAIN_FILES": "data/**.pdf"}, "TRAIN_FILES"),
        ({"EPOCHS": -1}, "EPOCHS is -1; it must be at least 0"),
        ({"LEARNING_RATE": "nan"}, "LEARNING_RATE is nan"),
        ({"CHUNK_SIZE": 32}, r"CHUNK_OVERLAP is 40; it must be below CHUNK_SIZE \(32\)"),
        ({"VALIDATION_SHARE": 30}, "VALIDATION_SHARE is 30"),
        ({"OPTIONS": {"lora_rnk": 4}}, "OPTIONS: The engine has no option 'lora_rnk'"),
        ({"ENGINE": "adapter", "OPTIONS": {"lora_rank": 4}}, "OPTIONS: The adapter has no option 'lora_rank'"),
        ({"ENGINE": "adapter", "MAX_SEQ_LENGTH": 128}, "MAX_SEQ_LENGTH cannot be set where ENGINE is adapter"),
        ({"BASE_MODEL": "openai:text-embedding-3-small"}, "BASE_MODEL is openai:.*ENGINE adapter"),
        ({"CHUNK_HEADER": ["chapter"]}, "CHUNK_HEADER holds 'chapter'"),
        ({"PAIRS": "none.csv"}, "PAIRS: there is no file .*none.csv"),
        ({"EXAMPLE_QUESTIONS": "auto"}, "EXAMPLE_QUESTIONS: there is no file auto"),
        ({"QUESTIONS_PER_CHUNK": 0, "PAIRS": ""}, "nothing would be left to learn from"),
        ({"TRAIN_ON": "both"}, "TRAIN_ON is 'both'"),
        ({"ENGINE": "llamaindex"}, "ENGINE is 'llamaindex'.*llama-index"),
        ({"GOLD_QUESTIONS": "nowhere.csv"}, "GOLD_QUESTIONS: there is no file .*nowhere.csv"),
        ({"TRAIN_FILES": [], "VAL_FILES": ["nowhere.pdf"]}, "TRAIN_FILES: No files.*VAL_FILES: There is no.*nowhere"),
    ],
)
def test_a_wrong_parameter_is_named_before_any_work(values, message, tmp_path):
    with pytest.raises(UserError, match=message):
        runs.run("x", values, outputs=tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_profiles_hold_only_known_parameters(project):
    for path in (project / "notebooks" / "profiles").glob("*.yaml"):
        assert set(check_parameters(read_profile(path.stem))) == set(read_profile(path.stem)), path


def test_scalars_of_a_profile_mean_what_their_parameter_says(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "CHUNK_SIZE: 0512\nLANGUAGE: no\nLEARNING_RATE: 2e-5\nVAL_FILES: []\nSEED: 1_000\n"
    )
    values = check_parameters(read_profile(tmp_path / "p.yaml"))
    assert values == {"CHUNK_SIZE": 512, "LANGUAGE": "no", "LEARNING_RATE": 2e-5, "VAL_FILES": [], "SEED": 1000}
    assert read_yaml("[01, 1:30]") == ["01", "1:30"]


@pytest.mark.parametrize(("text", "message"), [("- a\n- b\n", "map"), ("a: [1\n", "YAML")])
def test_a_profile_that_is_no_mapping_is_refused(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_profile(tmp_path / "p.yaml")


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(UserError, match="offline"):
        read_profile("nope")
