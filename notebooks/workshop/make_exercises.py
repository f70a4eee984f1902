"""Make the exercises from the solutions, so that the two cannot drift apart.

    python notebooks/workshop/make_exercises.py            # writes exercise_*.ipynb from solution_*.ipynb
    python notebooks/workshop/make_exercises.py --check    # only says whether they agree (status 1 if not)
    python notebooks/workshop/make_exercises.py --evaluation outputs/tutorial
                                                           # takes exercise 4's figures from a finished run
    python notebooks/workshop/make_exercises.py --curve    # trains for exercise 7's figures; a few minutes on 2 cores

In a solution's code cell, a learner's part stands between two marks:

    # --- your turn: what to do
    # stub: top_k = None
    top_k = budget // size
    # --- end

In the exercise only the task and the stub are left of it. Cells tagged `solution-only` are left out.
"""

import argparse
import json
import re
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
_TURN, _STUB, _END = "# --- your turn: ", "# stub: ", "# --- end"


def stub_out(source: str) -> str:
    """Return a solution's code with each marked region replaced by its task and stub.

    Raises:
        ValueError: a region that does not end, ends without beginning, or has no stub.
    """
    lines, inside, stubs = [], False, 0
    for line in source.splitlines():
        text = line.strip()
        if text.startswith(_TURN):
            if inside:
                raise ValueError(f"A region begins inside another: {text}")
            inside, stubs = True, 0
            lines.append(line.replace(_TURN, "# your turn: "))
        elif text == _END:
            if not inside or not stubs:
                raise ValueError("A region ends that did not begin or has no stub.")
            inside = False
        elif inside and _STUB in line:
            stubs += 1
            lines.append(line.replace(_STUB, "", 1))
        elif not inside or (text.startswith("# ") and not stubs):
            lines.append(line)
    if inside:
        raise ValueError(f"A region does not end. Put {_END!r} after it.")
    return "\n".join(lines)


def exercise(solution: dict) -> dict:
    """Return the exercise for a solution, both as parsed notebooks."""
    cells = []
    for cell in solution["cells"]:
        if "solution-only" in cell["metadata"].get("tags", []):
            continue
        source = "".join(cell["source"])
        cell = {**cell, "metadata": {}}
        if cell["cell_type"] == "code":
            cell |= {"source": stub_out(source), "outputs": [], "execution_count": None}
        else:
            cell["source"] = source.replace("# Solution ", "# Exercise ", 1)
        cell["source"] = cell["source"].splitlines(keepends=True)
        cells.append(cell)
    return {**solution, "cells": cells}


def made() -> dict[Path, str]:
    """Return what each exercise file should hold."""
    files = {}
    for path in sorted(HERE.glob("solution_*.ipynb")):
        notebook = exercise(json.loads(path.read_text(encoding="utf-8")))
        target = path.with_name(path.name.replace("solution_", "exercise_"))
        files[target] = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return files


def write_evaluation(run: Path) -> Path:
    """Write evaluation.csv from a finished run: the rank of the right chunk for each question and system."""
    import pandas as pd

    per_query = pd.read_csv(run / "results" / "per_query.csv")
    per_query["system"] = per_query["system"].replace({"fine-tuned": "fine_tuned", "BM25": "bm25"})
    wanted = per_query[per_query["system"].isin(["base", "fine_tuned", "bm25"])]
    wanted = wanted[wanted["question_set"].isin(["synthetic", "gold"])]  # those that judge all three
    table = wanted.pivot(index=["question_set", "question", "expected"], columns="system", values="rank")
    table = table[["base", "fine_tuned", "bm25"]].astype("Int64").reset_index()
    table = table.rename(columns={"expected": "chunk"}).sort_values(["question_set", "chunk", "question"])
    target = HERE / "evaluation.csv"
    table.to_csv(target, index=False)
    return target


def write_curve() -> Path:
    """Write curve.csv: which gold questions find their chunk among the first 5 after training on more and more chunks.

    An adapter (a linear map of the query vectors) is trained: its vectors are computed once, so the whole curve takes
    little longer than embedding the two sample reports. Training questions and gold questions are about both reports.
    """
    import tempfile

    import pandas as pd

    from nbutils.corpus.chunks import load_corpus
    from nbutils.corpus.files import resolve
    from nbutils.evaluation.curve import learning_curve
    from nbutils.evaluation.gold import load_gold_questions
    from nbutils.evaluation.walkthrough import evaluate
    from nbutils.questions.pairs import load_pairs
    from nbutils.training.adapter import AdapterFinetuneEngine

    sample = Path(resolve("data/sample/gold_questions.csv")).parent
    nodes = load_corpus([str(sample / f"{name}_2024.pdf") for name in ("norvane", "brackwater")], chunk_size=256)
    gold, model, columns = load_gold_questions(sample / "gold_questions.csv", nodes), "all-MiniLM-L6-v2", []
    with tempfile.TemporaryDirectory() as folder:

        def train(part):
            engine = AdapterFinetuneEngine(part, model, Path(folder, "adapter"), cache_folder=folder)
            engine.finetune()
            return engine.get_finetuned_model()

        def judge(trained):
            columns.append([row["is_hit"] for row in evaluate(gold, trained, cache=folder)])
            return columns[-1]

        curve, sentence = learning_curve(load_pairs(sample / "training_questions.csv", nodes), train, judge, model)
    print(curve, sentence, sep="\n")
    table = pd.DataFrame({
        "question": gold.queries.values(), "chunk": [gold.relevant_docs[query][0] for query in gold.queries]
    })  # fmt: skip
    for chunks, hits in zip(curve.chunks, columns, strict=True):
        table[f"chunks_{chunks}"] = pd.Series(hits).astype(int)
    table.to_csv(HERE / "curve.csv", index=False)
    return HERE / "curve.csv"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=re.split(r"\n\n", __doc__)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; status 1 where files differ")
    parser.add_argument("--evaluation", type=Path, metavar="RUN", help="take evaluation.csv from this run's folder")
    parser.add_argument("--curve", action="store_true", help="make curve.csv by training")
    options = parser.parse_args(arguments)
    if options.evaluation:
        print(write_evaluation(options.evaluation))
        return 0
    if options.curve:
        print(write_curve())
        return 0
    stale = {path: text for path, text in made().items() if not path.exists() or path.read_text("utf-8") != text}
    for path, text in stale.items():
        print(("differs from its solution: " if options.check else "written: ") + path.name)
        if not options.check:
            path.write_text(text, "utf-8")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
