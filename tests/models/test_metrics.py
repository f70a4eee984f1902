import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from retrieval_examples import graded_case

from nbutils.evaluation.compare import ranking_metrics
from nbutils.evaluation.export import trec_run
from nbutils.models.metrics import query_metrics


@pytest.mark.parametrize("graded", [False, True])
def test_metrics_agree_with_trec_eval(graded):
    pytrec_eval = pytest.importorskip("pytrec_eval", reason="pytrec_eval is not installed")
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
