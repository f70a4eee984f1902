import json
import math
import re
import threading
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from pydantic import PrivateAttr

from nbutils.core import UserError
from nbutils.evaluation.compare import (
    METRICS,
    compare_models,
    embed_dataset,
    evaluate,
    evaluate_st,
    relevance,
    slug,
    store_recall,
    trec_run,
)
from nbutils.evaluation.gold import (
    find_leaks,
    load_general_knowledge,
    load_gold_questions,
    plain_words,
    remove_leaks,
    same_writer_warning,
    wording_overlap,
)
from nbutils.evaluation.inspection import (
    examples_html,
    map_points,
    question_attributes,
    question_style,
    similarities,
    size_curve,
    slices,
    wins_and_losses,
)
from nbutils.evaluation.stats import bootstrap_intervals, holm, permutation_p
from nbutils.evaluation.verdict import Effect, check_forgetting, decisive_set, questions_needed, verdict
from nbutils.models.metrics import query_metrics
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.models.search import Ranking, bm25_search, fuse, retrieve_as_llama_index, vector_search
from nbutils.models.vectors import EmbeddingCache, encode, model_fingerprint
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


class Words(BaseEmbedding):
    """Counts of a few words: an embedding with many exact ties."""

    calls: int = 0

    def _vector(self, text: str) -> list[float]:
        self.calls += 1
        return [1.0 + text.count(word) for word in ("ship", "rail", "sea", "rate")]

    def _get_text_embedding(self, text):
        return self._vector(text)

    def _get_query_embedding(self, query):
        return self._vector(query)

    async def _aget_query_embedding(self, query):
        return self._vector(query)


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model():
    return load_model(DEFAULT_MODEL)


@pytest.fixture(scope="module")
def general():
    everything = load_general_knowledge()
    corpus = dict(list(everything.corpus.items())[:60])
    queries = {q: t for q, t in everything.queries.items() if everything.relevant_docs[q][0] in corpus}
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs={q: everything.relevant_docs[q] for q in queries}
    )


def tied_dataset(seed: int, chunks: int = 40) -> EmbeddingQAFinetuneDataset:
    rng = np.random.default_rng(seed)
    words = np.array(["ship", "rail", "sea", "rate"])
    corpus = {f"c{rng.integers(10**9):09d}": " ".join(rng.choice(words, rng.integers(1, 4))) for _ in range(chunks)}
    queries = {f"q{i}": " ".join(rng.choice(words, 2)) for i in range(20)}
    return EmbeddingQAFinetuneDataset(
        queries=queries, corpus=corpus, relevant_docs={q: [str(rng.choice(list(corpus)))] for q in queries}
    )


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


def test_bfloat16_changes_little_and_leaves_the_model_alone(general, model):
    exact, fast = (embed_dataset(general, model, bf16=bf16, cache=False) for bf16 in (False, True))
    for one, other in zip(exact, fast, strict=True):
        assert (one * other).sum(axis=1).min() > 0.999
        assert np.abs(one - other).max() > 0
    assert {str(weight.dtype) for weight in model.parameters()} == {"torch.float32"}
    hits = [np.mean([row["is_hit"] for row in evaluate(general, model, bf16=bf16)]) for bf16 in (False, True)]
    assert hits[0] == pytest.approx(hits[1], abs=0.035)


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


def random_ranking(rng, queries: int, chunks: int, depth: int) -> Ranking:
    index = np.stack([rng.permutation(chunks)[:depth] for _ in range(queries)])
    return Ranking(index, np.sort(rng.random((queries, depth)))[:, ::-1])


def graded_case(seed: int, graded: bool):
    rng = np.random.default_rng(seed)
    corpus = {f"c{i:03d}": "text" for i in range(150)}
    queries = {f"q{i}": "?" for i in range(30)}
    relevant = {
        q: {
            f"c{chunk:03d}": int(rng.integers(1, 4)) if graded else 1
            for chunk in rng.choice(150, rng.integers(1, 20), replace=False)
        }
        for q in queries
    }

    class Dataset:
        pass

    dataset = Dataset()
    dataset.queries, dataset.corpus, dataset.relevant_docs = queries, corpus, relevant
    return dataset, random_ranking(rng, 30, 150, 100)


@pytest.mark.parametrize("graded", [False, True])
def test_metrics_agree_with_trec_eval(graded):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    from nbutils.evaluation.compare import ranking_metrics

    dataset, ranking = graded_case(3, graded)
    run = {}
    for line in trec_run(dataset, ranking, "any").splitlines():
        query, _, chunk, _, score, _ = line.split()
        run.setdefault(query, {})[chunk] = float(score)
    names = {"recip_rank", "ndcg_cut.10", "map_cut.100", "recall.1,3,5,10", "success.1,3,5,10"}
    theirs = pytrec_eval.RelevanceEvaluator(dataset.relevant_docs, names).evaluate(run)
    ours = ranking_metrics(dataset, ranking)
    for i, query in enumerate(dataset.queries):
        assert ours["ndcg@10"][i] == pytest.approx(theirs[query]["ndcg_cut_10"], abs=1e-6)
        assert ours["map@100"][i] == pytest.approx(theirs[query]["map_cut_100"], abs=1e-6)
        reciprocal = theirs[query]["recip_rank"]
        assert ours["mrr@10"][i] == pytest.approx(reciprocal if reciprocal >= 0.1 else 0, abs=1e-6)
        for k in (1, 3, 5, 10):
            assert ours[f"recall@{k}"][i] == pytest.approx(theirs[query][f"recall_{k}"], abs=1e-6)
            assert ours[f"hit_rate@{k}"][i] == pytest.approx(theirs[query][f"success_{k}"], abs=1e-6)


def test_metrics_agree_with_information_retrieval_evaluator(general, model):
    """With several relevant chunks a query, and chunks that are exact copies of others."""
    corpus = dict(general.corpus)
    relevant = {query: list(found) for query, found in general.relevant_docs.items()}
    for query, found in list(relevant.items())[:20]:
        corpus[f"copy-{found[0]}"] = corpus[found[0]]
        relevant[query] = [f"copy-{found[0]}", "oceans-1"] if found[0] != "oceans-1" else found
    dataset = EmbeddingQAFinetuneDataset(queries=general.queries, corpus=corpus, relevant_docs=relevant)
    theirs = evaluate_st(dataset, model, "")
    ours = compare_models(dataset, [model], bm25=False, hybrid=False, verbose=False).table.set_index("metric").value
    for name in ("mrr@10", "ndcg@10", "map@100", "recall@1", "recall@5", "recall@10"):
        assert ours[name] == pytest.approx(theirs[f"cosine_{name}"], abs=1e-9)
    for k in (1, 3, 5, 10):
        assert ours[f"hit_rate@{k}"] == pytest.approx(theirs[f"cosine_accuracy@{k}"], abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 40))
def test_metrics_lie_between_0_and_1_and_grow_with_k(seed, relevant, depth):
    rng = np.random.default_rng(seed)
    gains = np.zeros((1, depth))
    gains[0, rng.permutation(depth)[:relevant]] = 1
    metrics = query_metrics(gains, [np.ones(max(relevant, int(gains.sum())))])
    assert all(0 <= value[0] <= 1 + 1e-12 for value in metrics.values())
    hits = [metrics[f"hit_rate@{k}"][0] for k in (1, 3, 5, 10)]
    assert hits == sorted(hits)


def test_perfect_and_hopeless_rankings():
    perfect = query_metrics(np.array([[1.0, 0, 0]]), [np.ones(1)])
    hopeless = query_metrics(np.zeros((1, 3)), [np.ones(1)])
    assert all(value[0] == 1 for value in perfect.values())
    assert all(value[0] == 0 for value in hopeless.values())


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        chunk = rng.random(60)  # both questions of a chunk share its difficulty
        values = (rng.random((60, 2)) < chunk[:, None]).astype(float).ravel()
        low, high = bootstrap_intervals(values, np.repeat(np.arange(60), 2), draws=400)
        covered += low[0] <= 0.5 <= high[0]
    assert 0.90 <= covered / 200 <= 0.985


def test_bootstrap_covers_the_truth_with_few_chunks_too():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(600):
        chunk = rng.beta(0.7, 0.3, 8)
        values = (rng.random((8, 3)) < chunk[:, None]).astype(float).ravel()
        low, high = bootstrap_intervals(values, np.repeat(np.arange(8), 3), draws=400)
        covered += low[0] <= 0.7 <= high[0]
    assert 0.90 <= covered / 600 <= 0.98


def test_one_chunk_has_no_interval():
    assert np.isnan(bootstrap_intervals([0.0, 1.0], ["c", "c"])).all()


def test_intervals_over_chunks_are_wider_than_over_questions():
    chunk = np.random.default_rng(1).random(100) < 0.5
    values = np.repeat(chunk, 4).astype(float)
    wide = bootstrap_intervals(values, np.repeat(np.arange(100), 4))
    narrow = bootstrap_intervals(values, np.arange(400))
    assert wide[1] - wide[0] > 1.7 * (narrow[1] - narrow[0])


def test_permutation_p_is_exact_for_few_chunks_and_fair_for_many():
    assert permutation_p(np.ones(5), range(5))[0] == pytest.approx(2 / 2**5)
    assert permutation_p(np.zeros(5), range(5))[0] == 1
    rng = np.random.default_rng(0)
    p = [permutation_p(rng.normal(size=40), range(40), draws=500, seed=i)[0] for i in range(200)]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.10
    assert permutation_p(rng.normal(1, 1, size=40), range(40))[0] < 0.001


def test_permutation_p_agrees_with_scipy():
    from scipy.stats import permutation_test

    differences = np.random.default_rng(5).normal(0.2, 1, size=11)
    theirs = permutation_test((differences, np.zeros(11)), lambda a, b: np.mean(a - b), permutation_type="samples")
    assert permutation_p(differences, range(11))[0] == pytest.approx(theirs.pvalue, abs=1e-9)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(p):
    corrected = holm(p)
    assert (corrected >= np.array(p) - 1e-15).all() and (corrected <= 1).all()
    order = np.argsort(p, kind="stable")
    assert (np.diff(corrected[order]) >= 0).all()
    assert corrected[order[0]] == pytest.approx(min(1, len(p) * min(p)))


def test_holm_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_vector_search_is_exact_in_blocks_and_ranks_ties_by_id():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(500, 8)).astype(np.float32)
    corpus[200:400] = corpus[7]
    queries = rng.normal(size=(20, 8)).astype(np.float32)
    ids = [f"{i:04d}" for i in rng.permutation(500)]
    scores = queries @ corpus.T
    whole = vector_search(queries, corpus, ids, 50)
    for row in range(20):
        expected = sorted(range(500), key=lambda i: (-scores[row, i], ids[i]))[:50]
        assert [ids[i] for i in whole.index[row]] == [ids[i] for i in expected]
    blocks = vector_search(queries, corpus, ids, 50, block=1500)
    assert (blocks.index == whole.index).all()


def test_copies_of_a_vector_tie_exactly():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(72, 384)).astype(np.float32)
    corpus[60:] = corpus[rng.permutation(60)[:12]]
    ids = [f"{i:02d}" for i in rng.permutation(72)]
    ranking = vector_search(rng.normal(size=(120, 384)).astype(np.float32), corpus, ids)
    for index, score in zip(ranking.index, ranking.score, strict=True):
        by_vector = {}
        for chunk, value in zip(index, score, strict=True):
            by_vector.setdefault(corpus[chunk].tobytes(), []).append((float(value), ids[chunk]))
        for copies in by_vector.values():
            assert len({value for value, _ in copies}) == 1
            assert [chunk for _, chunk in copies] == sorted(chunk for _, chunk in copies)


@pytest.mark.slow
def test_a_hundred_thousand_chunks_stay_within_two_gibibytes():
    rng = np.random.default_rng(0)
    corpus = rng.normal(size=(100_000, 384)).astype(np.float32)
    corpus /= np.linalg.norm(corpus, axis=1, keepdims=True)
    queries = corpus[:1000] + rng.normal(size=(1000, 384)).astype(np.float32) * 0.01
    tracemalloc.start()
    ranking = vector_search(queries, corpus, [f"{i:06d}" for i in range(100_000)], 100)
    peak = tracemalloc.get_traced_memory()[1] + corpus.nbytes + queries.nbytes
    tracemalloc.stop()
    assert (ranking.index[:, 0] == np.arange(1000)).all()
    assert peak < 2 * 2**30
    sample = rng.integers(0, 1000, 5)
    for row in sample:
        exact = np.argsort(-(corpus.astype(np.float64) @ queries[row].astype(np.float64)))[:100]
        assert len(set(exact) ^ set(ranking.index[row])) <= 2


def test_bm25_finds_shared_stems_and_returns_nothing_for_none():
    texts = ["The ferries sailed at dawn.", "Rates for loans rose.", "Sailing in rough weather", "of the and"]
    ranking = bm25_search(["sailing ferry", "the of", "zebra"], texts, list("abcd"))
    assert set(ranking.index[0][ranking.index[0] >= 0]) == {0, 2}
    assert ranking.index[0, 0] == 0
    assert (ranking.index[1:] == -1).all()


def test_fusion_is_the_formula_and_its_ends_are_the_rankings():
    dense = Ranking(np.array([[0, 1, 2]]), np.array([[3.0, 2, 1]]))
    lexical = Ranking(np.array([[2, 1, -1]]), np.array([[2.0, 1, -np.inf]]))
    fused = fuse(dense, lexical, list("abc"), 0.5)
    assert fused.score[0, 0] == pytest.approx(0.5 / 63 + 0.5 / 61)
    assert fused.index[0].tolist() == [2, 1, 0]
    assert fuse(dense, lexical, list("abc"), 1.0).index[0].tolist() == [0, 1, 2]
    assert fuse(dense, lexical, list("abc"), 0.0).index[0].tolist()[:2] == [2, 1]


# --- the cache


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


def test_the_cache_tells_weights_length_prompt_and_precision_apart(model, tmp_path):
    cache = EmbeddingCache(tmp_path)
    text = ["word " * 200]
    plain = cache.embed(model, text, bf16=False)
    other = load_model(DEFAULT_MODEL, max_seq_length=16)
    short = cache.embed(other, text, bf16=False)
    other.prompts["document"] = "passage: "
    prompted = cache.embed(other, text, bf16=False)
    other.transformers_model.embeddings.word_embeddings.weight.data *= 1.5
    changed = cache.embed(other, text, bf16=False)
    assert model_fingerprint(model) == model_fingerprint(load_model(DEFAULT_MODEL)) != model_fingerprint(other)
    vectors = np.concatenate([plain, short, prompted, changed])
    assert (np.linalg.norm(vectors[:, None] - vectors[None], axis=2)[~np.eye(4, dtype=bool)] > 1e-3).all()
    assert (cache.embed(model, text, bf16=False) == plain).all()


def test_a_broken_cache_is_reported_and_not_trusted(model, tmp_path):
    (tmp_path / "embeddings.sqlite").write_bytes(b"not a database" * 100)
    with pytest.warns(UserWarning, match="cannot be used"):
        vectors = EmbeddingCache(tmp_path).embed(model, ["ship"])
    assert np.allclose(vectors, EmbeddingCache(False).embed(model, ["ship"]), atol=1e-6)


def test_an_embedding_whose_weights_cannot_be_seen_is_not_cached(tmp_path):
    words = Words()
    for _ in range(2):
        EmbeddingCache(tmp_path).embed(words, ["ship", "ship", "rail"])
    assert words.calls == 4
    assert not (tmp_path / "embeddings.sqlite").exists()


# --- compare_models


@pytest.fixture(scope="module")
def comparison(general, model):
    tuned = load_model(DEFAULT_MODEL, max_seq_length=64)
    gold = general.model_copy(update={"queries": dict(list(general.queries.items())[:25])})
    return compare_models(
        {"synthetic": general, "gold": gold},
        {"base": model, "fine-tuned": tuned, "ada": "openai:text-embedding-ada-002"},
        top_k=7, dev=gold, verbose=False, draws=300,
    )  # fmt: skip


def test_compare_models_has_every_row_column_and_interval(comparison, monkeypatch):
    systems = list(comparison.rankings["gold"])
    assert systems[:4] == ["base", "base, 64 tokens", "fine-tuned", "BM25"]
    assert systems[4:] == ["base + BM25", "base, 64 tokens + BM25", "fine-tuned + BM25"]
    table = comparison.table
    assert {*METRICS, "hit_rate@7", "recall@1", "recall@7", "recall@10"} <= set(table.metric)
    assert set(table.question_set) == {"synthetic", "gold"}
    assert ((table.low <= table.value) & (table.value <= table.high)).all()
    differences = comparison.differences
    assert set(differences.system) == set(systems) - {"base"}
    assert (differences.p_holm >= differences.p).all()
    assert (differences.wins + differences.losses + differences.ties == differences.questions).all()
    assert any("ada was left out: OPENAI_API_KEY" in note for note in comparison.notes)
    assert all(0.1 <= weight <= 0.9 for weight in comparison.weights.values())
    assert comparison.summary(question_set="gold").shape == (7, 7)
    equal = differences[differences.system == "base, 64 tokens"].set_index(["question_set", "metric"]).difference
    tuned = differences[differences.system == "fine-tuned"].set_index(["question_set", "metric"]).difference
    assert np.allclose(equal, tuned)


def test_paired_differences_are_those_of_the_means(comparison):
    means = comparison.table.set_index(["question_set", "system", "metric"]).value
    for row in comparison.differences.itertuples():
        key = row.question_set, row.system, row.metric
        assert row.difference == pytest.approx(means[key] - means[row.question_set, "base", row.metric])


def test_question_sets_over_one_corpus_embed_it_once(general):
    words = Words()
    half = general.model_copy(update={"queries": dict(list(general.queries.items())[:20])})
    compare_models({"a": general, "b": half}, [words], dev=half, verbose=False, draws=20)
    assert words.calls == len(general.corpus) + len(general.queries)


@pytest.mark.parametrize(("right", "weight"), [("dense", 0.6), ("lexical", 0.4), ("both", 0.5)])
def test_the_hybrid_weight_is_the_one_that_serves_the_development_questions(right, weight):
    from nbutils.evaluation.compare import _hybrid_weight

    corpus = {f"c{i:02d}": "text" for i in range(99)}
    dev = EmbeddingQAFinetuneDataset(queries={"q": "?"}, corpus=corpus, relevant_docs={"q": ["c98"]})
    others, scores = np.arange(1, 98), np.arange(99.0, 0, -1)[None, :]
    rankings = {}
    for system, middle, wrong in (("base", others, "lexical"), ("BM25", others[::-1], "dense")):
        index = [0, *middle, 98] if right == wrong else [98, *middle, 0]
        rankings[system] = Ranking(np.array([index]), scores)
    assert _hybrid_weight(dev, rankings, "base") == weight
    assert _hybrid_weight(None, None, "base") == 0.5


def test_compare_models_names_what_is_wrong(general, model):
    with pytest.raises(UserError, match="which is not among the models"):
        compare_models(general, {"a": model}, base="b")
    with pytest.raises(UserError, match="holds no model"):
        compare_models(general, {"a": None})
    with pytest.raises(UserError, match=r"gold: .*points to no chunk"):
        compare_models({"gold": general.model_copy(update={"relevant_docs": {}})}, {"a": model})


def test_a_service_that_fails_is_left_out_with_its_reason(general, monkeypatch):
    """Also where the key is set and the extra package is missing."""

    class Refuse(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(401, "wrong key")

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("OPENAI_API_KEY", "wrong")
        monkeypatch.setenv("OPENAI_API_BASE", f"http://127.0.0.1:{server.server_port}/v1")
        service = {"OpenAI": "openai:text-embedding-3-small"}
        found = compare_models(general, {"base": Words(), "tuned": Words()} | service, verbose=False, draws=20)
        assert "OpenAI" not in found.rankings["questions"] and {"base", "tuned"} <= set(found.rankings["questions"])
        assert any(re.match(r"OpenAI was left out: .*(extra package|401)", note) for note in found.notes)
        with pytest.raises(Exception, match=r"extra package|401"):
            compare_models(general, service, verbose=False, draws=20)
        server.shutdown()


def test_grades_count(model):
    dataset, _ = graded_case(1, True)
    dataset.corpus = {chunk: f"{chunk} ships" for chunk in dataset.corpus}
    table = compare_models(dataset, [Words()], verbose=False).table
    assert table.value.between(0, 1).all()
    assert relevance(dataset)["q0"] == {chunk: float(grade) for chunk, grade in dataset.relevant_docs["q0"].items()}


def test_a_dataset_keeps_its_grades_in_its_file(model, tmp_path):
    grades = {"q": {"a": 2.0, "b": 1.0}}
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "ships"}, corpus={"a": "ships", "b": "a ship", "c": "rails"}, relevant_docs=grades
    )
    dataset.save_json(tmp_path / "graded.json")
    read = EmbeddingQAFinetuneDataset.from_json(tmp_path / "graded.json")
    assert relevance(read) == grades and read.query_docid_pairs == [("ships", ["a", "b"])]
    assert evaluate(read, Words())[0]["is_hit"]


def test_a_service_is_asked_for_several_queries_at_once_and_their_order_stays():
    class Service(Words):
        _together: threading.Barrier = PrivateAttr(default_factory=lambda: threading.Barrier(4, timeout=20))

        def _get_query_embedding(self, query):
            self._together.wait()
            return self._vector(query)

    queries = ["ship", "rail", "sea", "rate"]
    assert np.array_equal(encode(Service(num_workers=4), queries, "query"), encode(Words(), queries, "query"))


def test_results_are_exported_tidy_and_in_trec_format(comparison, tmp_path):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
    files = comparison.save(tmp_path / "results")
    assert all(file.is_file() for file in files)
    metrics = pd.read_csv(tmp_path / "results" / "metrics.csv")
    pd.testing.assert_frame_equal(metrics, comparison.table, check_dtype=False)
    assert json.loads((tmp_path / "results" / "results.json").read_text())["base"] == "base"
    assert len(pd.read_csv(tmp_path / "results" / "per_query.csv")) == len(comparison.per_query)
    for question_set in comparison.datasets:
        with open(tmp_path / "results" / "qrels" / f"{question_set}.trec") as file:
            qrels = pytrec_eval.parse_qrel(file)
        for system in comparison.rankings[question_set]:
            with open(tmp_path / "results" / "runs" / f"{question_set}.{slug(system)}.trec") as file:
                run = pytrec_eval.parse_run(file)
            scores = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10"}).evaluate(run)
            mean = sum(row["ndcg_cut_10"] for row in scores.values()) / len(qrels)
            expected = metrics.query("question_set == @question_set and system == @system and metric == 'ndcg@10'")
            assert mean == pytest.approx(expected.value.item(), abs=1e-6)


# --- understanding


def test_wins_and_losses_show_texts_and_escape_them(comparison):
    frame = wins_and_losses(comparison, "synthetic", "BM25")
    assert {"win", "loss"} == set(frame.outcome)
    assert (frame[frame.outcome == "win"].change > 0).all() and (frame[frame.outcome == "loss"].change < 0).all()
    corpus = comparison.datasets["synthetic"].corpus
    assert (frame.expected_text == frame.expected.map(corpus)).all()
    nasty = frame.head(1).assign(question="<script>alert(1)</script>", first_text='<img src=x onerror="alert(1)">')
    shown = examples_html(nasty)
    assert "<script>" not in shown and "<img" not in shown and "&lt;script&gt;" in shown
    with pytest.raises(UserError, match="no system"):
        wins_and_losses(comparison, "synthetic", "nobody")


@pytest.mark.parametrize(
    ("question", "style"),
    [
        ("How many ships sail?", "how many"),
        ("How does it sail?", "how"),
        ("In which year was it founded?", "which"),
        ("Did profit rise?", "yes or no"),
        ("profit 2021", "no question word"),
        ("Whose money was it?", "who"),
        ("", "no question word"),
    ],
)
def test_question_style(question, style):
    assert question_style(question) == style


def test_slices_split_the_questions_and_agree_with_the_whole(comparison):
    dataset = comparison.datasets["synthetic"]
    nodes = [
        TextNode(id_=chunk, text=text, metadata={"file_name": f"{i % 2}.pdf", "page": i + 1})
        for i, (chunk, text) in enumerate(dataset.corpus.items())
    ]
    frame = slices(comparison, nodes, "synthetic", "BM25")
    assert set(frame.slice) == {"document", "page region", "question style", "question length"}  # none has a number
    whole = comparison.differences.query("question_set == 'synthetic' and system == 'BM25' and metric == 'mrr@10'")
    for _, part in frame.groupby("slice"):
        assert part.questions.sum() == len(dataset.queries)
        mean = (part.difference * part.questions).sum() / part.questions.sum()
        assert mean == pytest.approx(whole.difference.item())
    assert "document" not in question_attributes(dataset)
    for node in nodes:
        node.metadata["file_name"] = "only.pdf"
    assert "document" not in set(slices(comparison, nodes, "synthetic", "BM25").slice)


def test_similarities_map_and_size_curve(general, model):
    near = similarities(general, model)
    hits = [row["is_hit"] for row in evaluate(general, model, top_k=1)]
    assert ((near.right > near.wrong).to_numpy() == hits).all()
    points = map_points(general, model)
    assert points.kind.value_counts().to_dict() == {"chunk": 60, "question": 60}
    sizes = size_curve(general, {"base": model}, [32, 384, 5000])
    assert set(sizes.dimensions) == {32, 384} and len(sizes) == 6
    bytes_ = sizes.set_index(["dimensions", "precision"]).bytes
    assert (bytes_[384, "float32"], bytes_[384, "int8"], bytes_[384, "binary"]) == (1536, 384, 48)
    values = sizes.set_index(["dimensions", "precision"]).value
    queries, corpus = embed_dataset(general, model)
    assert queries.shape == corpus.shape == (60, 384)
    assert values[384, "float32"] > values[32, "binary"]
    assert values[384, "int8"] == pytest.approx(values[384, "float32"], abs=0.02)


# --- question sets


@pytest.fixture
def nodes():
    texts = [
        "Brackwater began in 1921 with one wooden steamer.",
        "Each crossing is weather-\nbound in winter; naïve crews suffer.",
        "The loan of $5.2 million falls due on 31 March 2027 and may be repaid earlier without penalty.",
    ]
    return [
        TextNode(id_=f"n{i}", text=text, metadata={"file_name": "report.pdf", "page": i + 1, "page_label": str(i + 1)})
        for i, text in enumerate(texts)
    ]


def gold_file(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_gold_questions_by_page_chunk_and_quote(tmp_path, nodes):
    path = gold_file(
        tmp_path / "gold.csv",
        "question,pages,quote,chunk\n"
        'When was it founded?,1;2,"in 1921 with",\n'
        'Why cancelled?,,"WEATHER-bound in winter; naive crews",\n'
        "Debt?,,,n2;n0\n"
        'Loan?,,"the loan of $5.2 million falls due on 31 March 2027 and may be repaid early without any penalty",\n',
    )
    dataset = load_gold_questions(path, nodes)
    assert list(dataset.relevant_docs.values()) == [["n0", "n1"], ["n1"], ["n2", "n0"], ["n2"]]
    assert next(iter(load_gold_questions(path, nodes, by="quote").relevant_docs.values())) == ["n0"]
    assert list(dataset.queries) == list(load_gold_questions(path, nodes).queries)


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_gold_questions_from_json(tmp_path, nodes, suffix):
    rows = [{"question": "When?", "pages": [1, 3]}, {"question": "Why?", "page": 2, "document": "report.pdf"}]
    text = json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows))
    dataset = load_gold_questions(gold_file(tmp_path / f"g.{suffix}", text), nodes)
    assert list(dataset.relevant_docs.values()) == [["n0", "n2"], ["n1"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question,pages\nWhen?,9\n", r"gold\.csv, row 2: page 9 of report\.pdf has no chunk \(pages end at 3\)"),
        ("question,pages\nOk?,1\nWhen?,\n", r"gold\.csv, row 3: no 'pages', 'chunk' or 'quote'"),
        ("question,pages\nWhen?,first\n", r"row 2: 'first' is no page number"),
        ("question,pages\n,3\n", r"row 2: the column 'question' is empty"),
        ("question,chunk\nWhen?,zzz\n", r"row 2: there is no chunk 'zzz'"),
        ("question,quote\nWhen?,never written anywhere at all\n", r"row 2: the quote .* stands nowhere"),
        ("question,pages,file\nWhen?,1,other.pdf\n", r"row 2: there is no document 'other\.pdf'"),
        ("question,pages\n", "holds no question"),
        ("question,quote\nWhen, in 1921?,one wooden steamer\n", r"row 2 has more cells than the header.*','"),
        ('question,pages\n"multi\nline",1\n"When?",77\n', r"row 4: page 77"),
    ],
)
def test_a_gold_row_that_points_nowhere_names_file_and_row(tmp_path, nodes, text, message):
    with pytest.raises(UserError, match=message):
        load_gold_questions(gold_file(tmp_path / "gold.csv", text), nodes)


def test_gold_files_that_cannot_be_read(tmp_path, nodes):
    with pytest.raises(UserError, match=r"Cannot read .*none\.csv"):
        load_gold_questions(tmp_path / "none.csv", nodes)
    with pytest.raises(UserError, match=r"cannot be read as \.json"):
        load_gold_questions(gold_file(tmp_path / "g.json", "[{]"), nodes)
    with pytest.raises(UserError, match=r"g\.jsonl, row 3 is no JSON object"):
        load_gold_questions(gold_file(tmp_path / "g.jsonl", '{"question": "?", "page": 1}\n\n{oops\n'), nodes)
    (tmp_path / "latin.csv").write_bytes("question,pages\nWährung?,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_gold_questions(tmp_path / "latin.csv", nodes)
    with pytest.raises(UserError, match="use 'page' or 'quote'"):
        load_gold_questions(tmp_path / "none.csv", nodes, by="chapter")


@given(st.text(max_size=200))
def test_plain_words_is_stable(text):
    words = plain_words(text)
    assert plain_words(" ".join(words)) == words


def test_wording_overlap_is_a_share_of_stems():
    dataset = EmbeddingQAFinetuneDataset(
        queries={"a": "Which ferries sailed?", "b": "profit margin", "c": "of the"},
        corpus={"x": "The ferry was sailing.", "y": "nothing"},
        relevant_docs={"a": ["y", "x"], "b": ["y"], "c": ["x"]},
    )
    share = wording_overlap(dataset)
    assert share["a"] == 1 and share["b"] == 0 and math.isnan(share["c"])


LONG = " ".join(f"word{i % 37} clause{i}" for i in range(60))


def test_leaks_are_named_counted_and_removed(capsys):
    train = {"t1": LONG, "t2": "something else entirely " * 5}
    validation = EmbeddingQAFinetuneDataset(
        queries={"q1": "?", "q2": "?", "q3": "?"},
        corpus={"same": LONG.upper(), "near": LONG.replace("clause30", "changed"), "new": LONG[::-1]},
        relevant_docs={"q1": ["same"], "q2": ["near", "new"], "q3": ["new"]},
    )
    found = {leak.chunk: leak for leak in find_leaks(train, validation.corpus)}
    assert set(found) == {"same", "near"} and found["same"].exact and not found["near"].exact
    assert found["near"].source == "t1" and 0.8 <= found["near"].share < 1
    rest, leaks = remove_leaks(validation, train)
    assert list(rest.corpus) == ["new"] and list(rest.queries) == ["q2", "q3"] and len(leaks) == 2
    assert rest.relevant_docs["q2"] == ["new"]
    printed = capsys.readouterr().out
    assert "2 of 3 validation chunks" in printed and "same" in printed and "1 word for word" in printed
    kept, _ = remove_leaks(validation, train, keep=True)
    assert kept is validation
    with pytest.raises(UserError, match="Choose other files"):
        remove_leaks(validation, validation.corpus)


def test_a_leak_that_was_cut_differently_is_found():
    words = LONG.split()
    train = {"first": " ".join(words[:70]), "second": " ".join(words[62:])}
    (leak,) = find_leaks(train, {"middle": " ".join(words[35:100]), "new": LONG[::-1]})
    assert leak.chunk == "middle" and leak.source in train and leak.share == 1 and not leak.exact


def test_removing_leaks_keeps_grades():
    dataset, _ = graded_case(1, True)
    rest, _ = remove_leaks(dataset, {"t": "text"}, keep=True)
    assert rest is dataset
    dataset.corpus = {chunk: f"text {chunk}" for chunk in dataset.corpus}
    rest, leaks = remove_leaks(dataset, {"t": "text c000"})
    assert [leak.chunk for leak in leaks] == ["c000"] and "c000" in dataset.corpus and "c000" not in rest.corpus
    expected = {q: {c: g for c, g in found.items() if c != "c000"} for q, found in dataset.relevant_docs.items()}
    assert rest.relevant_docs == {q: found for q, found in expected.items() if found}


def test_same_writer_warning():
    assert "gpt-4" in same_writer_warning("gpt-4", "GPT-4 ")
    assert same_writer_warning("gpt-4", "people") is None


def test_the_general_set_is_large_varied_and_hard_enough():
    dataset = load_general_knowledge()
    assert len(dataset.corpus) >= 200 and len(dataset.queries) >= 200
    assert len({chunk.rpartition("-")[0] for chunk in dataset.corpus}) >= 40
    assert len(set(dataset.corpus.values())) == len(dataset.corpus)
    assert wording_overlap(dataset).mean() < 0.2


# --- forgetting and the verdict


def damaged(model_name=DEFAULT_MODEL):
    model = load_model(model_name)
    weight = model.transformers_model.embeddings.word_embeddings.weight
    rng = np.random.default_rng(0)
    noise = rng.normal(size=tuple(weight.shape), scale=float(weight.data.std()) * 3).astype(np.float32)
    weight.data += weight.data.new_tensor(noise)
    return model


def test_forgetting_is_called_out_and_can_fail_the_run(general, model):
    same = check_forgetting(model, model, datasets={"general": general})
    assert not same.forgot and (same.table.difference == 0).all() and "no drop" in str(same)
    same.stop_if_forgot()
    worse = damaged()
    result = check_forgetting(model, worse, datasets={"general": general})
    assert result.forgot and result.table.difference.item() < -0.03 and "forgot" in str(result)
    with pytest.raises(UserError, match="forgot what the base knew"):
        check_forgetting(model, worse, datasets={"general": general}, fail=True)


def test_nanobeir_without_a_hub_is_left_out_with_a_note(general, model):
    result = check_forgetting(model, model, datasets={"general": general}, nanobeir=True)
    assert len(result.table) == 1 and "NanoBEIR was left out" in result.notes[0] and result.notes[0] in str(result)


class Numbers:
    """A comparison made of given ranks: what the verdict reads."""

    def __init__(self, ranks: dict[str, dict[str, list[float]]], tuned: str | None = "fine-tuned"):
        frames, self.datasets, self.rankings = [], {}, {}
        for question_set, systems in ranks.items():
            count = len(next(iter(systems.values())))
            ids = [f"q{i}" for i in range(count)]
            self.datasets[question_set] = EmbeddingQAFinetuneDataset(
                queries=dict.fromkeys(ids, "Which ships?"), corpus={"c": "ships"}, relevant_docs={q: ["c"] for q in ids}
            )
            self.rankings[question_set] = dict.fromkeys(systems)
            for system, values in systems.items():
                rank = np.array(values, dtype=float)
                frames.append(
                    pd.DataFrame(
                        {"question_set": question_set, "system": system, "query": ids,
                         "cluster": ids, "mrr@10": 1 / rank, "hit_rate@5": (rank <= 5) * 1.0}
                    )
                )  # fmt: skip
        self.per_query = pd.concat(frames, ignore_index=True)
        self.base, self.tuned, self.notes, self.costs, self.weights = "base", tuned, [], None, {}


GOOD, MIDDLE, BAD = [1.0] * 200, [2.0] * 200, [8.0] * 200
NOISE = list(np.random.default_rng(0).permutation([1.0, 9.0] * 100))
OTHER_NOISE = list(np.random.default_rng(1).permutation([1.0, 9.0] * 100))


LUCKY = list(np.random.default_rng(2).permutation([1.0, 9.0] * 92 + [1.0] * 16))


class Forgot:
    forgot = True

    def __str__(self):
        return "general: 0.8 → 0.5"


@pytest.mark.parametrize(
    ("ranks", "forgetting", "kind", "advice"),
    [
        ({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}, None, "better", "use it"),
        ({"gold": {"base": MIDDLE, "fine-tuned": BAD}}, None, "hurt", "keep the base"),
        ({"synthetic": {"base": MIDDLE, "fine-tuned": BAD}}, None, "hurt", "keep the base"),
        ({"gold": {"base": MIDDLE, "fine-tuned": MIDDLE}}, None, "same", "keep the base"),
        ({"gold": {"base": NOISE, "fine-tuned": OTHER_NOISE}}, None, "too few", "get more data"),
        ({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}, Forgot(), "forgot", "keep the base"),
        ({"gold": {"base": MIDDLE, "base, 512 tokens": GOOD, "fine-tuned": GOOD}}, None, "length", "keep the base"),
        ({"gold": {"base": BAD, "base, 512 tokens": MIDDLE, "fine-tuned": GOOD}}, None, "better", "use it"),
        ({"gold": {"base": BAD, "base, 512 tokens": NOISE, "fine-tuned": LUCKY}}, None, "better", "use it"),
        (
            {"synthetic": {"base": MIDDLE, "fine-tuned": GOOD}, "gold": {"base": MIDDLE, "fine-tuned": MIDDLE}},
            None, "disagree", "keep the base",
        ),
        (
            {"synthetic": {"base": MIDDLE, "fine-tuned": GOOD}, "gold": {"base": MIDDLE, "fine-tuned": BAD}},
            None, "hurt", "keep the base",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "base + BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "better", "use hybrid",
        ),
        (
            {"gold": {"base": MIDDLE, "fine-tuned": BAD, "BM25": GOOD, "base + BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "hurt", "use hybrid",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": BAD, "base + BM25": BAD, "fine-tuned + BM25": BAD}},
            None, "better", "use it",
        ),
        (
            {"gold": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": MIDDLE}},
            None, "better", "use BM25",
        ),
        (
            {"synthetic": {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": GOOD}},
            None, "better", "use it",
        ),
        ({"gold": {"base": MIDDLE[:5], "fine-tuned": MIDDLE[:5]}}, None, "too few", "get more data"),
        ({"gold": {"base": MIDDLE[:1], "fine-tuned": GOOD[:1]}}, None, "too few", "get more data"),
    ],
)  # fmt: skip
def test_the_verdict_follows_its_rules(ranks, forgetting, kind, advice):
    answer = verdict(Numbers(ranks), forgetting)
    assert (answer.kind, answer.advice) == (kind, advice)
    assert f"Advice: {advice}." in answer.headline
    assert answer.next_steps and answer.lines
    if advice.startswith("use "):
        first = {"use hybrid": "BM25 together", "use BM25": "BM25 alone", "use it": "Use the fine-tuned model"}
        assert first[advice] in answer.next_steps[0]
    assert any("as a set named gold" in step for step in answer.next_steps) == ("gold" not in ranks)
    assert ("not known" in answer.headline) == ("gold" not in ranks)
    assert "nan" not in str(answer)


def test_word_search_is_not_advised_by_questions_that_borrow_its_words():
    ranks = {"base": BAD, "fine-tuned": MIDDLE, "BM25": GOOD, "fine-tuned + BM25": GOOD}
    answer = verdict(Numbers({"synthetic": ranks}))
    assert any("Do not choose word search" in step for step in answer.next_steps)
    assert any("word search looks better on them" in line for line in answer.lines)
    assert not any("word search looks better on them" in line for line in verdict(Numbers({"gold": ranks})).lines)


def test_the_headline_does_not_contradict_itself():
    mixed = [1.0] * 190 + [9.0] * 10
    answer = verdict(Numbers({"gold": {"base": [4.0] * 200, "fine-tuned": mixed}}))
    assert "for 95, the base for 100, but the first right chunk comes sooner" in answer.headline
    assert (
        "and the first right chunk comes later"
        in verdict(Numbers({"gold": {"base": GOOD, "fine-tuned": BAD}})).headline
    )


def test_warnings_stand_in_the_verdict():
    numbers = Numbers({"gold": {"base": MIDDLE, "fine-tuned": GOOD}})
    warning = same_writer_warning("gpt-4", "gpt-4")
    assert warning in verdict(numbers, warnings=[warning, None]).lines


def test_the_verdict_reads_as_text_and_escaped_html():
    answer = verdict(Numbers({"gold": {"base": MIDDLE, "fine-tuned": GOOD}}), costs={"training": "<b>3 s</b>"})
    assert "What to do next:\n1. Use the fine-tuned model" in str(answer)
    shown = answer._repr_html_()
    assert "<b>" not in shown and "&lt;b&gt;3 s" in shown and 'data-kind="better"' in shown
    with pytest.raises(UserError, match="no fine-tuned system"):
        verdict(Numbers({"gold": {"base": GOOD}}, tuned=None))
    with pytest.raises(UserError, match="no question set 'x'"):
        verdict(Numbers({"gold": {"base": GOOD, "fine-tuned": GOOD}}), decisive="x")


def test_the_decisive_set_is_the_one_people_wrote():
    assert decisive_set(["synthetic", "gold"]) == "gold"
    assert decisive_set(["synthetic", "human questions"]) == "human questions"
    assert decisive_set(["synthetic"]) == "synthetic"


def test_questions_needed_falls_with_the_effect():
    def effect(difference):
        return Effect("a", "b", "s", 0, 0, difference, difference - 0.05, difference + 0.05, 0.5, 100, 100)

    small, large = questions_needed(effect(0.03)), questions_needed(effect(0.06))
    assert small > large >= 100
    expected = 100 * (2.8 * 0.1 / 3.92 / 0.03) ** 2
    assert small == math.ceil(expected / 10) * 10
