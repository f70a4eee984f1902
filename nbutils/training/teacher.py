"""What besides its own chunk answers a query: soft labels from the base model's cosine and BM25."""

import random
import re
from collections.abc import Sequence

import numpy as np

from nbutils.models.vectors import encode

TEMPERATURE = 0.3
CUT_RATE = 0.9  # how often a query that is a sentence of its chunk is taken out of it
LEAST_LEFT = 0.3  # share of a chunk's characters that must be left


def without(chunk: str, queries: Sequence[str]) -> str:
    """Return a chunk without the queries that stand in it word for word, as long as enough of it is left.

    Source: the inverse cloze task of Lee, Chang and Toutanova (ACL 2019, https://arxiv.org/abs/1906.00300).
    """
    for query in queries:
        left = re.sub(r"\s+".join(map(re.escape, query.split())), " ", chunk)
        if len(left) < len(chunk) and len(left.strip()) >= LEAST_LEFT * len(chunk):
            chunk = left
    return chunk


def sometimes_without(chunk: str, queries: Sequence[str], rng: random.Random) -> str:
    """Return a chunk without each such query, nine times in ten."""
    return without(chunk, [query for query in queries if rng.random() < CUT_RATE])


class Teacher:
    """Scores of chunks for queries: how many standard deviations above its mean over all chunks the cosine of the base
    model lies, plus the same of BM25.

    Memory: the vectors of queries and chunks, and BM25's weights for the words of each chunk; no score of a query and
    a chunk is kept.

    Args:
        model: the base model.
        queries: n texts.
        chunks: m texts.
        own: for each query the number of its chunk.
    """

    def __init__(self, model, queries: Sequence[str], chunks: Sequence[str], own: Sequence[int]) -> None:
        members: dict[int, list[str]] = {}
        for query, chunk in zip(queries, own, strict=True):
            members.setdefault(chunk, []).append(query)
        self.chunks = encode(model, chunks)
        self.queries = encode(model, queries, "query")
        centre = self.chunks.mean(0)
        spread = np.cov(self.chunks.T, bias=True)
        self.cosine_mean = self.queries @ centre
        self.cosine_std = np.sqrt(np.einsum("qi,ij,qj->q", self.queries, spread, self.queries, optimize=True))
        self.words, self.weights = bm25_matrices(
            queries, [without(c, members.get(i, ())) for i, c in enumerate(chunks)]
        )
        self.bm25_mean = self.words @ np.asarray(self.weights.mean(0)).ravel()
        squares = [
            np.asarray((self.words[i : i + 256] @ self.weights.T).power(2).mean(1)).ravel()
            for i in range(0, len(queries), 256)
        ]
        self.bm25_std = np.sqrt(np.maximum(np.concatenate(squares) - self.bm25_mean**2, 0))

    def __call__(self, queries: Sequence[int], chunks: Sequence[int]) -> np.ndarray:
        """Return the scores of some chunks for some queries, shape (queries, chunks)."""
        cosine = self.queries[queries] @ self.chunks[chunks].T
        bm25 = (self.words[queries] @ self.weights[chunks].T).toarray()
        return _standard(cosine, self.cosine_mean[queries], self.cosine_std[queries]) + _standard(
            bm25, self.bm25_mean[queries], self.bm25_std[queries]
        )


def _standard(scores: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    return (scores - mean[:, None]) / np.maximum(std, 1e-6)[:, None]


def bm25_matrices(queries: Sequence[str], chunks: Sequence[str]):
    """Return two sparse matrices, (queries, words) and (chunks, words), whose product is the BM25 of each pair."""
    import bm25s
    import Stemmer
    from scipy.sparse import csc_matrix, csr_matrix

    stemmer = Stemmer.Stemmer("english")

    def tokens(texts):
        return bm25s.tokenize(list(texts), stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)

    engine = bm25s.BM25()
    engine.index([words or [""] for words in tokens(chunks)], show_progress=False)
    found = engine.scores
    vocabulary = engine.vocab_dict
    weights = csc_matrix(
        (found["data"], found["indices"], found["indptr"]), shape=(len(chunks), len(found["indptr"]) - 1)
    ).tocsr()
    cells = [(row, vocabulary[w]) for row, words in enumerate(tokens(queries)) for w in words if w in vocabulary]
    rows, columns = zip(*cells, strict=True) if cells else ((), ())
    counts = csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(queries), weights.shape[1]))
    return counts, weights
