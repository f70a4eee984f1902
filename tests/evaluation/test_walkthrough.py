import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from retrieval_examples import Words, tied_dataset

from nbutils.core import UserError
from nbutils.evaluation.compare import compare_models
from nbutils.evaluation.walkthrough import embed_dataset, evaluate, evaluate_st, relevance, store_recall
from nbutils.models.names import DEFAULT_MODEL
from nbutils.models.search import retrieve_as_llama_index
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


def documented_evaluate(dataset, embed_model, top_k):
    """What the walkthrough does: an index, a retriever, one query at a time."""
    nodes = [TextNode(id_=chunk, text=text) for chunk, text in dataset.corpus.items()]
    retriever = VectorStoreIndex(nodes, embed_model=embed_model).as_retriever(similarity_top_k=top_k)
    rows = []
    for query_id, query in dataset.queries.items():
        ids = [found.node.node_id for found in retriever.retrieve(query)]
        expected = dataset.relevant_docs[query_id][0]
        rows.append({"is_hit": expected in ids, "retrieved": ids, "expected": expected, "query": query_id})
    return rows


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("top_k", [1, 5, 100])
def test_evaluate_gives_llama_index_rows_even_at_ties(seed, top_k):
    dataset = tied_dataset(seed)
    assert evaluate(dataset, Words(), top_k) == documented_evaluate(dataset, Words(), top_k)


@pytest.mark.slow
def test_evaluate_gives_llama_index_rows_for_a_real_model(general, model):
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from nbutils.models.names import resolve_model

    embedding = HuggingFaceEmbedding(resolve_model(DEFAULT_MODEL))
    expected = documented_evaluate(general, embedding, 5)
    assert evaluate(general, embedding, 5) == expected
    assert evaluate(general, model, 5) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_retrieval_is_llama_indexes_for_any_small_vectors(data):
    from llama_index.core.indices.query.embedding_utils import get_top_k_embeddings

    numbers = st.integers(-2, 3)
    size = data.draw(st.integers(1, 3))
    row = st.lists(numbers, min_size=size, max_size=size).filter(any)
    corpus = np.array(data.draw(st.lists(row, min_size=1, max_size=25)), dtype=np.float32)
    queries = np.array(data.draw(st.lists(row, min_size=1, max_size=4)), dtype=np.float32)
    ids = data.draw(st.permutations([f"{i:02d}" for i in range(len(corpus))]))
    top_k = data.draw(st.integers(1, 8))
    expected = [
        get_top_k_embeddings(list(map(float, q)), corpus.astype(float).tolist(), None, top_k, ids)[1] for q in queries
    ]
    assert retrieve_as_llama_index(queries, corpus, ids, top_k) == expected


@pytest.mark.slow
def test_bfloat16_changes_little_and_leaves_the_model_alone(few, model):
    exact, fast = (embed_dataset(few, model, bf16=bf16, cache=False) for bf16 in (False, True))
    for one, other in zip(exact, fast, strict=True):
        assert (one * other).sum(axis=1).min() > 0.999
        assert np.abs(one - other).max() > 0
    assert {str(weight.dtype) for weight in model.parameters()} == {"torch.float32"}
    hits = [np.mean([row["is_hit"] for row in evaluate(few, model, bf16=bf16)]) for bf16 in (False, True)]
    assert hits[0] == pytest.approx(hits[1], abs=0.13)  # one question


def test_of_several_relevant_chunks_any_one_is_a_hit():
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "ship"}, corpus={"a": "rail", "b": "ship ship", "c": "sea"}, relevant_docs={"q": ["a", "b"]}
    )
    assert evaluate(dataset, Words(), 1) == [{"is_hit": True, "retrieved": ["b"], "expected": "a", "query": "q"}]


def test_evaluate_refuses_what_cannot_be_judged(general):
    with pytest.raises(UserError, match="top_k is 0"):
        evaluate(general, Words(), 0)
    broken = general.model_copy(update={"relevant_docs": general.relevant_docs | {next(iter(general.queries)): ["x"]}})
    with pytest.raises(UserError, match="points to no chunk"):
        evaluate(broken, Words())
    with pytest.raises(UserError, match="holds no question"):
        evaluate(EmbeddingQAFinetuneDataset(queries={}, corpus={"a": "b"}, relevant_docs={}), Words())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["qdrant", "faiss", "faiss by position"])
def test_a_vector_store_stands_in_for_the_exact_search(kind, general, model):
    if kind == "qdrant":
        module = pytest.importorskip("llama_index.vector_stores.qdrant", reason="qdrant is not installed")
        from qdrant_client import QdrantClient

        store = module.QdrantVectorStore("chunks", client=QdrantClient(":memory:"))
    else:
        pytest.importorskip("llama_index.vector_stores.faiss", reason="faiss is not installed")
        import faiss
        from llama_index.vector_stores.faiss import FaissMapVectorStore, FaissVectorStore

        index = faiss.IndexFlatIP(384)
        store = FaissMapVectorStore(faiss.IndexIDMap2(index)) if kind == "faiss" else FaissVectorStore(index)
    exact = evaluate(general, model)
    other = evaluate(general, model, vector_store=store)
    assert store_recall(exact, other) >= 0.99
    assert [row["expected"] for row in other] == [row["expected"] for row in exact]
    worse = [row | {"retrieved": row["retrieved"][:3]} for row in exact]
    assert store_recall(exact, worse) == pytest.approx(0.6)


@pytest.mark.slow
def test_evaluate_st_gives_the_evaluators_numbers(general, model, tmp_path):
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

    relevant = {query: set(found) for query, found in general.relevant_docs.items()}
    evaluator = InformationRetrievalEvaluator(general.queries, general.corpus, relevant, name="base")
    expected = evaluator(model, output_path=str(tmp_path / "theirs"))
    metrics = evaluate_st(general, model, "base", output_path=tmp_path / "new" / "results")
    assert metrics == pytest.approx(expected, abs=1e-9)
    assert list(metrics) == list(expected)
    ours, theirs = (
        pd.read_csv(folder / evaluator.csv_file) for folder in (tmp_path / "new" / "results", tmp_path / "theirs")
    )
    pd.testing.assert_frame_equal(ours, theirs)
    with pytest.raises(UserError, match="needs a sentence-transformers model"):
        evaluate_st(general, Words(), "words")


@pytest.mark.slow
def test_each_text_is_embedded_once(general, model, tmp_path, monkeypatch):
    embedded = []
    original = type(model).encode

    def counting(self, texts, *args, **kwargs):
        embedded.extend(texts)
        return original(self, texts, *args, **kwargs)

    monkeypatch.setattr(type(model), "encode", counting)
    folder = tmp_path / "c"
    evaluate(general, model, cache=folder)
    evaluate_st(general, model, "base", output_path=tmp_path, cache=folder)
    compare_models(general, {"base": model}, cache=folder, verbose=False)
    assert sorted(embedded) == sorted([*general.corpus.values(), *general.queries.values()])


def test_a_dataset_keeps_its_grades_in_its_file(model, tmp_path):
    grades = {"q": {"a": 2.0, "b": 1.0}}
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "ships"}, corpus={"a": "ships", "b": "a ship", "c": "rails"}, relevant_docs=grades
    )
    dataset.save_json(tmp_path / "graded.json")
    read = EmbeddingQAFinetuneDataset.from_json(tmp_path / "graded.json")
    assert relevance(read) == grades and read.query_docid_pairs == [("ships", ["a", "b"])]
    assert evaluate(read, Words())[0]["is_hit"]
