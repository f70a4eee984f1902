"""What stands before a chunk where it is embedded, over a folder of documents searched in one index.

    python benchmarks/headers.py FOLDER QUESTIONS.jsonl [--headers '' file file,section …] [--train 1500]

A row of QUESTIONS.jsonl holds `question`, `document` (a file's name) and `pages` (from 1). A hit is a chunk of one of these
pages. Each question is searched in all documents ("pooled") and in its own. Differences are paired, from the first
header's row of the same system; intervals are drawn document by document. With `--train` the base also learns the offline
generator's queries about that many chunks, drawn at random, with the last of the headers (and now and then without it, as
always); that model is judged with the header and without it.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_index.core.schema import MetadataMode
from recipes import written

from nbutils import SentenceTransformersFinetuneEngine, load_corpus
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import EmbeddingCache, encode
from nbutils.questions.dataset import headers_of

COLUMNS = ("pooled hit@5", "pooled MRR@10", "right file@5", "own file hit@5", "own file MRR@10")


def ranks(scores: np.ndarray) -> np.ndarray:
    return (-scores).argsort(axis=1, kind="stable").argsort(axis=1)


def fused(*scores: np.ndarray) -> np.ndarray:
    """Return reciprocal rank fusion of whole rankings, shape (questions, chunks)."""
    return sum(1 / (60 + 1 + ranks(each)) for each in scores)


def judged(scores: np.ndarray, relevant: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Return the columns for each question, shape (questions, 5)."""
    pooled, file, inside = (
        np.where(hits, place, np.inf).min(1)
        for place, hits in (
            (ranks(scores), relevant),
            (ranks(scores), own),
            (ranks(np.where(own, scores, -np.inf)), relevant),
        )
    )
    mrr = [np.where(best < 10, 1 / (best + 1), 0) for best in (pooled, inside)]
    return np.stack([pooled < 5, mrr[0], file < 5, inside < 5, mrr[1]], 1).astype(float)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--headers", nargs="*", default=["", "file", "title", "section", "file,section"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--train", type=int, default=0, help="chunks to learn")
    parser.add_argument("--cache", type=Path, help="folder for what was read and embedded")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.questions.read_text().splitlines()]
    base, cache = load_model(options.model), EmbeddingCache(options.cache or False)
    queries, documents = [row["question"] for row in rows], [row["document"] for row in rows]
    print(
        "| header | system | "
        + " | ".join(f"{name} | difference" for name in COLUMNS)
        + " |\n|"
        + "---|" * (2 + 2 * len(COLUMNS))
    )
    first = {}

    def show(header: str, name: str, model, nodes: list) -> None:
        texts = [node.get_content(MetadataMode.EMBED) for node in nodes]
        files = np.array([node.metadata["file_name"] for node in nodes])
        pages = np.array([node.metadata.get("page", 1) for node in nodes])
        own = np.array([files == document for document in documents])
        relevant = own & np.array([np.isin(pages, row["pages"]) for row in rows])
        dense = encode(model, queries, "query") @ cache.embed(model, texts).T
        sparse = BM25Index(texts).scores(queries)
        for system, scores in (("vectors", dense), ("BM25", sparse), ("vectors + BM25", fused(dense, sparse))):
            if system == "BM25" and name != "base":
                continue
            found = judged(scores, relevant, own)
            gain = found - first.setdefault(system, found)
            low, high = bootstrap_intervals(gain, documents)
            cells = [
                f"{found[:, i].mean():.3f} | {gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f})"
                for i in range(len(COLUMNS))
            ]
            print(f"| {header or 'none'} | {name}, {system} | {' | '.join(cells)} |", flush=True)

    def chunks(header: str) -> list:
        size = {"chunk_size": options.chunk_size, "cache": options.cache}
        return load_corpus([options.folder], header=header.split(","), **size)

    for header in options.headers:
        nodes = chunks(header)
        show(header, "base", base, nodes)
        if options.train and header == options.headers[-1]:
            model = trained(nodes, options.train, options.model)
            show(header, f"learned with header {header or 'none'}", model, nodes)
            if header:
                show("", f"learned with header {header}", model, chunks(""))
    return 0


def trained(nodes: list, number: int, base: str):
    """Return the base after it has learned offline queries about so many of the chunks, drawn at random."""
    drawn = random.Random(0).sample(nodes, min(number, len(nodes)))
    dataset = written({node.node_id: node.text for node in drawn}, ["sentence", "keywords"], 2)
    dataset.headers = headers_of(drawn)
    with tempfile.TemporaryDirectory() as folder:
        engine = SentenceTransformersFinetuneEngine(dataset, base, folder, dev_fraction=0, show_progress_bar=False)
        engine.finetune()
    return engine.model.eval()


if __name__ == "__main__":
    sys.exit(main())
