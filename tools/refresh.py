"""Run the tutorial, its variants and the workshop's solutions, and put every committed output and figure in its place.

    .venv/bin/python tools/refresh.py

Those are the executed notebooks, cleaned, in notebooks/ and notebooks/workshop/, the table of exercise 4, and the images
in docs/images/ (the screenshot only where there is a Chromium with its driver). Where a notebook fails, none is changed.
"""

import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

from nbutils.core import write_atomic
from nbutils.pipeline.run import Run, execute, run
from nbutils.pipeline.steps import EXTRA_NOTEBOOKS, STEPS

PROJECT = Path(__file__).resolve().parents[1]
NOTEBOOKS, IMAGES = PROJECT / "notebooks", PROJECT / "docs" / "images"
MAKE_EXERCISES = [sys.executable, str(NOTEBOOKS / "workshop" / "make_exercises.py")]
HEADERS = {"CHUNK_HEADER": ["section"]}
RUNS = {  # what notebook 5 tells a story about
    "own_questions": HEADERS | {"TRAIN_ON_GOLD": "auto", "INDEX_QUERIES": True},
    "headers": HEADERS,
    "no_pairs": {"PAIRS": ""},
    "adapter": {"PAIRS": "", "ENGINE": "adapter"},
    "tutorial": {},
}

say = functools.partial(print, flush=True)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        outputs = Path(folder) / "outputs"
        for name, parameters in RUNS.items():
            result = run(name, parameters, outputs=outputs, say=say)
            if result.status == "failed":
                say(f"{result.failed_step}: {result.error}")
                return 1
        tutorial = Run("tutorial", outputs)
        subprocess.run([*MAKE_EXERCISES, "--evaluation", str(tutorial.folder)], check=True)
        solutions = [f"workshop/{path.stem}" for path in sorted((NOTEBOOKS / "workshop").glob("solution_*.ipynb"))]
        with contextlib.chdir(NOTEBOOKS / "workshop"):
            for extra in [*EXTRA_NOTEBOOKS, *solutions]:
                say(extra)
                execute(extra, tutorial, {}, say)
        for name in [*STEPS, *EXTRA_NOTEBOOKS, *solutions]:
            write_atomic(NOTEBOOKS / f"{name}.ipynb", clean(tutorial.folder / f"{name}.ipynb"))
        subprocess.run(MAKE_EXERCISES, check=True)
        write_atomic(IMAGES / "story.png", (outputs / "leaderboard" / "figures" / "story.png").read_bytes())
        take_screenshot(outputs, Path(folder) / "shots")
    return 0


def clean(path: Path) -> str:
    """Return an executed notebook as it is committed: no metadata but tags, no widgets, no cell that papermill put in."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata = {
        key: notebook.metadata[key] for key in ("kernelspec", "language_info", "nbutils") if key in notebook.metadata
    }
    notebook.cells = [cell for cell in notebook.cells if "injected-parameters" not in cell.metadata.get("tags", ())]
    count = 0
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata.tags} if cell.metadata.get("tags") else {}
        if cell.cell_type == "code":
            cell.execution_count = count = count + 1  # the cell that papermill put in had one, too
            for output in cell.outputs:
                output.update({"execution_count": count} if "execution_count" in output else {})
            cell.outputs = [each for each in cell.outputs if not any("widget" in mime for mime in each.get("data", {}))]
    return nbformat.writes(notebook) + "\n"


def take_screenshot(outputs: Path, shots: Path) -> None:
    test = [sys.executable, "-m", "pytest", "-q", "-k", "search_box", str(PROJECT / "tests/whole/test_browser.py")]
    environment = {"NBUTILS_SHOTS": str(shots), "NBUTILS_SHOTS_RUN": str(outputs)}
    subprocess.run(test, cwd=PROJECT, env=os.environ | environment)
    if (shots / "06_search_box.png").exists():
        write_atomic(IMAGES / "jupyterlab.png", (shots / "06_search_box.png").read_bytes())
    else:
        say("The screenshot stays as it was.")


if __name__ == "__main__":
    sys.exit(main())
