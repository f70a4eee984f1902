"""One run: its folder, its record, and the chain of notebooks that papermill executes."""

import ast
import contextlib
import datetime
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nbutils.core import UserError, content_hash, outputs_root, project_folder, write_atomic

if TYPE_CHECKING:
    import pandas as pd

PROJECT = project_folder()
NOTEBOOKS = Path(os.environ.get("NBUTILS_NOTEBOOKS") or PROJECT / "notebooks")
PACKAGES = (
    "nbutils", "llama-index-core", "sentence-transformers", "transformers", "torch", "papermill", "pypdfium2", "bm25s",
)  # fmt: skip
NOT_IN_NOTEBOOKS = ("__main__", "batch", "leaderboard")  # modules on which no step's result depends
FILE_PARAMETERS = ("TRAIN_FILES", "VAL_FILES", "GOLD_QUESTIONS")
AT_LEAST = {"CHUNK_SIZE": 16, "QUESTIONS_PER_CHUNK": 1, "CONCURRENCY": 1, "TOP_K": 1}  # other numbers: 0
ENGINES = ("nbutils", "llama-index")


@dataclass(frozen=True)
class Step:
    """A notebook of the chain with the files it needs from earlier steps and those it leaves behind."""

    name: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]


CHAIN = (
    Step("01_build_corpus", (), ("train_corpus.json", "val_corpus.json")),
    Step(
        "02_generate_questions",
        ("train_corpus.json", "val_corpus.json"),
        ("train_dataset.json", "val_dataset.json"),
    ),
    Step("03_finetune_embedding", ("train_dataset.json", "val_dataset.json"), ("model/modules.json",)),
    Step(
        "04_evaluate_models",
        (
            "train_corpus.json",
            "val_corpus.json",
            "train_dataset.json",
            "val_dataset.json",
            "model/modules.json",
        ),
        ("results/metrics.csv", "results/results.json"),
    ),
)
EXTRA_NOTEBOOKS = ("05_compare_runs", "06_use_the_model")
_STEPS = {step.name: step for step in CHAIN}
_MAKER = {made: step.name for step in CHAIN for made in step.makes}


@dataclass(frozen=True)
class Parameter:
    """A notebook's parameter as papermill sees it: name, type name, default and the comment that explains it."""

    name: str
    type: str
    default: Any
    help: str
    notebook: str

    def convert(self, value: Any) -> Any:
        """Return `value` as this parameter's type; text is read as YAML, so "true" and "2e-5" mean what they say.

        Raises:
            UserError: the value is not of the parameter's type, or too low a number.
        """
        kind = self.type
        if isinstance(value, str) and re.search(r"\bsk-[A-Za-z0-9_-]{16,}", value):
            raise UserError(
                f"Parameter {self.name} holds what looks like an API key. Keys come from the environment only."
            )
        if kind == "list":
            if isinstance(value, str) and value.strip().startswith("["):
                with contextlib.suppress(yaml.YAMLError):  # a file's name may begin so too
                    value = yaml.safe_load(value)
            return [str(item) for item in value] if isinstance(value, list | tuple) else [str(value)]
        if kind == "str" and isinstance(value, str | Path):
            return str(value)
        if isinstance(value, str) and kind in ("int", "float", "bool", "dict"):
            with contextlib.suppress(ValueError, yaml.YAMLError):
                value = float(value) if kind == "float" else yaml.safe_load(value)
        if kind == "float" and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if type(value).__name__ != kind and kind in ("str", "int", "float", "bool", "dict"):
            raise UserError(f"Parameter {self.name} is {value!r}; it must be of type {kind}, such as {self.default!r}.")
        if kind in ("int", "float") and not value >= AT_LEAST.get(self.name, 0):
            raise UserError(f"Parameter {self.name} is {value}; it must be at least {AT_LEAST.get(self.name, 0)}.")
        return value


def notebook_parameters(notebook: str | Path) -> dict[str, Parameter]:
    """Return the parameters of a notebook by name, read from its cell tagged `parameters`.

    The same as `papermill.inspect_notebook` finds, without importing papermill, which takes over a second.
    """
    path = NOTEBOOKS / f"{notebook}.ipynb" if not str(notebook).endswith(".ipynb") else Path(notebook)
    return dict(_parameters_in(path, path.stat().st_mtime_ns))


@functools.lru_cache
def _parameters_in(path: Path, changed: int) -> dict[str, Parameter]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    tagged = [cell["source"] for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
    source = "".join(tagged[0]) if tagged else ""
    lines, found = source.splitlines(), {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.AnnAssign | ast.Assign):
            name = ast.unparse(node.target if isinstance(node, ast.AnnAssign) else node.targets[0])
            default = ast.literal_eval(node.value)
            kind = ast.unparse(node.annotation) if isinstance(node, ast.AnnAssign) else type(default).__name__
            comment = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip().lstrip("# ")
            found[name] = Parameter(name, kind, default, comment, path.stem)
    return found


def all_parameters(steps: Iterable[Step] = CHAIN) -> list[Parameter]:
    """Return every parameter of every notebook of the chain."""
    return [parameter for step in steps for parameter in notebook_parameters(step.name).values()]


def read_profile(profile: str | Path | None) -> dict[str, Any]:
    """Return the parameters of a profile: the name of a file in notebooks/profiles, or a YAML file's path.

    Raises:
        UserError: there is no such profile, or it is not a YAML mapping.
    """
    if profile is None:
        return {}
    path = Path(profile) if str(profile).endswith((".yaml", ".yml")) else NOTEBOOKS / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(each.stem for each in (NOTEBOOKS / "profiles").glob("*.yaml")))
        raise UserError(f"There is no profile {profile!r}. Use one of {known}, or the path of a YAML file.")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise UserError(f"Profile {profile} is not valid YAML: {str(error).splitlines()[0]}.") from error
    if not isinstance(values, dict):
        raise UserError(f"Profile {profile} must map parameter names to values, one `NAME: value` a line.")
    return values


def check_parameters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values` converted to the types that the notebooks declare.

    Raises:
        UserError: a name that no notebook has, or a value of the wrong type.
    """
    import difflib

    known = {parameter.name: parameter for parameter in all_parameters()}
    for name in values:
        if name not in known:
            close = difflib.get_close_matches(name.upper(), known, n=1)
            hint = f"Did you mean {close[0]}?" if close else "`nbutils params` lists them all."
            raise UserError(f"There is no parameter {name}. {hint}")
    return {name: known[name].convert(value) for name, value in values.items()}


def check_together(values: Mapping[str, Any]) -> None:
    """Make sure, before any work, that a run's checked parameters fit one another and that its files are there.

    Raises:
        UserError: they don't; the message names all that is wrong.
    """
    from nbutils.corpus import chunks as corpus

    values = {parameter.name: parameter.default for parameter in all_parameters()} | dict(values)
    mistakes = []
    for name in ("TRAIN_FILES", "VAL_FILES"):
        if values[name] or name == "TRAIN_FILES":
            try:
                corpus.find_files(find_files(values[name]))
            except UserError as error:
                mistakes.append(f"{name}: {error}")
    gold, size, overlap = values["GOLD_QUESTIONS"], values["CHUNK_SIZE"], values["CHUNK_OVERLAP"]
    if gold not in ("", "auto") and not Path(find_file(gold)).is_file():
        mistakes.append(f"GOLD_QUESTIONS: there is no file {gold}.")
    if overlap >= size:
        mistakes.append(f"CHUNK_OVERLAP is {overlap}; it must be below CHUNK_SIZE ({size}).")
    if not 0 < values["VALIDATION_SHARE"] < 1:
        mistakes.append(f"VALIDATION_SHARE is {values['VALIDATION_SHARE']}; it must lie between 0 and 1.")
    if values["ENGINE"] not in ENGINES:
        mistakes.append(f"ENGINE is {values['ENGINE']!r}; use one of {', '.join(ENGINES)}.")
    if mistakes:
        raise UserError(" ".join(mistakes))


def find_file(name: str | Path) -> str:
    """Return a file name as given if it is a URL or exists here, otherwise as seen from the project's folder."""
    text = str(name)
    if re.match(r"https?://", text) or Path(text).is_absolute() or Path(text).expanduser().exists():
        return text
    there = PROJECT / text
    return str(there) if there.exists() or any(PROJECT.glob(text)) else text


def find_files(names: Iterable[str | Path]) -> list[str]:
    """Return each file name as `find_file` does."""
    return [find_file(name) for name in names]


def check_name(name: str) -> str:
    """Return a run's name.

    Raises:
        UserError: it would leave the outputs folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", str(name)):
        raise UserError(
            f"RUN_NAME is {name!r}; use letters, digits, '.', '_' and '-' only, so that the run stays in outputs/."
        )
    return str(name)


class Run:
    """The folder outputs/<name>/ and its record, run.json.

    Args:
        name: letters, digits, `.`, `_` and `-`.
        outputs: folder of all runs; default is `outputs_root()`.

    Raises:
        UserError: a name that would leave the outputs folder, or a folder that cannot be written.
    """

    def __init__(self, name: str = "tutorial", outputs: str | Path | None = None):
        self.name = check_name(name)
        self.folder = Path(outputs or outputs_root()) / self.name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot write to {self.folder.parent}: {error.strerror}. Set NBUTILS_OUTPUTS to a folder you own."
            ) from error

    @classmethod
    def start(cls, step: str, names: dict[str, Any]) -> "Run":
        """Open the run of a notebook: check its parameters and that the steps before it have been run.

        Args:
            step: the notebook's name without its ending.
            names: the notebook's `globals()`; its parameters are replaced by their checked values.

        Raises:
            UserError: a parameter of the wrong type, or a file of an earlier step that is missing.
        """
        parameters = notebook_parameters(step)
        values = {name: parameter.convert(names[name]) for name, parameter in parameters.items() if name in names}
        names.update(values)
        run = cls(values["RUN_NAME"])
        run.need(*_STEPS[step].needs) if step in _STEPS else None
        run.step = step
        run.record(step, parameters=values, started=now(), finished=None)
        run._begun = time.perf_counter()
        return run

    @property
    def cache(self) -> Path:
        """The folder of what all runs share: parsed files, answers, embeddings."""
        return self.folder.parent / ".cache"

    def path(self, *parts: str) -> Path:
        """Return a path in the run's folder; its parent exists."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

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
                raise UserError(
                    f"{self.shown(file)} is missing. Run {_MAKER[file]}.ipynb with RUN_NAME = {self.name!r} first."
                )

    def read(self) -> dict[str, Any]:
        """Return the record, run.json (empty for a new run)."""
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        except ValueError as error:
            raise UserError(f"{self.shown('run.json')} is damaged. Delete it and run the notebooks again.") from error

    def record(self, step: str, **fields: Any) -> None:
        """Add fields to a step's entry in run.json."""
        record = self.read()
        record.setdefault("name", self.name)
        record["versions"] = {"python": platform.python_version(), **_versions()}
        record.setdefault("steps", {}).setdefault(step, {}).update(fields)
        write_atomic(self.folder / "run.json", json.dumps(record, indent=2, ensure_ascii=False, default=str) + "\n")

    def parameter(self, step: str, name: str) -> Any:
        """Return the value that a parameter had when `step` last ran in this run."""
        return self.read()["steps"][step]["parameters"][name]

    def finish(self, **results: Any) -> None:
        """Record what the notebook that opened this run found, its wall time in seconds, and that it finished."""
        seconds = round(time.perf_counter() - self._begun, 1)
        self.record(self.step, **results, seconds=seconds, finished=now())
        print(f"{self.step} is done in {seconds:.0f} s. Its files are in {self.shown()}/.")

    @contextlib.contextmanager
    def lock(self, wait: float = 0.0) -> Iterator[None]:
        """Keep other processes from running this run's chain at the same time.

        Args:
            wait: seconds to wait for a process that is just ending.

        Raises:
            UserError: another process is running it.
        """
        until = time.monotonic() + wait
        with open(self.folder / ".lock", "w") as handle:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError as error:
                    if time.monotonic() > until:
                        raise UserError(
                            f"Run {self.name!r} is being run by another process. Wait for it or choose another name."
                        ) from error
                    time.sleep(0.2)
            yield

    def fingerprint(self, step: Step, parameters: Mapping[str, Any]) -> str:
        """Return a hash of all that a step's result depends on: notebook, code, parameters, and files read."""
        notebook = json.loads((NOTEBOOKS / f"{step.name}.ipynb").read_text(encoding="utf-8"))
        parts = [
            cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"]) for cell in notebook["cells"]
        ]
        modules = sorted(Path(__file__).parents[1].rglob("*.py"))
        parts += [path.read_text(encoding="utf-8") for path in modules if path.stem not in NOT_IN_NOTEBOOKS]
        parts.append(json.dumps(dict(parameters), sort_keys=True, default=str))
        for name in FILE_PARAMETERS:
            for value in [parameters[name]] if isinstance(parameters.get(name), str) else parameters.get(name, []):
                parts.append(_files_hash(value))
        parts += [_files_hash(self.folder / file) for file in step.needs]
        return content_hash(*parts)

    def is_current(self, step: Step, fingerprint: str) -> bool:
        """Whether the step finished with this fingerprint and what it made is still there."""
        entry = self.read().get("steps", {}).get(step.name, {})
        made = [*step.makes, f"{step.name}.ipynb"]
        return entry.get("fingerprint") == fingerprint and all((self.folder / file).exists() for file in made)


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
        return closing_table(Run(self.name, self.folder.parent)) if self.status == "done" else None


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
    values = _values(parameters, profile)
    check_together(values)
    this = Run(name, outputs)
    result = RunResult(this.name, this.folder)
    with this.lock(wait):
        _end_leftovers(this)
        for number, step in enumerate(CHAIN, 1):
            mine, defaults = _values_of(step, values, this)
            head = f"[{number}/{len(CHAIN)}] {step.name}"
            files_there = all((this.folder / file).exists() for file in step.needs)
            if not fresh and files_there and this.is_current(step, this.fingerprint(step, defaults | mine)):
                say(f"{head}: up to date")
                continue
            say(head)
            begun, started = time.perf_counter(), time.time()
            try:
                execute(
                    step.name,
                    this,
                    {key: value for key, value in mine.items() if value != defaults[key]},
                    say,
                )
            except Exception as error:
                result.status, result.failed_step, result.error = "failed", step.name, _reason(error)
                this.record(step.name, error=result.error)
                results = this.folder / "results" / "results.json"
                if step is CHAIN[-1] and results.exists() and results.stat().st_mtime > started:  # it was all measured
                    result.report = write_report(this)
                return result
            result.seconds[step.name] = round(time.perf_counter() - begun, 1)
            this.record(step.name, fingerprint=this.fingerprint(step, defaults | mine), error=None)
            say(f"{head}: done in {result.seconds[step.name]:.0f} s")
        result.report = write_report(this)
        return result


def is_done(name: str, parameters: Mapping[str, Any] | None = None, *, outputs: str | Path | None = None) -> bool:
    """Whether `run` with the same arguments would find every step up to date; nothing is started or written."""
    if not (Path(outputs or outputs_root()) / name / "run.json").exists():
        return False
    values, this = _values(parameters), Run(name, outputs)

    def current(step: Step) -> bool:
        mine, defaults = _values_of(step, values, this)
        needs_there = all((this.folder / file).exists() for file in step.needs)
        return needs_there and this.is_current(step, this.fingerprint(step, defaults | mine))

    return (this.folder / "report.html").exists() and all(current(step) for step in CHAIN)


def _values(parameters: Mapping[str, Any] | None, profile: str | Path | None = None) -> dict[str, Any]:
    """Return the checked parameters of a run, its files by their absolute paths."""
    values = check_parameters({**read_profile(profile), **(parameters or {})})
    values.pop("RUN_NAME", None)
    for each in FILE_PARAMETERS:
        if isinstance(values.get(each), list):
            values[each] = [_absolute(file) for file in values[each]]
    return values


def _values_of(step: Step, values: Mapping[str, Any], run: Run) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what `values` sets in a step's notebook, and the notebook's defaults."""
    accepted = notebook_parameters(step.name)
    mine = {key: value for key, value in values.items() if key in accepted} | {"RUN_NAME": run.name}
    return mine, {key: parameter.default for key, parameter in accepted.items()}


def _end_leftovers(run: Run) -> None:
    """End the kernel of this run that a killed process has left behind; called by the one that holds the lock."""
    import psutil

    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get("NBUTILS_RUN") == str(run.folder):
                process.kill()
                process.wait(10)


def execute(notebook: str, run: Run, parameters: dict[str, Any], say: Callable[[str], None]) -> None:
    """Execute one notebook into the run's folder; the executed notebook is kept even when a cell fails."""
    import papermill

    target = run.path(f"{notebook}.ipynb")
    partial = run.path(f".{notebook}.partial.ipynb")
    source = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))
    total = sum(cell["cell_type"] == "code" for cell in source["cells"]) + bool(parameters)
    done, heading = 0, ""

    def cell_started(cell, cell_index, **_) -> None:
        nonlocal done, heading
        first = next((line for line in cell.source.splitlines() if line.strip()), "")
        if cell.cell_type == "markdown" and first.startswith("#"):
            heading = first.lstrip("# ")
        if cell.cell_type == "code":
            done += 1
            say(f"    cell {done}/{total}  {heading}  |  {first[:60]}")

    environment = {
        "NBUTILS_OUTPUTS": str(run.folder.parent), "NBUTILS_PROGRESS": str(run.path(".progress")),
        "NBUTILS_RUN": str(run.folder),
    }  # fmt: skip
    previous = {key: os.environ.get(key) for key in environment}
    os.environ.update(environment)
    try:
        with _bars(run.path(".progress"), say):
            papermill.execute_notebook(
                str(NOTEBOOKS / f"{notebook}.ipynb"), str(partial), parameters=parameters, kernel_name="python3",
                progress_bar=False, on_cell_start=cell_started, extra_arguments=["--log-level=CRITICAL"],
            )  # fmt: skip
    finally:
        for key, value in previous.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})
        if partial.exists():
            partial.replace(target)


@contextlib.contextmanager
def _bars(file: Path, say: Callable[[str], None], every: float = 5.0) -> Iterator[None]:
    """Show the last state of the kernel's progress bar, written to `file`, every few seconds."""
    stop = threading.Event()
    file.write_text("")

    def watch() -> None:
        shown = ""
        while not stop.wait(every):
            with contextlib.suppress(OSError):
                states = [line.strip() for line in re.split(r"[\r\n]", file.read_text(encoding="utf-8")[-2000:])]
                last = next((line for line in reversed(states) if line), "")
                if last != shown:
                    shown = last
                    say(f"        {last}")

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()
        file.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """Return one sentence on why a notebook failed: the user's error as it is, anything else with its type."""
    name, text = getattr(error, "ename", type(error).__name__), str(getattr(error, "evalue", error)).strip()
    if name == "UserError":
        return text
    if name == "DeadKernelError":
        return "The notebook's kernel died: it was killed by hand, or for want of memory."
    return f"{name}: {text.splitlines()[0] if text else 'no message'}"


def estimate(
    name: str = "tutorial", parameters: Mapping[str, Any] | None = None, *, profile: str | Path | None = None
) -> "pd.DataFrame":
    """Return what the questions of a run would take, without asking anything.

    Args:
        name: the run; answers that its journal holds already cost nothing.
        parameters: values by parameter name; they win over the profile's.
        profile: a name in notebooks/profiles or a YAML file.

    Returns:
        A row for training, validation and their sum; columns as `nbutils.questions.estimate_questions` gives them.

    Raises:
        UserError: a wrong parameter, or a file that cannot be read.
    """
    import pandas as pd

    from nbutils.corpus.chunks import load_corpus
    from nbutils.corpus.split import split_corpus
    from nbutils.questions.generate import estimate_questions
    from nbutils.questions.prompts import prompt_by_name

    given = check_parameters({**read_profile(profile), **(parameters or {})})
    value = {parameter.name: parameter.default for parameter in all_parameters(CHAIN[:2])} | given
    check_name(name)
    folder = outputs_root() / name
    splitting = {"chunk_size": value["CHUNK_SIZE"], "chunk_overlap": value["CHUNK_OVERLAP"]}
    train = load_corpus(find_files(value["TRAIN_FILES"]), **splitting)
    if value["VAL_FILES"]:
        val = load_corpus(find_files(value["VAL_FILES"]), **splitting)
    else:
        train, val = split_corpus(train, value["VALIDATION_SHARE"])
    prices = {"input": value["PRICE_INPUT"], "output": value["PRICE_OUTPUT"]}
    rows = {
        which: estimate_questions(
            nodes,
            value["LLM"],
            prompt_by_name(value["PROMPT"]),
            value["QUESTIONS_PER_CHUNK"],
            concurrency=value["CONCURRENCY"],
            journal_path=folder / "questions.jsonl",
            cache=outputs_root() / ".cache",
            filters=value["FILTERS"],
            language=value["LANGUAGE"] or None,
            budget_calls=value["BUDGET_CALLS"] or None,
            budget_tokens=value["BUDGET_TOKENS"] or None,
            prices=prices if any(prices.values()) else None,
            seed=value["SEED"],
        )
        for which, nodes in (("training", train), ("validation", val))
    }
    table = pd.DataFrame(rows).T
    table.loc["both"] = table.sum(min_count=2)
    return table


def write_report(run: Run) -> Path:
    """Write report.html: notebook 04 as it ran, without its code, in one file that needs no network.

    Returns:
        The report's path.
    """
    path = run.folder / "04_evaluate_models.ipynb"
    return write_atomic(run.folder / "report.html", notebook_html(path, f"{run.name}: is the fine-tuned model better?"))


def notebook_html(notebook: Path, title: str) -> str:
    """Return an executed notebook as one HTML page without its code, and without its cells tagged `no-report`."""
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, embed_images=True
    )
    exporter.require_js_url = exporter.mathjax_url = exporter.mermaid_js_url = exporter.widget_renderer_url = ""
    content = nbformat.read(notebook, as_version=4)
    content.cells = [cell for cell in content.cells if "no-report" not in cell.metadata.get("tags", [])]
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.output_type != "error"]
    content.metadata["title"] = title
    content.cells.insert(0, nbformat.v4.new_markdown_cell(f"# {title}"))
    return exporter.from_notebook_node(content)[0]


def closing_table(run: Run) -> "pd.DataFrame | None":
    """Return hit rate@5, MRR@10 and nDCG@10 of the base and the fine-tuned model on each question set."""
    import pandas as pd

    path = run.folder / "results" / "metrics.csv"
    if not path.exists():
        return None
    table = pd.read_csv(path)
    metrics = ["hit_rate@5", "mrr@10", "ndcg@10"]
    rows = table[table.metric.isin(metrics) & table.system.isin(["base", "fine-tuned", "BM25", "fine-tuned + BM25"])]
    wide = rows.pivot(index=["question_set", "system"], columns="metric", values="value")
    order = list(dict.fromkeys(zip(rows.question_set, rows.system, strict=True)))
    return wide.reindex(order)[metrics].reset_index().rename_axis(columns=None)


def refresh_notebooks(say: Callable[[str], None] = print) -> None:
    """Run the tutorial, a variant and the workshop's solutions, and put every committed output and figure in its place.

    Those are the executed notebooks, cleaned, in notebooks/ and notebooks/workshop/, the table of exercise 4, and the
    images in docs/images/ (the screenshot only where there is a Chromium with its driver).

    Raises:
        UserError: a notebook failed; no notebook is changed then.
    """
    import tempfile

    workshop, images = PROJECT / "notebooks" / "workshop", PROJECT / "docs" / "images"
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        for name, parameters in (("tutorial", {}), ("chunks_384", {"CHUNK_SIZE": 384, "CHUNK_OVERLAP": 60})):
            result = run(name, parameters, outputs=outputs, say=say)
            if result.status == "failed":
                raise UserError(f"{result.failed_step}: {result.error}")
        tutorial = Run("tutorial", outputs)
        make_exercises = [sys.executable, str(workshop / "make_exercises.py")]
        subprocess.run([*make_exercises, "--evaluation", str(tutorial.folder)], check=True)
        solutions = [f"workshop/{path.stem}" for path in sorted(workshop.glob("solution_*.ipynb"))]
        with contextlib.chdir(workshop):
            for extra in [*EXTRA_NOTEBOOKS, *solutions]:
                say(extra)
                execute(extra, tutorial, {}, say)
        for name in [*_STEPS, *EXTRA_NOTEBOOKS, *solutions]:
            write_atomic(PROJECT / "notebooks" / f"{name}.ipynb", _clean(tutorial.folder / f"{name}.ipynb"))
        subprocess.run(make_exercises, check=True)
        write_atomic(images / "hit_rate_gold.png", tutorial.path("figures", "hit_rate_by_k_gold.png").read_bytes())
        shots = Path(folder) / "shots"
        test = [sys.executable, "-m", "pytest", "-q", "-k", "search_box", str(PROJECT / "tests" / "test_browser.py")]
        environment = {"NBUTILS_SHOTS": str(shots), "NBUTILS_SHOTS_RUN": str(outputs)}
        subprocess.run(test, cwd=PROJECT, env=os.environ | environment)
        if (shots / "06_search_box.png").exists():
            write_atomic(images / "jupyterlab.png", (shots / "06_search_box.png").read_bytes())
        else:
            say("The screenshot stays as it was.")


def _clean(path: Path) -> str:
    """Return an executed notebook as it is committed: no metadata but tags, no widgets."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {key: notebook.metadata[key] for key in ("kernelspec", "language_info")}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if not _is_widget(each)]
    return nbformat.writes(notebook) + "\n"


def _is_widget(output: Mapping[str, Any]) -> bool:
    return any("widget" in mime for mime in output.get("data", {}))


def _absolute(file: str) -> str:
    found = find_file(file)
    return found if re.match(r"https?://", found) else os.path.abspath(os.path.expanduser(found))


def _files_hash(value: str | Path) -> str:
    """Return a hash of a file's content, of all files in a folder or glob, or of the text where nothing is there."""
    path = Path(find_file(value)).expanduser()
    files = [path] if path.is_file() else sorted(path.rglob("*")) if path.is_dir() else []
    if not files and any(sign in path.name for sign in "*?["):
        files = sorted(path.parent.glob(path.name))
    digest = hashlib.sha256(b"" if files else str(value).encode())
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def now() -> str:
    """Return the time in UTC as text, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
