"""What besides its own chunk answers a query: soft labels from a model's cosine and BM25."""

import bisect
import itertools
import random
import re
from collections.abc import Sequence

import numpy as np

from nbutils.models.search import BM25Index
from nbutils.questions.dataset import headed
from nbutils.training.split import TrainingPairs

TEMPERATURE = 0.3
LEAST_LEFT = 0.3  # share of a chunk's characters that must be left


class Teacher:
    """Scores of chunks for queries: the standard score of the model's cosine over all chunks, plus that of BM25.

    BM25 sees a chunk without the queries that stand in it word for word. Scores are made anew for each batch: all
    together they might not fit in memory.

    Args:
        queries: vectors of the queries, of length 1, shape (n, dimensions).
        chunks: vectors of the chunks, with their headers, of length 1, shape (m, dimensions).
        pairs: the texts of both.
    """

    def __init__(self, queries: np.ndarray, chunks: np.ndarray, pairs: TrainingPairs) -> None:
        self.queries, self.chunks, self.texts = queries, chunks, pairs.queries
        asked = [[pairs.queries[query] for query in pairs.groups.get(chunk, ())] for chunk in range(len(pairs.chunks))]
        left = map(cut_queries_out, pairs.chunks, asked)
        self.bm25 = BM25Index(list(map(headed, pairs.headers, left)))

    def __call__(self, queries: Sequence[int], chunks: Sequence[int]) -> np.ndarray:
        """Return the scores of some chunks for some queries: float32, shape (queries, chunks)."""
        cosine = _standard(self.queries[queries] @ self.chunks.T)
        bm25 = _standard(self.bm25.scores([self.texts[query] for query in queries]))
        return (cosine + bm25)[:, chunks]


def _standard(scores: np.ndarray) -> np.ndarray:
    return (scores - scores.mean(1, keepdims=True)) / np.maximum(scores.std(1, keepdims=True), 1e-6)


def cut_queries_out(chunk: str, queries: Sequence[str], rate: float = 1.0, rng: random.Random | None = None) -> str:
    """Return a chunk without the queries that stand in it word for word, as long as enough of it is left.

    Source: the inverse cloze task of Lee, Chang and Toutanova (ACL 2019, https://arxiv.org/abs/1906.00300), which takes
    the sentence out nine times in ten.

    Args:
        chunk: its text.
        queries: those to take out.
        rate: how often each is taken out, if there is an `rng` to draw by.
    """
    for query in queries:
        if rng and rng.random() >= rate:
            continue
        left = cut_out(query, chunk)
        if len(left) < len(chunk) and len(left.strip()) >= LEAST_LEFT * len(chunk):
            chunk = left
    return chunk


def cut_out(query: str, chunk: str) -> str:
    """Return a chunk with a space for each place where the query's words stand, whatever space is between them.

    A regular expression for each query would take longer to compile than a GPU needs for the chunk.
    """
    plain, sought = " ".join(chunk.split()), " ".join(query.split())
    if not sought or sought not in plain:
        return chunk
    words = list(re.finditer(r"\S+", chunk))
    starts = list(itertools.accumulate((len(word[0]) + 1 for word in words), initial=0))  # in the plain text

    def place(position: int) -> int:
        number = bisect.bisect_right(starts, position) - 1
        return words[number].start() + position - starts[number]

    parts, end, found = [], 0, plain.find(sought)
    while found >= 0:
        last = found + len(sought) - 1
        parts.append(chunk[end : place(found)])
        end, found = place(last) + 1, plain.find(sought, last + 1)
    return " ".join([*parts, chunk[end:]])
