"""What the questions of a run would take, without asking anything."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbutils.pipeline.parameters import check_parameters, read_profile, with_defaults
from nbutils.pipeline.run import Run

if TYPE_CHECKING:
    import pandas as pd


def estimate(
    name: str = "tutorial", parameters: Mapping[str, Any] | None = None, *, profile: str | Path | None = None
) -> "pd.DataFrame":
    """Return the table of `nbutils.questions.estimate.estimate_questions` for a run's training and validation.

    Arguments and errors are those of `nbutils.pipeline.run.run`. Answers that the run's store holds already cost nothing.
    """
    from nbutils.corpus.chunks import load_corpus
    from nbutils.corpus.split import split_corpus
    from nbutils.questions.estimate import estimate_questions
    from nbutils.questions.prompts import prompt_by_name
    from nbutils.questions.settings import Budget

    value = with_defaults(check_parameters({**read_profile(profile), **(parameters or {})}))
    run = Run(name)
    splitting = {"chunk_size": value["CHUNK_SIZE"], "chunk_overlap": value["CHUNK_OVERLAP"], "cache": run.cache}
    train = load_corpus(value["TRAIN_FILES"], **splitting)
    if value["VAL_FILES"]:
        val = load_corpus(value["VAL_FILES"], **splitting)
    else:
        train, val = split_corpus(train, value["VALIDATION_SHARE"])
    prices = {"input": value["PRICE_INPUT"], "output": value["PRICE_OUTPUT"]}
    return estimate_questions(
        {"training": train, "validation": val},
        value["LLM"],
        prompt_by_name(value["PROMPT"]),
        value["QUESTIONS_PER_CHUNK"],
        output_path=run.folder / "train_dataset.json",
        concurrency=value["CONCURRENCY"],
        shared=run.cache,
        filters=value["FILTERS"],
        language=value["LANGUAGE"] or None,
        budget=Budget(value["BUDGET_CALLS"], value["BUDGET_TOKENS"]),
        prices=prices if any(prices.values()) else None,
        seed=value["SEED"],
    )
