"""Without any training: two hybrids with keyword search compared, and chunks that their generated queries find too.

    python benchmarks/search_ways.py SET.json … [--model FOLDER] [--sample]

A set as for recipes.py; `--sample` adds the sample's 336 gold questions and, beside the offline generator's queries, the written ones.
Reciprocal rank fusion (RRF) adds 1 / (60 + rank) of both rankings. A convex combination adds weight × score of the vectors and
(1 - weight) × score of BM25, both scaled to 0 to 1 over the candidates of a query, the first 100 of either (Bruch, Gai and Ingber 2023,
"An Analysis of Fusion Functions for Hybrid Retrieval", arXiv 2210.11934). "Chosen": each question is judged with the weight that is best
by MRR@10 on the questions of the other four fifths of the chunks.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from recipes import Judge, row, sample, written

from nbutils import EmbeddingQAFinetuneDataset
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import BM25Index
from nbutils.models.vectors import EmbeddingCache

WEIGHTS = np.linspace(0, 1, 21)
STORE = EmbeddingCache()


def bm25_scores(judge: Judge) -> np.ndarray:
    """Return the scores of each question's own document's chunks, shape (questions, chunks), 0 elsewhere."""
    texts, queries = np.array(list(judge.corpus.values()), object), np.array(judge.queries, object)
    elsewhere = np.broadcast_to(judge.elsewhere, (len(queries), len(texts)))
    scores = np.zeros(elsewhere.shape)
    for hidden in np.unique(elsewhere, axis=0):
        rows, columns = np.flatnonzero((elsewhere == hidden).all(1)), np.flatnonzero(~hidden)
        scores[np.ix_(rows, columns)] = BM25Index(texts[columns]).scores(queries[rows])
    return scores


def candidates(scores: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return each chunk's rank from 1, and whether it is among the first 100 that were found."""
    ranks = np.argsort(np.argsort(-np.where(found, scores, -np.inf), axis=1, kind="stable"), axis=1) + 1
    return ranks, found & (ranks <= 100)


def scaled(scores: np.ndarray, among: np.ndarray) -> np.ndarray:
    low = np.where(among, scores, np.inf).min(1, keepdims=True)
    high = np.where(among, scores, -np.inf).max(1, keepdims=True)
    return (scores - low) / np.maximum(high - low, 1e-9)


def hybrids(dense: np.ndarray, lexical: np.ndarray, inside: np.ndarray) -> dict[str, list[np.ndarray]]:
    """Return the scores of both hybrids at each of WEIGHTS; what is no candidate comes last."""
    parts = [candidates(dense, inside), candidates(lexical, inside & (lexical > 0))]
    either = parts[0][1] | parts[1][1]
    by_rank = [np.where(among, 1 / (60 + ranks), 0) for ranks, among in parts]
    by_score = [scaled(scores, either) for scores in (dense, lexical)]
    return {
        name: [np.where(either, weight * one + (1 - weight) * other, -1) for weight in WEIGHTS]
        for name, (one, other) in (("RRF", by_rank), ("convex", by_score))
    }


def chosen(judged: np.ndarray, clusters: list[str]) -> np.ndarray:
    """Return each question's metrics at the weight that the other folds choose; `judged`: (weights, questions, metrics)."""
    _, cluster = np.unique(clusters, return_inverse=True)
    fold = np.random.default_rng(0).permutation(np.arange(cluster.max() + 1) % 5)[cluster]
    best = {each: judged[:, fold != each, 1].mean(1).argmax() for each in range(5)}
    return np.stack([judged[best[each], i] for i, each in enumerate(fold)])


def found_by_queries(
    dense: np.ndarray, asked: np.ndarray, pairs: EmbeddingQAFinetuneDataset, corpus, model
) -> np.ndarray:
    """Return each chunk's highest score among its own vector and those of the queries generated for it."""
    position = {chunk: i for i, chunk in enumerate(corpus)}
    owner = [position[found[0]] for found in pairs.relevant_docs.values()]
    scores = dense.copy()
    np.maximum.at(scores.T, owner, (asked @ STORE.embed(model, list(pairs.queries.values()), "query", bf16=False).T).T)
    return scores


def report(judge: Judge, model, written_queries: dict[str, EmbeddingQAFinetuneDataset]) -> None:
    asked = STORE.embed(model, judge.queries, "query", bf16=False)
    dense, lexical = asked @ STORE.embed(model, list(judge.corpus.values()), bf16=False).T, bm25_scores(judge)
    base, plain = judge.metrics(dense), len(WEIGHTS) // 2
    print(row(judge, "vectors alone", len(judge.corpus), base, base, 0))
    print(row(judge, "BM25 alone", 0, judge.metrics(lexical), base, 0))
    fused = {
        name: np.stack([judge.metrics(scores) for scores in each])
        for name, each in hybrids(dense, lexical, ~np.broadcast_to(judge.elsewhere, dense.shape)).items()
    }
    rrf = fused["RRF"][plain]
    print(row(judge, "RRF", len(judge.corpus), rrf, base, 0))
    for name, found in (
        ("convex, weight 0.5, against RRF", fused["convex"][plain]),
        *((f"{name}, weight chosen, against RRF", chosen(each, judge.clusters)) for name, each in fused.items()),
    ):
        print(row(judge, name, len(judge.corpus), found, rrf, 0), flush=True)
    for name, each in fused.items():
        print(f"{name}: best on all at weight {WEIGHTS[each[:, :, 1].mean(1).argmax()]:.2f}", file=sys.stderr)
    for name, pairs in written_queries.items():
        start = time.monotonic()
        scores = found_by_queries(dense, asked, pairs, judge.corpus, model)
        vectors = len(judge.corpus) + len(pairs.queries)
        print(
            row(judge, f"index with {name}", vectors, judge.metrics(scores), base, time.monotonic() - start), flush=True
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", type=Path)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--sample", action="store_true")
    options = parser.parse_args()
    model = load_model(options.model)
    print("| set | search | vectors | hit@5 | gain | MRR@10 | gain | seconds |\n|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in [*options.sets, *([sample(folder)] if options.sample else [])]:
            judge = Judge(path, half=False)
            queries = {"offline queries": written(judge.corpus, ["sentence", "keywords"], 2)}
            report(judge, model, queries | ({"written queries": judge.own} if judge.own.queries else {}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
