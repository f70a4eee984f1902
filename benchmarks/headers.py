"""What stands before a chunk where it is embedded, over several documents searched in one index.

    python benchmarks/headers.py FILES QUESTIONS … [--headers '' file file,section …] [--train 1500] [--engine '{}' …]

FILES is a folder or a glob; QUESTIONS are tables of gold questions that name their `file` (or `document`), with `quote` or `pages`.
A hit is a chunk that answers the question. Each question is searched in all documents ("pooled") and in its own. Differences are
paired, from the first header's row of the same system; intervals are drawn document by document. With `--train` the base also
learns the offline generator's queries about that many chunks, drawn at random, with the last of the headers (and now and then
without it, as always); that model is judged with the header and without it, once for each `--engine`, options in JSON. With
`--few` the index holds only so many chunks of each document, drawn at random, besides those that answer a question.
"""

import argparse
import contextlib
import itertools
import json
import random
import sys
import tempfile
from pathlib import Path

import numpy as np
from llama_index.core.schema import MetadataMode
from recipes import written

from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine, load_corpus
from nbutils.evaluation.gold import load_gold_questions
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import EmbeddingCache, encode
from nbutils.questions.dataset import headers_of, merged, names_of

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
    parser.add_argument("files")
    parser.add_argument("questions", nargs="+", type=Path)
    parser.add_argument("--headers", nargs="*", default=["", "file", "title", "section", "file,section"])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--chunk-size", type=int, default=256)
    parser.add_argument("--few", type=int, default=0, help="chunks of each document; default is all")
    parser.add_argument("--train", type=int, default=0, help="chunks to learn")
    parser.add_argument("--engine", nargs="*", default=[{}], type=json.loads, help="options of the engine, as JSON")
    parser.add_argument("--cache", type=Path, help="folder for what was read and embedded")
    options = parser.parse_args()
    base, cache = load_model(options.model), EmbeddingCache(options.cache or False)
    first, differences = {}, " | ".join(f"{name} | difference" for name in COLUMNS)
    print(f"| header | system | {differences} |\n|" + "---|" * (2 + 2 * len(COLUMNS)))

    def chunks(header: str) -> list:
        size = {"chunk_size": options.chunk_size, "cache": options.cache}
        nodes = load_corpus([options.files], header=header.split(","), **size)
        return some_of(nodes, gold(nodes, options.questions), options.few) if options.few else nodes

    def show(header: str, name: str, model, nodes: list) -> None:
        questions = gold(nodes, options.questions)
        ids = [node.node_id for node in nodes]
        files = np.array([node.metadata["file_name"] for node in nodes])
        relevant = np.array([np.isin(ids, found) for found in questions.relevant_docs.values()])
        documents = [files[found.argmax()] for found in relevant]
        own = np.array([files == document for document in documents])
        queries, texts = list(questions.queries.values()), [node.get_content(MetadataMode.EMBED) for node in nodes]
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

    for header in options.headers:
        nodes = chunks(header)
        print(f"{len(nodes)} chunks", file=sys.stderr)
        show(header, "base", base, nodes)
    for changes in options.engine if options.train else ():
        model = trained(nodes, options.train, options.model, **changes)
        for shown in dict.fromkeys([header, ""]):
            show(shown, f"learned with header {header or 'none'} {json.dumps(changes)}", model, chunks(shown))
    return 0


def gold(nodes: list, tables: list[Path]) -> EmbeddingQAFinetuneDataset:
    with contextlib.redirect_stdout(sys.stderr):
        return merged(*[load_gold_questions(table, nodes) for table in tables])


def some_of(nodes: list, questions: EmbeddingQAFinetuneDataset, number: int) -> list:
    """Return so many chunks of each document, drawn at random, and those that answer a question, in their order."""
    answers = {chunk for found in questions.relevant_docs.values() for chunk in found}
    kept = [node.node_id in answers for node in nodes]
    rng, places = random.Random(0), {}
    for place, node in enumerate(nodes):
        places.setdefault(node.metadata["file_name"], []).append(place)
    for of_file in places.values():
        for place in rng.sample(of_file, min(number, len(of_file))):
            kept[place] = True
    return list(itertools.compress(nodes, kept))


def trained(nodes: list, number: int, base: str, **changes):
    """Return the base after it has learned offline queries about so many of the chunks, drawn at random."""
    drawn = random.Random(0).sample(nodes, min(number, len(nodes)))
    dataset = written({node.node_id: node.text for node in drawn}, ["sentence", "keywords"], 2)
    dataset.headers, dataset.names = headers_of(drawn), names_of(drawn)
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"dev_fraction": 0, "show_progress_bar": False} | changes
        engine = SentenceTransformersFinetuneEngine(dataset, base, folder, **chosen)
        engine.finetune()
    return engine.model.eval()


if __name__ == "__main__":
    sys.exit(main())
