"""Which steps are done again: for every parameter, for every file that a run reads, and after a step done by hand."""

import json
import shutil
import subprocess
import sys

import pytest
from jupyter_client.manager import start_new_kernel

from nbutils.core import UserError
from nbutils.pipeline import run as runs
from nbutils.pipeline import steps
from nbutils.pipeline.parameters import all_parameters, notebooks_folder
from nbutils.pipeline.run import Run, is_done
from nbutils.pipeline.steps import CHAIN

ALL = [step.name for step in CHAIN]
# parameter: another value, and the number of the first step that it changes (every later one follows); 0: none
PARAMETERS = {
    "RUN_NAME": (None, 0),  # is the folder
    "TRAIN_FILES": ("OTHER", 1), "VAL_FILES": ("OTHER", 1), "VALIDATION_SHARE": (0.4, 1), "CHUNK_SIZE": (128, 1),
    "CHUNK_OVERLAP": (7, 1), "ON_UNREADABLE": ("fail", 1), "BASE_MODEL": ("another", 1),
    "CHUNK_HEADER": (["title"], 1),
    "LLM": ("ollama:another", 2), "QUESTIONS_PER_CHUNK": (3, 2), "PROMPT": ("exam", 2), "LANGUAGE": ("Slovak", 2),
    "CONCURRENCY": (3, 0), "FILTERS": ({"prose": False}, 2), "BUDGET_CALLS": (9, 2), "BUDGET_TOKENS": (9, 2),
    "PRICE_INPUT": (0.5, 2), "PRICE_OUTPUT": (0.5, 2), "SEED": (7, 2),
    "PAIRS": ("", 2), "BAD_ROWS": ("skip", 2), "LLM_OPTIONS": ({"temperature": 0.7}, 2), "EXAMPLE_QUESTIONS": ("", 2),
    "TRAIN_ON": ("train", 3), "TRAIN_ON_GOLD": ("own.csv", 3), "OPTIONS": ({"lora_rank": 16}, 3),
    "ENGINE": ("llama-index", 3), "EPOCHS": (1, 3), "BATCH_SIZE": (4, 3), "LEARNING_RATE": (1e-5, 3),
    "MAX_SEQ_LENGTH": (99, 3), "TRUST_REMOTE_CODE": (True, 3),
    "GOLD_QUESTIONS": ("", 4), "TOP_K": (3, 4), "OPENAI_MODEL": ("openai:another", 4), "OTHER_MODELS": (["another"], 4),
    "INDEX_QUERIES": (True, 4), "KEEP_LEAKS": (True, 4), "NANOBEIR": (True, 4), "FAIL_IF_FORGOTTEN": (True, 4),
}  # fmt: skip
# file, relative to the documents or (run/) to the run's folder: the number of the first step that reads it
FILES = {
    "train.txt": 1, "years/2023/10k.txt": 1, "years/2024/10k.txt": 1, "deep/a/b/c.txt": 1, "folder/inside.txt": 1,
    "val/val.txt": 1, "base/model.safetensors": 1, "model.gguf": 2, "pairs.csv": 2, "examples.csv": 2, "val/gold_questions.csv": 4, "other/weights.bin": 4,
    "run/train_corpus.json": 2, "run/val_corpus.json": 2, "run/train_dataset.json": 3, "run/val_dataset.json": 3,
    "run/model/model.safetensors": 4, "run/model/modules.json": 4, "run/dev_dataset.json": 4,
}  # fmt: skip


@pytest.fixture
def documents(tmp_path, monkeypatch):
    """Every kind of file that a run reads, and the parameters that name them."""
    for file in [*FILES, "OTHER.txt", "own.csv"]:
        if not file.startswith("run/"):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_text("work")
    monkeypatch.chdir(tmp_path)
    return {
        "TRAIN_FILES": ["train.txt", "years/*/10k.txt", "deep/**/*.txt", "folder"],
        "VAL_FILES": [str(tmp_path / "val" / "val.txt")],
        "BASE_MODEL": str(tmp_path / "base"), "LLM": f"gguf:{tmp_path / 'model.gguf'}", "OTHER_MODELS": ["local:other"],
        "PAIRS": "pairs.csv", "EXAMPLE_QUESTIONS": "examples.csv",
    }  # fmt: skip


def redone(parameters, **options) -> list[str]:
    result = runs.run("x", parameters, say=lambda line: None, **options)
    assert result.status == "done", result.error
    assert is_done("x", parameters)
    return list(result.seconds)


def test_the_table_has_every_parameter_of_the_chain():
    assert set(PARAMETERS) == {parameter.name for parameter in all_parameters()}


@pytest.mark.slow
def test_a_changed_parameter_redoes_the_steps_that_depend_on_it_and_no_other(in_this_process, documents, tmp_path):
    assert redone(documents) == ALL
    assert redone(documents) == []
    wrong = {}
    for name, (value, first) in PARAMETERS.items():
        if value is None:
            continue
        other = documents | {name: [str(tmp_path / "OTHER.txt")] if value == "OTHER" else value}
        assert is_done("x", other) is (first == 0), name
        for given in (other, documents):  # there and back
            if (found := redone(given)) != (ALL[first - 1 :] if first else []):
                wrong[name] = found
    assert wrong == {}


@pytest.mark.slow
def test_a_changed_file_redoes_the_steps_that_read_it_and_no_other(in_this_process, documents, tmp_path, outputs):
    redone(documents)
    wrong = {}
    for file, first in FILES.items():
        path = outputs / "x" / file.removeprefix("run/") if file.startswith("run/") else tmp_path / file
        path.write_text(path.read_text() + " more")
        if (found := redone(documents)) != ALL[first - 1 :]:
            wrong[file] = found
    assert wrong == {}


def test_a_file_that_comes_or_goes_behind_a_glob_redoes_all(in_this_process, documents, tmp_path):
    redone(documents)
    (tmp_path / "deep" / "new.txt").write_text("work")
    assert redone(documents) == ALL
    (tmp_path / "deep" / "new.txt").unlink()
    assert redone(documents) == ALL


def test_changed_questions_of_people_train_again(in_this_process, documents, tmp_path):
    learned = documents | {"TRAIN_ON_GOLD": "own.csv"}
    redone(learned)
    (tmp_path / "own.csv").write_text("more")
    assert redone(learned) == ALL[2:]


def test_a_document_that_comes_beside_gold_questions_redoes_the_evaluation(in_this_process, documents, tmp_path):
    redone(documents)
    (tmp_path / "val" / "other.txt").write_text("work")
    assert redone(documents) == ALL[3:]


def test_a_changed_profile_changes_what_it_sets(in_this_process, documents, tmp_path):
    profile = tmp_path / "p.yaml"
    profile.write_text("EPOCHS: 2\n")
    redone(documents | {"EPOCHS": 2})
    result = runs.run("x", documents, profile=profile, say=lambda line: None)
    assert result.seconds == {}
    profile.write_text("EPOCHS: 3\n")
    assert list(runs.run("x", documents, profile=profile, say=lambda line: None).seconds) == ALL[2:]


def test_a_changed_notebook_or_package_redoes_what_runs_it(in_this_process, documents, monkeypatch):
    redone(documents)
    notebook = notebooks_folder() / f"{ALL[1]}.ipynb"
    notebook.write_text(notebook.read_text().replace('word == \\"fail\\"', 'word == \\"fall\\"'))
    assert redone(documents) == ALL[1:]
    monkeypatch.setattr(steps, "_package_code", lambda: "other code")
    assert redone(documents) == ALL


def test_a_file_that_changes_while_a_step_reads_it_is_read_again(in_this_process, documents, tmp_path, monkeypatch):
    execute = runs.execute

    def change_it(notebook, *arguments):
        execute(notebook, *arguments)
        if notebook == ALL[0]:
            (tmp_path / "train.txt").write_text("later")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "execute", change_it)
        runs.run("x", documents, say=lambda line: None)
    assert not is_done("x", documents)
    assert redone(documents) == ALL


def by_hand(step, **parameters):
    """Start a notebook of the run as JupyterLab does."""
    names = {each.name: each.default for each in all_parameters([step])} | {"RUN_NAME": "x"} | parameters
    return Run.start(step, names)


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_a_step_done_by_hand_is_done_again_with_all_later_ones(in_this_process, documents, number, finished):
    redone(documents)
    run = by_hand(ALL[number - 1])
    run.finish() if finished else run._let_go()
    assert not is_done("x", documents)
    assert redone(documents) == ALL[number - 1 :]


def test_by_hand_a_step_is_not_built_on_what_is_older_or_unfinished(in_this_process, documents):
    redone(documents)
    by_hand(ALL[1]).finish()
    with pytest.raises(UserError, match=r"03_finetune_embedding .*02_generate_questions was run again.*Run 03_fine"):
        by_hand(ALL[3])
    run = by_hand(ALL[2])
    with pytest.raises(UserError, match=r"03_finetune_embedding .*not finished"):
        by_hand(ALL[3])
    run.finish()
    by_hand(ALL[3]).finish()


def test_a_failed_step_is_done_again(in_this_process, documents, tmp_path):
    redone(documents)
    (tmp_path / "train.txt").write_text("fail")
    result = runs.run("x", documents, say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", ALL[1])
    assert not (result.folder / "report.html").exists(), "no report of what was"
    assert json.loads((result.folder / "run.json").read_text())["steps"][ALL[1]]["error"].startswith("This document")
    result = runs.run("x", documents, say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", ALL[1])
    (tmp_path / "train.txt").write_text("work")
    assert redone(documents) == ALL


def test_what_is_gone_is_made_again(in_this_process, documents, outputs):
    redone(documents)
    (outputs / "x" / "train_dataset.json").unlink()
    assert redone(documents) == ALL[1:]
    shutil.rmtree(outputs / "x" / "model")
    assert not is_done("x", documents) and redone(documents) == ALL[2:]
    assert redone(documents, fresh=True) == ALL


def test_a_notebook_and_the_chain_keep_out_of_each_others_way(in_this_process, documents):
    redone(documents)
    notebook = by_hand(ALL[0])
    by_hand(ALL[0])  # a cell run twice
    with pytest.raises(UserError, match=r"'x' is being run by another process.*notebook that has not come to its end"):
        runs.run("x", documents)
    notebook.finish()
    with Run("x").lock(), pytest.raises(UserError, match="another process"):
        by_hand(ALL[0])
    assert redone(documents) == ALL


@pytest.mark.slow
def test_a_kernel_of_jupyterlab_holds_its_run_until_it_finishes_fails_or_ends(short, tmp_path):
    (tmp_path / "a.txt").write_text("work")
    command = [sys.executable, "-m", "nbutils", "run", "--name", "x", "-p", "TRAIN_FILES", tmp_path / "a.txt"]
    start = 'from nbutils.pipeline.run import Run; RUN_NAME = "x"; run = Run.start("01_build_corpus", globals())'
    manager, client = start_new_kernel(startup_timeout=300)
    try:
        client.execute_interactive(start, timeout=300)
        held = subprocess.run(command, capture_output=True, text=True)
        assert held.returncode == 2 and "a notebook that has not come to its end" in held.stderr
        client.execute_interactive("1 / 0", timeout=300)
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        client.execute_interactive(start, timeout=300)
        with pytest.raises(UserError, match="another process"), Run("x").lock():
            pass
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    with Run("x").lock(wait=60):
        pass
