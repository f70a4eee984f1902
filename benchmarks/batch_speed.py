"""What a batch costs over running the notebooks one by one, how it scales with jobs, and whether it stays flat.

    python benchmarks/batch_speed.py [--pdfs 100] [--jobs 1 2] [--pages 3] [--one-by-one 5]

Makes short PDFs (reportlab), executes notebooks 01 to 04 for the first few of them by papermill alone, one after the
other, then all of them by `nbutils batch`, once for each number of jobs, each time from empty folders. With the
defaults of 100 PDFs that takes more than an hour on 2 cores; `--pdfs 8` tells most of it in some minutes.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from statistics import mean

import psutil
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

from nbutils import runs
from nbutils.batch import read_batch

PARAMETERS = {"CHUNK_SIZE": 128, "CHUNK_OVERLAP": 16, "EPOCHS": 1}
PLACES = [
    "harbour",
    "mill",
    "quarry",
    "foundry",
    "dairy",
    "orchard",
    "brewery",
    "tannery",
    "sawmill",
    "pottery",
    "bakery",
    "smithy",
]
THINGS = [
    "crane",
    "boiler",
    "kiln",
    "press",
    "furnace",
    "pump",
    "wagon",
    "lathe",
    "conveyor",
    "turbine",
    "silo",
    "compressor",
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=int, default=100)
    parser.add_argument("--pages", type=int, default=3)
    parser.add_argument("--jobs", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--one-by-one", type=int, default=5, help="runs to time by papermill alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pdfs = [write_pdf(Path(folder) / "pdfs" / f"report{n:03}.pdf", n, options.pages) for n in range(options.pdfs)]
        alone = one_by_one(pdfs[: options.one_by_one], Path(folder) / "alone")
        print(f"papermill alone, one by one: {mean(alone):.1f} s a run ({len(alone)} runs)", flush=True)
        first_wall = None
        for jobs in options.jobs:
            outputs = Path(folder) / f"jobs{jobs}"
            wall, memory = batch(pdfs[0].parent, outputs, jobs)
            outcomes = list(read_batch("pdfs", outputs).outcomes.values())
            failed = [outcome.error for outcome in outcomes if outcome.status != "done"]
            part = max(1, len(outcomes) // 4)
            seconds = [outcome.seconds for outcome in outcomes]
            held = [outcome.peak_memory / 2**20 for outcome in outcomes]
            print(f"\nbatch, {jobs} job(s): {wall:.0f} s for {len(outcomes)} runs, {wall / len(outcomes):.1f} s each")
            print(f"  failed: {len(failed)} {failed[:1] or ''}")
            print(
                f"  seconds a run, first and last quarter: {mean(seconds[:part]):.1f} and {mean(seconds[-part:]):.1f}"
            )
            print(f"  MiB a run, first and last quarter: {mean(held[:part]):.0f} and {mean(held[-part:]):.0f}")
            print(f"  MiB of the batch itself, at its start and end: {memory[0]:.0f} and {memory[-1]:.0f}")
            if jobs == 1:
                print(f"  over papermill alone: {100 * (mean(seconds[: len(alone)]) / mean(alone) - 1):+.1f} %")
            first_wall = first_wall or wall
            print(f"  {first_wall / wall:.2f} times as fast as with {options.jobs[0]} job(s)", flush=True)
    return 0


def write_pdf(path: Path, seed: int, pages: int) -> Path:
    """Write a PDF of its own short reports and return its path."""
    draw, style = random.Random(seed), getSampleStyleSheet()["BodyText"]
    path.parent.mkdir(exist_ok=True)
    story = []
    for page in range(1, pages + 1):
        for _ in range(6):
            place, thing, other = draw.choice(PLACES), *draw.sample(THINGS, 2)
            story.append(
                Paragraph(
                    f"In {draw.randint(1950, 2020)} the {place} of district {seed} replaced its {thing} for "
                    f"{draw.randint(10, 900)} thousand crowns. The {other} beside it had failed twice, and the keeper "
                    f"of the {place} reported {draw.randint(2, 60)} days of standstill. The inspectors asked for a new "
                    f"{other} by {draw.randint(2021, 2040)} and approved the accounts of page {page}.",
                    style,
                )
            )
        story.append(PageBreak())
    SimpleDocTemplate(str(path)).build(story)
    return path


def one_by_one(pdfs: list[Path], outputs: Path) -> list[float]:
    """Execute the four notebooks for each PDF by papermill in one process and return the seconds for each."""
    code = (
        "import sys, time, papermill; from nbutils import runs; times = []\n"
        "for pdf in sys.argv[2:]:\n"
        "    begun, name = time.perf_counter(), pdf.rpartition('/')[2].removesuffix('.pdf')\n"
        "    values = {'TRAIN_FILES': [pdf], 'VAL_FILES': []} | " + repr(PARAMETERS) + "\n"
        "    for step in runs.CHAIN:\n"
        "        known = runs.notebook_parameters(step.name)\n"
        "        mine = {k: v for k, v in values.items() if k in known} | {'RUN_NAME': name}\n"
        "        papermill.execute_notebook(str(runs.NOTEBOOKS / f'{step.name}.ipynb'),\n"
        "            f'{sys.argv[1]}/{name}.{step.name}.ipynb', parameters=mine, kernel_name='python3', progress_bar=False)\n"
        "    print(time.perf_counter() - begun)\n"
    )
    outputs.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(outputs), *map(str, pdfs)],
        env=os.environ | {"NBUTILS_OUTPUTS": str(outputs)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [float(line) for line in done.stdout.splitlines() if re.fullmatch(r"\d+\.\d+", line)]


def batch(folder: Path, outputs: Path, jobs: int) -> tuple[float, list[float]]:
    """Run the folder as a batch and return its seconds and the MiB of its main process over time."""
    arguments = [item for name, value in PARAMETERS.items() for item in ("-p", name, str(value))]
    begun, memory, over = time.perf_counter(), [], threading.Event()
    process = subprocess.Popen(
        [sys.executable, "-m", "nbutils", "batch", str(folder), "--jobs", str(jobs), *arguments],
        env=os.environ | {"NBUTILS_OUTPUTS": str(outputs)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip

    def watch() -> None:
        while not over.wait(2):
            memory.append(psutil.Process(process.pid).memory_info().rss / 2**20)

    threading.Thread(target=watch, daemon=True).start()
    process.wait()
    over.set()
    return time.perf_counter() - begun, memory or [0.0]


if __name__ == "__main__":
    assert runs.NOTEBOOKS.is_dir()
    sys.exit(main())
