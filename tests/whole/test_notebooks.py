"""Every notebook really run: by nbval with its defaults, and by the chain with other files and parameters."""

import json
import os
import re
import shutil
import subprocess
import sys

import papermill
import pytest
from short_chain import two_texts

from nbutils.corpus.chunks import read_corpus
from nbutils.pipeline import run as runs
from nbutils.pipeline.steps import CHAIN, EXTRA_NOTEBOOKS


def nbval(project, tmp_path, *notebooks):
    """Run notebooks by nbval, which compares the outputs of the cells that are marked."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout=600", "--nbval-sanitize-with", str(project / "tests" / "nbval_sanitize.cfg"),
         *map(str, notebooks)],
        capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "outputs")}, cwd=tmp_path,
    )  # fmt: skip


@pytest.mark.slow
def test_nbval_runs_the_notebooks_in_order(project, tmp_path):
    """Notebook 7 runs in the test of the chain, on fewer chunks."""
    names = [*(step.name for step in CHAIN), *(name for name in EXTRA_NOTEBOOKS if name != "07_look_closer")]
    done = nbval(project, tmp_path, *(project / "notebooks" / f"{name}.ipynb" for name in names))
    assert done.returncode == 0, done.stdout[-6000:]
    record = json.loads((tmp_path / "outputs" / "tutorial" / "run.json").read_text())
    assert list(record["steps"]) == [name for name in names if name != "05_compare_runs"]  # that one writes elsewhere
    assert all(step["finished"] for step in record["steps"].values())


@pytest.mark.slow
def test_a_changed_number_in_a_committed_table_fails(project, tmp_path):
    notebook = (project / "notebooks" / "01_build_corpus.ipynb").read_text(encoding="utf-8")
    cells = json.loads(notebook)["cells"]
    marked = [cell for cell in cells if "".join(cell["source"]).startswith("# NBVAL_CHECK_OUTPUT")]
    assert len(marked) >= 2
    share = next(
        re.search(r"(\d+\.\d)% of this corpus", json.dumps(c["outputs"]))
        for c in marked
        if "unseen:" in "".join(c["source"])
    )
    (tmp_path / "01_build_corpus.ipynb").write_text(
        notebook.replace(share[0], "77.7% of this corpus"), encoding="utf-8"
    )
    done = nbval(project, tmp_path, tmp_path / "01_build_corpus.ipynb")
    assert done.returncode == 1 and "77.7%" in done.stdout


@pytest.mark.parametrize("step", [step.name for step in CHAIN])
def test_each_notebook_of_the_chain_has_a_table_that_is_compared(project, step):
    cells = json.loads((project / "notebooks" / f"{step}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert any("NBVAL_CHECK_OUTPUT" in "".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return two_texts(tmp_path_factory.mktemp("texts"))


def parameters(texts, **others):
    files = {"TRAIN_FILES": str(texts / "train.txt"), "VAL_FILES": [str(texts / "val.txt")]}
    return files | {"CHUNK_SIZE": 64, "CHUNK_OVERLAP": 8, "EPOCHS": 1} | others


def chain(folder, texts, **others):
    said = []
    result = runs.run("small", parameters(texts, **others), outputs=folder, say=said.append)
    return result, said


@pytest.mark.slow
def test_the_chain_runs_continues_and_redoes_only_what_changed(project, texts, tmp_path, monkeypatch):
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(tmp_path))
    asked = "".join(
        f"What was done to the {word}?,The {word} report\n" for word in ("crane", "tide", "barge", "beacon")
    )
    (tmp_path / "own.csv").write_text(f"question,quote\n{asked}")
    own = {"TRAIN_ON_GOLD": str(tmp_path / "own.csv")}
    result, said = chain(tmp_path, texts, **own)
    assert result.status == "done", result.error
    assert sorted(os.listdir(result.folder / "folds")) == ["0", "1", "2", "3", "folds.json"]
    assert list(result.seconds) == [step.name for step in CHAIN]
    assert {"base", "fine-tuned"} <= set(result.metrics["system"])
    assert any("cell 1/" in line for line in said)
    for made in ("run.json", "report.html", "results/metrics.csv", "model/model.safetensors"):
        assert (result.folder / made).stat().st_size > 0, made

    again, said = chain(tmp_path, texts, **own)
    assert again.status == "done"
    assert again.seconds == {}
    assert sum("up to date" in line for line in said) == 4

    changed, _ = chain(tmp_path, texts, TOP_K=3, **own)
    assert list(changed.seconds) == ["04_evaluate_models"]

    adapted, _ = chain(tmp_path, texts, TOP_K=3, ENGINE="adapter")
    assert list(adapted.seconds) == ["03_finetune_embedding", "04_evaluate_models"]
    assert {"base", "fine-tuned"} <= set(adapted.metrics["system"])
    assert (result.folder / "model_all" / "adapter.npy").exists() and not (result.folder / "folds").exists()
    for name, more in (("06_use_the_model", {"FILES": []}), ("07_look_closer", {})):
        notebook = project / "notebooks" / f"{name}.ipynb"
        papermill.execute_notebook(notebook, tmp_path / "out.ipynb", {"RUN_NAME": "small"} | more, progress_bar=False)

    shutil.rmtree(result.folder / "model")
    same = {"TOP_K": 3, "ENGINE": "adapter"}
    assert not runs.is_done("small", parameters(texts, **same), outputs=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "step", "words"),
    [
        ({"VAL_FILES": "SAME"}, "01_build_corpus", ["train.txt"]),
        ({"BASE_MODEL": "no/such-model"}, "01_build_corpus", ["no/such-model"]),
        ({"LLM": "openai:gpt-4o-mini"}, "02_generate_questions", ["OPENAI_API_KEY"]),
    ],
)
def test_what_goes_wrong_is_named_and_nothing_half_written_stays(texts, tmp_path, monkeypatch, given, step, words):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    if given.get("VAL_FILES") == "SAME":
        given = {"VAL_FILES": [str(texts / "train.txt")]}
    result, _ = chain(tmp_path, texts, **given)
    assert (result.status, result.failed_step) == ("failed", step)
    for word in words:
        assert word in result.error
    assert not any(made in os.listdir(result.folder) for made in next(s for s in CHAIN if s.name == step).makes)
    assert not [file for file in os.listdir(result.folder) if "partial" in file or file == ".progress"]


@pytest.mark.slow
@pytest.mark.parametrize("validation", [("-p", "VAL_FILES", "val.txt"), ("-y", "VAL_FILES: []")])
def test_plain_papermill_works_from_any_folder(project, texts, tmp_path, validation):
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "--no-progress-bar", str(project / "notebooks" / "01_build_corpus.ipynb"),
         "out.ipynb", "-p", "TRAIN_FILES", "train.txt", *validation, "-p", "RUN_NAME", "plain"],
        cwd=texts, capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "o")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("train", "val"):
        assert len(read_corpus(tmp_path / "o" / "plain" / f"{part}_corpus.json")) > 1
