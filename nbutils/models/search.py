"""Rankings of chunks for queries: exact vector search, BM25, and the two fused."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

DEPTH = 100
RRF_CONSTANT = 60


@dataclass
class Ranking:
    """The best chunks of each query.

    Args:
        index: int64 array of shape (queries, depth), positions in the corpus, best first; -1 where nothing was found.
        score: float array of the same shape; -inf where nothing was found.
    """

    index: np.ndarray
    score: np.ndarray


def id_ranks(ids: Sequence[str]) -> np.ndarray:
    """Return the position of each id in the sorted order of all ids, shape (ids,)."""
    ranks = np.empty(len(ids), dtype=np.int64)
    ranks[sorted(range(len(ids)), key=ids.__getitem__)] = np.arange(len(ids))
    return ranks


def _top(scores: np.ndarray, ranks: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the `depth` best of each row by (-score, id rank)."""
    depth = min(depth, scores.shape[1])
    chosen = np.argpartition(-scores, depth - 1, axis=1)[:, :depth] if depth < scores.shape[1] else None
    if chosen is None:
        chosen = np.broadcast_to(np.arange(scores.shape[1]), scores.shape).copy()
    else:
        limit = np.take_along_axis(scores, chosen, 1).min(axis=1)
        for row in np.flatnonzero((scores >= limit[:, None]).sum(axis=1) > depth):
            tied = np.flatnonzero(scores[row] >= limit[row])
            chosen[row] = tied[np.lexsort((ranks[tied], -scores[row, tied]))][:depth]
    values = np.take_along_axis(scores, chosen, 1)
    order = np.lexsort((ranks[chosen], -values), axis=1)
    return np.take_along_axis(chosen, order, 1), np.take_along_axis(values, order, 1)


def vector_search(
    queries: np.ndarray, corpus: np.ndarray, ids: Sequence[str], depth: int = DEPTH, *, block: int = 32 * 2**20
) -> Ranking:
    """Search exactly by inner product (cosine for vectors of length 1).

    Equal scores are ranked by ascending id, as InformationRetrievalEvaluator does. Equal vectors score the same, which
    a matrix product alone does not promise: it may round differently from column to column.

    Args:
        queries: shape (queries, dimensions), float32.
        corpus: shape (chunks, dimensions), float32.
        ids: ids of the chunks.
        depth: chunks to return a query.
        block: scores held at a time; memory use is about ten bytes for each.
    """
    ranks, rows = id_ranks(ids), max(1, block // max(1, len(ids)))
    seen: dict[bytes, int] = {}
    first = np.array(
        [seen.setdefault(blake2b(row.tobytes(), digest_size=16).digest(), i) for i, row in enumerate(corpus)]
    )
    copies = np.flatnonzero(first != np.arange(len(corpus)))
    parts = []
    for start in range(0, len(queries), rows):
        scores = queries[start : start + rows] @ corpus.T
        scores[:, copies] = scores[:, first[copies]]
        parts.append(_top(scores, ranks, depth))
    return Ranking(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def retrieve_as_llama_index(queries: np.ndarray, corpus: np.ndarray, ids: Sequence[str], top_k: int) -> list[list[str]]:
    """Return for each query the ids that LlamaIndex's SimpleVectorStore returns, in its order.

    Candidates come from one matrix product in float32; they are scored again in float64 as LlamaIndex scores them.
    Where two scores are equal there, LlamaIndex's own function is asked, since its order of ties follows from the
    history of its heap.

    Args:
        queries: shape (queries, dimensions), vectors as the model gave them.
        corpus: shape (chunks, dimensions).
        ids: ids of the chunks, in the order of the corpus.
        top_k: ids to return a query.
    """
    from llama_index.core.indices.query.embedding_utils import get_top_k_embeddings

    def unit(vectors):
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    ids = list(ids)
    ranking = vector_search(unit(queries), unit(corpus), ids, top_k + 3)
    exact_queries, exact_corpus = queries.astype(np.float64), corpus.astype(np.float64)
    candidates = exact_corpus[ranking.index]
    scores = np.einsum("qd,qkd->qk", exact_queries, candidates)
    scores /= np.linalg.norm(exact_queries, axis=1)[:, None] * np.linalg.norm(candidates, axis=2)
    order = np.argsort(-scores, axis=1, kind="stable")
    index, scores = np.take_along_axis(ranking.index, order, 1), np.take_along_axis(scores, order, 1)
    tied = (np.abs(np.diff(scores[:, : top_k + 1], axis=1)) < 1e-12).any(axis=1)
    tied |= ~np.isfinite(scores).all(axis=1)
    if len(ids) > ranking.index.shape[1]:  # float32 cannot tell the last candidates from those left out
        tied |= ranking.score[:, top_k - 1] - ranking.score[:, -1] < 2e-6
    return [
        get_top_k_embeddings(exact_queries[row], exact_corpus, similarity_top_k=top_k, embedding_ids=ids)[1]
        if tied[row]
        else [ids[i] for i in index[row, :top_k]]
        for row in range(len(queries))
    ]


def bm25_search(queries: Sequence[str], texts: Sequence[str], ids: Sequence[str], depth: int = DEPTH) -> Ranking:
    """Search by BM25 (Lucene's variant, k1 = 1.5, b = 0.75) with English stems and stop words.

    Source: Lù 2024, "BM25S" (arXiv 2407.03618), through the bm25s package.

    Args:
        queries: questions.
        texts: chunks.
        ids: ids of the chunks.
        depth: chunks to return a query; a chunk that shares no word with the query is not returned.
    """
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def tokens(part):
        return bm25s.tokenize(list(part), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)

    index = np.full((len(queries), min(depth, len(texts))), -1, dtype=np.int64)
    score = np.full(index.shape, -np.inf)
    chunks = tokens(texts)
    if not any(chunks):
        return Ranking(index, score)
    engine = bm25s.BM25()
    engine.index(chunks, show_progress=False)
    ranks = id_ranks(ids)
    for row, words in enumerate(tokens(queries)):
        if words:
            best, scores = _top(engine.get_scores(words)[None, :], ranks, depth)
            index[row] = np.where(scores[0] > 0, best[0], -1)
            score[row] = np.where(scores[0] > 0, scores[0], -np.inf)
    return Ranking(index, score)


def fuse(dense: Ranking, lexical: Ranking, ids: Sequence[str], weight: float = 0.5, depth: int = DEPTH) -> Ranking:
    """Fuse two rankings by weighted reciprocal rank: weight / (60 + rank) + (1 - weight) / (60 + rank).

    Source: Cormack, Clarke and Büttcher, SIGIR 2009 (unweighted, constant 60).

    Args:
        dense: ranking by vectors.
        lexical: ranking by words.
        ids: ids of the chunks.
        weight: of the dense ranking, 0 to 1.
        depth: chunks to return a query.
    """
    ranks = id_ranks(ids)
    index = np.full((len(dense.index), min(depth, len(ids))), -1, dtype=np.int64)
    score = np.full(index.shape, -np.inf)
    for row in range(len(index)):
        total: dict[int, float] = {}
        for ranking, share in ((dense, weight), (lexical, 1 - weight)):
            for rank, chunk in enumerate(ranking.index[row].tolist(), start=1):
                if chunk >= 0 and share > 0:
                    total[chunk] = total.get(chunk, 0.0) + share / (RRF_CONSTANT + rank)
        best = sorted(total, key=lambda chunk: (-total[chunk], ranks[chunk]))[: index.shape[1]]
        index[row, : len(best)] = best
        score[row, : len(best)] = [total[chunk] for chunk in best]
    return Ranking(index, score)
