"""The drawings that carry the tutorial's ideas; readable in light and dark themes, in grey, and by the colour-blind."""

from typing import TYPE_CHECKING

from nbutils.plots.figures import Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_INK, _PAPER, _RIGHT, _WRONG, _ALARM, _QUIET = "#1b1b1b", "#ffffff", "#0072b2", "#d9d9d9", "#e69f00", "#f4f4f4"


def _figure(width: float, height: float) -> tuple[Figure, object]:
    figure = Figure(figsize=(width, height), facecolor=_PAPER, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    return figure, axes


def _box(axes, x: float, y: float, text: str, width: float = 1.5, height: float = 0.62, fill: str = _QUIET) -> None:
    from matplotlib.patches import FancyBboxPatch

    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle=style, fc=fill, ec=_INK))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=_PAPER if fill == _RIGHT else _INK)


def draw_pipeline(current: int) -> Figure:
    """Draw the four notebooks as a chain with number `current` (1 to 4) marked."""
    figure, axes = _figure(8.4, 1.3)
    steps = ("PDFs", "1 chunks", "2 questions\nfor each chunk", "3 fine-tuned\nmodel", "4 tables, plots,\nverdict")
    for i, step in enumerate(steps):
        _box(axes, 2.1 * i, 0, step, fill=_RIGHT if i == current else _QUIET)
        if i:
            axes.annotate("", (2.1 * i - 0.8, 0), (2.1 * i - 1.3, 0), arrowprops={"arrowstyle": "->", "color": _INK})
    axes.set(xlim=(-0.9, 9.3), ylim=(-0.5, 0.5))
    return figure


def draw_pairs_batch(chunks: int = 3) -> Figure:
    """Draw a batch of pairs in order, two questions per chunk: where a question's own chunk is taken for a wrong answer."""
    names = [f"Q{c + 1}{letter}" for c in range(chunks) for letter in "ab"]
    columns = [f"chunk {c + 1}" for c in range(chunks) for _ in "ab"]

    def kind(row: int, column: int) -> str:
        return "match" if row == column else "error" if row // 2 == column // 2 else "no"

    return _draw_grid(names, [columns], kind)


def draw_grouped_batch(chunks: int = 3) -> Figure:
    """Draw which question and chunk of a batch, two questions per chunk, should match, should not, and are left out."""
    names = [f"Q{c + 1}{letter}" for c in range(chunks) for letter in "ab"]

    def kind(row: int, column: int) -> str:
        owner = column if column < chunks else (column - chunks) // 2
        return "no" if owner != row // 2 else "match" if column < chunks else "out"

    return _draw_grid(names, [[f"chunk {c + 1}" for c in range(chunks)], names], kind)


_SQUARES = {  # kind -> fill, hatch, text, text's colour
    "match": (_RIGHT, "", "match", _PAPER),
    "no": (_WRONG, "", "no", _INK),
    "out": (_PAPER, "", "–", _INK),
    "error": (_ALARM, "////", "no!", _INK),
}


def _draw_grid(rows: list[str], blocks: list[list[str]], kind: "Callable[[int, int], str]") -> Figure:
    """Draw one square for each row and column, the blocks of columns side by side."""
    from matplotlib.patches import Rectangle

    figure, axes = _figure(7.4, 3.6)
    columns = [(column, 0.4 * number) for number, block in enumerate(blocks) for column in block]
    style = {"ha": "center", "va": "center", "fontsize": 8, "color": _INK}
    for position, (name, shift) in enumerate(columns):
        x = position * 1.3 + shift
        axes.text(x, 0.8, name, **style)
        for row in range(len(rows)):
            fill, hatch, text, ink = _SQUARES[kind(row, position)]
            axes.add_patch(Rectangle((x - 0.61, -row - 0.46), 1.22, 0.92, fc=fill, ec=_INK, lw=0.6, hatch=hatch))
            box = {"facecolor": fill, "edgecolor": "none", "pad": 1.0} if hatch else None
            axes.text(x, -row, text, **style | {"color": ink}, bbox=box)
    for row, name in enumerate(rows):
        axes.text(-1.1, -row, name, **style)
    axes.set(xlim=(-1.5, len(columns) * 1.3 + 0.1), ylim=(-len(rows) + 0.3, 1.2), aspect="equal")
    return figure


def draw_truncation(chunks: "Mapping[str, int]", limit: int) -> Figure:
    """Draw, to scale, how much a model that reads `limit` tokens sees of each chunk, given by name and length in tokens."""
    from matplotlib.patches import Rectangle

    figure, axes = _figure(7.4, 0.3 + 0.8 * len(chunks))
    longest = max(chunks.values())
    for row, (name, tokens) in enumerate(chunks.items()):
        seen, y = min(tokens, limit), -1.6 * row
        axes.text(0, y + 1.05, name, ha="left", va="bottom", fontsize=9, color=_INK)
        axes.add_patch(Rectangle((0, y), seen, 1, fc=_RIGHT, ec=_INK))
        axes.text(seen / 2, y + 0.5, f"read: {seen} tokens", ha="center", va="center", color=_PAPER, fontsize=9)
        if tokens > limit:
            axes.add_patch(Rectangle((limit, y), tokens - limit, 1, fc=_WRONG, ec=_INK, hatch="//"))
            label = f"never seen: {tokens - limit} tokens"
            box = {"facecolor": _PAPER, "edgecolor": "none", "pad": 1.5}
            axes.text((limit + tokens) / 2, y + 0.5, label, ha="center", va="center", fontsize=9, color=_INK, bbox=box)
    axes.set(xlim=(-0.01 * longest, 1.01 * longest), ylim=(-1.6 * (len(chunks) - 1) - 0.1, 1.6))
    return figure
