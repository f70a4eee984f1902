import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nbutils.evaluation.stats import bootstrap_intervals, holm, permutation_p


def test_bootstrap_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        chunk = rng.random(60)  # both questions of a chunk share its difficulty
        values = (rng.random((60, 2)) < chunk[:, None]).astype(float).ravel()
        low, high = bootstrap_intervals(values, np.repeat(np.arange(60), 2), draws=400)
        covered += low[0] <= 0.5 <= high[0]
    assert 0.90 <= covered / 200 <= 0.985


@pytest.mark.slow
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
