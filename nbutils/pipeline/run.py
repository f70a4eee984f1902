"""One run: its folder and record, and the chain of notebooks that papermill executes in it."""

import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import platform
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.core import UserError, in_notebook, lock, outputs_root, write_atomic
from nbutils.corpus.files import is_url
from nbutils.pipeline.parameters import (
    absolute_files,
    check_name,
    check_parameters,
    check_together,
    notebook_parameters,
    notebooks_folder,
    read_notebook,
    read_profile,
    with_defaults,
)
from nbutils.pipeline.report import closing_table, without_address_checks, write_report
from nbutils.pipeline.steps import CHAIN, MAKER, STEPS, Step, before, executions, fingerprint, is_current, trouble

if TYPE_CHECKING:
    import pandas as pd
    from jupyter_client.manager import AsyncKernelManager

PACKAGES = (
    "nbutils", "llama-index-core", "sentence-transformers", "transformers", "torch", "papermill", "pypdfium2", "bm25s",
)  # fmt: skip
_HELD: dict[Path, contextlib.ExitStack] = {}  # locks of the runs that a notebook of this process is working on


class Run:
    """The folder outputs/<name>/ and its record, run.json. Nothing is made there before something is written.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        outputs: folder of all runs; default is `outputs_root()`.

    Raises:
        UserError: a name that would leave the outputs folder.
    """

    def __init__(self, name: str = "tutorial", outputs: str | Path | None = None):
        self.name = check_name(name)
        self.folder = Path(outputs or outputs_root()).resolve() / self.name  # as its kernels see it

    @classmethod
    def start(cls, step: str, names: dict[str, Any]) -> "Run":
        """Open the run of a notebook: check its parameters and that the steps before it have been run.

        From here to `finish`, an error or the kernel's end, a notebook run by hand keeps others from working on the
        run. What an earlier chain knew of this step, and of all that follow from it, is void.

        Args:
            step: the notebook's name without its ending.
            names: the notebook's `globals()`; its parameters are replaced by their checked values.

        Raises:
            UserError: a parameter of the wrong type, an earlier step that is missing, unfinished or older than what it
                read, or a run that something else is working on.
        """
        parameters = notebook_parameters(step)
        values = {name: parameter.convert(names[name]) for name, parameter in parameters.items() if name in names}
        names.update(values)
        run = cls(values["RUN_NAME"])
        if step in STEPS:
            run.need(*STEPS[step].needs)
            if os.environ.get("NBUTILS_RUN") != str(run.folder):  # else the chain holds it for this kernel
                run._hold()
            if found := trouble(before(step), run.read()):
                raise UserError(f"{found[0]} cannot be built upon: {found[1].rstrip('.')}. Run {found[0]}.ipynb first.")
            run.path("report.html").unlink(missing_ok=True)  # it tells of what was
        run.step, run._begun = step, time.perf_counter()
        run.record(
            step, parameters=values, started=now(), finished=None, error=None, fingerprint=None,
            execution=uuid.uuid4().hex[:12], after=executions(step, run.read()),
        )  # fmt: skip
        return run

    @property
    def cache(self) -> Path:
        """The folder of what all runs share: parsed files, answers, embeddings."""
        return self.folder.parent / ".cache"

    def path(self, *parts: str) -> Path:
        """Return a path in the run's folder; its parent exists."""
        path = self.folder.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot write to {self.folder.parent}: {error.strerror}. Set NBUTILS_OUTPUTS to a folder you own."
            ) from error
        return path

    @property
    def model(self) -> Path:
        """The folder of the model to deploy: the one trained on all documents, or the walkthrough's where only that is."""
        both = (self.folder / name for name in ("model_all", "model"))
        return next((path for path in both if path.exists()), self.folder / "model")

    def remove(self, *parts: str) -> None:
        """Remove a folder that an earlier execution left, if it is there; of a link to one, the link alone."""
        path = self.folder.joinpath(*parts)
        if path.is_symlink():  # rmtree refuses it
            path.unlink()
        else:
            shutil.rmtree(path, ignore_errors=True)

    def shown(self, *parts: str) -> str:
        """Return a path in the run's folder as people see it: from outputs/ on."""
        return "/".join((self.folder.parent.name, self.name, *parts))

    def need(self, *files: str) -> None:
        """Make sure that earlier steps have left these files.

        Raises:
            UserError: one is missing; the message names the step that makes it.
        """
        for file in files:
            if not (self.folder / file).exists():
                first = f"Run {MAKER[file]}.ipynb" if file in MAKER else "Run the notebook that makes it"
                raise UserError(f"{self.shown(file)} is missing. {first} with RUN_NAME = {self.name!r} first.")

    def read(self) -> dict[str, Any]:
        """Return the record, run.json (empty for a new run)."""
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{self.shown('run.json')} is damaged. Delete it and run the notebooks again.") from error

    def record(self, step: str, **fields: Any) -> None:
        """Add fields to a step's entry in run.json."""
        with lock(self.path(".record.lock"), optional=True):
            record = self.read()
            record.setdefault("name", self.name)
            record["versions"] = {"python": platform.python_version(), **_versions()}
            record.setdefault("steps", {}).setdefault(step, {}).update(fields)
            write_atomic(self.folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")

    def parameter(self, step: str, name: str) -> Any:
        """Return the value that a parameter had when `step` last ran in this run; its default where it never did."""
        known = self.read().get("steps", {}).get(step, {}).get("parameters", {})
        return known[name] if name in known else notebook_parameters(step)[name].default

    def finish(self, **results: Any) -> None:
        """Record what the notebook that opened this run found, its wall time in seconds, and that it finished."""
        seconds = round(time.perf_counter() - self._begun, 1)
        self.record(self.step, **results, seconds=seconds, finished=now())
        self._let_go()
        print(f"{self.step} is done in {seconds:.0f} s. Its files are in {self.shown()}/.")

    def lock(self, wait: float = 0.0) -> contextlib.AbstractContextManager[None]:
        """Keep other processes from working on this run at the same time.

        Args:
            wait: seconds to wait for a process that is just ending.

        Raises:
            UserError: another process is working on it.
        """
        busy = (
            f"Run {self.name!r} is being run by another process: `nbutils run`, or a notebook that has not come to its end. "
            "Wait for it, restart that notebook's kernel, or choose another name."
        )
        return lock(self.path(".lock"), wait=wait, busy=busy)

    def _hold(self) -> None:
        if self.folder in _HELD:  # a cell run twice
            return
        held = contextlib.ExitStack()
        held.enter_context(self.lock())
        _HELD[self.folder] = held
        if in_notebook():
            from IPython import get_ipython

            get_ipython().events.register("post_run_cell", lambda result: result.success or self._let_go())

    def _let_go(self) -> None:
        if held := _HELD.pop(self.folder, None):
            held.close()


@dataclass
class RunResult:
    """What came of a run.

    Attributes:
        name: the run's name.
        folder: its folder.
        status: "done" or "failed".
        error: one sentence on what went wrong, or None.
        failed_step: the notebook that failed, or None.
        seconds: wall time of each notebook executed now; a step that was up to date is not in it.
        report: path of report.html, or None.
    """

    name: str
    folder: Path
    status: str = "done"
    error: str | None = None
    failed_step: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    report: Path | None = None

    @functools.cached_property
    def metrics(self) -> "pd.DataFrame | None":
        """The closing table (hit rate@5, MRR@10, nDCG@10 of each model on each question set); None if a step failed."""
        return closing_table(self.folder) if self.status == "done" else None


def run(
    name: str = "tutorial",
    parameters: Mapping[str, Any] | None = None,
    *,
    profile: str | Path | None = None,
    outputs: str | Path | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = print,
    wait: float = 0.0,
) -> RunResult:
    """Execute notebooks 01 to 04 with papermill; steps that are done for the same inputs are not done again.

    Args:
        name: the run's name, its folder in outputs/.
        parameters: values by parameter name; they win over the profile's.
        profile: a name in notebooks/profiles or a YAML file.
        outputs: folder of all runs; default is `outputs_root()`.
        fresh: do all steps again.
        say: receives each line of progress.
        wait: seconds to wait for another process that holds this run, before that is an error.

    Returns:
        What came of it. A notebook that fails gives status "failed"; it does not raise.

    Raises:
        UserError: a parameter or name that is wrong, before any work starts.
    """
    given = _checked(parameters, profile)
    check_together(given)
    values, this = with_defaults(given), Run(name, outputs)
    result = RunResult(this.name, this.folder)
    waiting: dict[str, AsyncKernelManager] = {}
    with this.lock(wait), contextlib.ExitStack() as at_last:
        end_leftovers(this)
        at_last.callback(lambda: [*map(end_kernel, waiting.values())])
        for number, step in enumerate(CHAIN, 1):
            head = f"[{number}/{len(CHAIN)}] {step.name}"
            if not fresh and is_current(step, this.folder, this.read(), values):
                say(f"{head}: up to date")
                continue
            say(head)
            inputs = fingerprint(step, this.folder, this.read(), values)  # before it reads them
            defaults = {key: parameter.default for key, parameter in notebook_parameters(step.name).items()}
            own = {key: values[key] for key in defaults if key != "RUN_NAME" and values[key] != defaults[key]}
            begun, since = time.perf_counter(), time.time()
            try:
                execute(step.name, this, own | {"RUN_NAME": this.name}, say, waiting)
            except Exception as error:
                result.status, result.failed_step, result.error = "failed", step.name, _reason(error)
                this.record(step.name, error=result.error)
                results = this.folder / "results" / "results.json"
                if step is CHAIN[-1] and results.exists() and results.stat().st_mtime > since:  # it was all measured
                    result.report = write_report(this.folder)
                return result
            result.seconds[step.name] = round(time.perf_counter() - begun, 1)
            if any(is_url(file) for file in (*values["TRAIN_FILES"], *values["VAL_FILES"])):
                inputs = fingerprint(step, this.folder, this.read(), values)  # what was downloaded counts too
            this.record(step.name, fingerprint=inputs)
            say(f"{head}: done in {result.seconds[step.name]:.0f} s")
        result.report = write_report(this.folder)
    return result


def is_done(name: str, parameters: Mapping[str, Any] | None = None, *, outputs: str | Path | None = None) -> bool:
    """Whether `run` with the same arguments would find every step up to date; nothing is started or written."""
    values, this = with_defaults(_checked(parameters)), Run(name, outputs)
    record = this.read()
    return (this.folder / "report.html").exists() and all(
        is_current(step, this.folder, record, values) for step in CHAIN
    )


def _checked(parameters: Mapping[str, Any] | None, profile: str | Path | None = None) -> dict[str, Any]:
    """Return the checked parameters of a run, its files by their absolute paths."""
    values = check_parameters({**read_profile(profile), **(parameters or {})})
    values.pop("RUN_NAME", None)
    return absolute_files(values)


def end_leftovers(run: Run) -> None:
    """End the kernel of this run that a killed process has left behind; called by the one that holds the lock."""
    import psutil

    ours = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in ours and process.environ().get("NBUTILS_RUN") == str(run.folder):
                process.kill()
                process.wait(10)


def execute(
    notebook: str, run: Run, parameters: dict[str, Any], say: Callable[[str], None],
    waiting: "dict[str, AsyncKernelManager] | None" = None,
) -> None:  # fmt: skip
    """Execute one notebook into the run's folder; the executed notebook is kept even when a cell fails.

    Args:
        notebook: its name without its ending.
        run: the run.
        parameters: to be set in it.
        say: receives each line of progress.
        waiting: kernels by the notebooks that they wait for. This one's is taken out, and the next step's put in.
    """
    with without_address_checks():
        import papermill

    waiting = {} if waiting is None else waiting
    kernel = waiting.pop(notebook, None) or start_kernel(run)
    source = notebooks_folder() / f"{notebook}.ipynb"
    partial = run.path(f".{notebook}.partial.ipynb")
    cells = read_notebook(notebook)["cells"]
    total = sum(cell["cell_type"] == "code" for cell in cells) + bool(parameters)
    done, heading = 0, ""
    following = CHAIN[len(before(notebook)) + 1 :][:1]

    def cell_started(cell, cell_index, **_) -> None:
        nonlocal done, heading
        lines = [line for line in cell.source.splitlines() if line.strip() and line != "# NBVAL_CHECK_OUTPUT"]
        first = lines[0] if lines else ""
        if cell.cell_type == "markdown" and first.startswith("#"):
            heading = first.lstrip("# ")
        if cell_index == 0:  # not before: the ports of a kernel that starts may go to connections that are being made
            waiting.update({step.name: start_kernel(run, _imports(step)) for step in following})
        if cell.cell_type == "code":
            done += 1
            say(f"    cell {done}/{total}  {heading}  |  {first[:60]}")

    try:
        papermill.execute_notebook(
            str(source), str(partial), parameters=parameters, kernel_name="python3", progress_bar=False,
            on_cell_start=cell_started, km=kernel,
        )  # fmt: skip
    finally:
        end_kernel(kernel)
        if partial.exists():
            partial.replace(run.path(f"{notebook}.ipynb"))


def _terminal() -> str:
    """Return the terminal that a kernel's progress bars go to: this process's, or nowhere."""
    with contextlib.suppress(OSError, AttributeError):  # a file or pipe; Windows
        if os.access(name := os.ttyname(2), os.W_OK):
            return name
    return os.devnull


def _imports(step: Step) -> list[str]:
    """Return what a notebook says of itself that takes seconds to import."""
    return read_notebook(step.name)["metadata"].get("nbutils", {}).get("imports", [])


def start_kernel(run: Run, imports: Iterable[str] = ()) -> "AsyncKernelManager":
    """Start a kernel for a notebook of this run, which imports these modules before it does anything else."""
    from jupyter_client.manager import AsyncKernelManager
    from jupyter_core.utils import run_sync

    environment = {
        "NBUTILS_OUTPUTS": str(run.folder.parent), "NBUTILS_PROGRESS": _terminal(), "NBUTILS_RUN": str(run.folder),
    }  # fmt: skip

    class Kernel(AsyncKernelManager):
        def client(self, **options: Any) -> Any:
            self.connected = super().client(**options)  # nbclient closes it only where it made the manager
            return self.connected

    first = [f"--IPKernelApp.exec_lines=__import__({module!r})" for module in imports]
    kernel = Kernel(kernel_name="python3")
    options = {"env": {**os.environ, **environment}, "extra_arguments": ["--log-level=CRITICAL", *first]}
    run_sync(kernel.start_kernel)(**options)
    return kernel


def end_kernel(kernel: "AsyncKernelManager") -> None:
    """End a kernel and close the connections to it."""
    from jupyter_core.utils import run_sync

    if kernel.has_kernel:
        run_sync(kernel.shutdown_kernel)(now=True)
    if hasattr(kernel, "connected"):
        kernel.connected.stop_channels()


def _reason(error: Exception) -> str:
    """Return one sentence on why a notebook failed: the user's error as it is, anything else with its type."""
    name, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error)).strip()
    if name == "UserError":
        return text
    if name == "DeadKernelError":
        return "The notebook's kernel died: it was killed by hand, or for want of memory."
    return f"{name}: {text.splitlines()[0] if text else 'no message'}"


@functools.cache
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def now() -> str:
    """Return the time in UTC as text, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
