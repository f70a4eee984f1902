"""What questions would cost, without asking anything."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from llama_index.core.llms import LLM
from llama_index.core.schema import BaseNode

from nbutils.questions.account import spent_on
from nbutils.questions.llms import has_key, resolve_llm
from nbutils.questions.plan import TOKENS_PER_QUESTION, Plan, count_tokens, learns_from_corpus, make_plan, store_path
from nbutils.questions.prompts import DEFAULT_QA_GENERATE_PROMPT_TMPL
from nbutils.questions.settings import Budget, QuestionSettings
from nbutils.questions.store import Answer, AnswerStore, read_answers

SECONDS_PER_CALL = 2.0


def estimate_questions(
    sets: Mapping[str, Sequence[BaseNode]],
    llm: LLM | str,
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    output_path: str | Path = "qa_finetune_dataset.json",
    *,
    seconds_per_call: float | None = None,
    **options,
) -> pd.DataFrame:
    """Return what `generate_qa_embedding_pairs` would cost for each of several sets of chunks, without asking anything.

    Without the provider's key the store cannot be matched, and the cost is that of starting anew.

    Args:
        sets: the chunks of each set by its name, in the order in which they will be asked about.
        llm, qa_generate_prompt_tmpl, num_questions_per_chunk, **options: as for `generate_qa_embedding_pairs`.
        output_path: a dataset in the folder of the store.
        seconds_per_call: how long one call takes; by default what earlier calls took, else two seconds.

    Returns:
        One row per set and one for their sum ("all"): `chunks`, `skipped` (no prose), `already_done` (in the store),
        `calls` still to make, `tokens_in`, `tokens_out`, `seconds` at this concurrency, and with prices `cost`. Token
        counts are estimates. The budget covers all sets together.
    """
    settings = QuestionSettings(num_questions_per_chunk=num_questions_per_chunk, **options)
    if isinstance(llm, str) and not has_key(llm):  # what it would cost can be told without the key
        llm = SimpleNamespace(model=llm.partition(":")[2])
    else:
        llm = resolve_llm(llm, seed=settings.seed, llm_options=settings.llm_options)
    answers = read_answers(store_path(Path(output_path), settings))
    budget, rows, chunks_left = Budget(settings.budget.calls, settings.budget.tokens), {}, sum(map(len, sets.values()))
    for name, nodes in sets.items():
        plan, share = make_plan(nodes, llm, qa_generate_prompt_tmpl, settings), budget.share(len(nodes) / chunks_left)
        rows[name] = _estimate(plan, answers, share, settings, seconds_per_call)
        chunks_left -= len(nodes)
    table = pd.DataFrame(rows.values(), index=list(rows))
    table.loc["all"] = table.sum()
    whole = table.columns.difference(["seconds", "cost"])
    table[whole] = table[whole].astype(int)
    return table


def _estimate(plan: Plan, answers: dict[str, Answer], budget: Budget, settings, seconds_per_call: float | None) -> dict:
    if settings.shared and not learns_from_corpus(plan.llm):
        with AnswerStore.shared(settings.shared) as shared:
            theirs = shared.read(plan.by_key).values()
            answers = {answer.key: replace(answer, calls=0, tokens_in=0, tokens_out=0) for answer in theirs} | answers
    missing = plan.missing(answers)
    known = [answers[key] for key in plan.by_key if key in answers and not answers[key].error]
    replies = [answer.tokens_out / answer.calls for answer in known if answer.calls]
    out = sum(replies) / len(replies) if replies else TOKENS_PER_QUESTION * settings.num_questions_per_chunk
    usual = 0.01 if learns_from_corpus(plan.llm) else SECONDS_PER_CALL
    waits = [answer.seconds for answer in known if answer.seconds] or [usual]
    seconds_per_call = seconds_per_call or sum(waits) / len(waits)
    budget.spend(*spent_on(answers[key] for key in plan.by_key if key in answers))
    affordable = []
    for request in missing:
        tokens = count_tokens(request.prompt)
        if not budget.allows(tokens + round(out)):
            break
        budget.spend(1, tokens + round(out))
        affordable.append(tokens)
    calls, tokens_in, tokens_out = len(affordable), sum(affordable), round(out * len(affordable))
    seconds = round(math.ceil(calls / settings.concurrency) * seconds_per_call, 1)
    row = {"chunks": len(plan.texts), "skipped": len(plan.skipped), "already_done": len(plan.by_key) - len(missing)}
    row |= {"calls": calls, "tokens_in": tokens_in, "tokens_out": tokens_out, "seconds": seconds}
    return row | ({"cost": settings.prices.cost(tokens_in, tokens_out)} if settings.prices else {})
