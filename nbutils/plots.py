"""Every figure of the notebooks, each from a DataFrame; readable in grey and by colour-blind readers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Okabe and Ito (2008): eight colours that colour-blind readers can tell apart; here from dark to light.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
LINES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), (0, (5, 5)))
HATCHES = ("", "///", "...", "xx", "\\\\\\", "++", "oo", "--")


def _figure(width: float = 7.0, height: float = 4.0, columns: int = 1, rows: int = 1, **options):
    """Return a figure that pyplot does not know, so that it is shown once and never leaks, with its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", dpi=100)
    axes = figure.subplots(rows, columns, **options)
    for ax in np.ravel(axes):
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3, linewidth=0.6)
        ax.set_axisbelow(True)
    return figure, axes


def _style(i: int) -> dict:
    return {"color": COLOURS[i % 7], "marker": MARKERS[i % 8], "linestyle": LINES[i % 8]}


def plot_hit_rate_by_k(per_query: "pd.DataFrame", max_k: int = 10, question_set: str | None = None) -> "Figure":
    """Plot the share of questions whose chunk is among the first k retrieved, a line a system.

    Args:
        per_query: `Comparison.per_query`.
        max_k: the largest k.
        question_set: which set; default is the first.
    """
    question_set, rows = _one_set(per_query, question_set)
    figure, ax = _figure(7.5, 4.5)
    k = np.arange(1, max_k + 1)
    for i, (system, part) in enumerate(rows.groupby("system", sort=False)):
        rank = part["rank"].fillna(np.inf).to_numpy()
        ax.plot(k, [(rank <= limit).mean() for limit in k], label=system, markersize=5, **_style(i))
    ax.set(
        title=f"Share of questions answered within the first k chunks — {question_set} questions",
        xlabel="k (chunks retrieved)", ylabel="hit rate (share of questions)", xticks=k, ylim=(None, 1),
    )  # fmt: skip
    ax.legend(loc="lower right", fontsize="small")
    return figure


def plot_metrics(
    table: "pd.DataFrame", metrics: Sequence[str] = ("hit_rate@5", "mrr@10", "ndcg@10"), question_set: str | None = None
) -> "Figure":
    """Plot means with 95 % intervals, a panel a metric, a mark a system.

    Args:
        table: `Comparison.table`.
        metrics: which ones.
        question_set: which set; default is the first.
    """
    question_set, rows = _one_set(table, question_set)
    systems = list(dict.fromkeys(rows.system))
    figure, axes = _figure(3.2 * len(metrics) + 1, 0.42 * len(systems) + 1.7, columns=len(metrics), sharey=True)
    for ax, metric in zip(np.ravel(axes), metrics, strict=True):
        part = rows[rows.metric == metric].set_index("system").loc[systems]
        for i, row in enumerate(part.itertuples()):
            ax.errorbar(
                row.value, i, xerr=[[row.value - row.low], [row.high - row.value]], capsize=3,
                color=COLOURS[i % 7], marker=MARKERS[i % 8],
            )  # fmt: skip
        ax.set(yticks=range(len(systems)), yticklabels=systems, xlabel=f"{metric} (0 to 1)")
        ax.grid(axis="x", alpha=0.3, linewidth=0.6)
    np.ravel(axes)[0].invert_yaxis()
    count = int(rows.questions.iloc[0])
    figure.suptitle(f"Mean and 95 % interval of each system — {count} {question_set} questions", fontsize="medium")
    return figure


def _one_set(rows: "pd.DataFrame", question_set: str | None):
    question_set = question_set if question_set is not None else rows.question_set.iloc[0]
    return question_set, rows[rows.question_set == question_set]


def plot_training(history: "pd.DataFrame") -> "Figure":
    """Plot training loss, learning rate and the development score over the steps.

    Args:
        history: columns `step`, `loss`, and if known `epoch`, `learning_rate` (per step), `dev_ndcg@10` (0 to 1).
    """
    figure, (left, right) = _figure(9.5, 3.8, columns=2)
    _line(left, history, "loss", "training loss", 0)
    left.set(title="Training loss falls as pairs are learnt", xlabel="optimiser step", ylabel="loss (nats)")
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


def plot_chunk_lengths(lengths: Sequence[int], limit: int, model: str = "the base model") -> "Figure":
    """Plot how long the chunks are and where the model stops reading.

    Args:
        lengths: tokens of each chunk.
        limit: tokens that the model reads.
        model: its name.
    """
    lengths = np.asarray(lengths)
    beyond = np.maximum(lengths - limit, 0).sum() / max(lengths.sum(), 1)
    figure, ax = _figure(7.5, 3.8)
    ax.hist(lengths, bins=min(40, max(5, len(np.unique(lengths)))), color=COLOURS[6], edgecolor=COLOURS[0])
    ax.axvline(limit, color=COLOURS[2], linestyle="--", linewidth=2, label=f"{model} reads {limit} tokens")
    ax.set(
        title=f"Length of {len(lengths)} chunks: {beyond:.1%} of the tokens are beyond the model's limit",
        xlabel="length of a chunk (tokens)", ylabel="number of chunks",
    )  # fmt: skip
    ax.legend(fontsize="small")
    return figure
