"""What stands before a chunk where it is embedded, over a folder of documents searched in one index.

    python benchmarks/headers.py FOLDER QUESTIONS.jsonl [--headers '' file file,section …] [--model NAME]

A row of QUESTIONS.jsonl holds `question`, `document` (a file's name) and `pages` (from 1). A hit is a chunk of one of these
pages. Each question is searched in all documents ("pooled") and in its own. Differences are paired, from the first
header's row of the same system; intervals are drawn document by document.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from llama_index.core.schema import MetadataMode

from nbutils import load_corpus
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import EmbeddingCache, encode

COLUMNS = ("pooled hit@5", "pooled hit@10", "right file@5", "own file hit@5")


def ranks(scores: np.ndarray) -> np.ndarray:
    return (-scores).argsort(axis=1, kind="stable").argsort(axis=1)


def fused(*scores: np.ndarray) -> np.ndarray:
    """Return reciprocal rank fusion of whole rankings, shape (questions, chunks)."""
    return sum(1 / (60 + 1 + ranks(each)) for each in scores)


def judged(scores: np.ndarray, relevant: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the columns for each question, shape (questions, 4)."""
    place, inside = ranks(scores), ranks(np.where(own, scores, -np.inf))
    hits = [(relevant & (place < 5)), (relevant & (place < 10)), (own & (place < 5)), (relevant & (inside < 5))]
    return np.stack([hit.any(1) for hit in hits], 1).astype(float)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--headers", nargs="*", default=["", "file", "title", "section", "file,section"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--cache", type=Path, help="folder for what was read and embedded")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.questions.read_text().splitlines()]
    model, cache = load_model(options.model), EmbeddingCache(options.cache or False)
    queries, documents = [row["question"] for row in rows], [row["document"] for row in rows]
    asked = encode(model, queries, "query")
    print("| header | system | " + " | ".join(f"{name} | difference" for name in COLUMNS) + " |\n|" + "---|" * 10)
    first = {}
    for header in options.headers:
        nodes = load_corpus(
            [options.folder], chunk_size=options.chunk_size, header=header.split(","), cache=options.cache
        )
        texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
        files = np.array([node.metadata["file_name"] for node in nodes])
        pages = np.array([node.metadata.get("page", 1) for node in nodes])
        own = np.array([files == name for name in documents])
        relevant = own & np.array([np.isin(pages, row["pages"]) for row in rows])
        dense = asked @ cache.embed(model, texts).T
        sparse = BM25Index(texts).scores(queries)
        for system, scores in (("dense", dense), ("BM25", sparse), ("dense + BM25", fused(dense, sparse))):
            found = judged(scores, relevant, own)
            gain = found - first.setdefault(system, found)
            low, high = bootstrap_intervals(gain, documents)
            cells = [
                f"{found[:, i].mean():.3f} | {gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f})"
                for i in range(len(COLUMNS))
            ]
            print(f"| {header or 'none'} | {system} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
