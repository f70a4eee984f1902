"""Many runs compared: one table, one figure, as notebook, HTML and CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.core import UserError, outputs_root, write_atomic
from nbutils.evaluation.sets import GOLD
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.pipeline.batch import read_batch
from nbutils.pipeline.parameters import FILE_PARAMETERS, check_name
from nbutils.pipeline.report import notebook_html
from nbutils.pipeline.run import Run, execute
from nbutils.pipeline.steps import CHAIN, trouble

if TYPE_CHECKING:
    import pandas as pd

NOTEBOOK = "05_compare_runs"
TUNED = ["fine-tuned", "fine-tuned on all"]


@dataclass
class Leaderboard:
    """Runs compared, as `compare_runs` returns them.

    Args:
        table: one row per question set and run, best lift first: `question_set`, `run`, `questions`, `base`, `fine-tuned`
            (the metric's values), `lift` with its 95 % interval `low`, `high` and its `p`, `best` (system and value),
            `minutes` of all steps, `calls` and `cost` of the questions, `verdict`, and the parameters that differ.
        left_out: one row per run without results: `run`, `step` and `reason`.
        metric: the measure that `base`, `fine-tuned` and `lift` are in.
        differing: names of the parameters that differ.
    """

    table: "pd.DataFrame"
    left_out: "pd.DataFrame"
    metric: str
    differing: list[str]

    def shown(self) -> "pd.DataFrame":
        """Return the table to read: rounded, the lift with its interval in one column."""
        lift = [f"{row.lift:+.3f} [{row.low:+.3f}, {row.high:+.3f}]" for row in self.table.itertuples()]
        table = self.table.drop(columns=["low", "high"]).assign(lift=lift).round(3)
        return table.set_index(["question_set", "run"]).dropna(axis=1, how="all")

    def to_text(self) -> str:
        """Return the table and what was left out, for a terminal."""
        shown = self.shown()[["questions", "base", "fine-tuned", "lift", "minutes", *self.differing]]
        reasons = "\n\nLeft out:\n" + _reasons(self.left_out) if len(self.left_out) else ""
        return f"{self.metric}\n{shown.to_string()}{reasons}"


def compare_runs(
    names: Sequence[str] = (), *, batch: str = "", outputs: str | Path | None = None, metric: str = "mrr@10"
) -> Leaderboard:
    """Read the results of runs and compare them: over different documents not scores, but lifts over the same base model.

    Args:
        names: the runs; default is all of `batch`, or all in the outputs folder.
        batch: name of a batch.
        outputs: folder of all runs; default is `nbutils.core.outputs_root()`.
        metric: a metric of `nbutils.evaluation.compare.compare_models`, such as "mrr@10".

    Raises:
        UserError: there is no such run, batch or metric, or no run has results.
    """
    import pandas as pd

    root = Path(outputs or outputs_root())
    if batch and not names:
        names = list(read_batch(batch, root).outcomes)
    names = names or sorted(file.parent.name for file in root.glob("*/run.json"))
    rows, left_out, parameters = [], [], {}
    for name in map(check_name, names):
        run = Run(name, root)
        record = run.read()
        if not record and not batch:
            raise UserError(f"There is no run {name} in {root.name}/. `nbutils run --name {name}` makes it.")
        begun = ["no step", *(step.name for step in CHAIN if step.name in record.get("steps", {}))]
        if record and len(begun) == 1:
            continue  # another leaderboard
        if (found := trouble(CHAIN, record)) or not (run.folder / "results" / "differences.csv").exists():
            left_out.append((name, *(found or (begun[-1], "not finished"))))
            continue
        rows.append(_rows(run, record, metric))
        parameters[name] = _parameters(record)
    skipped = pd.DataFrame(left_out, columns=["run", "step", "reason"])
    if not rows:
        text = f"No run in {root.name}/ has results yet. Run notebooks 01 to 04, or `nbutils run`, first."
        raise UserError(f"{text}\n{_reasons(skipped)}".strip())
    settings = pd.DataFrame(parameters.values(), index=list(parameters)).astype(object)
    differing = [name for name in settings if settings[name].map(str).nunique() > 1]
    table = pd.concat(rows).rename_axis(columns=None).join(settings[differing], on="run")
    table = table.sort_values(["question_set", "lift"], ascending=[True, False], ignore_index=True)
    return Leaderboard(table, skipped, metric, differing)


def story(steps: Mapping[str, str], outputs: str | Path | None = None) -> "pd.DataFrame":
    """Return each step's hit rate@5 on the same gold questions, for `plots.figures.plot_story`.

    Args:
        steps: a step in words -> "run/system", such as "tutorial/fine-tuned on all". Steps that were not run, or were
            judged by other questions than the first, are left out.
        outputs: folder of the runs; default is `outputs_root()`.

    Returns:
        Rows of `name`, `score`, and `low` and `high`, the first step's score plus the ends of the 95 % interval of the
        paired difference (NaN for the first step).
    """
    import pandas as pd

    rows, base = [], None
    for name, step in steps.items():
        run, _, system = step.partition("/")
        path = Run(run, outputs).folder / "results" / "per_query.csv"
        table = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["question_set", "system"])
        found = table[(table.question_set == GOLD) & (table.system == system)]
        if found.empty:
            continue
        found = found.set_index("query")
        base = found if base is None else base
        if not found.question.sort_index().equals(base.question.sort_index()):
            continue
        gain = found["hit_rate@5"].reindex(base.index) - base["hit_rate@5"]
        low, high = np.ravel(bootstrap_intervals(gain, base.expected)) if found is not base else (np.nan, np.nan)
        start = base["hit_rate@5"].mean()
        rows.append({"name": name, "score": start + gain.mean(), "low": start + low, "high": start + high})
    return pd.DataFrame(rows, columns=["name", "score", "low", "high"])


def _reasons(left_out: "pd.DataFrame") -> str:
    return "\n".join(f"  {row.run}, {row.step}: {row.reason}" for row in left_out.itertuples())


def _rows(run: Run, record: dict[str, Any], metric: str) -> "pd.DataFrame":
    """Return a row for each question set that the run was evaluated on."""
    import pandas as pd

    metrics, differences = (pd.read_csv(run.folder / "results" / f"{name}.csv") for name in ("metrics", "differences"))
    if metric not in set(metrics.metric):
        raise UserError(f"There is no metric {metric!r}. Use one of {', '.join(metrics.metric.unique())}.")
    values = metrics[metrics.metric == metric].pivot(index="question_set", columns="system", values="value")
    tuned = differences[(differences.metric == metric) & differences.system.isin(TUNED)]
    tuned = tuned.sort_values("system").drop_duplicates("question_set")  # the walkthrough's model, where it is judged
    lift = tuned.rename(columns={"difference": "lift"}).set_index("question_set")[["lift", "low", "high", "p"]]
    steps = record["steps"]
    usage = (steps.get("02_generate_questions", {}).get("usage") or {}).values()
    costs = [each["cost"] for each in usage if each.get("cost") is not None]
    values["fine-tuned"] = values.reindex(columns=TUNED).bfill(axis=1)["fine-tuned"]
    rows = values[["base", "fine-tuned"]].join(lift).assign(
        best=values.idxmax(axis=1) + values.max(axis=1).map(" {:.3f}".format),
        minutes=sum(steps.get(step.name, {}).get("seconds") or 0 for step in CHAIN) / 60,
        calls=sum(each.get("calls", 0) for each in usage),
        cost=sum(costs) if costs else float("nan"),
        verdict=(steps.get("04_evaluate_models", {}).get("verdict") or {}).get("advice"),
    )  # fmt: skip
    rows.insert(0, "questions", metrics.groupby("question_set").questions.first())
    rows.insert(0, "run", run.name)
    return rows.reset_index()


def _parameters(record: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of all steps of a run, files by their names alone."""
    values = {}
    for step in CHAIN:
        values |= record["steps"].get(step.name, {}).get("parameters", {})
    for name in values.keys() & FILE_PARAMETERS:
        files = [values[name]] if isinstance(values[name], str) else values[name]
        values[name] = ", ".join(Path(file).name for file in files)
    values.pop("RUN_NAME", None)
    return values


def write_leaderboard(
    names: Sequence[str] = (),
    *,
    batch: str = "",
    name: str = "leaderboard",
    outputs: str | Path | None = None,
    say=print,
) -> Leaderboard:
    """Execute notebook 05 into outputs/<name>/, with leaderboard.csv and leaderboard.html beside it.

    Arguments and errors are those of `compare_runs`; `say` receives each line of progress.
    """
    board = compare_runs(names, batch=batch, outputs=outputs)
    run = Run(name, outputs)
    if any((run.folder / step.makes[0]).exists() for step in CHAIN):
        raise UserError(f"{name} is a run. Choose another --name for the leaderboard.")
    with run.lock():
        try:
            execute(NOTEBOOK, run, {"RUN_NAME": name, "RUNS": list(names), "BATCH": batch}, say)
        except Exception as error:
            raise UserError(f"{NOTEBOOK} failed: {error}. See {run.folder / NOTEBOOK}.ipynb.") from error
        html = notebook_html(run.folder / f"{NOTEBOOK}.ipynb", f"{len(board.table)} results compared")
        write_atomic(run.folder / "leaderboard.html", html)
    say(f"Files: {run.folder}/ {NOTEBOOK}.ipynb, leaderboard.html, leaderboard.csv")
    return board
