"""Batches: many runs from one plan, each in a process and a folder of its own, on this machine or on a Dask cluster."""

import concurrent.futures
import contextlib
import csv
import datetime
import fcntl
import functools
import io
import itertools
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
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nbutils.core import UserError, content_hash, write_atomic
from nbutils.pipeline import run as runs
from nbutils.pipeline.run import Run

PLAN_SUFFIXES = (".csv", ".yaml", ".yml")
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
GIBIBYTE = 1 << 30
TEMPORARY = "nbutils-run-"
TOO_MANY = "cells without a column"


# The plan


@dataclass(frozen=True)
class PlannedRun:
    """One run of a batch: its name, its checked parameters, and the seconds it may take (None: no limit)."""

    name: str
    parameters: dict[str, Any]
    timeout: float | None = None


def read_plan(
    plan: str | Path,
    *,
    hold_out: Sequence[str | Path] = (),
    parameters: Mapping[str, Any] | None = None,
    profile: str | Path | None = None,
    prefix: str = "",
) -> list[PlannedRun]:
    """Read a plan and check all of it.

    Args:
        plan: a CSV file (a row a run; columns `name`, `timeout` in seconds, and any parameters; an empty cell is the
            default), a YAML file (a list of such rows, or one), or a folder, each of whose documents is a run.
            Paths are relative to the plan, else to the working directory.
            Several values for a parameter make a grid, a run for each combination: `[256, 512]`. For one that is
            itself a list, such as TRAIN_FILES, `[a.pdf, b.pdf]` is one value and `[[a.pdf], [b.pdf]]` are two.
        hold_out: for a folder: the files that all runs are validated on. Without any, some pages of each
            document are set aside for its own validation.
        parameters: for all runs; a row's own win.
        profile: as for `nbutils.pipeline.run.run`; `parameters` win.
        prefix: for a folder: what the names of its runs begin with.

    Returns:
        The runs, in the plan's order.

    Raises:
        UserError: the plan cannot be read, or rows are wrong; the message names every one of them.
    """
    path = Path(plan).expanduser()
    if path.is_dir():
        rows, base = _folder_rows(path, hold_out, prefix), Path.cwd()
    elif hold_out:
        raise UserError(f"--hold-out goes with a folder of documents; {plan} is not one. Use VAL_FILES in the plan.")
    elif not path.is_file():
        raise UserError(f"There is no plan {plan}. Name a CSV or YAML file, or a folder of documents.")
    elif path.suffix.lower() not in PLAN_SUFFIXES:
        raise UserError(f"{plan} is no plan. Name a CSV or YAML file, or a folder of documents.")
    else:
        read = _csv_rows if path.suffix.lower() == ".csv" else _yaml_rows
        rows, base = read(path), path.resolve().parent
    if not rows:
        raise UserError(f"The plan {plan} has no rows. Add one for each run.")
    common = {**runs.read_profile(profile), **(parameters or {})}
    planned, mistakes = [], []
    for where, row in rows:
        try:
            planned += [(where, run) for run in _expand({**common, **row}, base)]
        except UserError as error:
            mistakes.append(f"{where}: {error}")
    first: dict[str, str] = {}
    for where, run in planned:
        if first.setdefault(run.name, where) != where:
            mistakes.append(f"{where}: the name {run.name} is taken by {first[run.name]}. Give each run its own.")
    if mistakes:
        raise UserError(f"The plan {plan} cannot be run as it is:\n" + "\n".join(f"  {each}" for each in mistakes))
    return [run for _, run in planned]


def _csv_rows(path: Path) -> list[tuple[str, dict]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"The plan {path} is not UTF-8 text. Save it as CSV in UTF-8.") from error
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows = []
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    for cells in reader:
        more = cells.pop(None, None)
        row = {str(name).strip(): cell.strip() for name, cell in cells.items() if cell and cell.strip()}
        if more:
            row[TOO_MANY] = more
        if row:
            rows.append((f"line {reader.line_num}", row))
    return rows


def _yaml_rows(path: Path) -> list[tuple[str, dict]]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"The plan {path} is not valid YAML: {str(error).splitlines()[0]}.") from error
    rows = [content] if isinstance(content, dict) else content or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"The plan {path} must be a list of rows, each of which maps parameter names to values.")
    return [(f"row {number}", {str(k): v for k, v in row.items()}) for number, row in enumerate(rows, 1)]


def _folder_rows(folder: Path, hold_out: Sequence[str | Path], prefix: str) -> list[tuple[str, dict]]:
    from nbutils.corpus.files import find_files

    held = [str(Path(file).resolve()) for file in find_files(list(hold_out))] if hold_out else []
    files = [str(Path(file).resolve()) for file in find_files(folder)]
    files = [file for file in files if file not in held]
    if not files:
        raise UserError(f"Every document in {folder} is held out. Leave at least one to train on.")
    inside = [os.path.relpath(file, folder.resolve()) for file in files]
    stems = [_slug(Path(file).stem) for file in files]
    names = [
        prefix + (stem if stems.count(stem) == 1 else f"{stem}-{content_hash(file, length=6)}")
        for file, stem in zip(inside, stems, strict=True)
    ]
    return [
        (where, {"name": name, "TRAIN_FILES": [file], "VAL_FILES": held})
        for where, name, file in zip(inside, names, files, strict=True)
    ]


def left_out(plan: str | Path) -> list[str]:
    """Return the visible files of a folder that no run of it reads, because of their type; nothing for a plan file."""
    from nbutils.corpus.files import SUFFIXES

    folder = Path(plan).expanduser()
    files = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or path.is_file())
    return sorted(
        str(file)
        for file in files
        if not any(part.startswith(".") for part in file.parts)
        and not (file.suffix.lower() in SUFFIXES and (folder / file).is_file())
    )


def _expand(row: Mapping[str, Any], base: Path) -> list[PlannedRun]:
    """Return the runs that a row stands for: one, or one for each combination of several values.

    Raises:
        UserError: cells are wrong; the message names all of them.
    """
    row = {key.lower() if key.lower() in ("name", "timeout") else key: value for key, value in row.items()}
    name, timeout = row.pop("name", None), row.pop("timeout", None)
    choices, mistakes = {}, []
    try:
        timeout = None if timeout is None else float(timeout)
    except (TypeError, ValueError):
        timeout = -1
    if timeout is not None and not timeout > 0:
        mistakes.append("timeout must be a number of seconds above 0.")
    for key, cell in row.items():
        try:
            choices[key] = _choices(key, cell, base)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError(" ".join(mistakes))
    several = [key for key, values in choices.items() if len(values) > 1]
    expanded: dict[str, PlannedRun] = {}
    for combination in itertools.product(*choices.values()):
        values = dict(zip(choices, combination, strict=True))
        runs.check_together(values)
        base_name = str(name) if name is not None else _slug(Path((values.get("TRAIN_FILES") or ["run"])[0]).stem)
        own = ".".join([base_name, *(f"{key.lower()}-{_slug(_text(values[key]))}" for key in several)])
        if len(own) > 100:
            own = f"{own[:90]}-{content_hash(own, length=8)}"
        if runs.check_name(own) in expanded:
            own = f"{own[:90]}-{content_hash(json.dumps(values, sort_keys=True), length=8)}"
        expanded[own] = PlannedRun(own, values, timeout)
    return list(expanded.values())


def _choices(name: str, cell: Any, base: Path) -> list:
    """Return the checked alternatives that a cell holds; files by their absolute paths.

    A list is one value of a list parameter, a list of lists several.
    """
    if name == TOO_MANY:
        raise UserError(
            f"there are more cells than columns: {', '.join(cell)}. Put a cell with a comma in double quotes."
        )
    if name == "RUN_NAME":
        raise UserError("the run's name goes into `name`, not RUN_NAME.")
    if isinstance(cell, str) and cell.startswith("["):
        with contextlib.suppress(yaml.YAMLError):
            read = yaml.safe_load(cell)
            cell = read if isinstance(read, list) else cell
    is_list = any(parameter.name == name and parameter.type == "list" for parameter in runs.all_parameters())
    if not isinstance(cell, list) or (is_list and not (cell and all(isinstance(item, list) for item in cell))):
        cell = [cell]
    if not cell:
        raise UserError(f"Parameter {name} has an empty list of values. Name at least one.")
    values = [runs.check_parameters({name: value})[name] for value in cell]
    if name in ("TRAIN_FILES", "VAL_FILES"):
        values = [[_located(file, base) for file in files] for files in values]
    if name == "GOLD_QUESTIONS":
        values = [_located(file, base) if file not in ("", "auto") else file for file in values]
    return values


def _text(value: Any) -> str:
    if isinstance(value, list):
        return Path(value[0]).stem + (f"+{len(value) - 1}" if len(value) > 1 else "") if value else "none"
    return str(value)


def _located(file: str, base: Path) -> str:
    """Return a URL as it is, and a file, folder or glob as an absolute path: seen from the plan, if it is there."""
    if re.match(r"https?://", file):
        return file
    beside = base / Path(file).expanduser()
    is_there = beside.exists() or any(base.glob(file) if not Path(file).is_absolute() else ())
    return os.path.abspath(os.path.expanduser(str(beside) if is_there else runs.find_file(file)))


def _slug(text: str) -> str:
    """Return a text as part of a run's name."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    slug = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-._")[:60]
    return slug or f"run-{content_hash(text, length=6)}"


# One run


@dataclass
class Outcome:
    """What came of one run of a batch.

    Args:
        name: the run.
        status: "waiting", "running", "done" or "failed".
        error: one sentence, where it failed.
        notebook: the notebook that failed, as far as it ran.
        seconds: wall time.
        peak_memory: most bytes that its processes held at once.
        parameters: as planned.
        storage: the address that its results were copied to.
        started, finished: UTC.
    """

    name: str
    status: str = "waiting"
    error: str | None = None
    notebook: str | None = None
    seconds: float | None = None
    peak_memory: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    storage: str | None = None
    started: str | None = None
    finished: str | None = None


def run_one(
    planned: PlannedRun,
    outputs: str | Path,
    *,
    timeout: float | None = None,
    memory: float | None = None,
    threads: int | None = None,
    storage: str | None = None,
) -> Outcome:
    """Execute one run in a process of its own and wait for it; also what a Dask worker is given to do.

    Args:
        planned: the run.
        outputs: folder of all runs.
        timeout: seconds; the run's own wins.
        memory: GiB that the run's processes may hold together; beyond, it is ended.
        threads: cores for this run; by default this worker's share of the machine.
        storage: address that the run's results are copied to, as for `run_batch`.

    Returns:
        What came of it; it does not raise for a run that fails.
    """
    import psutil

    folder = Run(planned.name, outputs).folder
    outcome = Outcome(planned.name, "running", parameters=planned.parameters, started=runs.now())
    write_atomic(folder / "parameters.yaml", yaml.safe_dump(planned.parameters, allow_unicode=True, sort_keys=False))
    for file in (".outcome.json", ".stop"):
        (folder / file).unlink(missing_ok=True)
    begun, limit = time.monotonic(), planned.timeout or timeout
    environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads or _threads_here()))
    peak, reason = 0, None
    with (
        open(folder / "log.txt", "wb") as log,
        tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True) as temporary,
    ):
        environment["TMPDIR"] = temporary  # a killed kernel leaves files there
        worker = subprocess.Popen(
            [sys.executable, "-m", "nbutils.pipeline.batch", str(folder)],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
        )  # fmt: skip
        with worker:
            watched = psutil.Process(worker.pid)
            while reason is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(1)
                    break
                held = sum(_memory(process) for process in _tree(watched))
                peak = max(peak, held)
                if limit and time.monotonic() - begun > limit:
                    reason = f"It took longer than its time limit of {limit:g} s."
                elif memory and held > memory * GIBIBYTE:
                    reason = f"It held {held / GIBIBYTE:.1f} GiB of memory; the limit for a run is {memory:.1f} GiB."
                elif (folder / ".stop").exists():
                    reason = "It was stopped."
            for process in _tree(watched):
                with contextlib.suppress(psutil.Error):
                    process.kill()
    outcome.seconds, outcome.peak_memory = round(time.monotonic() - begun, 1), peak or None
    (folder / ".stop").unlink(missing_ok=True)
    _settle(outcome, folder, worker.returncode, reason)
    if storage:
        try:
            publish(folder, storage)
            outcome.storage = storage
        except Exception as error:
            outcome.status = "failed"
            outcome.error = f"Its results could not be copied to {storage}: {type(error).__name__}: {error}"
    outcome.finished = runs.now()
    return outcome


def _settle(outcome: Outcome, folder: Path, status: int, reason: str | None) -> None:
    """Fill in how a run ended, from what its process left behind."""
    for partial in folder.glob(".*.partial.ipynb"):
        partial.replace(folder / partial.name.removeprefix(".").replace(".partial", ""))
    said = {}
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / ".outcome.json").read_text(encoding="utf-8"))
    (folder / ".outcome.json").unlink(missing_ok=True)
    (folder / ".progress").unlink(missing_ok=True)
    if said.get("status") == "done":
        outcome.status = "done"
        return
    outcome.status = "failed"
    step = said.get("failed_step")
    if said:
        outcome.error = said["error"]
    elif reason:
        outcome.error = reason
    elif status < 0:
        outcome.error = f"Its process was killed by {signal.Signals(-status).name} (by hand, or for want of memory)."
    else:
        last = [line for line in (folder / "log.txt").read_text("utf-8", "replace").splitlines() if line.strip()]
        outcome.error = f"Its process ended with status {status}: {last[-1] if last else 'no message'}"
    step = step or _stage(folder)[0]
    if step and (folder / f"{step}.ipynb").exists():
        outcome.notebook = f"{folder.name}/{step}.ipynb"


def _stage(folder: Path) -> tuple[str, str]:
    """Return the notebook that a run's log names last, and the cell it is at, as "3/12"; both may be empty."""
    try:
        log = (folder / "log.txt").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "", ""
    steps = re.findall(r"(?m)^\[\d+/\d+\] (\w+)$", log)
    step = steps[-1] if steps else ""
    cells = re.findall(r"(?m)^ +cell (\d+/\d+) ", log.rpartition(f"] {step}\n")[2])
    return step, cells[-1] if cells else ""


def _tree(process) -> list:
    import psutil

    with contextlib.suppress(psutil.Error):
        return [*process.children(recursive=True), process]
    return []


def _memory(process) -> int:
    import psutil

    with contextlib.suppress(psutil.Error):
        return process.memory_info().rss
    return 0


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads_here() -> int:
    """Return the cores for one of the tasks of this Dask worker."""
    try:
        from distributed import get_worker

        return max(1, _cores() // get_worker().state.nthreads)
    except (ImportError, ValueError):
        return _cores()


def _work(folder: Path) -> int:
    """Be the process of one run: execute it, leave `.outcome.json`, and end with the process that started this one."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.modules["rfc3987_syntax"] = None  # papermill needs jsonschema, whose optional check of addresses takes a second
    parameters = yaml.safe_load((folder / "parameters.yaml").read_text(encoding="utf-8"))
    try:
        result = runs.run(
            folder.name, parameters, outputs=folder.parent, wait=24 * 3600, say=lambda line: print(line, flush=True)
        )
        said = {"status": result.status, "error": result.error, "failed_step": result.failed_step}
    except UserError as error:
        said = {"status": "failed", "error": str(error), "failed_step": None}
    write_atomic(folder / ".outcome.json", json.dumps(said))
    return 0 if said["status"] == "done" else 1


def _end_with_parent() -> None:
    """Wait until the other end of standard input is closed, which the death of the parent does, and end everything."""
    import psutil

    while os.read(0, 1):
        pass
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    if Path(os.environ.get("TMPDIR", "")).name.startswith(TEMPORARY):
        shutil.rmtree(os.environ["TMPDIR"], ignore_errors=True)
    os._exit(1)


# Many runs


@dataclass
class Batch:
    """A batch and its record, outputs/batches/<name>.json.

    Args:
        name: of the batch.
        path: of the record.
        outcomes: a run's outcome by its name, in the plan's order.
        started: UTC.
        finished: UTC, or None.
    """

    name: str
    path: Path
    outcomes: dict[str, Outcome]
    started: str
    finished: str | None = None

    def names(self, status: str) -> list[str]:
        """Return the runs of a status."""
        return [name for name, outcome in self.outcomes.items() if outcome.status == status]

    @property
    def ok(self) -> bool:
        """Whether every run is done."""
        return len(self.names("done")) == len(self.outcomes)

    def save(self) -> None:
        """Write the record, whole or not at all."""
        content = {
            "name": self.name, "started": self.started, "finished": self.finished,
            "runs": [asdict(outcome) for outcome in self.outcomes.values()],
        }  # fmt: skip
        write_atomic(self.path, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def default_name(plan: str | Path) -> str:
    """Return the name of a plan's batch: that of its file or folder."""
    return _slug(Path(plan).expanduser().resolve().stem)


def batch_path(name: str, outputs: str | Path | None = None) -> Path:
    """Return where the record of a batch lies."""
    return Path(outputs or runs.outputs_root()) / "batches" / f"{runs.check_name(name)}.json"


def read_batch(name: str, outputs: str | Path | None = None) -> Batch:
    """Read the record of a batch.

    Raises:
        UserError: there is none of that name, or it is damaged.
    """
    path = batch_path(name, outputs)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        outcomes = {entry["name"]: Outcome(**entry) for entry in content["runs"]}
        return Batch(content["name"], path, outcomes, content["started"], content["finished"])
    except OSError as error:
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.json"))) or "none yet"
        raise UserError(f"There is no batch {name}. There are: {known}.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged. Delete it and start the batch again; finished runs are kept.") from error


def run_batch(
    plan: Iterable[PlannedRun],
    name: str,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    memory: float | None = None,
    outputs: str | Path | None = None,
    dask: str | None = None,
    storage: str | None = None,
    say=print,
) -> Batch:
    """Execute the runs of a plan that are not done yet; one that fails does not stop the others.

    Args:
        plan: from `read_plan`.
        name: the batch's name, under which its record is kept.
        jobs: runs at a time on this machine; its cores are shared out among them.
        timeout: seconds that a run may take.
        memory: GiB that a run may hold; by default nine tenths of the machine's, divided by `jobs`.
        outputs: folder of all runs; default is `nbutils.pipeline.run.outputs_root()`.
        dask: address of a Dask scheduler, whose workers then do the runs. They need nbutils and the same outputs
            folder. A run whose worker dies is done by another one and continues where it was.
        storage: an address that papermill can write to (s3://, gs://, abfs://, hdfs:// or a folder): each run's
            executed notebooks, record, tables and report are copied there when it ends.
        say: receives each line of progress; on a terminal there is a live table instead.

    Returns:
        What came of each run.

    Raises:
        UserError: an argument that cannot be, a finished run of another batch would be replaced, the batch is being
            run already, or the scheduler does not answer.
        KeyboardInterrupt: on Ctrl-C, once the runs are ended; the record says how far they were.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be 1 or more.")
    root = Path(outputs or runs.outputs_root())
    plan = {planned.name: planned for planned in plan}
    with _batch_lock(name, root):
        _check_names_are_free(plan, name, root)
        batch = Batch(
            name, batch_path(name, root), {each.name: Outcome(each.name) for each in plan.values()}, runs.now()
        )
        earlier = {}
        with contextlib.suppress(UserError):
            earlier = read_batch(name, root).outcomes
        for planned in plan.values():
            kept = earlier.get(planned.name)
            stored = not storage or (kept and kept.storage == storage)
            if stored and runs.is_done(planned.name, planned.parameters, outputs=root):
                batch.outcomes[planned.name] = kept if kept and kept.status == "done" else Outcome(planned.name, "done")
            batch.outcomes[planned.name].parameters = planned.parameters
        batch.save()
        todo = [planned for planned in plan.values() if batch.outcomes[planned.name].status != "done"]
        options = {"timeout": timeout, "memory": memory, "storage": storage}
        if todo and not dask:
            options["memory"] = memory or _memory_share(jobs)
            options["threads"] = max(1, _cores() // jobs)
        with _engine(jobs, dask) as engine, _view(batch, len(todo), say, root) as view:
            futures = {engine.submit(run_one, planned, root, **options): planned for planned in todo}
            try:
                _follow(batch, futures, view)
            except BaseException:
                for future, planned in futures.items():
                    folder = root / planned.name  # Dask takes for cancelled what goes on in a worker
                    if not future.done() and not (future.cancel() and not _started(folder, batch.started)):
                        folder.mkdir(exist_ok=True)
                        (folder / ".stop").touch()
                if not dask:
                    concurrent.futures.wait(futures, timeout=30)
                for outcome in batch.outcomes.values():
                    outcome.status = "waiting" if outcome.status == "running" else outcome.status
                batch.save()
                raise
        batch.finished = runs.now()
        batch.save()
    return batch


def _check_names_are_free(plan: Mapping[str, PlannedRun], name: str, root: Path) -> None:
    for path in sorted(batch_path(name, root).parent.glob("*.json")):
        others = {}
        with contextlib.suppress(UserError):
            others = read_batch(path.stem, root).outcomes if path.stem != name else {}
        for run in plan.keys() & others.keys():
            if others[run].status == "done" and others[run].parameters != plan[run].parameters:
                raise UserError(
                    f"The run {run} would replace that of the batch {path.stem}, which has other parameters. Give this "
                    f"batch's runs other names (for a folder: --name), or delete {path} if you don't need it."
                )


def _follow(batch: Batch, futures: dict, view) -> None:
    """Note each run's end as it comes, and show how things stand."""
    pending = set(futures)
    while pending:
        done, pending = concurrent.futures.wait(pending, timeout=0.5, return_when="FIRST_COMPLETED")
        for future in done:
            planned = futures[future]
            try:
                outcome = future.result()
            except Exception as error:
                reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
                outcome = Outcome(planned.name, "failed", reason, parameters=planned.parameters, finished=runs.now())
            batch.outcomes[planned.name] = outcome
            batch.save()
            view.ended(outcome)
        view.refresh()


@contextlib.contextmanager
def _batch_lock(name: str, root: Path) -> Iterator[None]:
    path = batch_path(name, root)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = open(path.with_suffix(".lock"), "w")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"Cannot write to {root}: {error.strerror}. Set NBUTILS_OUTPUTS to another.") from error
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"The batch {name} is being run by another process. Wait for it to end.") from error
        yield


@contextlib.contextmanager
def _engine(jobs: int, dask: str | None):
    """Yield an executor: threads that each wait for a process, or a Dask cluster's workers."""
    if not dask:
        with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
            yield executor
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise UserError("--dask needs the package distributed: pip install 'nbutils[dask]'.") from error
    try:
        client = Client(dask, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"No Dask scheduler answers at {dask}. Start one with `dask scheduler`.") from error
    with client, client.get_executor(pure=False) as executor:
        yield executor


def _memory_share(jobs: int) -> float:
    import psutil

    return 0.9 * psutil.virtual_memory().total / GIBIBYTE / jobs


# What people see


class _Lines:
    """A line for each run that ends."""

    def __init__(self, batch: Batch, todo: int, say, root: Path):
        self.batch, self.todo, self.say, self.root = batch, todo, say, root
        self.begun, self.ended_now = time.monotonic(), []
        ready = len(batch.outcomes) - todo
        self.say(f"Batch {batch.name}: {len(batch.outcomes)} runs, {ready} done already, {todo} to do.")

    def ended(self, outcome: Outcome) -> None:
        self.ended_now.append(outcome)
        total, seconds = len(self.batch.outcomes), f"{outcome.seconds:.0f} s" if outcome.seconds else "no time"
        over = total - len(self.batch.names("waiting")) - len(self.batch.names("running"))
        what = f"done in {seconds}" if outcome.status == "done" else f"failed after {seconds}: {outcome.error}"
        self.say(f"{datetime.datetime.now():%H:%M:%S}  {over}/{total}  {outcome.name} {what}{self.left()}")

    def left(self) -> str:
        """Return about how long the rest will take, from the pace so far."""
        rest = self.todo - len(self.ended_now)
        if not rest or not self.ended_now:
            return ""
        seconds = (time.monotonic() - self.begun) / len(self.ended_now) * rest
        return f"  (about {_duration(seconds)} left)"

    def refresh(self) -> None:
        pass


class _Table(_Lines):
    """A live table of what runs, with the counts and the failures so far."""

    def __init__(self, *arguments):
        from rich.live import Live

        super().__init__(*arguments)
        self.live = Live(self.draw(), refresh_per_second=2, transient=False)
        self.say = functools.partial(self.live.console.print, markup=False, highlight=False)
        self.live.start()

    def ended(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            super().ended(outcome)
        else:
            self.ended_now.append(outcome)

    def refresh(self) -> None:
        self.live.update(self.draw())

    def draw(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        count = {status: len(self.batch.names(status)) for status in ("done", "failed")}
        rest = len(self.batch.outcomes) - sum(count.values())
        title = Text(f"{self.batch.name}: {count['done']} done, {count['failed']} failed, {rest} to do{self.left()}")
        table = Table("run", "notebook", "cell", "for")
        for name in self.batch.names("waiting"):
            begun = _started(self.root / name, self.batch.started)
            if begun:
                step, cell = _stage(self.root / name)
                table.add_row(name, step or "starting", cell, _duration(time.time() - begun))
        return Group(title, table) if table.row_count else title


def _started(folder: Path, since: str) -> float | None:
    """Return when a run of this batch began (seconds since 1970), or None where it has not."""
    with contextlib.suppress(OSError):
        begun = (folder / "log.txt").stat()
        if begun.st_mtime >= datetime.datetime.fromisoformat(since).timestamp():
            return (folder / "parameters.yaml").stat().st_mtime
    return None


@contextlib.contextmanager
def _view(batch: Batch, todo: int, say, root: Path):
    view = (_Table if todo and sys.stdout.isatty() else _Lines)(batch, todo, say, root)
    try:
        yield view
    finally:
        if isinstance(view, _Table):
            view.live.stop()


def _duration(seconds: float) -> str:
    seconds = round(seconds)
    if seconds < 90:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Results elsewhere


def publish(folder: Path, address: str) -> list[str]:
    """Copy a run's notebooks, record, tables and report to an address that papermill can write to.

    Args:
        folder: the run's.
        address: s3://, gs://, abfs://, adl://, hdfs:// or a folder; the run's name is added.

    Returns:
        The addresses written.
    """
    from papermill.iorw import papermill_io

    written = []
    for pattern in ("*.ipynb", "*.json", "*.yaml", "*.html", "results/*.csv", "results/*.json"):
        for file in sorted(folder.glob(pattern)):
            target = f"{address.rstrip('/')}/{folder.name}/{file.relative_to(folder).as_posix()}"
            if "://" not in address:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
            papermill_io.write(file.read_text(encoding="utf-8"), target, extensions=[])
            written.append(target)
    return written


if __name__ == "__main__":
    sys.exit(_work(Path(sys.argv[1])))
