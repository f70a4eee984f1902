"""Batches: real processes that fail, hang, grow and are killed."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil
import pytest
import yaml
from short_chain import documents

from nbutils.core import UserError
from nbutils.pipeline import worker
from nbutils.pipeline.batch import Batch, batch_path, read_batch, run_batch
from nbutils.pipeline.plan import default_name, read_plan
from nbutils.pipeline.run import now
from nbutils.pipeline.worker import Outcome, memory_gib


def command(*arguments) -> list[str]:
    return [sys.executable, "-m", "nbutils", *map(str, arguments)]


def nbutils(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=600)


def on_a_terminal(*arguments) -> tuple[int, str]:
    """Run a command on a pseudo-terminal and return its status and all that it showed."""
    ours, its = os.openpty()
    termios.tcsetwinsize(its, (40, 120))
    process = subprocess.Popen(command(*arguments), stdout=its, stderr=its)
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


def until(condition, seconds: float = 300):
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
    """The kernel of a run that is in step 2, which is older than the one that waits for step 3."""

    def there():
        if f"{run} 01_build_corpus" not in did(outputs):
            return None
        begun = json.loads((outputs / run / "run.json").read_text())["steps"]
        return "02_generate_questions" in begun and processes(outputs, "ipykernel", f"/{run}")

    return min(until(there), key=psutil.Process.create_time)


# Runs that work and runs that do not


def test_a_finished_run_of_another_batch_is_not_replaced(tmp_path, outputs):
    files = documents(tmp_path / "documents", a="a", b="b", c="c")
    plan = read_plan(files)
    done = {run.name: Outcome(run.name, "done", parameters=run.parameters) for run in plan}
    batch_path("first", outputs).parent.mkdir(parents=True)
    Batch("first", batch_path("first", outputs), done, now()).save()
    with pytest.raises(UserError, match="run a would replace that of the batch first"):
        run_batch(read_plan(files, parameters={"EPOCHS": 1})[:1], "second", outputs=outputs)
    assert [run.name for run in read_plan(files, prefix="second.")] == ["second.a", "second.b", "second.c"]


@pytest.mark.slow
def test_failures_are_recorded_the_rest_goes_on_and_only_they_are_done_again(short, tmp_path, outputs):
    folder = documents(tmp_path / "mixed", bad="fail", dead="kill", good="work", other="work")
    (folder / "table.xlsx").touch()
    done = nbutils("batch", folder, "--jobs", 2)
    assert done.returncode == 1
    assert "2 of 4 runs are done" in done.stdout
    assert (
        "bad: This document cannot be asked about. Take another one. (bad/02_generate_questions.ipynb)" in done.stderr
    )
    assert "Traceback" not in done.stderr and "passed over: table.xlsx" in done.stderr
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
    assert "mixed:  50%" in screen and "mixed: 100%" in screen
    assert "02_generate_questions" in screen, "the bar shows the step that runs"
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
    folder = documents(tmp_path / "b", a="work", b="sleep 600")
    main = subprocess.Popen(command("batch", folder, "--jobs", 2), stdout=subprocess.DEVNULL)
    until((outputs / "a" / "report.html").exists)
    until(lambda: read_batch("b", outputs).names("done"))
    sleeping_kernel(outputs, "b")
    main.kill()
    main.wait()
    until(lambda: not processes(outputs))
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
    folder = documents(tmp_path / "docs", worker="sleep 600", kernel="sleep 601", slow="sleep 602", big="hold 900")
    rows = [{"name": each, "TRAIN_FILES": str(folder / f"{each}.txt")} for each in ("worker", "kernel", "big", "slow")]
    rows[3]["timeout"] = 15
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(rows))
    main = subprocess.Popen(
        command("batch", tmp_path / "plan.yaml", "--jobs", 4, "--memory", 0.8), stderr=subprocess.PIPE, text=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    kernel = sleeping_kernel(outputs, "worker")
    until(lambda: processes(outputs, "nbutils.pipeline.worker " + str(outputs / "worker")))[0].kill()
    kernel.wait(60)
    sleeping_kernel(outputs, "kernel").kill()
    _, errors = main.communicate(timeout=600)
    assert main.returncode == 1
    outcomes = read_batch("plan", outputs).outcomes
    for name, words in {"worker": "Killed", "kernel": "ernel", "slow": "15 s", "big": "0.8 GiB"}.items():
        assert words in outcomes[name].error, outcomes[name]
        assert outcomes[name].error in errors
        assert (outputs / outcomes[name].notebook).exists()
        assert outcomes[name].notebook == f"{name}/02_generate_questions.ipynb" or name == "slow"
    until(lambda: not processes(outputs))
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_batch_ends_its_runs_and_exits_with_130(short, tmp_path, outputs, signal_number):
    folder = documents(tmp_path / "b", a="sleep 600", b="sleep 600")
    main = subprocess.Popen(command("batch", folder), stderr=subprocess.PIPE, text=True)
    sleeping_kernel(outputs, "a")
    again = nbutils("batch", folder)
    assert again.returncode == 2
    assert "being run by another process" in again.stderr
    main.send_signal(signal_number)
    _, errors = main.communicate(timeout=300)
    assert main.returncode == 130
    assert "continues where it stopped" in errors and "Traceback" not in errors
    until(lambda: not processes(outputs))
    assert read_batch("b", outputs).names("waiting") == ["a", "b"]


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_in_a_line_leaves_nothing_and_continues(short, tmp_path, outputs, signal_number):
    file = documents(tmp_path / "d", a="sleep 600") / "a.txt"
    run = ("run", "--name", "a", "-p", "TRAIN_FILES", file, "-p", "VAL_FILES", "[]")
    main = subprocess.Popen(command(*run), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    sleeping_kernel(outputs, "a")
    main.send_signal(signal_number)
    _, errors = main.communicate(timeout=300)
    assert main.returncode == 130
    assert errors.strip() == "nbutils: stopped; the same command continues where it stopped."
    until(lambda: not processes(outputs))


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
    folder = documents(tmp_path / "far", a="sleep 8", b="work")
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
        worker_of_a = processes(outputs, "nbutils.pipeline.worker " + str(outputs / "a"))[0].parent()
        assert worker_of_a.pid in [process.pid for process in started]
        worker_of_a.kill()
        said, _ = main.communicate(timeout=600)
        assert main.returncode == 0, said
        assert sorted(read_batch("far", outputs).names("done")) == ["a", "b"]
        assert sorted(set(did(outputs))) == sorted(did(outputs)), "no step that had ended was done again"

        folder = documents(tmp_path / "stopped", d="sleep 600")
        main = subprocess.Popen(command("batch", folder, "--dask", address), stderr=subprocess.PIPE, text=True)
        started.append(main)
        sleeping_kernel(outputs, "d")
        main.send_signal(signal.SIGINT)
        assert "continues where it stopped" in main.communicate(timeout=300)[1]
        assert main.returncode == 130
        until(lambda: not processes(outputs, "ipykernel"))
    finally:
        for process in started:
            process.kill()
            process.wait()
    until(lambda: not processes(outputs))


def test_an_address_where_no_scheduler_answers_is_named(short, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    import distributed

    refused = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, **kw: refused(address, **kw | {"timeout": 1}))
    with pytest.raises(UserError, match=r"No Dask scheduler answers at tcp://127.0.0.1:9"):
        run_batch(read_plan(documents(tmp_path / "d", a="work")), "x", dask="tcp://127.0.0.1:9")


# The machine


def test_memory_is_the_containers_where_that_is_less(tmp_path, monkeypatch):
    (tmp_path / "max").write_text("max\n")
    (tmp_path / "limit").write_text(f"{3 << 29}\n")
    monkeypatch.setattr(worker, "CGROUP_LIMITS", (str(tmp_path / "max"), str(tmp_path / "none")))
    assert memory_gib() == psutil.virtual_memory().total / 2**30
    monkeypatch.setattr(worker, "CGROUP_LIMITS", (str(tmp_path / "max"), str(tmp_path / "limit")))
    assert memory_gib() == 1.5
