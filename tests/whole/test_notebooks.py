"""Every notebook really run: by nbval with its defaults, and by the chain with other files and parameters."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from nbutils.corpus.chunks import read_corpus
from nbutils.pipeline import run as runs


@pytest.mark.slow
def test_nbval_runs_every_notebook_in_order(project, tmp_path):
    names = [*(step.name for step in runs.CHAIN), *runs.EXTRA_NOTEBOOKS]
    notebooks = [str(project / "notebooks" / f"{name}.ipynb") for name in names]
    environment = os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout=600", "--nbval-sanitize-with", str(project / "tests" / "nbval_sanitize.cfg"), *notebooks],
        capture_output=True, text=True, env=environment, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
    record = json.loads((tmp_path / "outputs" / "tutorial" / "run.json").read_text())
    assert list(record["steps"]) == [name for name in names if name != "05_compare_runs"]  # that one writes elsewhere
    assert all(step["finished"] for step in record["steps"].values())


@pytest.fixture(scope="module")
def two_texts(tmp_path_factory):
    """Two short documents, so that the chain can be run in seconds."""
    folder = tmp_path_factory.mktemp("texts")
    subjects = {
        "train": [
            "harbour",
            "crane",
            "ferry",
            "mooring",
            "tide",
            "pilot",
            "lock",
            "barge",
            "quay",
            "anchor",
            "beacon",
            "dredger",
        ],
        "val": [
            "orchard",
            "apple",
            "cider",
            "press",
            "blossom",
            "graft",
            "barrel",
            "hedge",
            "ladder",
            "frost",
            "beehive",
            "cellar",
        ],
    }
    for name, words in subjects.items():
        paragraphs = [
            f"The {word} report of {year} describes how the {word} was inspected in spring and repaired for "
            f"{3 * number + 11} thousand crowns, because the {words[number - 1]} beside it had failed. "
            f"Its keeper expects the {word} to serve until {year + 20 + number}."
            for year in (1984, 1996)
            for number, word in enumerate(words)
        ]
        (folder / f"{name}.txt").write_text("\n\n".join(paragraphs))
    return folder


def chain(folder, texts, name="small", **parameters):
    said = []
    result = runs.run(
        name,
        {"TRAIN_FILES": str(texts / "train.txt"), "VAL_FILES": [str(texts / "val.txt")], "CHUNK_SIZE": 64,
         "CHUNK_OVERLAP": 8, "EPOCHS": 1, **parameters},
        outputs=folder, say=said.append,
    )  # fmt: skip
    return result, said


@pytest.mark.slow
def test_the_chain_runs_continues_and_redoes_only_what_changed(two_texts, tmp_path):
    result, said = chain(tmp_path, two_texts)
    assert result.status == "done", result.error
    assert list(result.seconds) == [step.name for step in runs.CHAIN]
    assert {"base", "fine-tuned"} <= set(result.metrics["system"])
    assert any("cell 1/" in line for line in said)
    for made in ("run.json", "questions.jsonl", "report.html", "results/metrics.csv", "model/model.safetensors"):
        assert (result.folder / made).stat().st_size > 0, made

    again, said = chain(tmp_path, two_texts)
    assert again.status == "done"
    assert again.seconds == {}
    assert sum("up to date" in line for line in said) == 4

    changed, _ = chain(tmp_path, two_texts, TOP_K=3)
    assert list(changed.seconds) == ["04_evaluate_models"]

    shutil.rmtree(result.folder / "model")
    mended, _ = chain(tmp_path, two_texts, TOP_K=3)
    assert next(iter(mended.seconds)) == "03_finetune_embedding"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "step", "words"),
    [
        ({"VAL_FILES": "SAME"}, "01_build_corpus", ["train.txt"]),
        ({"BASE_MODEL": "no/such-model"}, "01_build_corpus", ["no/such-model"]),
        ({"LLM": "openai:gpt-4o-mini"}, "02_generate_questions", ["OPENAI_API_KEY"]),
    ],
)
def test_what_goes_wrong_is_named_and_nothing_half_written_stays(
    two_texts, tmp_path, monkeypatch, parameters, step, words
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if parameters.get("VAL_FILES") == "SAME":
        parameters = {"VAL_FILES": [str(two_texts / "train.txt")]}
    result, _ = chain(tmp_path, two_texts, **parameters)
    assert (result.status, result.failed_step) == ("failed", step)
    for word in words:
        assert word in result.error
    assert not any(made in os.listdir(result.folder) for made in next(s for s in runs.CHAIN if s.name == step).makes)
    assert not [file for file in os.listdir(result.folder) if "partial" in file or file == ".progress"]


@pytest.mark.slow
@pytest.mark.parametrize("validation", [("-p", "VAL_FILES", "val.txt"), ("-y", "VAL_FILES: []")])
def test_plain_papermill_works_from_any_folder(project, two_texts, tmp_path, validation):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", str(project / "notebooks" / "01_build_corpus.ipynb"),
         "out.ipynb", "-p", "TRAIN_FILES", "train.txt", *validation, "-p", "RUN_NAME", "plain"],
        cwd=two_texts, capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "o")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("train", "val"):
        assert len(read_corpus(tmp_path / "o" / "plain" / f"{part}_corpus.json")) > 1
