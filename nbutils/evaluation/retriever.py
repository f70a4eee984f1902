"""Hybrid search as a LlamaIndex retriever."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from nbutils.core import UserError
from nbutils.evaluation.walkthrough import as_model, check_top_k
from nbutils.models.hybrid import NamedDocuments, fuse
from nbutils.models.search import BM25Index, vector_search
from nbutils.models.vectors import EmbeddingCache, unit
from nbutils.questions.dataset import names_of

if TYPE_CHECKING:
    from nbutils.evaluation.walkthrough import Model


class HybridRetriever(BaseRetriever):
    """Searches as the rows "… + BM25" of `compare_models` do, exactly and in memory.

    Args:
        nodes: the chunks; a header is embedded with them, and `file_name` in their metadata names the document.
        embed_model: a name or a model.
        top_k: chunks to return.
        bf16: compute in bfloat16; None is where it pays.
        cache: folder of the cache that keeps the chunks' vectors, False for none.

    Raises:
        UserError: no chunk, or a `top_k` that is no number of chunks.
    """

    def __init__(
        self, nodes: Sequence[BaseNode], embed_model: "Model", top_k: int = 5, *, bf16: bool | None = False,
        cache: str | Path | bool | None = None,
    ):  # fmt: skip
        super().__init__()
        check_top_k(top_k)
        if not nodes:
            raise UserError("There is no chunk to search. Pass nodes, as load_corpus gives them.")
        self._nodes, self._model, self._top_k, self._bf16 = list(nodes), as_model(embed_model), top_k, bf16
        self._ids = [node.node_id for node in self._nodes]
        texts = [node.get_content(MetadataMode.EMBED) for node in self._nodes]
        self._vectors, self._bm25 = EmbeddingCache(cache).embed(self._model, texts, bf16=bf16), BM25Index(texts)
        names = names_of(self._nodes)
        self._named = NamedDocuments(
            [names.get(chunk, "") for chunk in self._ids], [node.get_content() for node in self._nodes]
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        question, ids = [query_bundle.query_str], self._ids
        asked = EmbeddingCache(False).embed(self._model, query_bundle.embedding_strs, "query", bf16=self._bf16)
        query = unit(asked.mean(axis=0, keepdims=True)) if len(asked) > 1 else asked
        parts = [
            vector_search(query, self._vectors, ids),
            self._bm25.search(question, ids),
            self._named.search(question, query, self._vectors, ids),
        ]
        found = fuse(parts, ids, self._top_k)
        hits = zip(found.index[0].tolist(), found.score[0].tolist(), strict=True)
        return [NodeWithScore(node=self._nodes[place], score=score) for place, score in hits if place >= 0]
