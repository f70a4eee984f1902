"""Every figure of the notebooks, each from a DataFrame; readable in grey and by colour-blind readers."""

import io
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import matplotlib.figure
import numpy as np
from matplotlib.text import Text

from nbutils.core import asked

if TYPE_CHECKING:
    import pandas as pd

# Okabe and Ito (2008): eight colours that colour-blind readers can tell apart; here from dark to light.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))


class Figure(matplotlib.figure.Figure):
    """A figure shown as PNG wherever it is a cell's value; pyplot does not know it, so that it never leaks."""

    def draw(self, renderer) -> None:
        for text in self.findobj(Text):
            text.set_parse_math(False)  # "$9 to $12" in a name is no formula
        super().draw(renderer)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", bbox_inches="tight")
        return buffer.getvalue()


def _figure(width: float = 7.0, height: float = 4.0, columns: int = 1, **options):
    """Return a figure and its axes."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=100)
    axes = figure.subplots(1, columns, **options)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3, linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _intervals(ax, names: Sequence[str], values, low, high, kinds: Sequence[int]) -> None:
    """Draw one value with its interval per row, the first row on top; rows of one kind look alike."""
    for i, (value, start, end, kind) in enumerate(zip(values, low, high, kinds, strict=True)):
        error = [[max(0, value - start)], [max(0, end - value)]]  # by rounding, one may be just below 0
        look = {"color": COLOURS[kind % 7], "marker": MARKERS[kind % 8]}
        ax.errorbar([value], [i], xerr=np.nan_to_num(error), capsize=3, **look)
    ax.set(yticks=range(len(names)), yticklabels=list(names), ylim=(max(len(names), 1) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.3, linewidth=0.6)


def _style(i: int) -> dict:
    return {"color": COLOURS[i % 7], "marker": MARKERS[i % 8], "linestyle": LINES[i % 8]}


def plot_hit_rate_by_k(per_query: "pd.DataFrame", question_set: str | None = None) -> "Figure":
    """Plot the share of questions whose chunk is among the first k retrieved (1 to 10), one line per system.

    The table is `Comparison.per_query`; its first question set is the default.
    """
    question_set, rows = _one_set(per_query, question_set)
    figure, ax = _figure(7.5, 4.5)
    k = np.arange(1, 11)
    for i, (system, part) in enumerate(rows.groupby("system", sort=False)):
        rank = part["rank"].fillna(np.inf).to_numpy()
        ax.plot(k, [(rank <= limit).mean() for limit in k], label=system, markersize=5, **_style(i))
    ax.set(
        title=f"Share of questions answered within the first k chunks — {asked(question_set)}",
        xlabel="k (chunks retrieved)", ylabel="hit rate (share of questions)", xticks=k, ylim=(None, 1),
    )  # fmt: skip
    ax.legend(loc="lower right", fontsize="small")
    return figure


def plot_metrics(
    table: "pd.DataFrame", metrics: Sequence[str] = ("hit_rate@5", "mrr@10", "ndcg@10"), question_set: str | None = None
) -> "Figure":
    """Plot means with 95 % intervals, one panel per metric, one mark per system.

    The table is `Comparison.table`; its first question set is the default.
    """
    question_set, rows = _one_set(table, question_set)
    systems = list(rows.system.unique())
    figure, axes = _figure(max(6, 3.2 * len(metrics) + 1), 0.42 * len(systems) + 1.7, columns=len(metrics), sharey=True)
    for ax, metric in zip(np.ravel(axes), metrics, strict=True):
        part = rows[rows.metric == metric].set_index("system").loc[systems]
        _intervals(ax, systems, part.value, part.low, part.high, range(len(systems)))
        ax.set_xlabel(f"{metric} (0 to 1)")
    count = int(rows.questions.iloc[0])
    figure.suptitle(f"Mean and 95 % interval of each system — {count} {asked(question_set)}", fontsize="large")
    return figure


def _one_set(rows: "pd.DataFrame", question_set: str | None):
    question_set = question_set if question_set is not None else rows.question_set.iloc[0]
    return question_set, rows[rows.question_set == question_set]


def plot_training(history: "pd.DataFrame") -> "Figure":
    """Plot training loss, learning rate and the development score over the steps.

    The history has the columns `step`, `loss`, and if known `learning_rate` (per step) and `dev_ndcg@10` (0 to 1).
    """
    figure, (left, right) = _figure(9.5, 3.8, columns=2)
    _line(left, history, "loss", "training loss", 0)
    left.set(title="Training loss", xlabel="optimiser step", ylabel="loss (nats)")
    if "learning_rate" in history and history.learning_rate.notna().any():
        twin = left.twinx()
        _line(twin, history, "learning_rate", "learning rate", 2, marker="")
        twin.set_ylabel("learning rate (per step)")
        twin.spines["top"].set_visible(False)
        twin.legend(loc="upper right", fontsize="small")
        left.legend(loc="lower left", fontsize="small")
    if "dev_ndcg@10" in history and history["dev_ndcg@10"].notna().any():
        _line(right, history, "dev_ndcg@10", "nDCG@10", 1)
        best = history.loc[history["dev_ndcg@10"].idxmax()]
        right.plot(best.step, best["dev_ndcg@10"], "*", color=COLOURS[2], markersize=15, label="kept checkpoint")
        right.legend(loc="lower right", fontsize="small")
    right.set(title="Score on the development split", xlabel="optimiser step", ylabel="nDCG@10 (0 to 1)")
    return figure


def _line(ax, history: "pd.DataFrame", column: str, label: str, i: int, **options) -> None:
    rows = history.dropna(subset=[column]) if column in history else history.iloc[:0]
    ax.plot(rows.step, rows[column] if len(rows) else [], label=label, **(_style(i) | {"markersize": 4} | options))


class LiveTrainingPlot:
    """Shows `plot_training` and redraws it as the history grows, every two seconds at most; silent in headless runs."""

    def __init__(self):
        self._handle, self._drawn = None, 0.0

    def update(self, history: "pd.DataFrame") -> None:
        """Redraw for `history` (see `SentenceTransformersFinetuneEngine.history`) unless that was done just now."""
        if "NBUTILS_PROGRESS" in os.environ or len(history) < 2 or time.monotonic() - self._drawn < 2:
            return
        from IPython.display import display

        if self._handle:
            self._handle.update(plot_training(history))
        else:
            self._handle = display(plot_training(history), display_id=True)
        self._drawn = time.monotonic()

    def close(self) -> None:
        """Take the live drawing away; the final figure stands in its place."""
        if self._handle:
            self._handle.update({"text/plain": ""}, raw=True)


def plot_chunk_lengths(lengths: Sequence[int], limit: int) -> "Figure":
    """Plot how long the chunks are and how much of them the base model reads, in tokens."""
    lengths = np.asarray(lengths)
    beyond = np.maximum(lengths - limit, 0).sum() / max(lengths.sum(), 1)
    figure, ax = _figure(7.5, 3.8)
    ax.hist(lengths, bins=min(40, max(5, len(np.unique(lengths)))), color=COLOURS[6], edgecolor=COLOURS[0])
    ax.axvline(limit, color=COLOURS[2], linestyle="--", linewidth=2, label=f"the base model reads {limit} tokens")
    ax.set(
        title=f"Length of {len(lengths)} chunks: {beyond:.1%} of the tokens are beyond the model's limit",
        xlabel="length of a chunk (tokens)", ylabel="number of chunks",
    )  # fmt: skip
    ax.legend(fontsize="small")
    return figure


RANK_BUCKETS = ((1, 1), (2, 3), (4, 5), (6, 10), (11, 100))


def plot_rank_shift(per_query: "pd.DataFrame", base: str, system: str, question_set: str | None = None) -> "Figure":
    """Plot how often the relevant chunk moved from which ranks with the base to which ranks with another system.

    The table is `Comparison.per_query`; its first question set is the default.
    """
    question_set, rows = _one_set(per_query, question_set)
    labels = [f"{low}" if low == high else f"{low}–{high}" for low, high in RANK_BUCKETS] + ["> 100"]
    before, after = (rows[rows.system == name].set_index("query")["rank"] for name in (base, system))
    edges = [high for _, high in RANK_BUCKETS]
    groups = (np.searchsorted(edges, ranks.fillna(np.inf)) for ranks in (before, after.loc[before.index]))
    counts = np.zeros((len(labels), len(labels)), dtype=int)
    np.add.at(counts, tuple(groups), 1)
    figure, ax = _figure(6.4, 5.2)
    ax.grid(False)
    image = ax.imshow(counts, cmap="Greys", vmin=0, vmax=max(counts.max(), 1))
    for (i, j), count in np.ndenumerate(counts):
        if count:
            colour = "white" if count > counts.max() * 0.55 else "black"
            ax.text(j, i, str(count), ha="center", va="center", color=colour, fontweight="bold" if i != j else None)
    ax.plot([-0.5, len(labels) - 0.5], [-0.5, len(labels) - 0.5], color=COLOURS[2], linestyle="--", linewidth=1)
    up, down = int(np.tril(counts, -1).sum()), int(np.triu(counts, 1).sum())
    ax.set(
        title=f"{up} relevant chunks moved to a better group of ranks (below\nthe line), {down} to a worse one "
        f"— {counts.sum()} {asked(question_set)}",
        xlabel=f"rank of the relevant chunk, {system}", ylabel=f"rank of the relevant chunk, {base}",
        xticks=range(len(labels)), yticks=range(len(labels)), xticklabels=labels, yticklabels=labels,
    )  # fmt: skip
    figure.colorbar(image, ax=ax, label="number of questions", shrink=0.85)
    return figure


def plot_similarities(similarities: "dict[str, pd.DataFrame]") -> "Figure":
    """Plot how near questions are to their relevant chunk and to the nearest other one, one panel per system.

    Each table is a result of `nbutils.evaluation.inspection.similarities` (columns `right`, `wrong`).
    """
    panels = len(similarities)
    figure, axes = _figure(max(6.5, 4.2 * panels + 0.6), 3.8, columns=panels, sharex=True, sharey=True)
    everything = np.concatenate([frame[["right", "wrong"]].to_numpy().ravel() for frame in similarities.values()])
    bins = np.linspace(np.nanmin(everything), np.nanmax(everything), 31)
    for ax, (system, frame) in zip(np.ravel(axes), similarities.items(), strict=True):
        ax.hist(frame.wrong.dropna(), bins=bins, color="#bbbbbb", hatch="///", edgecolor="white", label="nearest other")
        ax.hist(frame.right, bins=bins, histtype="step", linewidth=2, color=COLOURS[1], label="relevant")
        gap = (frame.right - frame.wrong).median()
        ax.set_title(f"{system}: median gap {gap:+.3f}", fontsize="medium")
        ax.set_xlabel("cosine similarity to the question")
    np.ravel(axes)[0].set_ylabel("number of questions")
    np.ravel(axes)[0].legend(title="chunk", fontsize="small")
    figure.suptitle("A good model sets the relevant chunk apart from the nearest other one", fontsize="large")
    return figure


def plot_map(points: "dict[str, pd.DataFrame]") -> "Figure":
    """Plot chunks and questions in the plane, one panel per system, with lines from about 40 questions to their chunks.

    Each table is a result of `nbutils.evaluation.inspection.map_points`.
    """
    figure, axes = _figure(max(6.5, 4.8 * len(points)), 4.6, columns=len(points))
    for ax, (system, frame) in zip(np.ravel(axes), points.items(), strict=True):
        chunks, questions = frame[frame.kind == "chunk"], frame[frame.kind == "question"]
        place = chunks.set_index("id")[["x", "y"]]
        for row in questions.iloc[:: max(1, len(questions) // 40)].itertuples():
            end = place.loc[row.target]
            ax.plot([row.x, end.x], [row.y, end.y], color="#888888", linewidth=0.5, zorder=1)
        hollow = {"facecolor": "none", "edgecolor": COLOURS[0]}
        ax.scatter(chunks.x, chunks.y, s=22, marker="s", **hollow, label="chunk", zorder=2)
        ax.scatter(questions.x, questions.y, s=10, marker="o", color=COLOURS[2], label="question", zorder=3)
        ax.set_title(system, fontsize="medium")
        ax.set(xlabel="first principal component", ylabel="second principal component")
    np.ravel(axes)[0].legend(fontsize="small")
    figure.suptitle("Map of chunks and questions; a line joins a question and its chunk", fontsize="large")
    return figure


def plot_size_curve(sizes: "pd.DataFrame", metric: str = "ndcg@10") -> "Figure":
    """Plot quality against the bytes of a stored vector, one line per system and precision.

    The table is that of `nbutils.evaluation.inspection.size_curve`; `metric` names its values.
    """
    figure, ax = _figure(7.8, 4.6)
    systems = list(sizes.system.unique())
    for (system, precision), part in sizes.groupby(["system", "precision"], sort=False):
        style = {"float32": "-", "int8": "--", "binary": ":"}.get(precision, "-.")
        i = systems.index(system)
        part = part.sort_values("bytes")
        ax.plot(part.bytes, part.value, label=f"{system}, {precision}", **(_style(i) | {"linestyle": style}))
        ax.fill_between(part.bytes, part.low, part.high, color=COLOURS[i % 7], alpha=0.06)
    ax.set_xscale("log", base=2)
    ax.set(
        title="Smaller vectors: fewer dimensions along each line,\nfewer bits from one line to the next",
        xlabel="size of a stored vector (bytes)", ylabel=f"{metric} (0 to 1), 95 % interval shaded",
    )  # fmt: skip
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    ax.legend(fontsize="small")
    return figure


def plot_slices(slices: "pd.DataFrame", metric: str = "mrr@10") -> "Figure":
    """Plot the paired difference from the base on parts of at least five questions, with 95 % intervals.

    The table is that of `nbutils.evaluation.inspection.slices`; `metric` names its values.
    """
    rows = slices[slices.questions >= 5]
    figure, ax = _figure(7.8, 0.3 * len(rows) + 1.6)
    names = [f"{row.slice}: {row.group} ({row.questions})" for row in rows.itertuples()]
    _intervals(ax, names, rows.difference, rows.low, rows.high, rows.slice.factorize()[0])
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(
        title="Right of 0: fine-tuning helps. Left of 0: it hurts.",
        xlabel=f"difference in {metric} from the base, 95 % interval",
        ylabel="part of the questions (their number)",
    )
    return figure


def plot_leaderboard(table: "pd.DataFrame", question_set: str, metric: str = "mrr@10") -> "Figure":
    """Plot each run's lift over its base model with its 95 % interval, beside the minutes it took: the best 40, best first.

    The table is `nbutils.pipeline.leaderboard.Leaderboard.table`; `metric` names what the lift is measured in.
    """
    rows = table[table.question_set == question_set].sort_values("lift", ascending=False)
    drawn = rows.head(40)
    figure, (left, right) = _figure(9.0, 1.6 + 0.28 * len(drawn), 2, sharey=True, width_ratios=(3, 1))
    _intervals(left, drawn.run, drawn.lift, drawn.low, drawn.high, [1] * len(drawn))
    left.axvline(0, color=COLOURS[0], linewidth=0.8)
    part = f", the best {len(drawn)} of {len(rows)} runs" if len(drawn) < len(rows) else ""
    left.set(
        title=f"Lift of the fine-tuned model — {asked(question_set)}{part}",
        xlabel=f"difference in {metric} from the base, 95 % interval",
    )
    right.barh(range(len(drawn)), drawn.minutes, color=COLOURS[6], edgecolor=COLOURS[0], linewidth=0.5)
    right.set(title="Time", xlabel="minutes, all steps")
    right.grid(axis="x", alpha=0.3, linewidth=0.6)
    for ax in (left, right):
        ax.grid(axis="y", visible=False)
    return figure


def plot_story(table: "pd.DataFrame", metric: str = "hit rate@5") -> "Figure":
    """Plot what each step gives, one horizontal interval per step, and the base as a vertical line.

    An interval on one side of the line is drawn as a gain (blue square) or a loss (orange triangle), one across it as
    open to chance (black circle). So the intervals should be those of the paired difference, moved to the base's score.
    The columns are `name`, `score`, `low`, `high` (0 to 1); the first row is the base, whose interval may be NaN.
    """
    base, low, high = table.score.iloc[0], table.low, table.high
    kinds = np.select([low > base, high < base], [1, 2], 0)
    kinds[0] = 0
    figure, ax = _figure(7.8, 0.45 * len(table) + 1.5)
    _intervals(ax, table["name"], table.score, low, high, kinds)
    ax.axvline(base, color=COLOURS[0], linestyle="--", linewidth=1)
    for i, (score, end) in enumerate(zip(table.score, high.fillna(table.score), strict=True)):
        ax.annotate(f"{score:.2f}", (end, i), xytext=(6, 0), textcoords="offset points", va="center")
    ax.margins(x=0.12)
    ax.set(
        title="A bar right of the dashed line: better than the base, beyond chance",
        xlabel=f"{metric} (0 to 1), 95 % interval of the difference from the base",
    )
    return figure


def plot_learning_curve(table: "pd.DataFrame", metric: str = "hit rate@5") -> "Figure":
    """Plot the score against the number of chunks trained on, with its 95 % interval.

    The columns are `fraction`, `chunks`, `score`, `low`, `high` (0 to 1); a row of fraction 0 is the base.
    """
    base, trained = table[table.fraction == 0], table[table.fraction > 0]
    figure, ax = _figure(7.0, 4.0)
    margins = np.nan_to_num([trained.score - trained.low, trained.high - trained.score]).clip(0)
    ax.errorbar(trained.chunks, trained.score, yerr=margins, capsize=3, label="fine-tuned", **_style(1))
    for score in base.score:
        ax.axhline(score, color=COLOURS[0], linestyle=":", label="base model, not trained")
    ax.set_xscale("log", base=2)
    ax.set_xticks(trained.chunks, [f"{row.chunks}\n({row.fraction:.0%})" for row in trained.itertuples()])
    ax.minorticks_off()
    ax.set(
        title="Where the line still rises at the right, more documents would help",
        xlabel="chunks trained on (share of all)", ylabel=f"{metric} (0 to 1), 95 % interval",
    )  # fmt: skip
    ax.legend(loc="best", fontsize="small")
    return figure
