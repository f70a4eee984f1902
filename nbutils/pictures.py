"""The drawings that carry the tutorial's ideas; readable in light and dark themes, in grey, and by the colour-blind."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK, _PAPER, _RIGHT, _WRONG, _QUIET = "#1b1b1b", "#ffffff", "#0072b2", "#d9d9d9", "#f4f4f4"


def _figure(width: float, height: float) -> "tuple[Figure, object]":
    from nbutils.figures import Figure

    figure = Figure(figsize=(width, height), facecolor=_PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _box(axes, x: float, y: float, text: str, width: float = 1.5, height: float = 0.62, fill: str = _QUIET) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, fc=fill, ec=_INK))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=_PAPER if fill == _RIGHT else _INK)


def _arrow(axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": _INK})


def draw_pipeline(current: int) -> "Figure":
    """Draw the four notebooks as a chain with number `current` (1 to 4) marked."""
    figure, axes = _figure(8.4, 1.3)
    steps = ("PDFs", "1 chunks", "2 questions\nfor each chunk", "3 fine-tuned\nmodel", "4 tables, plots,\nverdict")
    for i, step in enumerate(steps):
        _box(axes, 2.1 * i, 0, step, fill=_RIGHT if i == current else _QUIET)
        if i:
            _arrow(axes, (2.1 * i - 1.3, 0), (2.1 * i - 0.8, 0))
    axes.set(xlim=(-0.9, 9.3), ylim=(-0.5, 0.5))
    return figure


def draw_grouped_batch(chunks: int = 3) -> "Figure":
    """Draw which question and chunk of a batch should match, which should not, and which are left out.

    Args:
        chunks: chunks in the batch, each with two questions.
    """
    figure, axes = _figure(7.4, 3.9)
    names = [f"Q{c + 1}{letter}" for c in range(chunks) for letter in "ab"]
    columns = [f"chunk {c + 1}" for c in range(chunks)] + names
    for row, name in enumerate(names):
        axes.text(-0.75, -row, name, ha="center", va="center", fontsize=9, color=_INK)
        for column in range(len(columns)):
            owner = column if column < chunks else (column - chunks) // 2
            mine = owner == row // 2
            fill, mark = (_RIGHT, "match") if mine and column < chunks else (_PAPER, "–") if mine else (_WRONG, "no")
            x = column + 0.4 * (column >= chunks)
            axes.add_patch(_square(x, -row, fill))
            axes.text(x, -row, mark, ha="center", va="center", fontsize=7.5, color=_PAPER if fill == _RIGHT else _INK)
    for column, name in enumerate(columns):
        axes.text(column + 0.4 * (column >= chunks), 0.8, name, ha="center", va="center", fontsize=9, color=_INK)
    axes.set(xlim=(-1.3, len(columns) + 0.6), ylim=(-len(names) + 0.2, 1.2), aspect="equal")
    return figure


def _square(x: float, y: float, fill: str):
    from matplotlib.patches import Rectangle

    return Rectangle((x - 0.46, y - 0.46), 0.92, 0.92, fc=fill, ec=_INK, lw=0.6)


def draw_truncation(tokens: int, limit: int) -> "Figure":
    """Draw how much of a chunk of `tokens` tokens a model that reads `limit` tokens sees."""
    from matplotlib.patches import Rectangle

    figure, axes = _figure(7.4, 1.2)
    seen = min(tokens, limit)
    axes.add_patch(Rectangle((0, 0), seen, 1, fc=_RIGHT, ec=_INK))
    axes.text(seen / 2, 0.5, f"read: {seen} tokens", ha="center", va="center", color=_PAPER, fontsize=9)
    if tokens > limit:
        axes.add_patch(Rectangle((limit, 0), tokens - limit, 1, fc=_WRONG, ec=_INK, hatch="//"))
        label = f"never seen: {tokens - limit} tokens"
        box = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.5}
        axes.text((limit + tokens) / 2, 0.5, label, ha="center", va="center", fontsize=9, color=_INK, bbox=box)
    axes.set(xlim=(-0.01 * tokens, 1.01 * tokens), ylim=(-0.1, 1.1))
    return figure
