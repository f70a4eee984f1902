import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from retrieval_examples import Words, graded_case

from nbutils.core import UserError, slug
from nbutils.evaluation.compare import METRICS, compare_models
from nbutils.evaluation.walkthrough import evaluate_st, relevance
from nbutils.models.names import DEFAULT_MODEL, load_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


@pytest.fixture(scope="module")
def comparison(general, model):
    tuned = load_model(DEFAULT_MODEL, max_seq_length=64)
    gold = general.model_copy(update={"queries": dict(list(general.queries.items())[:25])})
    return compare_models(
        {"synthetic": general, "gold": gold},
        {"base": model, "fine-tuned": tuned, "ada": "openai:text-embedding-ada-002"},
        top_k=7, human=["gold"], verbose=False, draws=300,
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
    assert comparison.human == {"gold"} and comparison.decisive == "gold"
    assert comparison.summary(question_set="gold").shape == (7, 7)
    equal = differences[differences.system == "base, 64 tokens"].set_index(["question_set", "metric"]).difference
    tuned = differences[differences.system == "fine-tuned"].set_index(["question_set", "metric"]).difference
    assert np.allclose(equal, tuned)


def test_paired_differences_are_those_of_the_means(comparison):
    means = comparison.table.set_index(["question_set", "system", "metric"]).value
    for row in comparison.differences.itertuples():
        key = row.question_set, row.system, row.metric
        assert row.difference == pytest.approx(means[key] - means[row.question_set, "base", row.metric])


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


def test_question_sets_over_one_corpus_embed_it_once(general):
    words = Words()
    half = general.model_copy(update={"queries": dict(list(general.queries.items())[:20])})
    compare_models({"a": general, "b": half}, [words], verbose=False, draws=20)
    assert words.calls == len(general.corpus) + len(general.queries)


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


@pytest.mark.slow
def test_models_of_one_folder_name_are_told_apart(general):
    from nbutils.evaluation.compare import _names

    assert _names(["outputs/a/model", Path("outputs/b/model"), DEFAULT_MODEL]) == ["a/model", "b/model", DEFAULT_MODEL]
    assert _names(["x/model", "x/model", "y"]) == ["x/model", "x/model-2", "y"]
    assert _names([Words(), Words()]) == ["model 1", "model 2"]
    found = compare_models(general, [DEFAULT_MODEL, DEFAULT_MODEL], bm25=False, hybrid=False, verbose=False, draws=20)
    assert list(found.rankings["questions"]) == [DEFAULT_MODEL, f"{DEFAULT_MODEL}-2"]


@pytest.mark.slow
def test_the_base_is_read_no_further_than_it_can(few):
    long = load_model(DEFAULT_MODEL)
    long.max_seq_length = 8192
    found = compare_models(few, {"base": DEFAULT_MODEL, "long": long}, hybrid=False, verbose=False, draws=20)
    assert found.same_length == "base, 512 tokens"


def test_a_service_that_is_not_named_is_not_asked(general, monkeypatch):
    """Also with a key in the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    monkeypatch.setenv("OPENAI_API_BASE", "http://127.0.0.1:9/v1")
    found = compare_models(general, {"base": Words(), "OpenAI": None}, verbose=False, draws=20)
    assert list(found.rankings["questions"]) == ["base", "BM25", "base + BM25"]
    assert "OpenAI was left out." in found.notes


def test_each_test_is_made_once_and_for_every_pair(comparison):
    pairs = set(zip(comparison.contrasts.system, comparison.contrasts.base, strict=True))
    assert pairs == {
        ("base + BM25", "BM25"), ("BM25", "fine-tuned"), ("fine-tuned + BM25", "fine-tuned"),
        ("fine-tuned + BM25", "BM25"), ("fine-tuned", "base, 64 tokens"),
    }  # fmt: skip
    assert list(comparison.contrasts) == list(comparison.differences)


def test_the_notebook_names_no_service_unless_its_user_does(project):
    notebook = json.loads((project / "notebooks" / "04_evaluate_models.ipynb").read_text(encoding="utf-8"))
    (cell,) = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert any(line.startswith('OPENAI_MODEL: str = ""') for line in cell["source"])


def test_hybrid_search_weighs_both_rankings_alike(comparison):
    from nbutils.models.hybrid import fuse

    rankings, ids = comparison.rankings["gold"], list(comparison.datasets["gold"].corpus)
    fused = fuse([rankings["base"], rankings["BM25"]], ids)
    assert (rankings["base + BM25"].index == fused.index).all()
    assert not [note for note in comparison.notes if "by their names" in note]


def test_hybrid_search_ranks_the_documents_that_questions_name_too(few, model):
    """Not where each question is searched in its own document, and no vector search is changed by it."""
    ids = list(few.corpus)
    question, found = next(iter(few.relevant_docs.items()))
    names = {chunk: "ferry 2024" if chunk in found else "quarry 2024" for chunk in ids}
    named = few.model_copy(update={"names": names})
    named.queries = few.queries | {question: f"ferry: {few.queries[question]}"}
    own = named.model_copy()
    own.__dict__["documents"] = names
    unnamed = named.model_copy(update={"names": dict.fromkeys(ids, "ferry 2024") | {"elsewhere": "quarry 2024"}})
    sets = {"named": named, "own": own, "unnamed": unnamed}
    result = compare_models(sets, {"base": model}, verbose=False, cache=False)
    told = [note for note in result.notes if "by their names" in note]
    assert told == [
        "Hybrid search also ranks documents by their names: 1 of the 8 named questions share words with one."
    ]
    assert (result.rankings["named"]["base"].index == result.rankings["unnamed"]["base"].index).all()
    assert list(result.rankings["named"]) == ["base", "BM25", "base + BM25"]
    one, other = (result.rankings[each]["base + BM25"].score for each in ("named", "unnamed"))
    row = list(few.queries).index(question)
    assert one[row, 0] > other[row, 0] and (np.delete(one, row, 0) == np.delete(other, row, 0)).all()


@pytest.mark.slow
def test_a_chunk_is_found_by_the_queries_generated_for_it(general, model):
    """Also within each question's own document; not where the generated queries are those that judge."""
    asked = dict(list(general.queries.items())[:20])
    gold = general.model_copy(update={"queries": {query: f"{text} Or so?" for query, text in asked.items()}})
    halves = gold.model_copy()
    halves.__dict__["documents"] = {chunk: f"part {i % 2}" for i, chunk in enumerate(general.corpus)}
    copied = general.model_copy(update={"queries": asked})
    found = compare_models(
        {"gold": gold, "halves": halves, "synthetic": copied}, {"base": model}, index_queries=general, bm25=False,
        hybrid=False, verbose=False, draws=20,
    )  # fmt: skip
    assert list(found.rankings["synthetic"]) == ["base"]
    assert any("the gold questions are searched in 120 vectors, not 60" in note for note in found.notes)
    texts, ids = list(gold.queries.values()), list(gold.corpus)
    asked, chunks, queries = (
        model.encode(texts),
        model.encode(list(gold.corpus.values())),
        model.encode(list(general.queries.values())),
    )
    owner = [ids.index(general.relevant_docs[query][0]) for query in general.queries]
    best = asked @ chunks.T
    for column, scores in zip(owner, (asked @ queries.T).T, strict=True):
        best[:, column] = np.maximum(best[:, column], scores)
    for question_set in ("gold", "halves"):
        ranking = found.rankings[question_set]["base + index queries"]
        for row, query in enumerate(gold.queries):
            own = halves.documents[gold.relevant_docs[query][0]]
            there = [i for i, chunk in enumerate(ids) if question_set == "gold" or halves.documents[chunk] == own]
            order = sorted(there, key=lambda i: -best[row, i])
            assert [i for i in ranking.index[row] if i >= 0] == order
    value = found.table.query("question_set == 'gold' and metric == 'mrr@10'").set_index("system").value
    assert value["base + index queries"] > value["base"]


@pytest.mark.slow
def test_by_folds_each_question_is_searched_with_the_model_that_has_not_learned_it(few, tmp_path):
    chunks = list(few.corpus)
    for number, length in enumerate((8, 128)):
        model = load_model(DEFAULT_MODEL)
        model.max_seq_length = length
        model.save(str(tmp_path / str(number)))
    folds = {chunk: i % 2 for i, chunk in enumerate(chunks[:-2])}  # nobody asked about the last two
    (tmp_path / "folds.json").write_text(json.dumps(folds))
    models = {"base": DEFAULT_MODEL, "tuned": DEFAULT_MODEL, "short": str(tmp_path / "0"), "long": str(tmp_path / "1")}
    options = {"tuned": "tuned", "bm25": False, "hybrid": False, "compared_length": False, "cache": False}
    found = compare_models(few, models, by_folds={"tuned": tmp_path}, verbose=False, **options)
    scores = {name: ranking.score for name, ranking in found.rankings["questions"].items()}
    assert (scores["short"] != scores["long"]).any()
    for row, relevant in enumerate(few.relevant_docs.values()):
        judge = {0: "short", 1: "long", None: "base"}[folds.get(relevant[0])]
        np.testing.assert_array_equal(scores["tuned"][row], scores[judge][row])
    assert sum("has learned people's questions" in note for note in found.notes) == 1
