"""The model to deploy: trained anew on all documents, or trained on from the walkthrough's model?

    python benchmarks/deploy_model.py SET.json ['{"blend": 1}']

A set as for recipes.py. The offline generator writes about all chunks. One model learns all of them from the base; the
other goes on for one pass from a model that has learned the first half alone. People's questions judge both. The JSON holds
options of the engine.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

from recipes import Judge, row, written

from nbutils import SentenceTransformersFinetuneEngine
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.training.deploy import continue_on_all


def main() -> int:
    judge = Judge(Path(sys.argv[1]), half=False)
    half = Judge(Path(sys.argv[1]), half=True).train
    datasets = {name: written(chunks, ["sentence", "keywords"], 2) for name, chunks in
                (("half", half), ("rest", {i: t for i, t in judge.corpus.items() if i not in half}), ("all", judge.corpus))}  # fmt: skip
    base = judge.of_model(load_model(DEFAULT_MODEL))
    print("| set | model | queries | hit@5 | gain | MRR@10 | gain | seconds |\n|---|---|---|---|---|---|---|---|")
    print(row(judge, "base as shipped", "", base, base, 0), flush=True)
    options = {"max_seq_length": 256, "show_progress_bar": False} | json.loads(sys.argv[2] if sys.argv[2:] else "{}")
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        first = SentenceTransformersFinetuneEngine(datasets["half"], DEFAULT_MODEL, f"{folder}/half", **options)
        first.finetune()
        found = judge.of_model(first.model.eval())
        print(
            row(judge, "half of the chunks", len(datasets["half"].queries), found, base, time.monotonic() - start),
            flush=True,
        )
        middle = time.monotonic()
        second = continue_on_all(first, datasets["half"], datasets["rest"], output_path=f"{folder}/all")
        found = judge.of_model(second.model.eval())
        print(
            row(judge, "… and one pass over all", len(datasets["all"].queries), found, base, time.monotonic() - middle),
            flush=True,
        )
        start = time.monotonic()
        fresh = SentenceTransformersFinetuneEngine(
            datasets["all"], DEFAULT_MODEL, f"{folder}/fresh", dev_fraction=0, **options
        )
        fresh.finetune()
        found = judge.of_model(fresh.model.eval())
        print(
            row(judge, "anew on all", len(datasets["all"].queries), found, base, time.monotonic() - start), flush=True
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
