"""Retrieval metrics per query: hit rate, MRR, nDCG, MAP, recall."""

from collections.abc import Sequence

import numpy as np

HIT_RANKS = (1, 3, 5, 10)


def query_metrics(gains: np.ndarray, ideal: Sequence[np.ndarray], top_k: int = 5) -> dict[str, np.ndarray]:
    """Return the metrics of each query.

    The definitions are those of InformationRetrievalEvaluator (sentence-transformers) and trec_eval: a document
    counts as relevant if its grade is above 0, nDCG takes the grade itself as gain, discounted by log2(rank + 1).

    Args:
        gains: shape (queries, depth), the grade of the document at each rank, best first; 0 where not relevant.
        ideal: for each query the grades of all its relevant documents.
        top_k: one more cut-off for hit rate and recall.

    Returns:
        Metric name -> float64 array of shape (queries,).
    """
    gains = np.asarray(gains, dtype=np.float64)
    hits = gains > 0
    depth = gains.shape[1]
    relevant = np.array([np.count_nonzero(grades) for grades in ideal], dtype=np.float64)
    ranks = np.arange(1, depth + 1)
    found = np.cumsum(hits, axis=1)
    cutoffs = sorted({*HIT_RANKS, top_k})

    def at(k: int) -> np.ndarray:
        return found[:, min(k, depth) - 1]

    metrics = {f"hit_rate@{k}": (at(k) > 0).astype(np.float64) for k in cutoffs}
    first = np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, np.inf)
    metrics["mrr@10"] = np.where(first <= 10, 1 / first, 0.0)
    discount = 1 / np.log2(ranks[:10] + 1)
    best = np.zeros((len(ideal), 10))
    for row, grades in zip(best, ideal, strict=True):
        top = np.sort(np.asarray(grades, dtype=np.float64))[::-1][:10]
        row[: len(top)] = top
    full_discount = 1 / np.log2(np.arange(1, 11) + 1)
    metrics["ndcg@10"] = (gains[:, :10] @ discount) / (best @ full_discount)
    precision = np.where(hits, found / ranks, 0.0)[:, :100]
    metrics["map@100"] = precision.sum(axis=1) / np.minimum(relevant, 100)
    metrics |= {f"recall@{k}": at(k) / relevant for k in cutoffs}
    return metrics
