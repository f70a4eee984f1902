"""The walkthrough's two functions, `evaluate` and `evaluate_st`: the same rows and numbers, each text embedded once."""

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nbutils.core import UserError, write_atomic
from nbutils.models.names import is_service, load_model, resolve_embed_model
from nbutils.models.search import retrieve_as_llama_index
from nbutils.models.vectors import EmbeddingCache, model_fingerprint, sentence_transformer
from nbutils.questions.dataset import passages

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

    Model = str | Path | BaseEmbedding | SentenceTransformer


def as_model(model: "Model"):
    """Return the model that a name stands for; a model passes through."""
    if not isinstance(model, str | Path):
        return model
    return resolve_embed_model(model) if is_service(model) else load_model(model)


def relevance(dataset) -> dict[str, dict[str, float]]:
    """Return question id -> relevant chunk id -> grade (1 where the dataset gives no grades).

    Raises:
        UserError: a question without a relevant chunk, or one that points to a chunk the corpus lacks.
    """
    grades = {}
    for query_id in dataset.queries:
        found = dataset.relevant_docs.get(query_id) or ()
        found = found if isinstance(found, Mapping) else dict.fromkeys(found, 1)
        graded = {chunk: float(grade) for chunk, grade in found.items() if grade > 0}
        if not graded or any(chunk not in dataset.corpus for chunk in graded):
            raise UserError(f"Question {query_id} points to no chunk of the corpus. Remove it or add its chunk.")
        grades[query_id] = graded
    if not grades:
        raise UserError("The dataset holds no question. Run 02_generate_questions first.")
    return grades


def check_top_k(top_k: int) -> None:
    """Raise a UserError unless `top_k` is a whole number of at least 1."""
    if not isinstance(top_k, int) or top_k < 1:
        raise UserError(f"top_k is {top_k!r}; use a whole number of at least 1.")


def embed_texts(queries: Sequence[str], corpus: Sequence[str], model, cache: EmbeddingCache, **options):
    """Return the vectors of queries and chunks; `options` are those of `EmbeddingCache.embed`."""
    fingerprint = model_fingerprint(model) if cache.file else None
    documents = cache.embed(model, corpus, "document", fingerprint=fingerprint, **options)
    return cache.embed(model, queries, "query", fingerprint=fingerprint, **options), documents


def embed_dataset(
    dataset, model: "Model", *, bf16: bool | None = False, cache: str | Path | bool | None = None, **options
) -> tuple[np.ndarray, np.ndarray]:
    """Return the vectors of a dataset's questions and chunks, float32, shapes (n, dimensions), length 1 each.

    Args:
        dataset, bf16, cache: as for `evaluate`.
        model: a name or a model.
        options: further ones of `EmbeddingCache.embed`.
    """
    texts = list(dataset.queries.values()), list(passages(dataset).values())
    return embed_texts(*texts, as_model(model), EmbeddingCache(cache), bf16=bf16, **options)


def evaluate(
    dataset,
    embed_model: "Model",
    top_k: int = 5,
    verbose: bool = False,
    *,
    vector_store=None,
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
) -> list[dict]:
    """Return for each question whether its chunk is among the `top_k` retrieved, as the walkthrough's `evaluate` does.

    The rows are those of a VectorStoreIndex and its retriever: same ids, same order, ties included. The walkthrough
    assumes one relevant chunk per question; of several any one is a hit, and the first stands under `expected`.
    Source: LlamaIndex, "Finetune Embeddings" (docs.llamaindex.ai).

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        embed_model: a name (see `nbutils.models.names`), a LlamaIndex embedding, or a SentenceTransformer.
        top_k: chunks to retrieve per question.
        verbose: show progress.
        vector_store: an empty LlamaIndex vector store to search in place of the exact search.
        bf16: compute in bfloat16; None is where it pays. The default is float32, as LlamaIndex computes.
        cache: folder of the embedding cache, False for none.

    Returns:
        One dict per question: `is_hit`, `retrieved` (ids, best first), `expected` (id) and `query` (id).

    Raises:
        UserError: no question, a question that points nowhere, or a model that cannot be loaded.
    """
    relevant = relevance(dataset)
    check_top_k(top_k)
    options = {"bf16": bf16, "cache": cache, "show_progress": verbose, "normalize": False}
    queries, corpus = embed_dataset(dataset, embed_model, **options)
    if vector_store is None:
        retrieved = retrieve_as_llama_index(queries, corpus, list(dataset.corpus), top_k)
    else:
        retrieved = _retrieve_from_store(vector_store, queries, corpus, dataset.corpus, top_k)
    rows = []
    for query_id, ids in zip(dataset.queries, retrieved, strict=True):
        expected = next(iter(relevant[query_id]))
        is_hit = any(chunk in ids for chunk in relevant[query_id])
        rows.append({"is_hit": is_hit, "retrieved": ids, "expected": expected, "query": query_id})
    return rows


def _retrieve_from_store(store, queries: np.ndarray, corpus: np.ndarray, texts: dict[str, str], top_k: int):
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery

    names = {str(uuid.uuid5(uuid.NAMESPACE_OID, chunk)): chunk for chunk in texts}  # some stores take only UUIDs
    nodes = [
        TextNode(id_=name, text=texts[chunk], embedding=vector.tolist())
        for (name, chunk), vector in zip(names.items(), corpus, strict=True)
    ]
    stored = store.add(nodes)  # and some give ids of their own
    names |= {str(own): chunk for own, chunk in zip(stored, texts, strict=True)}
    retrieved = []
    for vector in queries:
        result = store.query(VectorStoreQuery(query_embedding=vector.tolist(), similarity_top_k=top_k))
        found = result.ids or [node.node_id for node in result.nodes or []]
        retrieved.append([names[str(name)] for name in found])
    return retrieved


def store_recall(exact: Sequence[dict], other: Sequence[dict]) -> float:
    """Return the share of the exactly nearest chunks that another vector store also returned.

    Args:
        exact: rows of `evaluate` with the exact search.
        other: rows of `evaluate` with `vector_store`, all else being the same.
    """
    found = [len(set(a["retrieved"]) & set(b["retrieved"])) for a, b in zip(exact, other, strict=True)]
    return sum(found) / sum(len(row["retrieved"]) for row in exact)


def evaluate_st(
    dataset,
    model_id: "Model",
    name: str,
    *,
    output_path: str | Path = "results",
    bf16: bool | None = False,
    cache: str | Path | bool | None = None,
) -> dict[str, float]:
    """Return what sentence-transformers' InformationRetrievalEvaluator gives, as the walkthrough's `evaluate_st` does.

    The evaluator itself computes the numbers; only the embeddings come from the cache.

    Args:
        dataset, bf16, cache: as for `evaluate`.
        model_id: a name (see `nbutils.models.names`) or a SentenceTransformer.
        name: goes into the keys and the CSV's name.
        output_path: folder of the CSV `Information-Retrieval_evaluation_NAME_results.csv`; made if missing.

    Returns:
        Metric key, e.g. `NAME_cosine_ndcg@10` -> value between 0 and 1.

    Raises:
        UserError: as `evaluate`; a model that is no SentenceTransformer; an `output_path` that cannot be written.
    """
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {query: set(chunks) for query, chunks in relevance(dataset).items()}
    model = sentence_transformer(load_model(model_id) if isinstance(model_id, str | Path) else model_id)
    if model is None:
        raise UserError(f"evaluate_st needs a sentence-transformers model; {model_id!r} is none. Use evaluate for it.")
    store = EmbeddingCache(cache)
    options = {"bf16": bf16, "normalize": False, "fingerprint": model_fingerprint(model) if store.file else None}

    class Evaluator(InformationRetrievalEvaluator):
        def embed_inputs(self, model, sentences, encode_fn_name=None, **kwargs):
            import torch

            kind = "query" if encode_fn_name == "query" else "document"
            return torch.from_numpy(store.embed(model, sentences, kind, **options))

    evaluator = Evaluator(dataset.queries, passages(dataset), relevant, name=name)
    metrics = evaluator(model)
    prefix = f"{name}_" if name else ""
    row = {column: metrics[prefix + column.replace("-", "_", 1).lower()] for column in evaluator.csv_headers[2:]}
    frame = pd.DataFrame([{"epoch": -1, "steps": -1} | row])
    write_atomic(Path(output_path) / evaluator.csv_file, frame.to_csv(index=False))
    return metrics
