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
    """Return what the questions of a run would take, without asking anything.

    Args:
        name: the run; answers that its journal holds already cost nothing.
        parameters: values by parameter name; they win over the profile's.
        profile: a name in notebooks/profiles or a YAML file.

    Returns:
        A row for training, validation and their sum; columns as `nbutils.questions.generate.estimate_questions`
        gives them.

    Raises:
        UserError: a wrong parameter, or a file that cannot be read.
    """
    import pandas as pd

    from nbutils.corpus.chunks import load_corpus
    from nbutils.corpus.split import split_corpus
    from nbutils.questions.generate import estimate_questions
    from nbutils.questions.prompts import prompt_by_name

    value = with_defaults(check_parameters({**read_profile(profile), **(parameters or {})}))
    run = Run(name)
    splitting = {"chunk_size": value["CHUNK_SIZE"], "chunk_overlap": value["CHUNK_OVERLAP"], "cache": run.cache}
    train = load_corpus(value["TRAIN_FILES"], **splitting)
    if value["VAL_FILES"]:
        val = load_corpus(value["VAL_FILES"], **splitting)
    else:
        train, val = split_corpus(train, value["VALIDATION_SHARE"])
    prices = {"input": value["PRICE_INPUT"], "output": value["PRICE_OUTPUT"]}
    options = dict(
        qa_generate_prompt_tmpl=prompt_by_name(value["PROMPT"]),
        num_questions_per_chunk=value["QUESTIONS_PER_CHUNK"],
        concurrency=value["CONCURRENCY"],
        journal_path=run.folder / "questions.jsonl",
        cache=run.cache,
        filters=value["FILTERS"],
        language=value["LANGUAGE"] or None,
        budget_calls=value["BUDGET_CALLS"] or None,
        budget_tokens=value["BUDGET_TOKENS"] or None,
        prices=prices if any(prices.values()) else None,
        seed=value["SEED"],
    )
    rows = {
        which: estimate_questions(nodes, value["LLM"], **options)
        for which, nodes in (("training", train), ("validation", val))
    }
    table = pd.DataFrame(rows).T
    table.loc["both"] = table.sum(min_count=2)
    return table
