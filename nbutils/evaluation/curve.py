"""How much data does it take? Models trained on nested parts of the chunks, judged on the same questions."""

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbutils.core import UserError
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

if TYPE_CHECKING:
    import pandas as pd

MARGIN = 0.02  # a gain that nobody would notice


def learning_curve(
    dataset: EmbeddingQAFinetuneDataset,
    train: Callable[[EmbeddingQAFinetuneDataset], Any],
    judge: Callable[[Any], Sequence[float]],
    base: Any,
    fractions: Sequence[float] = (1 / 8, 1 / 4, 1 / 2, 1),
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> "tuple[pd.DataFrame, str]":
    """Train on an eighth, a quarter, half and all of the chunks, and say whether more documents would help.

    Args:
        dataset: the training questions; each part lies within the next, with all questions about its chunks.
        train: part of the dataset -> model.
        judge: model -> score of each question (0 to 1); always the same questions in the same order.
        base: what `judge` takes for the model that is not trained.
        fractions: shares of the chunks.
        clusters: for each judged question the chunk that it is about; default is one of its own.
        seed: of the order of the chunks and of the intervals.

    Returns:
        One row for the base (`fraction` 0) and one per part: `fraction`, `chunks`, `score`, and `low`, `high`: the 95 %
        interval of the paired difference from the base, moved to the base's score; and one sentence about the last step.

    Raises:
        UserError: a fraction that is above 1, or so small that it holds no chunk.
    """
    import pandas as pd

    owner = {query: next(iter(found)) for query, found in dataset.relevant_docs.items()}
    chunks = sorted(set(owner.values()))
    random.Random(seed).shuffle(chunks)
    sizes = {fraction: round(fraction * len(chunks)) for fraction in sorted(fractions)}
    if not all(0 < fraction <= 1 and size for fraction, size in sizes.items()):
        raise UserError(f"fractions is {fractions}; of {len(chunks)} chunks with questions each must hold one or more.")
    scores = [np.asarray(judge(base), dtype=float)]
    rows = [{"fraction": 0.0, "chunks": 0, "score": scores[0].mean()}]
    clusters = range(len(scores[0])) if clusters is None else clusters
    for fraction, size in sizes.items():
        scores.append(np.asarray(judge(train(_part(dataset, owner, set(chunks[:size])))), dtype=float))
        low, high = np.ravel(bootstrap_intervals(scores[-1] - scores[0], clusters, seed=seed)) + scores[0].mean()
        rows.append({"fraction": fraction, "chunks": size, "score": scores[-1].mean(), "low": low, "high": high})
    gain = scores[-1] - scores[-2]
    low, high = np.ravel(bootstrap_intervals(gain, clusters, seed=seed))
    surely = len(gain) * MARGIN >= 3  # the rule of three: fewer questions without a change prove nothing
    told = (
        "would probably help" if low > 0 else "would hardly help" if high < MARGIN and surely else "may or may not help"
    )
    return pd.DataFrame(rows), (
        f"More documents {told}: from {rows[-2]['chunks']} to {rows[-1]['chunks']} chunks the score on {len(gain)} "
        f"questions changed by {gain.mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )


def _part(dataset: EmbeddingQAFinetuneDataset, owner: dict[str, str], chunks: set[str]) -> EmbeddingQAFinetuneDataset:
    """Return the questions about some of the chunks, and the chunks that answer them."""
    queries = {query: text for query, text in dataset.queries.items() if owner[query] in chunks}
    relevant = {query: dataset.relevant_docs[query] for query in queries}
    kept = {chunk for found in relevant.values() for chunk in found}
    corpus, headers = ({key: each[key] for key in each if key in kept} for each in (dataset.corpus, dataset.headers))
    return dataset.model_copy(
        update={"queries": queries, "relevant_docs": relevant, "corpus": corpus, "headers": headers}
    )
