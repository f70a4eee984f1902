"""What can be said of the means of metrics: intervals, paired tests, corrections for several tests."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

_DIFFERENCE = [
    "question_set", "system", "base", "metric", "difference", "low", "high", "p", "p_holm", "wins", "losses", "ties",
    "questions", "chunks",
]  # fmt: skip


def _cluster_sums(values: np.ndarray, clusters: Sequence) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums of `values` (queries, columns) in each cluster, and the sizes of the clusters."""
    _, index = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    sums = np.zeros((index.max() + 1, values.shape[1]))
    np.add.at(sums, index, values)
    return sums, np.bincount(index).astype(np.float64)


def _block(clusters: int) -> int:
    """Return how many draws to hold at a time: about 32 MiB of numbers."""
    return max(1, 2**22 // clusters)


def bootstrap_intervals(
    values: np.ndarray, clusters: Sequence, *, level: float = 0.95, draws: int = 2000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper bounds of the means, by the expanded percentile bootstrap over clusters.

    Questions about the same chunk are not independent, so whole chunks are drawn with replacement, each with all
    its questions (Davison and Hinkley 1997, section 2.4; Sakai 2014 for retrieval). Plain percentiles are too narrow
    where chunks are few; they are moved outward as a t interval is wider than a normal one (Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap", section 3.3).

    Args:
        values: shape (queries,) or (queries, columns), e.g. one column per metric, or paired differences.
        clusters: for each query the name of its cluster.
        level: coverage of the interval.
        draws: bootstrap samples.
        seed: of the draws.

    Returns:
        Two arrays of shape (columns,), NaN where there is but one cluster.
    """
    from scipy.stats import norm, t

    values = np.asarray(values, dtype=np.float64).reshape(len(values), -1)
    sums, sizes = _cluster_sums(values, clusters)
    rng = np.random.default_rng(seed)
    count = len(sizes)
    if count == 1:
        return np.full((2, values.shape[1]), np.nan)
    means = []
    block = _block(count)
    for start in range(0, draws, block):
        picked = rng.integers(count, size=(min(block, draws - start), count))
        weights = np.stack([np.bincount(row, minlength=count) for row in picked]).astype(np.float64)
        means.append((weights @ sums) / (weights @ sizes)[:, None])
    tail = norm.cdf(np.sqrt(count / (count - 1)) * t.ppf((1 - level) / 2, count - 1))
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail], axis=0)
    return low, high


def permutation_p(differences: np.ndarray, clusters: Sequence, *, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Return two-sided p-values of the paired randomisation test for the mean difference being 0.

    If two systems are alike, either could have produced each result: the sign of a whole chunk's differences is
    flipped at random (Smucker, Allan and Carterette, CIKM 2007, with chunks in the place of topics). All sign
    patterns are tried where there are no more than `draws` of them.

    Args:
        differences: shape (queries,) or (queries, columns): system minus base for each query.
        clusters, seed: as for `bootstrap_intervals`.
        draws: random sign patterns.

    Returns:
        Array of shape (columns,).
    """
    differences = np.asarray(differences, dtype=np.float64).reshape(len(differences), -1)
    sums, _ = _cluster_sums(differences, clusters)
    sums = sums[np.abs(sums).max(axis=1) > 0]
    if not len(sums):
        return np.ones(differences.shape[1])
    observed = np.abs(sums.sum(axis=0)) - 1e-9
    count = len(sums)
    if 2**count <= draws:
        signs = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        return (np.abs(signs @ sums) >= observed).mean(axis=0)
    rng = np.random.default_rng(seed)
    extreme = np.zeros(differences.shape[1])
    block = _block(count)
    for start in range(0, draws, block):
        signs = 1.0 - 2.0 * rng.integers(0, 2, size=(min(block, draws - start), count))
        extreme += (np.abs(signs @ sums) >= observed).sum(axis=0)
    return (extreme + 1) / (draws + 1)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Return p-values, in the same order, corrected for their number by Holm's step-down method (Holm 1979)."""
    p_values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty_like(p_values)
    steps = p_values[order] * np.arange(len(p_values), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def statistics(
    per_query: pd.DataFrame, base: str, pairs: Sequence[tuple[str, str]] = (), **options: Any
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Return `table`, `differences` and `contrasts` of a Comparison: the one place where its tests are made.

    Args:
        per_query: as in Comparison.
        base: the system that differences are taken from.
        pairs: (system, reference) of the contrasts; those that are not there are passed over.
        options: those of `bootstrap_intervals`.
    """
    table, differences, contrasts = [], [], []
    for question_set, part in per_query.groupby("question_set", sort=False):
        metrics = [column for column in part if "@" in column and part[column].notna().all()]
        values = {system: rows[metrics].to_numpy() for system, rows in part.groupby("system", sort=False)}
        clusters = part[part.system == base].cluster.to_numpy()
        labels = {"question_set": question_set, "questions": len(clusters), "chunks": len(set(clusters))}
        for system, one in values.items():
            low, high = bootstrap_intervals(one, clusters, **options)
            means = {"system": system, "metric": metrics, "value": one.mean(axis=0), "low": low, "high": high}
            table.append(pd.DataFrame(means | labels))
        from_base = [(system, base) for system in values if system != base]
        for found, asked in ((differences, from_base), (contrasts, pairs)):
            for system, reference in asked:
                if {system, reference} <= values.keys():
                    paired = values[system] - values[reference]
                    compared = {"system": system, "base": reference, "metric": metrics}
                    found.append(pd.DataFrame(compared | _tests(paired, clusters, **options) | labels))
    order = ["question_set", "system", "metric", "value", "low", "high", "questions", "chunks"]
    return pd.concat(table, ignore_index=True)[order], _corrected(differences), _corrected(contrasts)


def _tests(paired: np.ndarray, clusters: np.ndarray, seed: int = 0, **options: Any) -> dict[str, np.ndarray]:
    """Return what is said of paired differences, shape (queries, metrics): each value of shape (metrics,)."""
    low, high = bootstrap_intervals(paired, clusters, seed=seed, **options)
    wins, losses = (paired > 1e-12).sum(axis=0), (paired < -1e-12).sum(axis=0)
    return {
        "difference": paired.mean(axis=0), "low": low, "high": high, "p": permutation_p(paired, clusters, seed=seed),
        "wins": wins, "losses": losses, "ties": len(paired) - wins - losses,
    }  # fmt: skip


def _corrected(tests: list[pd.DataFrame]) -> pd.DataFrame:
    """Return all tests, their p-values corrected for the number of tests of a metric on a question set."""
    if not tests:
        return pd.DataFrame(columns=_DIFFERENCE)
    frame = pd.concat(tests, ignore_index=True)
    frame["p_holm"] = frame.groupby(["question_set", "metric"])["p"].transform(holm)
    return frame[_DIFFERENCE]
