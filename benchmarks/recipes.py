"""Generators and recipes over any number of sets of people's questions, one table, paired intervals against the base.

    python benchmarks/recipes.py SET.json … [--recipes '{"kinds": ["sentence"], "soft_labels": 1}' …] [--half]

A set is a JSON file with `queries`, `corpus`, `relevant_docs` and perhaps `document`, which says of each query and chunk
to what document it belongs: a query is then searched in its own document. The queries of the set only judge: a model
is trained on queries that the offline generator writes about the very chunks that are searched. With `--half` it
learns from the first half of the chunks and is judged by the questions about the second. A recipe is JSON: `kinds` and
`number` are the generator's, all others are options of the engine. `"pairs": true` trains on the set's own questions
about the training half (with `--half` alone: else it would learn what judges it), mixed with the generator's if
`"number"` is not 0. `"chunks"` trains on a random part of that many chunks.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine
from nbutils.evaluation.stats import bootstrap_intervals, permutation_p
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import encode
from nbutils.questions.offline import OfflineQuestionWriter


def written(corpus: dict[str, str], kinds: list[str], number: int) -> EmbeddingQAFinetuneDataset:
    """Return the pairs that the offline generator writes."""
    writer = OfflineQuestionWriter.for_corpus(corpus.values(), kinds=tuple(kinds))
    pairs = [(query, chunk) for chunk, text in corpus.items() for query in writer.questions(text, number)]
    return EmbeddingQAFinetuneDataset(
        queries={str(i): query for i, (query, _) in enumerate(pairs)},
        corpus=corpus,
        relevant_docs={str(i): [chunk] for i, (_, chunk) in enumerate(pairs)},
    )


def trained(judge: "Judge", kinds=("sentence", "keywords"), number=None, pairs=False, chunks=0, **options):
    """Return the base model trained on generated queries, or on the set's own about its training half, and their number."""
    corpus = judge.train
    if chunks:
        corpus = {i: corpus[i] for i in random.Random(0).sample(list(corpus), min(chunks, len(corpus)))}
    dataset = written(corpus, kinds, (0 if pairs else 2) if number is None else number)
    if pairs:
        dataset.queries |= judge.own.queries
        dataset.relevant_docs |= judge.own.relevant_docs
    with tempfile.TemporaryDirectory() as folder:
        chosen = {"dev_fraction": 0, "max_seq_length": 256, "show_progress_bar": False} | options
        engine = SentenceTransformersFinetuneEngine(dataset, DEFAULT_MODEL, f"{folder}/model", **chosen)
        engine.finetune()
    return engine.model.eval(), len(dataset.queries)


class Judge:
    """A set's questions, each searched in its own document."""

    def __init__(self, path: Path, half: bool) -> None:
        data = json.loads(path.read_text())
        self.name, self.corpus = path.stem + (" (halves)" if half else ""), data["corpus"]
        ids = list(self.corpus)
        self.train = {i: self.corpus[i] for i in ids[: len(ids) // 2]} if half else self.corpus
        asked = [q for q, found in data["relevant_docs"].items() if not half or found[0] not in self.train]
        rest = {q: found for q, found in data["relevant_docs"].items() if q not in set(asked)}
        self.own = EmbeddingQAFinetuneDataset(
            queries={f"own {q}": data["queries"][q] for q in rest},
            corpus=self.train,
            relevant_docs={f"own {q}": found for q, found in rest.items()},
        )
        self.queries = [data["queries"][q] for q in asked]
        self.relevant = np.array([np.isin(ids, data["relevant_docs"][q]) for q in asked])
        self.clusters = [data["relevant_docs"][q][0] for q in asked]
        where = data.get("document", {})
        self.elsewhere = np.array([[where.get(q) != where.get(i) for i in ids] for q in asked]) if where else False

    def metrics(self, scores: np.ndarray) -> np.ndarray:
        """Return hit@5 and MRR@10 of each question, shape (questions, 2)."""
        top = np.argsort(-np.where(self.elsewhere, -np.inf, scores), axis=1, kind="stable")[:, :10]
        gains = np.take_along_axis(self.relevant, top, 1)
        return np.stack([gains[:, :5].any(1), np.where(gains.any(1), 1 / (gains.argmax(1) + 1), 0)], 1).astype(float)

    def of_model(self, model) -> np.ndarray:
        return self.metrics(encode(model, self.queries, "query") @ encode(model, self.corpus.values()).T)

    def of_bm25(self) -> np.ndarray:
        return self.metrics(BM25Index(list(self.corpus.values())).scores(self.queries))


def row(judge: Judge, name: str, number: int | str, found: np.ndarray, base: np.ndarray, seconds: float) -> str:
    gain = found - base
    low, high = bootstrap_intervals(gain, judge.clusters)
    p = permutation_p(gain, judge.clusters)
    cells = [judge.name, name, number]
    for i in range(2):
        cells += [
            f"{found[:, i].mean():.3f}",
            f"{gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f}), p {p[i]:.3f}",
        ]
    return "| " + " | ".join(map(str, [*cells, f"{seconds:.0f}"])) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--recipes", nargs="*", default=[{}], type=json.loads)
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    print("| set | recipe | queries | hit@5 | gain | MRR@10 | gain | seconds |\n|---|---|---|---|---|---|---|---|")
    for path in options.sets:
        judge = Judge(path, options.half)
        base = judge.of_model(load_model(DEFAULT_MODEL))
        print(row(judge, "base as shipped", "", base, base, 0))
        print(row(judge, "BM25", "", judge.of_bm25(), base, 0), flush=True)
        for changes in options.recipes:
            start = time.monotonic()
            model, number = trained(judge, **changes)
            found = judge.of_model(model)
            print(row(judge, json.dumps(changes), number, found, base, time.monotonic() - start), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
