"""Batches: many runs from one plan, on this machine or on a Dask cluster, with a record of what came of each.

Dask's LocalCluster would not do for this machine: it limits neither time nor what a worker's own processes hold.
"""

import concurrent.futures
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from pydantic import TypeAdapter

from nbutils.core import UserError, first_line, lock, outputs_root, progress, write_atomic
from nbutils.pipeline.parameters import check_name
from nbutils.pipeline.plan import PlannedRun
from nbutils.pipeline.run import is_done, now
from nbutils.pipeline.worker import Outcome, memory_gib, run_one, stage


@dataclasses.dataclass
class Batch:
    """A batch and its record, the file `path`: each run's outcome by its name, in the plan's order; times in UTC."""

    name: str
    path: Path
    outcomes: dict[str, Outcome]
    started: str
    finished: str | None = None

    def names(self, status: str) -> list[str]:
        """Return the runs of a status."""
        return [name for name, outcome in self.outcomes.items() if outcome.status == status]

    def save(self) -> None:
        """Write the record, whole or not at all."""
        write_atomic(self.path, TypeAdapter(Batch).dump_json(self, indent=1, exclude={"path"}).decode() + "\n")


def batch_path(name: str, outputs: str | Path | None = None) -> Path:
    """Return where the record of a batch lies."""
    return Path(outputs or outputs_root()) / "batches" / f"{check_name(name)}.json"


def read_batch(name: str, outputs: str | Path | None = None) -> Batch:
    """Read the record of a batch; a UserError names those there are where it cannot be read."""
    path = batch_path(name, outputs)
    try:
        return TypeAdapter(Batch).validate_python(json.loads(path.read_text(encoding="utf-8")) | {"path": path})
    except (OSError, TypeError, ValueError) as error:
        known = ", ".join(sorted(each.stem for each in path.parent.glob("*.json"))) or "none yet"
        advice = "or its record is damaged. Start it; finished runs are kept."
        raise UserError(f"There is no batch {name}, {advice} There are: {known}.") from error


def run_batch(
    plan: Iterable[PlannedRun],
    name: str,
    *,
    jobs: int = 1,
    timeout: float | None = None,
    memory: float | None = None,
    outputs: str | Path | None = None,
    dask: str | None = None,
    say: Callable[[str], None] = print,
) -> Batch:
    """Execute the runs of a plan that are not done yet; one that fails does not stop the others.

    Args:
        plan: from `nbutils.pipeline.plan.read_plan`.
        name: the batch's name, under which its record is kept.
        jobs: runs at a time on this machine; its cores are shared out among them.
        timeout: seconds that a run may take.
        memory: GiB that a run may hold; by default nine tenths of the machine's, divided by `jobs`.
        outputs: folder of all runs; default is `nbutils.core.outputs_root()`.
        dask: address of a Dask scheduler, whose workers then do the runs. They need nbutils and the same outputs
            folder. A run whose worker dies is done by another one and continues where it was.
        say: receives each line of progress; on a terminal there is a live bar too.

    Raises:
        UserError: an argument that cannot be, a finished run of another batch would be replaced, the batch is being
            run already, or the scheduler does not answer.
        KeyboardInterrupt: on Ctrl-C, once the runs are ended; the record says how far they were.
    """
    if jobs < 1:
        raise UserError(f"--jobs is {jobs}; it must be 1 or more.")
    root, plan = Path(outputs or outputs_root()), {planned.name: planned for planned in plan}
    options = {"timeout": timeout, "memory": memory}
    if not dask:
        options |= {"memory": memory or 0.9 * memory_gib() / jobs, "jobs": jobs}
    path = batch_path(name, root)
    busy = f"The batch {name} is being run by another process. Wait for it to end."
    with lock(path.with_suffix(".lock"), wait=0, busy=busy):
        _check_names_are_free(plan, name, root)
        batch = Batch(name, path, _known_outcomes(plan, name, root), now())
        batch.save()
        todo = [planned for planned in plan.values() if batch.outcomes[planned.name].status != "done"]
        for planned in todo:
            _log(root, planned.name).unlink(missing_ok=True)  # a log tells that a run has begun
        ready = len(plan) - len(todo)
        with _engine(jobs, dask) as engine, progress(total=len(plan), initial=ready, desc=name, unit="run") as bar:
            say = say if bar.disable else bar.write
            say(f"Batch {name}: {len(plan)} runs, {ready} done already, {len(todo)} to do.")
            futures = {engine.submit(run_one, planned, root, **options): planned for planned in todo}
            try:
                _follow(batch, futures, say, bar, root)
            except BaseException:
                _stop(batch, futures, root)
                if not dask:
                    concurrent.futures.wait(futures, timeout=30)
                raise
        batch.finished = now()
        batch.save()
    return batch


def _known_outcomes(plan: Mapping[str, PlannedRun], name: str, root: Path) -> dict[str, Outcome]:
    """Return the outcome of each run before anything is started: done where it is up to date."""
    earlier, outcomes = _outcomes_of(name, root), {}
    for run, planned in plan.items():
        outcomes[run] = Outcome(run, parameters=planned.parameters)
        if is_done(run, planned.parameters, outputs=root):
            kept = earlier[run] if run in earlier and earlier[run].status == "done" else outcomes[run]
            outcomes[run] = dataclasses.replace(kept, status="done", parameters=planned.parameters)
    return outcomes


def _outcomes_of(name: str, root: Path) -> dict[str, Outcome]:
    """Return what a batch's record holds; nothing where there is no record that can be read."""
    with contextlib.suppress(UserError):
        return read_batch(name, root).outcomes
    return {}


def _check_names_are_free(plan: Mapping[str, PlannedRun], name: str, root: Path) -> None:
    for path in sorted(batch_path(name, root).parent.glob("*.json")):
        others = _outcomes_of(path.stem, root) if path.stem != name else {}
        for run in plan.keys() & others.keys():
            if others[run].status == "done" and others[run].parameters != plan[run].parameters:
                raise UserError(
                    f"The run {run} would replace that of the batch {path.stem}, which has other parameters. Give this "
                    f"batch's runs other names (for a folder: --name), or delete {path} if you don't need it."
                )


def _follow(batch: Batch, futures: dict[concurrent.futures.Future, PlannedRun], say, bar, root: Path) -> None:
    """Note each run's end as it comes; on a terminal the bar tells how far the others are."""
    pending = set(futures)
    while pending:
        done, pending = concurrent.futures.wait(pending, timeout=0.5, return_when="FIRST_COMPLETED")
        for future in done:
            planned = futures[future]
            try:
                outcome = future.result()
            except Exception as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                outcome = Outcome(planned.name, "failed", reason, parameters=planned.parameters, finished=now())
            batch.outcomes[planned.name] = outcome
            batch.save()
            bar.update()
            over = len(batch.names("done") + batch.names("failed"))
            how = "done" if outcome.status == "done" else f"failed: {outcome.error}"
            say(f"{now()}  {over}/{len(batch.outcomes)}  {planned.name}, {outcome.seconds or 0:.0f} s: {how}")
        running = [name for name in batch.names("waiting") if _log(root, name).exists()]
        stages = ", ".join(" ".join((name, *stage(root / name))).strip() for name in running)
        bar.set_postfix_str(f"{len(batch.names('failed'))} failed; {stages}")


def _log(root: Path, name: str) -> Path:
    return root / name / "log.txt"


def _stop(batch: Batch, futures: dict[concurrent.futures.Future, PlannedRun], root: Path) -> None:
    """Cancel what has not begun; tell what has, also on other machines, to end, by a file in its folder."""
    for future, planned in futures.items():
        if not future.done() and (not future.cancel() or _log(root, planned.name).exists()):
            (root / planned.name).mkdir(exist_ok=True)  # Dask calls cancelled what goes on in a worker
            (root / planned.name / ".stop").touch()
    batch.save()


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
        raise UserError("--dask needs a package that is not here: pip install distributed.") from error
    try:
        client = Client(dask, timeout=20, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"No Dask scheduler answers at {dask}. Start one with `dask scheduler`.") from error
    with client, client.get_executor(pure=False) as executor:
        yield executor
