"""Whether a batch stays flat, what it costs over running the notebooks one by one, and how it scales with jobs.

    python benchmarks/batch_speed.py [--pdfs 100] [--few 6] [--jobs 2] [--pages 4]

Makes short PDFs of its own and runs notebooks 01 to 04 on the first FEW of them by papermill alone, one after the
other, then by `nbutils batch --jobs 1`, then by papermill alone once more, so that a machine that grows slower or
faster favours neither; then on all of them with JOBS. Each starts from an empty folder; its first run fills the shared
cache and does not count. Prints a Markdown table.

A run of these four notebooks costs about 40 s of processor time, nearly all of it for starting kernels and importing
PyTorch: 100 PDFs take about 45 minutes on 2 cores and 10 GB in the temporary folder, `--pdfs 16` a quarter of an hour.
"""

import argparse
import contextlib
import datetime
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean

import psutil
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate

from nbutils.pipeline.batch import Batch, read_batch

PARAMETERS = {"EPOCHS": 1, "QUESTIONS_PER_CHUNK": 1}
PLACES = ["harbour", "mill", "quarry", "foundry", "dairy", "orchard", "brewery", "tannery"]
THINGS = ["crane", "boiler", "kiln", "press", "furnace", "pump", "wagon", "lathe"]

ONE_BY_ONE = f"""
import sys, time, papermill
from nbutils.pipeline.parameters import notebook_parameters, notebooks_folder
from nbutils.pipeline.steps import CHAIN
for pdf in sys.argv[2:]:
    name = pdf.rpartition("/")[2].removesuffix(".pdf")
    values = {{"TRAIN_FILES": [pdf], "VAL_FILES": []}} | {PARAMETERS}
    for step in CHAIN:
        known = notebook_parameters(step.name)
        mine = {{key: value for key, value in values.items() if key in known}} | {{"RUN_NAME": name}}
        papermill.execute_notebook(
            str(notebooks_folder() / (step.name + ".ipynb")), f"{{sys.argv[1]}}/{{name}}.{{step.name}}.ipynb",
            parameters=mine, kernel_name="python3", progress_bar=False,
        )
    print("ended", time.time(), flush=True)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdfs", type=int, default=100)
    parser.add_argument("--few", type=int, default=6, help="PDFs for papermill alone and for one job")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--pages", type=int, default=4)
    options = parser.parse_args()
    if not 2 < options.few <= options.pdfs:
        parser.error("--few must be at least 3 and at most --pdfs")
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        pdfs = [write_pdf(root / "all" / f"report{n:03}.pdf", n, options.pages) for n in range(options.pdfs)]
        (root / "few").mkdir()
        few = [root / "few" / pdf.name for pdf in pdfs[: options.few]]
        for link, pdf in zip(few, pdfs, strict=False):
            link.hardlink_to(pdf)
        before = pace(one_by_one(few, root / "before"))
        one, _ = run_batch(few[0].parent, root / "one", 1)
        after = pace(one_by_one(few, root / "after"))
        many, held = run_batch(pdfs[0].parent, root / "many", options.jobs)
    alone = (before + after) / 2
    one_pace, many_pace = pace(ends(one)), pace(ends(many), options.jobs)
    outcomes = sorted(many.outcomes.values(), key=lambda outcome: outcome.finished)[1:]
    part = max(1, len(outcomes) // 10)
    first, last = outcomes[:part], outcomes[-part:]
    megabytes = [mean(each.peak_memory for each in some) / 2**20 for some in (first, last)]
    rows = {
        "papermill alone, one by one": f"{alone:.1f} s a run (before and after: {before:.1f}, {after:.1f})",
        "`nbutils batch --jobs 1`": f"{one_pace:.1f} s a run, {100 * (one_pace / alone - 1):+.1f} %",
        f"`nbutils batch --jobs {options.jobs}`": f"{many_pace:.1f} s a run, {one_pace / many_pace:.2f} times as fast",
        "seconds of a run, first and last tenth": " and ".join(f"{mean(r.seconds for r in p):.1f}" for p in (first, last)),
        "peak memory of a run, first and last tenth": f"{megabytes[0]:.0f} and {megabytes[1]:.0f} MiB",
        "memory of the batch itself, at its start and end": f"{held[0][0]:.0f} and {held[-1][0]:.0f} MiB",
        "open files of the batch itself, at its start and end": f"{held[0][1]} and {held[-1][1]}",
        "failed runs": str(len(one.names("failed")) + len(many.names("failed"))),
    }  # fmt: skip
    print(f"| {options.pdfs} PDFs of {options.pages} pages, {len(os.sched_getaffinity(0))} cores | |\n|---|---|")
    print("\n".join(f"| {what} | {result} |" for what, result in rows.items()))
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
    ).stdout.strip()
    print(f"\nMeasured on {datetime.date.today()} at commit {commit}.")
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
    """Execute the four notebooks for each PDF by papermill in one process and return when each PDF was done."""
    outputs.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ONE_BY_ONE, str(outputs), *map(str, pdfs)],
        env=os.environ | {"NBUTILS_OUTPUTS": str(outputs)}, stdout=subprocess.PIPE, text=True, check=True,
    )  # fmt: skip
    return [float(end) for end in re.findall(r"^ended ([\d.]+)$", done.stdout, re.M)]


def run_batch(folder: Path, outputs: Path, jobs: int) -> tuple[Batch, list[tuple[float, int]]]:
    """Run a folder as a batch; return its record, and its main process's MiB and open files every 5 seconds."""
    arguments = [item for name, value in PARAMETERS.items() for item in ("-p", name, str(value))]
    process = psutil.Popen(
        [sys.executable, "-m", "nbutils", "batch", str(folder), "--jobs", str(jobs), *arguments],
        env=os.environ | {"NBUTILS_OUTPUTS": str(outputs)}, stdout=sys.stderr,
    )  # fmt: skip
    held = []
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            held.append((process.memory_info().rss / 2**20, process.num_fds()))
        time.sleep(5)
    return read_batch(folder.name, outputs), held[2:]  # it imports and checks the plan first


def ends(batch: Batch) -> list[float]:
    return [datetime.datetime.fromisoformat(outcome.finished).timestamp() for outcome in batch.outcomes.values()]


def pace(ended: list[float], jobs: int = 1) -> float:
    """Return the seconds for each run after the first of each job."""
    return (max(ended) - min(ended)) / (len(ended) - jobs)


if __name__ == "__main__":
    sys.exit(main())
