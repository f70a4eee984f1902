"""Batches: plans as people write them, and real processes that fail, hang, grow and are killed."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import short_chain
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nbutils.core import UserError, remember
from nbutils.pipeline import run as runs
from nbutils.pipeline.batch import (
    Batch,
    Outcome,
    batch_path,
    default_name,
    left_out,
    publish,
    read_batch,
    read_plan,
    run_batch,
)
from nbutils.pipeline.leaderboard import compare_runs

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    return short_chain.write(tmp_path_factory.mktemp("notebooks") / "short")


@pytest.fixture
def short(notebooks, monkeypatch):
    """Run the short notebooks in place of the real ones, here and in every process started from here."""
    monkeypatch.setenv("NBUTILS_NOTEBOOKS", str(notebooks))
    monkeypatch.setattr(runs, "NOTEBOOKS", notebooks)


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


def documents(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "nbutils", *map(str, arguments)]


def nbutils(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)


def on_a_terminal(*arguments) -> tuple[int, str]:
    """Run a command on a pseudo-terminal and return its status and all that it showed."""
    ours, its = os.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command(*arguments), stdout=its, stderr=its, env=environment)
    os.close(its)
    screen = b""
    with contextlib.suppress(OSError):  # what reading raises on Linux once the other end is closed
        while part := os.read(ours, 4096):
            screen += part
    os.close(ours)
    return process.wait(), screen.decode()


def did(outputs: Path) -> list[str]:
    """What ran to its end: "run step" a line, in order."""
    file = outputs / "did.txt"
    return file.read_text().splitlines() if file.exists() else []


def until(condition, seconds: float = 60):
    """Return the first true value of `condition()`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def processes(outputs: Path, word: str = "", run: str = "") -> list[psutil.Process]:
    """The workers and kernels that run something in this outputs folder."""
    found = []
    for process in psutil.process_iter():
        try:
            line, folder = " ".join(process.cmdline()), process.environ().get("NBUTILS_RUN", "")
        except psutil.Error:
            continue
        ours = str(outputs) in line or folder.startswith(str(outputs))
        if ours and word in line and folder.endswith(run) and process.pid != os.getpid():
            found.append(process)
    return found


def sleeping_kernel(outputs: Path, run: str) -> psutil.Process:
    """The kernel of a run that is in step 2."""

    def there():
        if f"{run} 01_build_corpus" not in did(outputs):
            return None
        begun = json.loads((outputs / run / "run.json").read_text())["steps"]
        return "02_generate_questions" in begun and processes(outputs, "ipykernel", f"/{run}")

    return until(there)[0]


# Plans


@pytest.fixture
def files(tmp_path):
    return documents(tmp_path / "documents", a="a", b="b", c="c")


def plan_of(tmp_path, text: str, name="plan.csv", **options):
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_plan(tmp_path / name, **options)


def test_a_csv_gives_a_run_a_row_with_typed_values(tmp_path, files):
    plan = plan_of(
        tmp_path,
        "\ufeffname,TRAIN_FILES,CHUNK_SIZE,LEARNING_RATE,timeout\n"
        'one,"[documents/a.txt, documents/b.txt]",128,2e-5,60\n\ntwo,documents/c.txt,,,\n',
    )
    assert [run.name for run in plan] == ["one", "two"]
    assert plan[0].parameters == {
        "TRAIN_FILES": [str(files / "a.txt"), str(files / "b.txt")], "CHUNK_SIZE": 128, "LEARNING_RATE": 2e-5,
    }  # fmt: skip
    assert (plan[0].timeout, plan[1].timeout) == (60.0, None)
    assert plan[1].parameters == {"TRAIN_FILES": [str(files / "c.txt")]}


def test_semicolons_and_globs_as_spreadsheets_and_people_write_them(tmp_path, files):
    plan = plan_of(tmp_path, "name;TRAIN_FILES;TOP_K\nx;documents/*.txt;3\n")
    assert plan[0].parameters == {"TRAIN_FILES": [str(files / "*.txt")], "TOP_K": 3}


def test_lists_make_a_grid_and_lists_of_lists_for_a_list(tmp_path, files):
    plan = plan_of(
        tmp_path,
        "- name: sweep\n  CHUNK_SIZE: [128, 256]\n  ENGINE: [nbutils, llama-index]\n"
        "  TRAIN_FILES: [documents/a.txt, documents/b.txt]\n"
        "- name: files\n  TRAIN_FILES: [[documents/a.txt], [documents/b.txt, documents/c.txt]]\n",
        "plan.yaml",
    )
    assert [run.name for run in plan] == [
        "sweep.chunk_size-128.engine-nbutils", "sweep.chunk_size-128.engine-llama-index",
        "sweep.chunk_size-256.engine-nbutils", "sweep.chunk_size-256.engine-llama-index",
        "files.train_files-a", "files.train_files-b-1",
    ]  # fmt: skip
    assert all(len(run.parameters["TRAIN_FILES"]) == 2 for run in plan[:4])
    assert [len(run.parameters["TRAIN_FILES"]) for run in plan[4:]] == [1, 2]


def test_a_folder_gives_a_run_a_document(files):
    plan = read_plan(files)
    assert [run.name for run in plan] == ["a", "b", "c"]
    assert plan[0].parameters == {"TRAIN_FILES": [str(files / "a.txt")], "VAL_FILES": []}
    held = read_plan(files, hold_out=[files / "b.txt"], parameters={"EPOCHS": "1"})
    assert [run.name for run in held] == ["a", "c"]
    assert all(run.parameters["VAL_FILES"] == [str(files / "b.txt")] for run in held)
    assert all(run.parameters["EPOCHS"] == 1 for run in held)


def test_documents_of_one_name_and_of_odd_names_get_runs_of_their_own(tmp_path):
    folder = documents(tmp_path / "d", **{"Geschäft 2023 (final)": "x", "年报": "y", "-x": "z"})
    documents(folder / "sub", **{"Geschäft 2023 (final)": "x"})
    names = [run.name for run in read_plan(folder)]
    assert len(set(names)) == 4
    assert all(runs.check_name(name) for name in names)
    assert sum(name.startswith("Geschaft-2023-final") for name in names) == 2


def test_what_no_run_of_a_folder_reads_is_told(files):
    (files / "table.xlsx").touch()
    (files / "gone.pdf").symlink_to("nowhere.pdf")
    (files / ".hidden").touch()
    assert left_out(files) == ["gone.pdf", "table.xlsx"]
    assert left_out(files / "a.txt") == []


def test_a_finished_run_of_another_batch_is_not_replaced(files, outputs):
    plan = read_plan(files)
    done = {run.name: Outcome(run.name, "done", parameters=run.parameters) for run in plan}
    batch_path("first", outputs).parent.mkdir(parents=True)
    Batch("first", batch_path("first", outputs), done, runs.now()).save()
    with pytest.raises(UserError, match="run a would replace that of the batch first"):
        run_batch(read_plan(files, parameters={"EPOCHS": 1})[:1], "second", outputs=outputs)
    assert [run.name for run in read_plan(files, prefix="second.")] == ["second.a", "second.b", "second.c"]


def test_every_mistake_of_a_plan_is_told_at_once(tmp_path, files):
    with pytest.raises(UserError) as caught:
        plan_of(
            tmp_path,
            "Name,TRAIN_FILES,CHUNK_SIZE,timeout\nx,nowhere.pdf,128,\ny,documents/a.txt,many,soon\n"
            "x,documents/a.txt,64,\n../z,documents/a.txt,64,\nt,documents/a.txt,64,9,9\nu,documents/a.txt,32,\n",
        )
    expected = [
        "line 2|nowhere.pdf", "line 3|CHUNK_SIZE|timeout", "line 5|RUN_NAME", "line 6|more cells", "line 7|CHUNK_OVERLAP",
    ]  # fmt: skip
    for line, words in zip(str(caught.value).splitlines()[1:], expected, strict=True):
        assert all(word in line for word in words.split("|")), line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("plan.csv", "name,CHUNKSIZE\nx,1\n", "Did you mean CHUNK_SIZE"),
        ("plan.csv", "name,CHUNK_SIZE\nx,64,2\n", "line 2.*double quotes"),
        ("plan.csv", "name,CHUNK_SIZE\nx,64\nx,128\n", "line 3: the name x is taken by line 2"),
        ("plan.csv", "name,CHUNK_SIZE\n", "no rows"),
        ("plan.yaml", "- name: x\n  CHUNK_SIZE: []\n", "CHUNK_SIZE has an empty list"),
        ("plan.yaml", "- [1\n", "not valid YAML"),
        ("plan.yaml", "- 1\n", "maps parameter names"),
        ("plan.txt", "x", "is no plan"),
        ("plan.yaml", "RUN_NAME: x\n", "`name`, not RUN_NAME"),
        ("plan.yaml", "LLM: sk-" + "a" * 30, "environment only"),
    ],
)
def test_a_plan_that_cannot_be_run_is_refused(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        plan_of(tmp_path, text, name)
    with pytest.raises(UserError, match="There is no plan"):
        read_plan(tmp_path / "elsewhere.csv")


def test_the_plans_in_the_readme_can_be_run(project, tmp_path):
    blocks = re.findall(r"```(csv|yaml)\n(.*?)```", (project / "README.md").read_text(), re.DOTALL)
    plans = [(kind, text) for kind, text in blocks if "name" in text]
    if not plans:
        pytest.skip("README.md shows no plan")
    names = [run.name for kind, text in plans for run in plan_of(tmp_path, text, f"plan.{kind}")]
    assert "short" in names and "sizes.chunk_size-384" in names and "sweep.epochs-4" in names
    assert "which.train_files-brackwater_2024" in names


@pytest.mark.slow
def test_papermill_alone_shows_the_parameters_and_runs_a_notebook(short, notebooks, tmp_path, outputs):
    papermill = [sys.executable, "-m", "papermill"]
    notebook = str(notebooks / "01_build_corpus.ipynb")
    shown = subprocess.run([*papermill, "--help-notebook", notebook], capture_output=True, text=True)
    assert "CHUNK_SIZE: int (default 256)" in shown.stdout
    assert "most tokens in a chunk" in shown.stdout
    file = documents(tmp_path / "d", a="work") / "a.txt"
    done = subprocess.run(
        [*papermill, notebook, str(tmp_path / "out.ipynb"), "-p", "TRAIN_FILES", str(file), "-p", "RUN_NAME", "alone"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (outputs / "alone" / "train_corpus.json").read_text() == "work"


@pytest.mark.slow
def test_a_python_call_returns_what_came_of_the_run(short, tmp_path, outputs):
    files = documents(tmp_path / "d", good="work", bad="fail")
    result = runs.run("good", {"TRAIN_FILES": [str(files / "good.txt")]}, outputs=outputs, say=lambda line: None)
    assert (result.status, result.error, result.report) == ("done", None, outputs / "good" / "report.html")
    assert {"base", "fine-tuned"} <= set(result.metrics.system)
    result = runs.run("bad", {"TRAIN_FILES": [str(files / "bad.txt")]}, outputs=outputs, say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", "02_generate_questions")
    assert result.error == "This document cannot be asked about. Take another one."


@settings(max_examples=30, deadline=None)
@given(
    grid=st.dictionaries(
        st.sampled_from(["CHUNK_SIZE", "EPOCHS", "SEED", "PROMPT", "LEARNING_RATE"]),
        st.lists(st.integers(41, 10**6), min_size=1, max_size=3, unique=True), min_size=1,
    )
)  # fmt: skip
def test_a_grid_has_every_combination_once_under_a_name_of_its_own(grid, tmp_path_factory):
    text_grid = {key: [str(v) for v in values] if key == "PROMPT" else values for key, values in grid.items()}
    plan = plan_of(tmp_path_factory.mktemp("plan"), yaml.safe_dump({"name": "g"} | text_grid), "plan.yaml")
    combinations = {tuple(sorted((key, str(value)) for key, value in run.parameters.items())) for run in plan}
    size = 1
    for values in grid.values():
        size *= len(values)
    assert len(plan) == len(combinations) == len({run.name for run in plan}) == size


# Runs that work and runs that do not


@pytest.mark.slow
def test_failures_are_recorded_the_rest_goes_on_and_only_they_are_done_again(short, tmp_path, outputs):
    folder = documents(tmp_path / "mixed", bad="fail", dead="kill", good="work", other="work")
    done = nbutils("batch", folder, "--jobs", 2)
    assert done.returncode == 1
    assert "2 of 4 runs are done" in done.stdout
    assert (
        "bad: This document cannot be asked about. Take another one. (bad/02_generate_questions.ipynb)" in done.stderr
    )
    assert "Traceback" not in done.stderr
    record = read_batch("mixed", outputs)
    assert {name: outcome.status for name, outcome in record.outcomes.items()} == {
        "bad": "failed", "dead": "failed", "good": "done", "other": "done",
    }  # fmt: skip
    assert "ernel" in record.outcomes["dead"].error
    for name in ("bad", "dead"):
        assert (outputs / record.outcomes[name].notebook).exists()
    assert record.outcomes["good"].seconds > 0
    assert record.outcomes["good"].peak_memory > 20 << 20
    threads = max(1, len(os.sched_getaffinity(0)) // 2)
    assert f"threads {threads}" in (outputs / "good" / "03_finetune_embedding.ipynb").read_text()

    before = did(outputs)
    (folder / "bad.txt").write_text("work")
    (folder / "dead.txt").write_text("work")
    status, screen = on_a_terminal("batch", folder, "--jobs", 2)
    assert status == 0, screen
    assert "2 done already, 2 to do" in screen
    assert "mixed: 2 done, 0 failed, 2 to do" in screen and "mixed: 4 done, 0 failed, 0 to do" in screen
    assert "02_generate_questions" in screen, "the live table shows the step that runs"
    assert {line.split()[0] for line in did(outputs)[len(before) :]} == {"bad", "dead"}
    kept = read_batch("mixed", outputs).outcomes["good"]
    assert kept.seconds == record.outcomes["good"].seconds

    shown = nbutils("leaderboard", "--batch", "mixed", "--name", "board")
    assert shown.returncode == 0, shown.stderr
    assert "+0.100 [+0.050, +0.150]" in shown.stdout
    with open(outputs / "board" / "leaderboard.csv") as file:
        rows = list(csv.DictReader(file))
    assert {row["run"] for row in rows} == {"bad", "dead", "good", "other"}
    assert {"lift", "minutes", "cost", "TRAIN_FILES"} <= set(rows[0])
    page = (outputs / "board" / "leaderboard.html").read_text()
    assert "image/png" in page and "TRAIN_FILES" in page and 'src="http' not in page


@pytest.mark.slow
def test_sigkill_of_the_main_process_leaves_nothing_running_and_nothing_to_do_twice(
    short, tmp_path, outputs, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(documents(tmp_path / "temporary")))
    folder = documents(tmp_path / "b", a="work", b="sleep 60")
    main = subprocess.Popen(command("batch", folder, "--jobs", 2), stdout=subprocess.DEVNULL)
    until((outputs / "a" / "report.html").exists)
    until(lambda: read_batch("b", outputs).names("done"))
    sleeping_kernel(outputs, "b")
    main.kill()
    main.wait()
    until(lambda: not processes(outputs), 15)
    assert list((tmp_path / "temporary").iterdir()) == []
    finished = did(outputs)
    (outputs / "b" / "train_corpus.json").write_text("work")
    (folder / "b.txt").write_text("work")
    assert nbutils("batch", folder, "--jobs", 2).returncode == 0
    after = did(outputs)[len(finished) :]
    assert not [line for line in after if line.startswith("a ")]
    assert "b 04_evaluate_models" in after


@pytest.mark.slow
def test_a_killed_worker_or_kernel_and_limits_of_time_and_memory_fail_that_run_alone(
    short, tmp_path, outputs, monkeypatch
):
    monkeypatch.setenv("TMPDIR", str(documents(tmp_path / "temporary")))
    folder = documents(tmp_path / "docs", worker="sleep 60", kernel="sleep 61", slow="sleep 62", big="hold 900")
    rows = [{"name": each, "TRAIN_FILES": str(folder / f"{each}.txt")} for each in ("worker", "kernel", "big", "slow")]
    rows[3]["timeout"] = 15
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(rows))
    main = subprocess.Popen(
        command("batch", tmp_path / "plan.yaml", "--jobs", 4, "--memory", 0.8), stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    kernel = sleeping_kernel(outputs, "worker")
    until(lambda: processes(outputs, "nbutils.pipeline.batch " + str(outputs / "worker")))[0].kill()
    kernel.wait(10)
    sleeping_kernel(outputs, "kernel").kill()
    _, errors = main.communicate(timeout=100)
    assert main.returncode == 1
    outcomes = read_batch("plan", outputs).outcomes
    for name, words in {"worker": "SIGKILL", "kernel": "ernel", "slow": "15 s", "big": "0.8 GiB"}.items():
        assert words in outcomes[name].error, outcomes[name]
        assert outcomes[name].error in errors
        assert (outputs / outcomes[name].notebook).exists()
        assert outcomes[name].notebook == f"{name}/02_generate_questions.ipynb" or name == "slow"
    until(lambda: not processes(outputs), 10)
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_ends_its_runs_and_exits_with_130(short, tmp_path, outputs, signal_number):
    folder = documents(tmp_path / "b", a="sleep 60", b="sleep 60")
    main = subprocess.Popen(command("batch", folder), stderr=subprocess.PIPE, text=True)
    sleeping_kernel(outputs, "a")
    again = nbutils("batch", folder)
    assert again.returncode == 2
    assert "being run by another process" in again.stderr
    main.send_signal(signal_number)
    _, errors = main.communicate(timeout=30)
    assert main.returncode == 130
    assert "continues where it stopped" in errors and "Traceback" not in errors
    until(lambda: not processes(outputs), 10)
    assert read_batch("b", outputs).names("waiting") == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_in_a_line_leaves_nothing_and_continues(short, tmp_path, outputs, signal_number):
    file = documents(tmp_path / "d", a="sleep 60") / "a.txt"
    run = ("run", "--name", "a", "-p", "TRAIN_FILES", file, "-p", "VAL_FILES", "[]")
    main = subprocess.Popen(command(*run), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    sleeping_kernel(outputs, "a")
    main.send_signal(signal_number)
    _, errors = main.communicate(timeout=30)
    assert main.returncode == 130
    assert errors.strip() == "nbutils: stopped; the same command continues where it stopped."
    until(lambda: not processes(outputs), 10)


def test_wrong_input_is_status_2_and_starts_nothing(tmp_path, outputs):
    (tmp_path / "plan.csv").write_text("name,TRAIN_FILES\nx,nowhere.pdf\n")
    done = nbutils("batch", tmp_path / "plan.csv")
    assert done.returncode == 2
    assert "line 2" in done.stderr and "nowhere.pdf" in done.stderr
    assert not outputs.exists()
    with pytest.raises(UserError, match="jobs"):
        run_batch([], "x", jobs=0)
    assert default_name(tmp_path / "plan.csv") == "plan"
    with pytest.raises(UserError, match="There is no batch y"):
        read_batch("y", outputs)


# Past one machine


@pytest.mark.slow
def test_dask_workers_do_the_runs_and_a_killed_one_loses_nothing(short, tmp_path, outputs):
    pytest.importorskip("distributed")
    folder = documents(tmp_path / "far", a="sleep 3", b="sleep 3", c="work")
    scheduler_file = tmp_path / "scheduler.json"
    start = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    started = [subprocess.Popen([*start, "--scheduler-file", str(scheduler_file)], stderr=subprocess.DEVNULL)]
    try:
        until(scheduler_file.exists)
        address = json.loads(scheduler_file.read_text())["address"]
        work = [
            sys.executable,
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
        ]
        for number in (1, 2):
            space = ["--local-directory", str(tmp_path / f"worker{number}")]
            started.append(subprocess.Popen([*work, *space], stderr=subprocess.DEVNULL))
        main = subprocess.Popen(command("batch", folder, "--dask", address), stdout=subprocess.PIPE, text=True)
        started.append(main)
        sleeping_kernel(outputs, "a")
        worker_of_a = processes(outputs, "nbutils.pipeline.batch " + str(outputs / "a"))[0].parent()
        assert worker_of_a.pid in [process.pid for process in started]
        worker_of_a.kill()
        said, _ = main.communicate(timeout=100)
        assert main.returncode == 0, said
        assert sorted(read_batch("far", outputs).names("done")) == ["a", "b", "c"]
        assert sorted(set(did(outputs))) == sorted(did(outputs)), "no step that had ended was done again"

        folder = documents(tmp_path / "stopped", d="sleep 60")
        main = subprocess.Popen(command("batch", folder, "--dask", address), stderr=subprocess.PIPE, text=True)
        started.append(main)
        sleeping_kernel(outputs, "d")
        main.send_signal(signal.SIGINT)
        assert "continues where it stopped" in main.communicate(timeout=30)[1]
        assert main.returncode == 130
        until(lambda: not processes(outputs, "ipykernel"), 15)
    finally:
        for process in started:
            process.kill()
            process.wait()
    until(lambda: not processes(outputs), 15)


def test_an_address_where_no_scheduler_answers_is_named(short, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    import distributed

    refused = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, **kw: refused(address, **kw | {"timeout": 1}))
    with pytest.raises(UserError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9"):
        run_batch(read_plan(documents(tmp_path / "d", a="work")), "x", dask="tcp://127.0.0.1:9")


@pytest.fixture
def finished_run(outputs):
    folder = outputs / "x"
    (folder / "results").mkdir(parents=True)
    (folder / "run.json").write_text('{"name": "x"}')
    (folder / "04_evaluate_models.ipynb").write_text('{"cells": []}')
    (folder / "results" / "metrics.csv").write_text("a,b\n1,2\n")
    return folder


@pytest.mark.slow
def test_copying_that_failed_or_was_not_asked_for_is_done_by_the_next_batch(short, tmp_path, outputs):
    folder = documents(tmp_path / "b", a="work")
    (tmp_path / "file").touch()
    done = nbutils("batch", folder, "--storage", tmp_path / "file" / "x")
    assert done.returncode == 1
    assert "could not be copied" in done.stderr
    ran = did(outputs)
    assert nbutils("batch", folder, "--storage", tmp_path / "far").returncode == 0
    assert (tmp_path / "far" / "a" / "run.json").exists()
    assert did(outputs) == ran, "only copied, not run again"
    assert "1 done already, 0 to do" in nbutils("batch", folder, "--storage", tmp_path / "far").stdout


def test_results_are_copied_to_a_folder(finished_run, tmp_path):
    written = publish(finished_run, str(tmp_path / "far away"))
    assert len(written) == 3
    assert (tmp_path / "far away" / "x" / "results" / "metrics.csv").read_text() == "a,b\n1,2\n"


@pytest.mark.slow
def test_results_are_copied_to_an_s3_address_by_papermills_own_storage(finished_run, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        store = boto3.client("s3")
        store.create_bucket(Bucket="shelf")
        publish(finished_run, "s3://shelf/batches")
        names = [each["Key"] for each in store.list_objects_v2(Bucket="shelf")["Contents"]]
        assert sorted(names) == [
            f"batches/x/{file}" for file in ("04_evaluate_models.ipynb", "results/metrics.csv", "run.json")
        ]
        assert store.get_object(Bucket="shelf", Key="batches/x/run.json")["Body"].read() == b'{"name": "x"}'
    finally:
        server.stop()


# Work that runs share


def test_the_same_file_is_read_and_split_once(tmp_path, monkeypatch):
    from nbutils.corpus import chunks as corpus

    text = "\n\n".join(f"Paragraph {n} of the harbour report says that crane {n} was painted." for n in range(30))
    folder = documents(tmp_path / "d", a=text)
    first = corpus.load_corpus(folder / "a.txt", chunk_size=64, cache=tmp_path / "cache")
    copy = documents(tmp_path / "copy", a=text)
    with monkeypatch.context() as patch:
        patch.setattr(corpus, "_read", lambda path: pytest.fail("it was read again"))
        again = corpus.load_corpus(copy / "a.txt", chunk_size=64, cache=tmp_path / "cache")
        assert [(node.id_, node.text, node.metadata) for node in again] == [(n.id_, n.text, n.metadata) for n in first]
        assert len(corpus.load_corpus(folder / "a.txt", chunk_size=128, cache=tmp_path / "cache")) < len(first)
    (folder / "a.txt").write_text(text.replace("painted", "sold"))
    assert "sold" in corpus.load_corpus(folder / "a.txt", chunk_size=64, cache=tmp_path / "cache")[0].text


def test_what_cannot_be_made_or_kept_is_no_harm(tmp_path):
    with pytest.raises(ZeroDivisionError):
        remember(tmp_path, "key", lambda: 1 / 0)
    assert remember(tmp_path, "key", lambda: [1]) == [1]
    assert remember(tmp_path, "key", lambda: [2]) == [1]
    (tmp_path / "key.json").write_text("{ torn")
    assert remember(tmp_path, "key", lambda: [3]) == [3]
    (tmp_path / "file").touch()
    assert remember(tmp_path / "file", "key", lambda: [4]) == [4]


def test_two_processes_that_want_the_same_make_it_once(tmp_path):
    code = (
        "import sys, time; from nbutils.core import remember\n"
        "def make(): open(sys.argv[1] + '/made', 'a').write('x'); time.sleep(1); return 5\n"
        "assert remember(sys.argv[1], 'key', make) == 5"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (tmp_path / "made").read_text() == "x"


ASK = """
import sys
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike
from nbutils.questions.generate import generate_questions
url, cache, out, first, last = sys.argv[1:]
llm = OpenAILike(model="m", api_base=url, api_key="none", is_chat_model=True, max_retries=0)
nodes = [TextNode(id_=f"c{i}", text=f"Orchard number {i} yielded {i * 37} tonnes of apples in the harvest. " * 8)
         for i in range(int(first), int(last))]
result = generate_questions(nodes, llm, output_path=out, cache=cache, concurrency=4, verbose=False)
print(result.usage["calls"], len(result.dataset.queries))
"""


@pytest.mark.slow
def test_runs_that_overlap_ask_each_question_once_even_when_one_is_killed(tmp_path):
    pytest.importorskip("llama_index.llms.openai_like")
    from openai_server import serving

    with serving(delay=0.2) as server:

        def ask(name, first, last):
            return subprocess.Popen(
                [sys.executable, "-c", ASK, server.url, tmp_path / "cache", tmp_path / f"{name}.json", str(first), str(last)],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip

        killed = ask("killed", 0, 40)
        until(lambda: server.calls > 8)
        killed.kill()
        both = [ask("one", 0, 30), ask("two", 10, 40)]
        said = [process.communicate(timeout=60)[0].split() for process in both]
        assert [process.returncode for process in both] == [0, 0]
        in_flight = 4
        assert server.calls <= 40 + in_flight, "only what was under way in the killed process was asked again"
        assert sum(int(calls) for calls, _ in said) < 40
        assert all(int(questions) > 40 for _, questions in said)
        third = ask("three", 0, 40)
        assert third.communicate(timeout=60)[0].split()[0] == "0"


# Leaderboard


def test_a_leaderboard_ranks_by_lift_and_tells_what_it_leaves_out(short, tmp_path, outputs):
    def write(name, lift, chunk_size, error=None):
        run = runs.Run(name, outputs)
        parameters = {"RUN_NAME": name, "CHUNK_SIZE": chunk_size, "SEED": 0, "TRAIN_FILES": ["/x/a.pdf"]}
        run.record("01_build_corpus", parameters=parameters, seconds=60.0, error=error)
        if error:
            return
        usage = {"training": {"calls": 3, "cost": 0.25}, "validation": {"calls": 2, "cost": 0.5}}
        run.record("02_generate_questions", usage=usage, seconds=60.0)
        run.path("results", "metrics.csv").write_text(
            "question_set,system,metric,value,low,high,questions,chunks\n"
            f"gold,base,mrr@10,0.5,0.4,0.6,20,9\ngold,fine-tuned,mrr@10,{0.5 + lift},0.4,0.7,20,9\n"
        )
        run.path("results", "differences.csv").write_text(
            "question_set,system,base,metric,difference,low,high,p,p_holm\n"
            f"gold,fine-tuned,base,mrr@10,{lift},{lift - 0.1},{lift + 0.1},0.01,0.02\n"
        )

    write("low", 0.01, 128)
    write("high", 0.2, 256)
    write("broken", 0, 512, error="no text")
    board = compare_runs(outputs=outputs)
    assert list(board.table.run) == ["high", "low"]
    assert board.differing == ["CHUNK_SIZE"]
    assert (board.table.minutes[0], board.table.calls[0], board.table.cost[0]) == (2.0, 5, 0.75)
    assert board.left_out.to_dict("records") == [{"run": "broken", "step": "01_build_corpus", "reason": "no text"}]
    assert board.shown().lift.iloc[0] == "+0.200 [+0.100, +0.300]"
    runs.Run("low", outputs).record("02_generate_questions", error="out of budget")
    assert compare_runs(outputs=outputs).left_out.reason.to_list() == ["no text", "out of budget"], (
        "old results don't count"
    )
    with pytest.raises(UserError, match=r"no metric 'x'.*mrr@10"):
        compare_runs(outputs=outputs, metric="x")
    with pytest.raises(UserError, match="no run nobody"):
        compare_runs(["nobody"], outputs=outputs)
    assert "Left out:\n  broken, 01_build_corpus: no text" in board.to_text()
    with pytest.raises(UserError, match=r"has results yet(.|\n)*broken, 01_build_corpus: no text"):
        compare_runs(["broken"], outputs=outputs)


@pytest.mark.slow
def test_a_run_that_fails_for_forgetting_has_its_report(short, tmp_path):
    for name, word in (("train", "forget"), ("val", "x")):
        (tmp_path / f"{name}.txt").write_text(word)
    files = {"TRAIN_FILES": str(tmp_path / "train.txt"), "VAL_FILES": str(tmp_path / "val.txt")}
    result = runs.run("forgot", files, outputs=tmp_path / "outputs", say=lambda line: None)
    assert (result.status, result.failed_step) == ("failed", "04_evaluate_models")
    page = result.report.read_text()
    assert "The verdict: it forgot" in page and "Traceback" not in page and "UserError" not in page
