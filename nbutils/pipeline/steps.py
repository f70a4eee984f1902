"""The chain: what each notebook reads and makes, and when it need not be run again.

A step is up to date when the chain itself finished it with the *fingerprint* that it has now: a hash of the notebook's
cells, the package's code, the step's parameters, the content of every file that they name, the content of all that
earlier steps left in the run's folder, and the *execution* of each earlier step, a token drawn anew whenever a step
begins, by the chain or by hand. So a step that is done again makes all later ones stale, even if it wrote the same
bytes: a report shows more of a step than its files (its parameters, its times), and no list of who reads what has to be
kept true. That is why this is not make's rule, or doit's. A step begun by hand has no fingerprint; the chain does it again.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbutils
from nbutils.core import content_hash, project_folder
from nbutils.corpus.files import _files_hash, find_files
from nbutils.pipeline.parameters import FILE_PARAMETERS, notebook_parameters, read_notebook

MODEL_PARAMETERS = ("BASE_MODEL", "OTHER_MODELS", "OPENAI_MODEL", "LLM")  # names, of folders and files among others
NOT_IN_RESULTS = ("RUN_NAME", "CONCURRENCY")  # change nothing of what a step leaves behind


@dataclass(frozen=True)
class Step:
    """A notebook of the chain with the files it needs from earlier steps, makes, and may make."""

    name: str
    needs: tuple[str, ...]
    makes: tuple[str, ...]
    may_make: tuple[str, ...] = ()


_CORPORA = ("train_corpus.json", "val_corpus.json")
_DATASETS = ("train_dataset.json", "val_dataset.json")
CHAIN = (
    Step("01_build_corpus", (), _CORPORA),
    Step("02_generate_questions", _CORPORA, _DATASETS),
    Step(
        "03_finetune_embedding", _DATASETS, ("model/modules.json",), ("model", "model_all", "folds", "dev_dataset.json")
    ),
    Step(
        "04_evaluate_models",
        (*_CORPORA, *_DATASETS, "model/modules.json"),
        ("results/metrics.csv", "results/results.json"),
    ),
)
EXTRA_NOTEBOOKS = ("05_compare_runs", "06_use_the_model", "07_look_closer")
STEPS = {step.name: step for step in CHAIN}
MAKER = {file: step.name for step in CHAIN for file in (*step.makes, *step.may_make)}


def before(step: str) -> tuple[Step, ...]:
    """Return the steps of the chain that come before one; all of them for a notebook that is not in it."""
    return CHAIN[: list(STEPS).index(step)] if step in STEPS else CHAIN


def executions(step: str, record: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the token of each earlier step's last execution, from a run's record."""
    steps = record.get("steps", {})
    return {each.name: steps.get(each.name, {}).get("execution") for each in before(step)}


def trouble(steps: Iterable[Step], record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return the first of these steps whose results cannot be relied on, and why; None where all that ran can be."""
    for step in steps:
        entry = record.get("steps", {}).get(step.name, {})
        seen = entry.get("after", {})
        again = [name for name, token in executions(step.name, record).items() if seen.get(name, token) != token]
        if entry.get("error") or entry.get("finished", True) is None:
            return step.name, entry.get("error") or "not finished"
        if again:
            return step.name, f"{again[0]} was run again after it"
    return None


def fingerprint(step: Step, folder: Path, record: Mapping[str, Any], values: Mapping[str, Any]) -> str:
    """Return a hash of all that a step's result depends on.

    Args:
        step: the step.
        folder: the run's.
        record: the run's, as in run.json.
        values: every parameter of the chain.
    """
    own = {name: values[name] for name in notebook_parameters(step.name) if name not in NOT_IN_RESULTS}
    files = [file for each in before(step.name) for file in (*each.makes, *each.may_make)]
    return content_hash(
        _cells(step.name),
        _package_code(),
        json.dumps([own, executions(step.name, record)], sort_keys=True, default=str),
        *(_files_hash(str(name)) for name in _named_files(own, values)),
        *(_files_hash(str(folder / file)) for file in files),
    )


def is_current(step: Step, folder: Path, record: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Whether the chain finished the step with the fingerprint that it has now, and what it made is still there."""
    known = record.get("steps", {}).get(step.name, {}).get("fingerprint")
    made = all((folder / file).exists() for file in (*step.makes, f"{step.name}.ipynb"))
    return bool(known) and made and known == fingerprint(step, folder, record, values)


def _named_files(own: Mapping[str, Any], values: Mapping[str, Any]) -> list[str | Path]:
    """Return the files, folders, globs and URLs that a step's parameters name, tables found by `auto` too."""
    from nbutils.evaluation.gold import find_gold_questions
    from nbutils.questions.pairs import find_pairs

    named: list[str | Path] = []
    for name in (*FILE_PARAMETERS, *MODEL_PARAMETERS):
        value = own.get(name) or []
        for text in [value] if isinstance(value, str) else value:
            named.append(text.partition(":")[2] if text.startswith(("local:", "gguf:")) else text)
    if own.get("PAIRS") == "auto" and (found := find_pairs("auto", values["TRAIN_FILES"])):
        named.append(found)
    if "auto" in (own.get("TRAIN_ON_GOLD"), own.get("GOLD_QUESTIONS")) and (
        found := find_gold_questions("auto", [*values["VAL_FILES"], *values["TRAIN_FILES"]])
    ):
        beside = ", ".join(Path(file).name for file in find_files([str(found.parent)]))
        named += [found, f"the documents that its questions may be about: {beside}"]  # hashed as text
    return named


def _cells(notebook: str) -> str:
    return json.dumps(["".join(cell["source"]) for cell in read_notebook(notebook)["cells"]])


def _package_code() -> str:
    """Return a hash of the code and data that come with the package, but for what only runs the notebooks."""
    package = Path(nbutils.__file__).parent
    files = [path for pattern in ("*.py", "*.json") for path in package.rglob(pattern)]
    files = [path for path in files if path.relative_to(package).parts[0] not in ("pipeline", "__main__.py")]
    files.append(project_folder() / "data" / "general_knowledge.jsonl")
    return content_hash(*(path.read_text(encoding="utf-8") for path in sorted(files)))
