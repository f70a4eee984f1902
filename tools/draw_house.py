"""Draw the packages of nbutils, what each is for and which others it imports: docs/images/house.png.

.venv/bin/python tools/draw_house.py
"""

import ast
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

PROJECT = Path(__file__).resolve().parents[1]
ROOMS = ("core", "models", "corpus", "questions", "training", "evaluation", "pipeline", "plots")  # in import order
INK, FILL, SIDE = "#1b1b1b", "#e8f1f8", "#f4f4f4"


def imported(file: Path) -> set[str]:
    """Return the packages of nbutils that a file imports."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    return {(node.module or "").split(".")[1] for node in nodes if (node.module or "").startswith("nbutils.")}


def room(name: str) -> tuple[str, int, list[str], set[str]]:
    """Return a package's purpose, its lines, its modules, and the packages it imports."""
    folder = PROJECT / "nbutils" / name
    files = sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    purpose = ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))).split("\n")[0]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
    modules = [file.stem for file in files if file.stem != "__init__"] if folder.is_dir() else []
    return purpose, lines, modules, set().union(*map(imported, files)) - {name, "core"}


def draw() -> Figure:
    """Return the picture: one box per package, an arc to each package that it imports (`core` is imported by all)."""
    figure = Figure(figsize=(11, 0.95 * len(ROOMS)), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_axis_off()
    row = {name: -i for i, name in enumerate(ROOMS)}
    for name in ROOMS:
        purpose, lines, modules, needs = room(name)
        y, fill = row[name], SIDE if name in ("core", "plots") else FILL
        axes.add_patch(FancyBboxPatch((0, y - 0.34), 8.6, 0.68, boxstyle="round,pad=0.02", fc=fill, ec=INK, lw=0.8))
        axes.text(0.12, y + 0.08, f"{name}  ({lines} lines)", fontsize=11, weight="bold", color=INK, va="center")
        axes.text(2.5, y + 0.08, purpose, fontsize=8.5, color=INK, va="center")
        listed = "  ".join(modules)
        size = min(8, 1000 / max(len(listed), 1))  # as wide as the box at most
        axes.text(0.12, y - 0.2, listed, fontsize=size, family="monospace", color="#555555", va="center")
        for other in needs & row.keys():
            bend = {
                "arrowstyle": "->",
                "color": "#0072b2",
                "connectionstyle": f"arc3,rad={0.35 if y < row[other] else -0.35}",
            }
            axes.annotate("", (8.66, row[other] - 0.1), (8.66, y + 0.1), arrowprops=bend)
    axes.set(xlim=(-0.1, 10.6), ylim=(-len(ROOMS) + 0.5, 0.5))
    return figure


if __name__ == "__main__":
    draw().savefig(PROJECT / "docs" / "images" / "house.png", dpi=110)
