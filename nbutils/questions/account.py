"""From answers to a dataset, and the account of every chunk: kept, dropped or failed, why, and at what cost."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from nbutils.core import content_hash
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.filters import drop_reasons
from nbutils.questions.parse import parse_questions
from nbutils.questions.plan import Plan
from nbutils.questions.prompts import QUESTION_STYLES
from nbutils.questions.settings import Prices, QuestionSettings
from nbutils.questions.store import Answer


@dataclass
class Account:
    """Where a generated dataset's questions come from and what they cost; `dataset.account`.

    Attributes:
        usage: `calls`, `tokens_in`, `tokens_out`, `cost` (None without prices) and `estimated` (True where the server
            gave no counts) over the whole set, and the same of this run alone under `this_run`.
        chunks: the rows of `report`.
        dropped: the rows of `filters`.
    """

    usage: dict
    chunks: list[dict]
    dropped: list[dict]

    @property
    def report(self) -> pd.DataFrame:
        """One row per chunk: `status` ("kept", "dropped", "failed" or "not asked"), `asked_for`, `written` and `kept`
        questions, `reason`, `calls`, `tokens_in`, `tokens_out`."""
        return pd.DataFrame(self.chunks)

    @property
    def filters(self) -> pd.DataFrame:
        """One row per filter that dropped something: `filter`, `what` (chunks or questions), `dropped`, `examples`."""
        return pd.DataFrame(self.dropped, columns=["filter", "what", "dropped", "examples"])

    def summary(self) -> str:
        """Return one line that accounts for every chunk."""
        counts = Counter(row["status"] for row in self.chunks)
        parts = [f"{counts[name]} {name}" for name in ("kept", "dropped", "failed", "not asked") if counts[name]]
        fewer = sum(0 < row["written"] < row["asked_for"] for row in self.chunks)
        short = f"; {fewer} chunks gave fewer questions than asked for" if fewer else ""
        questions = sum(row["kept"] for row in self.chunks)
        return f"{questions} questions from {len(self.chunks)} chunks ({', '.join(parts)}){short}."


def spent_on(answers: Iterable[Answer]) -> tuple[int, int]:
    """Return the calls and the tokens that answers have cost together."""
    usage = usage_of(answers)
    return usage["calls"], usage["tokens_in"] + usage["tokens_out"]


def usage_of(answers: Iterable[Answer], prices: Prices | None = None) -> dict:
    """Return the calls, tokens and cost of answers together."""
    answers = list(answers)
    usage = {name: sum(getattr(answer, name) for answer in answers) for name in ("calls", "tokens_in", "tokens_out")}
    usage["estimated"] = any(answer.estimated for answer in answers)
    usage["cost"] = prices and prices.cost(usage["tokens_in"], usage["tokens_out"])
    return usage


def assemble(
    plan: Plan, answers: dict[str, Answer], settings: QuestionSettings, this_run: Iterable[Answer] = ()
) -> EmbeddingQAFinetuneDataset:
    """Return the dataset that the answers give, filtered, with its account."""
    written = {}
    for key, ids in plan.owners.items():
        answer = answers.get(key, Answer(key))
        found = parse_questions(answer.reply, settings.num_questions_per_chunk)
        written[ids[0]] = found[:-1] if answer.truncated else found
    questions = [(chunk_id, question) for chunk_id, found in written.items() for question in found]
    echoes = [*QUESTION_STYLES, *settings.examples]
    reasons = drop_reasons(questions, plan.texts, settings.applied_filters, echoes)

    given = {"corpus": dict(plan.texts), "headers": plan.headers, "names": plan.names}
    dataset = EmbeddingQAFinetuneDataset(queries={}, relevant_docs={}, **given)
    dropped: dict[tuple[str, str], list[str]] = {}
    for chunk_id, reason in plan.skipped.items():
        dropped.setdefault((reason, "chunks"), []).append(" ".join(plan.texts[chunk_id][:80].split()))
    why: dict[str, Counter] = {chunk_id: Counter() for chunk_id in plan.texts}  # chunk -> what became of its questions
    for (chunk_id, question), reason in zip(questions, reasons, strict=True):
        why[chunk_id][reason] += 1
        if reason:
            dropped.setdefault((reason, "questions"), []).append(question)
            continue
        query_id = content_hash(plan.texts[chunk_id], question)
        dataset.queries[query_id] = question
        dataset.relevant_docs[query_id] = list(plan.owners[plan.requests[chunk_id].key])
    usage = usage_of(answers.values(), settings.prices) | {"this_run": usage_of(this_run, settings.prices)}
    chunks = [_record(plan, chunk_id, answers, settings.num_questions_per_chunk, why[chunk_id]) for chunk_id in why]
    table = [
        {"filter": name, "what": what, "dropped": len(found), "examples": found[:5]}
        for (name, what), found in dropped.items()
    ]
    dataset.account = Account(usage, chunks, table)
    return dataset


def _record(plan: Plan, chunk_id: str, answers: dict[str, Answer], asked_for: int, why: Counter) -> dict:
    """Return what became of one chunk, and of its questions by the reason why they were dropped ("" where kept)."""
    request = plan.requests.get(chunk_id)
    first = plan.owners[request.key][0] if request else chunk_id
    answer = answers.get(request.key) if request and first == chunk_id else None
    if request is None:
        status, reason = "dropped", plan.skipped[chunk_id]
    elif first != chunk_id:
        status, reason = "dropped", f"same text as {first}"
    elif answer is None:
        status, reason = "not asked", ""
    elif answer.error:
        status, reason = "failed", answer.error
    else:
        why_none = "the reply was cut off" if answer.truncated else "the reply held no question"
        status = "kept" if why[""] else "dropped"
        reason = "; ".join(filter(None, why)) if why.total() else answer.dropped or why_none
    counts = {"asked_for": asked_for if answer else 0, "written": why.total(), "kept": why[""]}
    spent = {name: getattr(answer, name, 0) for name in ("calls", "tokens_in", "tokens_out")}
    return {"chunk_id": chunk_id, "status": status} | counts | {"reason": reason} | spent
