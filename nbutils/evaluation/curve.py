"""How much data does it take? Models trained on nested parts of the chunks, judged on the same questions."""

import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbutils.core import UserError
from nbutils.evaluation.compare import ranking_metrics, search_vectors
from nbutils.evaluation.leaks import without_chunks
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.evaluation.walkthrough import embed_dataset, relevance
from nbutils.models.names import load_model
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, with_queries
from nbutils.training.engine import SentenceTransformersFinetuneEngine

MARGIN = 0.02  # a gain that nobody would notice
FRACTIONS = (1 / 8, 1 / 4, 1 / 2, 1)


def learning_curve(
    dataset: EmbeddingQAFinetuneDataset,
    train: Callable[[EmbeddingQAFinetuneDataset], Any],
    judge: Callable[[Any], Sequence[float]],
    base: Any,
    fractions: Sequence[float] = FRACTIONS,
    *,
    clusters: Sequence[str] | None = None,
    seed: int = 0,
) -> tuple[pd.DataFrame, str]:
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
        interval of the paired difference from the base, moved to the base's score; a sentence about the last step.

    Raises:
        UserError: a fraction that is above 1, or so small that it holds no chunk.
    """
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
        about = set(chunks[:size])
        part = with_queries(dataset, {query for query in owner if owner[query] in about})
        unasked = part.corpus.keys() - {chunk for found in part.relevant_docs.values() for chunk in found}
        scores.append(np.asarray(judge(train(without_chunks(part, unasked))), dtype=float))
        low, high = np.ravel(bootstrap_intervals(scores[-1] - scores[0], clusters, seed=seed)) + scores[0].mean()
        rows.append({"fraction": fraction, "chunks": size, "score": scores[-1].mean(), "low": low, "high": high})
    gain = scores[-1] - scores[-2]
    low, high = np.ravel(bootstrap_intervals(gain, clusters, seed=seed))
    surely = len(gain) * MARGIN >= 3  # the rule of three: fewer questions without a change prove nothing
    told = "would hardly help" if high < MARGIN and surely else "may or may not help"
    told = "would probably help" if low > 0 else told
    return pd.DataFrame(rows), (
        f"More documents {told}: from {rows[-2]['chunks']} to {rows[-1]['chunks']} chunks the score on {len(gain)} "
        f"questions changed by {gain.mean():+.3f} (95 % interval {low:+.3f} to {high:+.3f})."
    )


def curve_of_run(
    dataset: EmbeddingQAFinetuneDataset, questions, base: str, model: str | Path, training: Mapping[str, Any],
    *, metric: str = "hit_rate@5", seed: int = 0,
) -> tuple[pd.DataFrame, str]:  # fmt: skip
    """Return the `learning_curve` of a run whose model, trained on all, stands for the last point.

    The three smaller trainings take 7/8 of the time that the model took; that is printed before they begin.

    Args:
        dataset: the questions that the model was trained on.
        questions: the dataset that judges.
        base: the name of the base model.
        model: the folder of the trained model.
        training: `engine.summary` of its training.
        metric: a metric of `nbutils.models.metrics.query_metrics`.
        seed: as for `learning_curve`.

    Raises:
        UserError: the model was not trained by `nbutils.training.engine`, or on fewer than 8 chunks.
    """
    if training["recipe"].get("loss") != "grouped":
        raise UserError("LEARNING_CURVE needs a model that ENGINE nbutils trained with its own loss.")
    options = {name: value for name, value in training["recipe"].items() if name != "loss"}
    options |= {"max_seq_length": training["max_seq_length"], "prompts": load_model(model).prompts}
    minutes = sum(FRACTIONS[:-1]) * training["seconds"] / 60
    print(f"Three more trainings, on an eighth, a quarter and half of the chunks, take about {minutes:.1f} minutes.")

    def train(part: EmbeddingQAFinetuneDataset):
        if len(part.queries) == len(dataset.queries):
            return model
        with tempfile.TemporaryDirectory() as folder:
            engine = SentenceTransformersFinetuneEngine(
                part, base, Path(folder, "model"), show_progress_bar=False, **options
            )
            engine.finetune()
        return engine.model.eval()

    def judge(judged) -> np.ndarray:
        return ranking_metrics(questions, search_vectors(questions, *embed_dataset(questions, judged)))[metric]

    clusters = [next(iter(grades)) for grades in relevance(questions).values()]
    return learning_curve(dataset, train, judge, base, clusters=clusters, seed=seed)
