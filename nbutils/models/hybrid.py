"""Hybrid search: vectors, BM25, and the documents that a question names, fused by rank."""

from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from nbutils.models.search import DEPTH, BM25Index, Ranking, guess_language, ranking, stems, vector_search
from nbutils.models.vectors import EmbeddingCache

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
    """Documents that questions name: those whose name shares words with the question.

    A shared word counts log(documents / documents with the word in their name), so that one that stands in every name
    says nothing.

    Args:
        names: the name of each chunk's document.
        language: of the questions, as for `BM25Index`.
    """

    def __init__(self, names: Sequence[str], language: str = "english"):
        documents, self._document = np.unique(np.asarray(names, dtype=str), return_inverse=True)
        self._language, self._documents, self._with_word = language, len(documents), {}
        for number, name in enumerate(documents.tolist()):
            for word in set(stems(name, language)):
                self._with_word.setdefault(word, []).append(number)

    def scores(self, questions: Sequence[str]) -> np.ndarray:
        """Return how well each question names each chunk's document, shape (questions, chunks); 0 is not at all."""
        scores = np.zeros((len(questions), self._documents))
        for row, question in enumerate(questions):
            for word in sorted(self._with_word.keys() & set(stems(question, self._language))):
                scores[row, self._with_word[word]] += np.log(self._documents / len(self._with_word[word]))
        return scores[:, self._document]

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

        def scores(rows: slice) -> np.ndarray:
            named = self.scores(questions[rows])
            places = np.unique(named, return_inverse=True)[1].reshape(named.shape)
            return np.where(named > 0, 3.0 * (1 + places) + queries[rows] @ corpus.T, 0)

        return ranking(scores, len(questions), ids, depth)


class HybridRetriever(BaseRetriever):
    """A LlamaIndex retriever that searches as the rows "… + BM25" of `compare_models` do, exactly and in memory.

    Args:
        nodes: the chunks; a header is embedded with them, and `file_name` in their metadata is the document's.
        embed_model: a SentenceTransformer or a LlamaIndex embedding.
        top_k: chunks to return.
        cache: folder of the embedding cache, False for none.
    """

    def __init__(self, nodes: Sequence[BaseNode], embed_model, top_k: int = 5, cache=None):
        super().__init__()
        self._nodes, self._model, self._top_k = list(nodes), embed_model, top_k
        self._ids = [node.node_id for node in self._nodes]
        self._store = EmbeddingCache(cache)
        texts = [node.get_content(MetadataMode.EMBED) for node in self._nodes]
        self._vectors, self._bm25 = self._store.embed(embed_model, texts), BM25Index(texts)
        files = [PurePosixPath(node.metadata.get("file_name", "")) for node in self._nodes]
        self._named = NamedDocuments(
            [str(file.with_suffix("") if file.name else file) for file in files], guess_language(texts)
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question, ids = [query_bundle.query_str], self._ids
        query = self._store.embed(self._model, question, "query")
        found = fuse(
            [
                vector_search(query, self._vectors, ids),
                self._bm25.search(question, ids),
                self._named.search(question, query, self._vectors, ids),
            ],
            ids,
            self._top_k,
        )
        return [
            NodeWithScore(node=self._nodes[place], score=score)
            for place, score in zip(found.index[0].tolist(), found.score[0].tolist(), strict=True)
            if place >= 0
        ]
