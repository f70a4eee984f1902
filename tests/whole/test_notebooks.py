"""Notebooks really run: by nbval with their defaults, by the chain with what cannot work, and by papermill alone."""

import json
import os
import re
import subprocess
import sys

import pytest
from short_chain import two_texts

from nbutils.corpus.chunks import read_corpus
from nbutils.pipeline import run as runs
from nbutils.pipeline.steps import CHAIN


def replaced(text: str, old: str, new: str) -> str:
    assert old in text, old
    return text.replace(old, new)


@pytest.mark.slow
def test_nbval_runs_the_notebooks_in_order_and_sees_a_changed_number(project, tmp_path):
    """With their defaults, but the walkthrough's model alone is trained; one number of notebook 1 has been changed.

    Training on all documents, and notebooks 6 and 7, run on fewer chunks: in test_install.py and test_search_box.py.
    """
    names = [*(step.name for step in CHAIN), "05_compare_runs"]
    texts = {name: (project / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8") for name in names}
    marked = [source for source in code_cells(texts[names[0]]) if source.startswith("# NBVAL_CHECK_OUTPUT")]
    assert len(marked) >= 2 and any("unseen:" in source for source in marked)
    share = re.search(r"\d+\.\d% of this corpus", texts[names[0]])[0]
    texts[names[0]] = replaced(texts[names[0]], share, "77.7% of this corpus")
    train = "03_finetune_embedding"
    texts[train] = replaced(
        texts[train], r"    \"all\"  # all: a second model", r"    \"train\"  # all: a second model"
    )
    for name, text in texts.items():
        (tmp_path / f"{name}.ipynb").write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env",
         "--nbval-cell-timeout=1800", "--nbval-sanitize-with", str(project / "tests" / "nbval_sanitize.cfg"),
         *(f"{name}.ipynb" for name in names)],
        capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "outputs")}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and len(re.findall("^FAILED ", done.stdout, re.M)) == 1, done.stdout[-6000:]
    assert "77.7% of this corpus" in done.stdout and share in done.stdout, done.stdout[-6000:]
    record = json.loads((tmp_path / "outputs" / "tutorial" / "run.json").read_text())
    assert list(record["steps"]) == names[:-1]  # notebook 5 writes elsewhere
    assert all(step["finished"] for step in record["steps"].values())


def code_cells(notebook: str) -> list[str]:
    return ["".join(cell["source"]) for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("step", [step.name for step in CHAIN])
def test_each_notebook_of_the_chain_has_a_table_that_is_compared(project, step):
    notebook = (project / "notebooks" / f"{step}.ipynb").read_text(encoding="utf-8")
    assert any("NBVAL_CHECK_OUTPUT" in source for source in code_cells(notebook))


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return two_texts(tmp_path_factory.mktemp("texts"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "step", "word"),
    [
        ({"VAL_FILES": "train.txt"}, "01_build_corpus", "train.txt"),
        ({"BASE_MODEL": "no/such-model"}, "01_build_corpus", "no/such-model"),
        ({"VAL_FILES": [], "LLM": "openai:gpt-4o-mini"}, "02_generate_questions", "OPENAI_API_KEY"),
    ],
)
def test_what_goes_wrong_is_named_and_nothing_half_written_stays(texts, tmp_path, monkeypatch, given, step, word):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(texts)
    files = {"TRAIN_FILES": "train.txt", "VAL_FILES": "val.txt", "CHUNK_SIZE": 64, "CHUNK_OVERLAP": 8}
    result = runs.run("small", files | given, outputs=tmp_path, say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", step)
    assert word in result.error
    assert not any(made in os.listdir(result.folder) for made in next(s for s in CHAIN if s.name == step).makes)
    assert not [file for file in os.listdir(result.folder) if "partial" in file or file == ".progress"]
    if step != CHAIN[0].name:  # without validation files a part of the text is set aside
        assert len(read_corpus(result.folder / "val_corpus.json")) > 1


@pytest.mark.slow
def test_plain_papermill_shows_the_parameters_and_works_from_any_folder(project, texts, tmp_path):
    papermill = [sys.executable, "-m", "papermill"]
    notebook = str(project / "notebooks" / "01_build_corpus.ipynb")
    shown = subprocess.run([*papermill, "--help-notebook", notebook], capture_output=True, text=True).stdout
    assert "CHUNK_SIZE: int (default 256)" in shown and "most tokens in a chunk" in shown
    done = subprocess.run(
        [*papermill, "--no-progress-bar", notebook, "out.ipynb", "-p", "TRAIN_FILES", "train.txt", "-p", "VAL_FILES",
         "val.txt", "-p", "RUN_NAME", "plain"],
        cwd=texts, capture_output=True, text=True, env=os.environ | {"NBUTILS_OUTPUTS": str(tmp_path / "o")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    for part in ("train", "val"):
        assert len(read_corpus(tmp_path / "o" / "plain" / f"{part}_corpus.json")) > 1
