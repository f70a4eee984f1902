"""Generators and recipes over any number of sets of people's questions, one table, paired intervals against the base.

    python benchmarks/recipes.py SET.json … [--sample] [--recipes '{"kinds": ["sentence"], "soft_labels": 1}' …] [--half]

A set is a JSON file with `queries`, `corpus`, `relevant_docs` and perhaps `document`, which says of each query and chunk
to what document it belongs: a query is then searched in its own document. The queries of the set only judge: a model
is trained on queries that the offline generator writes about the very chunks that are searched. With `--half` it
learns from the first half of the chunks and is judged by the questions about the second. `--sample` adds the sample's two
reports with their 336 gold questions. A recipe is JSON: `kinds` and `number` are the generator's, all others are options of
the engine. `"pairs": true` trains on the set's own questions about the training half (with `--half` alone: else it would
learn what judges it), or on what a set holds under `taught` (the sample: its written questions), mixed with the generator's if `"number"` is not 0.
`"chunks"` trains on a random part of that many chunks; `"cuts": [128, 64]` judges vectors cut to these sizes, too. The last
column is nDCG@10 on general knowledge (`data/general_knowledge.jsonl`): what the model forgot.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nbutils import EmbeddingQAFinetuneDataset, SentenceTransformersFinetuneEngine
from nbutils.core import project_folder
from nbutils.corpus.chunks import load_corpus
from nbutils.evaluation.forgetting import check_forgetting
from nbutils.evaluation.gold import load_gold_questions
from nbutils.evaluation.stats import bootstrap_intervals, permutation_p
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import encode, unit
from nbutils.questions.offline import OfflineQuestionWriter
from nbutils.questions.pairs import load_pairs

SAMPLE = project_folder() / "data" / "sample"


def sample_nodes() -> list:
    """Return the chunks of both sample reports, as the default run cuts them."""
    return load_corpus([SAMPLE / "norvane_2024.pdf", SAMPLE / "brackwater_2024.pdf"], chunk_size=256, chunk_overlap=40)


def sample(folder: str | Path) -> Path:
    """Return the file of a set that is written: the sample's gold questions, and `taught`, its written questions."""
    nodes = sample_nodes()
    gold, taught = (
        load(SAMPLE / name, nodes).model_dump(include={"queries", "corpus", "relevant_docs"})
        for load, name in ((load_gold_questions, "gold_questions.csv"), (load_pairs, "training_questions.csv"))
    )
    document = {node.node_id: node.metadata["file_name"] for node in nodes}
    document |= {key: document[found[0]] for key, found in gold["relevant_docs"].items()}
    path = Path(folder, "sample.json")
    path.write_text(json.dumps(gold | {"document": document, "taught": taught}))
    return path


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
        taught = data.get("taught") or {
            name: {q: value for q, value in data[name].items() if q not in set(asked)}
            for name in ("queries", "relevant_docs")
        }
        self.own = EmbeddingQAFinetuneDataset(
            queries={f"own {q}": query for q, query in taught["queries"].items()},
            corpus=self.train,
            relevant_docs={f"own {q}": found for q, found in taught["relevant_docs"].items()},
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
        return self.of_cuts(model, ())[0]

    def of_cuts(self, model, cuts: Sequence[int]) -> list[np.ndarray]:
        """Return the metrics of whole vectors, then of vectors cut to each of these sizes."""
        whole = [encode(model, self.queries, "query"), encode(model, self.corpus.values())]
        parts = [whole, *([unit(vectors[:, :size]) for vectors in whole] for size in cuts)]
        return [self.metrics(queries @ chunks.T) for queries, chunks in parts]

    def of_bm25(self) -> np.ndarray:
        return self.metrics(BM25Index(list(self.corpus.values())).scores(self.queries))


def row(judge: Judge, name: str, number: int | str, found: np.ndarray, base: np.ndarray, seconds: float, *more) -> str:
    gain = found - base
    low, high = bootstrap_intervals(gain, judge.clusters)
    p = permutation_p(gain, judge.clusters)
    cells = [judge.name, name, number]
    for i in range(2):
        cells += [
            f"{found[:, i].mean():.3f}",
            f"{gain[:, i].mean():+.3f} ({low[i]:.3f} to {high[i]:.3f}), p {p[i]:.3f}",
        ]
    return "| " + " | ".join(map(str, [*cells, f"{seconds:.0f}", *more])) + " |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--sample", action="store_true")
    parser.add_argument("--recipes", nargs="*", default=[{}], type=json.loads)
    parser.add_argument("--half", action="store_true")
    options = parser.parse_args()
    print("| set | recipe | queries | hit@5 | gain | MRR@10 | gain | seconds | general |\n" + "|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder:
        for path in [*options.sets, *([sample(folder)] if options.sample else [])]:
            report(Judge(path, options.half), options.recipes)
    return 0


def report(judge: Judge, recipes: Sequence[dict]) -> None:
    cuts = sorted({size for changes in recipes for size in changes.get("cuts", ())}, reverse=True)
    base, *cut = judge.of_cuts(load_model(DEFAULT_MODEL), cuts)
    print(row(judge, "base as shipped", "", base, base, 0))
    for size, found in zip(cuts, cut, strict=True):
        print(row(judge, f"base as shipped, cut to {size}", "", found, base, 0))
    print(row(judge, "BM25", "", judge.of_bm25(), base, 0), flush=True)
    for changes in recipes:
        start = time.monotonic()
        sizes = changes.get("cuts", ())
        model, number = trained(judge, **{key: value for key, value in changes.items() if key != "cuts"})
        seconds = time.monotonic() - start
        whole, *cut = judge.of_cuts(model, sizes)
        general = check_forgetting(load_model(DEFAULT_MODEL), model).table.iloc[0]
        change = f"{general.difference:+.3f} ({general.low:.3f} to {general.high:.3f})"
        print(row(judge, json.dumps(changes), number, whole, base, seconds, change), flush=True)
        for size, found in zip(sizes, cut, strict=True):
            print(row(judge, f"… cut to {size}", number, found, base, 0), flush=True)


if __name__ == "__main__":
    sys.exit(main())
