"""One run of a batch in a process of its own, watched from outside: limits of time and memory, its end, its results."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nbutils.core import UserError, write_atomic
from nbutils.pipeline.parameters import read_profile
from nbutils.pipeline.plan import PlannedRun
from nbutils.pipeline.run import Run, end_leftovers, now, run

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
GIBIBYTE = 1 << 30
TEMPORARY = "nbutils-run-"
CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # version 2, version 1


@dataclass
class Outcome:
    """What came of one run of a batch.

    Args:
        name: the run.
        status: "waiting", "running", "done" or "failed".
        error, notebook: where it failed, one sentence, and the notebook as far as it ran.
        seconds: wall time.
        peak_memory: most bytes that its processes held at once.
        parameters: as planned.
        started, finished: UTC.
    """

    name: str
    status: str = "waiting"
    error: str | None = None
    notebook: str | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    started: str | None = None
    finished: str | None = None


def run_one(
    planned: PlannedRun,
    outputs: str | Path,
    *,
    timeout: float | None = None,
    memory: float | None = None,
    jobs: int | None = None,
) -> Outcome:
    """Execute one run in a process of its own and wait for it; also what a Dask worker is given to do.

    Args:
        planned: the run.
        outputs: folder of all runs.
        timeout: seconds; the run's own wins.
        memory: GiB that the run's processes may hold together; beyond, it is ended.
        jobs: runs at a time, which share the machine's cores; by default those of this Dask worker.
    """
    this = Run(planned.name, outputs)
    outcome = Outcome(planned.name, "running", parameters=planned.parameters, started=now())
    write_atomic(this.path("parameters.yaml"), yaml.safe_dump(planned.parameters, allow_unicode=True, sort_keys=False))
    for file in (".outcome.json", ".stop"):
        this.path(file).unlink(missing_ok=True)
    begun, environment = time.monotonic(), dict.fromkeys(THREAD_VARIABLES, str(_threads(jobs)))
    with (
        open(this.path("log.txt"), "wb") as log,
        tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True) as temporary,
        subprocess.Popen(
            [sys.executable, "-m", "nbutils.pipeline.worker", str(this.folder)], start_new_session=True,
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT,
            env=os.environ | environment | {"TMPDIR": temporary},  # a killed kernel leaves files there
        ) as worker,
    ):  # fmt: skip
        outcome.peak_memory, reason = _watch(worker, this.folder, planned.timeout or timeout, memory)
        with contextlib.suppress(UserError), this.lock():  # unless another process is working on the run
            end_leftovers(this)  # a killed worker's kernels live on for seconds, and write to the folder that goes now
    outcome.seconds = round(time.monotonic() - begun, 1)
    _settle(outcome, this.folder, worker.returncode, reason)
    outcome.finished = now()
    return outcome


def _watch(
    worker: subprocess.Popen, folder: Path, timeout: float | None, memory: float | None
) -> tuple[int | None, str | None]:
    """Wait for a process, end it with all that it started, and return its peak memory and why it had to be ended."""
    import psutil

    watched, begun, peak, reason = psutil.Process(worker.pid), time.monotonic(), 0, None
    while reason is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(1)
            break
        held = 0
        for process in _tree(watched):
            with contextlib.suppress(psutil.Error):
                held += process.memory_info().rss
        peak = max(peak, held)
        if timeout and time.monotonic() - begun > timeout:
            reason = f"It took longer than its time limit of {timeout:g} s."
        elif memory and held > memory * GIBIBYTE:
            reason = f"It held {held / GIBIBYTE:.1f} GiB of memory; the limit for a run is {memory:.1f} GiB."
        elif (folder / ".stop").exists():
            reason = "It was stopped."
    _kill(_tree(watched))
    return peak or None, reason


def _settle(outcome: Outcome, folder: Path, status: int, reason: str | None) -> None:
    """Fill in how a run ended, from what its process left behind."""
    for partial in folder.glob(".*.partial.ipynb"):
        partial.replace(folder / partial.name.removeprefix(".").replace(".partial", ""))
    said = {}
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / ".outcome.json").read_text(encoding="utf-8"))
    if said or reason:
        outcome.error = said.get("error", reason)
    else:
        last = (folder / "log.txt").read_text("utf-8", "replace").strip().rpartition("\n")[2]
        why = f"{signal.strsignal(-status)}, by hand or for want of memory" if status < 0 else last or "no message"
        outcome.error = f"Its process ended with status {status}: {why}"
    outcome.status = "failed" if outcome.error else "done"
    step = said.get("failed_step") or stage(folder)[0]
    if outcome.error and step and (folder / f"{step}.ipynb").exists():
        outcome.notebook = f"{folder.name}/{step}.ipynb"


def stage(folder: Path) -> tuple[str, str]:
    """Return the notebook that a run's log names last, and the cell it is at, as "3/12"; both may be empty."""
    log = ""
    with contextlib.suppress(OSError):
        log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    step = ["", *re.findall(r"(?m)^\[\d+/\d+\] (\w+)$", log)][-1]
    return step, ["", *re.findall(r"(?m)^ +cell (\d+/\d+) ", log.rpartition(f"] {step}\n")[2])][-1]


def _tree(process) -> list:
    import psutil

    with contextlib.suppress(psutil.Error):
        return [*process.children(recursive=True), process]
    return []


def _kill(processes: list) -> None:
    import psutil

    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()


def memory_gib() -> float:
    """Return the memory that this process may use, in GiB: the machine's, or less in a container."""
    import psutil

    limits = [psutil.virtual_memory().total]
    for file in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # no such file; "max"
            limits.append(int(Path(file).read_text()))
    return min(limits) / GIBIBYTE


def _threads(jobs: int | None) -> int:
    """Return the cores for one run: this process's, by the runs at a time, which a Dask worker knows itself."""
    from joblib import cpu_count

    if jobs is None:
        with contextlib.suppress(ImportError, ValueError):
            from distributed import get_worker

            jobs = get_worker().state.nthreads
    return max(1, cpu_count() // (jobs or 1))


def main(folder: Path) -> int:
    """Be the process of one run: execute it, leave `.outcome.json`, and end with the process that started this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    parameters = read_profile(folder / "parameters.yaml")
    try:
        result = run(folder.name, parameters, outputs=folder.parent, wait=600, say=lambda line: print(line, flush=True))
        said = {"error": result.error, "failed_step": result.failed_step}
    except UserError as error:
        said = {"error": str(error), "failed_step": None}
    write_atomic(folder / ".outcome.json", json.dumps(said))
    return 1 if said["error"] else 0


def _end_with_parent() -> None:
    """Wait until the other end of standard input is closed, which the death of the parent does, and end everything."""
    import psutil

    while os.read(0, 1):
        pass
    _kill(psutil.Process().children(recursive=True))
    if Path(os.environ.get("TMPDIR", "")).name.startswith(TEMPORARY):
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
