"""A run's folder and record, its locks, and its kernels."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from short_chain import documents

from nbutils.core import UserError
from nbutils.pipeline import run as runs
from nbutils.pipeline.run import Run


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", "/tmp/x", ".hidden", "a" * 200, "a\nb"])
def test_a_run_name_that_would_leave_outputs_is_refused(name, tmp_path):
    with pytest.raises(UserError, match="RUN_NAME"):
        Run(name, tmp_path / "outputs")
    assert not (tmp_path / "outputs").exists()


def test_a_step_before_the_one_it_needs_says_which_to_run(tmp_path):
    run = Run("new", tmp_path)
    with pytest.raises(UserError, match=r"train_dataset.json is missing. Run 02_generate_questions.ipynb"):
        run.need("train_dataset.json")
    for file, step in {
        "dev_dataset.json": "03_finetune_embedding",
        "model": "03_finetune_embedding",
        "x.csv": "the notebook",
    }.items():
        with pytest.raises(UserError, match=f"{file} is missing. Run {step}"):
            run.need(file)
    assert not run.folder.exists()


def test_two_processes_cannot_run_the_same_run(tmp_path):
    with Run("x", tmp_path).lock(), pytest.raises(UserError, match="another process"), Run("x", tmp_path).lock():
        pass


def test_a_damaged_record_is_named(tmp_path):
    run = Run("x", tmp_path)
    run.path("run.json").write_text("{")
    with pytest.raises(UserError, match=r"x/run.json is damaged"):
        run.read()


def test_the_record_keeps_every_step(tmp_path):
    run = Run("x", tmp_path)
    run.record("01_build_corpus", seconds=1.0)
    run.record("02_generate_questions", seconds=2.0)
    record = json.loads((run.folder / "run.json").read_text())
    assert [step["seconds"] for step in record["steps"].values()] == [1.0, 2.0]
    assert record["versions"]["sentence-transformers"]


def test_a_kernel_left_by_a_killed_process_is_ended_but_never_this_process(tmp_path, monkeypatch):
    run = Run("x", tmp_path)
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    left, other = (
        subprocess.Popen(sleep, env=os.environ | {"NBUTILS_RUN": str(folder)})
        for folder in (run.folder, run.folder.with_name("y"))
    )
    threading.Thread(target=left.wait).start()  # so that it goes when it is killed
    inside = """
import sys
from nbutils.pipeline.run import Run, end_leftovers
end_leftovers(Run("x", sys.argv[1]))
print("alive")
"""
    done = subprocess.run(
        [sys.executable, "-c", inside, str(tmp_path)], env=os.environ | {"NBUTILS_RUN": str(run.folder)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout == "alive\n", done.stderr
    assert left.wait(60) != 0
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.slow
def test_runs_called_from_threads_write_where_each_was_told_and_return_what_came_of_them(short, tmp_path):
    (tmp_path / "a.txt").write_text("work")
    before, results = dict(os.environ), {}

    def call(folder: str) -> None:
        files = {"TRAIN_FILES": str(tmp_path / "a.txt"), "VAL_FILES": []}
        results[folder] = runs.run(
            "x", files, outputs=tmp_path / folder, say=lambda line: seen.append(dict(os.environ))
        )

    seen = []
    threads = [threading.Thread(target=call, args=(folder,)) for folder in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {folder: result.status for folder, result in results.items()} == {"one": "done", "two": "done"}
    for folder, result in results.items():
        assert Path(tmp_path / folder / "did.txt").read_text().count("x 0") == 4
        assert (result.error, result.report) == (None, tmp_path / folder / "x" / "report.html")
        assert {"base", "fine-tuned"} <= set(result.metrics.system)
    assert all("NBUTILS_RUN" not in each for each in seen) and dict(os.environ) == before


@pytest.mark.slow
def test_the_next_kernel_imports_what_its_notebook_names_and_ends_with_the_run(notebooks, tmp_path, monkeypatch):
    folder = shutil.copytree(notebooks, tmp_path / "notebooks")
    step = folder / "02_generate_questions.ipynb"
    notebook = json.loads(step.read_text())
    notebook["metadata"]["nbutils"] = {"imports": ["early"]}
    notebook["cells"][-1]["source"] = (
        "import sys; assert 'early' in sys.modules and 'early' not in globals(); raise OSError"
    )
    step.write_text(json.dumps(notebook))
    (tmp_path / "early.py").touch()
    monkeypatch.setenv("NBUTILS_NOTEBOOKS", str(folder))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    file = documents(tmp_path / "d", a="work") / "a.txt"
    open_files = []
    for _ in range(2):
        result = runs.run("x", {"TRAIN_FILES": [str(file)]}, outputs=tmp_path / "o", fresh=True, say=lambda line: None)
        assert (result.failed_step, result.error) == ("02_generate_questions", "OSError: no message")
        open_files.append(psutil.Process().num_fds())
    assert open_files[1] <= open_files[0] + 2  # no channel of a kernel is left open
    environments = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            environments.append(process.environ())
    assert not [each for each in environments if each.get("NBUTILS_RUN") == str(result.folder)]


@pytest.mark.slow
def test_a_run_that_fails_says_where_and_why(short, tmp_path, outputs):
    file = documents(tmp_path / "d", bad="fail") / "bad.txt"
    result = runs.run("bad", {"TRAIN_FILES": [str(file)]}, outputs=outputs, say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", "02_generate_questions")
    assert result.error == "This document cannot be asked about. Take another one."


@pytest.mark.slow
def test_a_run_that_fails_for_forgetting_has_its_report(short, tmp_path):
    for name, word in (("train", "forget"), ("val", "x")):
        (tmp_path / f"{name}.txt").write_text(word)
    files = {"TRAIN_FILES": str(tmp_path / "train.txt"), "VAL_FILES": str(tmp_path / "val.txt")}
    result = runs.run("forgot", files, outputs=tmp_path / "outputs", say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", "04_evaluate_models")
    page = result.report.read_text()
    assert "The verdict: it forgot" in page and "Traceback" not in page and "UserError" not in page


def test_the_model_to_deploy_is_the_one_on_all_documents_where_it_was_trained(tmp_path):
    run = Run("r", tmp_path)
    assert run.model == run.folder / "model"
    for name in ("model", "model_all"):
        run.path(name, "x").write_text("")
        assert run.model == run.folder / name
    run.remove("model_all")
    assert run.model == run.folder / "model"


def test_a_model_that_is_a_link_to_another_disk_is_removed_too(tmp_path):
    run = Run("r", tmp_path / "outputs")
    run.path("model", "x").write_text("")
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "weights").write_text("x")
    run.path("model_all").symlink_to(tmp_path / "disk")
    run.remove("model_all")
    assert run.model == run.folder / "model"
    assert (tmp_path / "disk" / "weights").exists()


def test_a_parameter_of_a_notebook_that_has_not_run_is_its_default(tmp_path):
    run = Run("r", tmp_path)
    assert run.parameter("04_evaluate_models", "GOLD_QUESTIONS") == "auto"
    run.record("04_evaluate_models", parameters={"GOLD_QUESTIONS": "mine.csv"})
    assert run.parameter("04_evaluate_models", "GOLD_QUESTIONS") == "mine.csv"


@pytest.mark.slow
def test_what_executes_notebooks_loads_nothing_that_takes_seconds_and_is_not_needed():
    code = """
import sys
from nbutils.pipeline import report, run, worker
assert "huggingface_hub" not in sys.modules
with report.without_address_checks():
    import papermill, nbconvert
assert "rfc3987_syntax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
