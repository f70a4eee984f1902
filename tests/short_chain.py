"""Short stand-ins for notebooks 01 to 04, with the real parameters: a run takes seconds and does what its input says.

Each writes the files that its step must leave behind and notes in outputs/did.txt that it ran. The training file says
what happens in step 2: `sleep 30`, `fail`, `kill` (the kernel), `hold 200` (MiB), anything else works, but `forget`
fails at the end of step 4.
"""

import shutil
from pathlib import Path

import nbformat

from nbutils.core import project_folder

CODE = """
import os, time
from nbutils.core import UserError
from nbutils.pipeline.run import Run
run = Run.start({step!r}, globals())
"""
WORK = {
    "01_build_corpus": """
word = open(TRAIN_FILES[0]).read().strip()
run.path("train_corpus.json").write_text(word); run.path("val_corpus.json").write_text(str(CHUNK_SIZE))
""",
    "02_generate_questions": """
word, _, number = run.path("train_corpus.json").read_text().partition(" ")
if word == "sleep": time.sleep(float(number))
if word == "fail": raise UserError("This document cannot be asked about. Take another one.")
if word == "kill": os.kill(os.getpid(), 9)
held = b"x" * (int(number) << 20) if word == "hold" else b""
if held: time.sleep(30)
run.path("train_dataset.json").write_text("{}"); run.path("val_dataset.json").write_text("{}")
""",
    "03_finetune_embedding": """
run.path("model", "modules.json").write_text("[]"); run.path("model", "model.safetensors").write_text(str(EPOCHS))
run.path("dev_dataset.json").write_text("{}")
print("threads", os.environ.get("OMP_NUM_THREADS"))
""",
    "04_evaluate_models": """
import csv, itertools
columns = ["question_set", "system", "metric", "value", "low", "high", "questions", "chunks"]
systems, metrics = {"base": 0.5, "fine-tuned": 0.6, "BM25": 0.55}, ["hit_rate@5", "mrr@10", "ndcg@10"]
with open(run.path("results", "metrics.csv"), "w") as file:
    csv.writer(file).writerows([columns] + [["synthetic", system, metric, value, value - 0.1, value + 0.1, 20, 10]
        for (system, value), metric in itertools.product(systems.items(), metrics)])
columns = ["question_set", "system", "base", "metric", "difference", "low", "high", "p", "p_holm", "questions"]
with open(run.path("results", "differences.csv"), "w") as file:
    csv.writer(file).writerows([columns] + [
        ["synthetic", system, "base", metric, value - 0.5, value - 0.55, value - 0.45, 0.01, 0.02, 20]
        for (system, value), metric in itertools.product(systems.items(), metrics) if system != "base"])
run.path("results", "results.json").write_text('{"base": "base", "decisive": "synthetic"}')
print("The verdict: it forgot what it knew.")
if run.path("train_corpus.json").read_text() == "forget": raise UserError("The fine-tuned model forgot too much.")
""",
}
DID = """
with open(run.folder.parent / "did.txt", "a") as file: file.write(f"{run.name} {run.step}\\n")
run.finish()
"""


def write(folder: Path) -> Path:
    """Write the four notebooks to `folder` and return it."""
    folder.mkdir(exist_ok=True)
    for step, work in WORK.items():
        real = nbformat.read(project_folder() / "notebooks" / f"{step}.ipynb", as_version=4)
        parameters = next(cell for cell in real.cells if "parameters" in cell.metadata.get("tags", []))
        cells = [nbformat.v4.new_code_cell(source) for source in (CODE.format(step=step) + work, DID)]
        notebook = nbformat.v4.new_notebook(
            cells=[parameters, *cells], metadata={"kernelspec": real.metadata.kernelspec}
        )
        nbformat.write(notebook, folder / f"{step}.ipynb")
    shutil.copy(project_folder() / "notebooks" / "05_compare_runs.ipynb", folder)
    return folder


def documents(folder: Path, **texts: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text)
    return folder


def two_texts(folder: Path) -> Path:
    """Write train.txt and val.txt, on which the real chain takes seconds, to `folder` and return it."""
    subjects = {
        "train": "harbour crane ferry mooring tide pilot lock barge quay anchor beacon dredger",
        "val": "orchard apple cider press blossom graft barrel hedge ladder frost beehive cellar",
    }
    folder.mkdir(exist_ok=True)
    for name, words in ((name, text.split()) for name, text in subjects.items()):
        paragraphs = [
            f"The {word} report of {year} describes how the {word} was inspected in spring and repaired for "
            f"{3 * number + 11} thousand crowns, because the {words[number - 1]} beside it had failed. "
            f"Its keeper expects the {word} to serve until {year + 20 + number}."
            for year in (1984, 1996)
            for number, word in enumerate(words)
        ]
        (folder / f"{name}.txt").write_text("\n\n".join(paragraphs))
    return folder


if __name__ == "__main__":
    import sys

    write(Path(sys.argv[1]))
