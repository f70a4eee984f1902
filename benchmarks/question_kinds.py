"""Which questions teach? Kinds and numbers of the sample's training questions, judged by its 336 gold questions.

    python benchmarks/question_kinds.py [VARIANT …] [--figure FILE.png]

Each model learns both sample reports from the base, with the engine's defaults and nothing held out. Each gold question is searched in its
own report. Nothing in the project was chosen by these rows.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from recipes import SAMPLE, Judge, row, sample, sample_nodes, written

from nbutils import SentenceTransformersFinetuneEngine
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.plots.figures import plot_story
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, merged
from nbutils.questions.pairs import load_pairs


def chosen(pairs: EmbeddingQAFinetuneDataset, keys: set[str]) -> EmbeddingQAFinetuneDataset:
    """Return the dataset with these questions alone."""
    return EmbeddingQAFinetuneDataset(
        queries={key: text for key, text in pairs.queries.items() if key in keys},
        corpus=pairs.corpus,
        relevant_docs={key: found for key, found in pairs.relevant_docs.items() if key in keys},
    )


def at_most(pairs: EmbeddingQAFinetuneDataset, number: int) -> EmbeddingQAFinetuneDataset:
    """Return the dataset with so many questions about each chunk, drawn at random."""
    by_chunk: dict[str, list[str]] = {}
    for key, found in pairs.relevant_docs.items():
        by_chunk.setdefault(found[0], []).append(key)
    draw = random.Random(0)
    return chosen(pairs, {key for keys in by_chunk.values() for key in draw.sample(keys, min(number, len(keys)))})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    nodes = sample_nodes()
    pairs = load_pairs(SAMPLE / "training_questions.csv", nodes)
    kind = pd.read_csv(SAMPLE / "training_questions.csv").drop_duplicates("question").set_index("question").kind
    kinds = {key: kind.get(text) for key, text in pairs.queries.items()}
    offline = written(pairs.corpus, ["sentence", "keywords"], 2)
    variants = {
        "all kinds, four per passage": pairs,
        **{f"{each} alone": chosen(pairs, {key for key, found in kinds.items() if found == each})
           for each in ("everyday", "precise", "keywords")},
        "all kinds, one per chunk": at_most(pairs, 1),
        "all kinds, two per chunk": at_most(pairs, 2),
        "offline generator, two per chunk": offline,
        "all kinds and offline": merged(pairs, offline),
    }  # fmt: skip
    print(
        "| set | learned from | queries | hit@5 | gain | MRR@10 | gain | seconds |\n|---|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        judge = Judge(sample(folder), half=False)
        base = judge.of_model(load_model(DEFAULT_MODEL))
        print(row(judge, "base as shipped", "", base, base, 0), flush=True)
        shown = [{"name": "base as shipped", "score": base[:, 0].mean()}]
        for name in options.variants or variants:
            start = time.monotonic()
            engine = SentenceTransformersFinetuneEngine(
                variants[name], DEFAULT_MODEL, f"{folder}/model", dev_fraction=0, show_progress_bar=False
            )
            engine.finetune()
            found = judge.of_model(engine.model.eval())
            print(row(judge, name, len(variants[name].queries), found, base, time.monotonic() - start), flush=True)
            low, high = bootstrap_intervals((found - base)[:, :1], judge.clusters)
            ends = {"low": shown[0]["score"] + low[0], "high": shown[0]["score"] + high[0]}
            shown.append({"name": name, "score": found[:, 0].mean(), **ends})
        if options.figure:
            plot_story(pd.DataFrame(shown), "hit rate@5").savefig(options.figure, bbox_inches="tight")
    return 0


if __name__ == "__main__":
    sys.exit(main())
