"""Hybrid search: vectors, BM25, and the documents that a question names, fused by rank."""

from collections.abc import Sequence

import numpy as np

from nbutils.models.search import DEPTH, Ranking, guess_language, inner_products, ranking, stems

RRF_CONSTANT = 60


def fuse(rankings: Sequence[Ranking], ids: Sequence[str], depth: int = DEPTH) -> Ranking:
    """Fuse rankings of the same queries by reciprocal rank: a chunk scores the sum of 1 / (60 + rank).

    Source: Cormack, Clarke and Büttcher, SIGIR 2009.

    Args:
        rankings: of the chunks, by different searches, all of which weigh alike.
        ids: ids of the chunks.
        depth: chunks to return per query.
    """
    queries = len(rankings[0].index)

    def scores(rows: slice) -> np.ndarray:
        total = np.zeros((len(range(queries)[rows]), len(ids)))
        for each in rankings:
            query, rank = np.nonzero(each.index[rows] >= 0)
            total[query, each.index[rows][query, rank]] += 1 / (RRF_CONSTANT + rank + 1)
        return total

    return ranking(scores, queries, ids, depth)


class NamedDocuments:
    """Documents ranked by the words that their names share with a question.

    A shared word counts log(documents / documents with the word in their name), so that one that stands in every name
    says nothing.

    Args:
        names: the name of each chunk's document.
        texts: the chunks, which tell the language.
    """

    def __init__(self, names: Sequence[str], texts: Sequence[str]):
        documents, self._document = np.unique(np.asarray(names, dtype=str), return_inverse=True)
        self._language, self._documents, self._with_word = guess_language(texts), len(documents), {}
        for number, name in enumerate(documents.tolist()):
            for word in set(stems(name, self._language)):
                self._with_word.setdefault(word, []).append(number)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """Return how well each question names each document, shape (questions, documents); 0 is not at all."""
        scores = np.zeros((len(questions), self._documents))
        for row, question in enumerate(questions):
            for word in self._with_word.keys() & set(stems(question, self._language)):
                scores[row, self._with_word[word]] += np.log(self._documents / len(self._with_word[word]))
        return scores.round(9)  # documents that share as much are equal, in whatever order it was added

    def search(
        self, questions: Sequence[str], queries: np.ndarray, corpus: np.ndarray, ids: Sequence[str], depth: int = DEPTH
    ) -> Ranking:
        """Return the chunks of the documents that each question names: those of the best named first, then by vectors.

        Args:
            questions: what is asked.
            queries: its vectors, shape (questions, dimensions), of length 1.
            corpus: the chunks' vectors, shape (chunks, dimensions), of length 1.
            ids: ids of the chunks.
            depth: chunks to return per question.
        """
        named = self.scores(questions)
        places = np.unique(named, return_inverse=True)[1].reshape(named.shape)  # whole numbers in the same order
        levels, products = np.where(named > 0, 3.0 * (1 + places), 0), inner_products(queries, corpus)

        def scores(rows: slice) -> np.ndarray:
            level = levels[rows][:, self._document]
            return np.where(level > 0, level + products(rows), 0)

        return ranking(scores, len(questions), ids, depth)
