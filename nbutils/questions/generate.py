"""Questions for every chunk of a corpus: asked at once, kept in a store, filtered, and accounted for."""

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from nbutils.core import UserError, content_hash
from nbutils.questions.ask import Asker, GenerationError, Request
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.filters import drop_reasons, skip_reason
from nbutils.questions.llms import has_key, llm_signature, model_name, resolve_llm
from nbutils.questions.parse import parse_questions
from nbutils.questions.prompts import DEFAULT_QA_GENERATE_PROMPT_TMPL, render_prompt
from nbutils.questions.settings import Budget, Prices, QuestionSettings
from nbutils.questions.store import Answer, AnswerStore, read_answers

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.llms import LLM
    from llama_index.core.schema import BaseNode

TOKENS_PER_QUESTION = 22
SECONDS_PER_CALL = 2.0
STORE = "answers.sqlite"


@dataclass
class Account:
    """Where a generated dataset's questions come from and what they cost; `dataset.account`.

    Attributes:
        usage: `calls`, `tokens_in`, `tokens_out`, `cost` (None without prices) and `estimated` (True where the server
            gave no counts) over the whole set, and the same of this run alone under `this_run`.
        chunks: one record for each chunk, the rows of `report`.
        dropped: one record for each filter that dropped something, the rows of `filters`.
    """

    usage: dict
    chunks: list[dict]
    dropped: list[dict]

    @property
    def report(self) -> "pd.DataFrame":
        """One row per chunk: `status` ("kept", "dropped", "failed" or "not asked"), `asked_for`, `written` and `kept`
        questions, `reason`, `calls`, `tokens_in`, `tokens_out`."""
        import pandas as pd

        return pd.DataFrame(self.chunks)

    @property
    def filters(self) -> "pd.DataFrame":
        """One row per filter that dropped something: `filter`, `what` (chunks or questions), `dropped`, and up to five
        `examples`."""
        import pandas as pd

        return pd.DataFrame(self.dropped, columns=["filter", "what", "dropped", "examples"])

    def summary(self) -> str:
        """Return one line that accounts for every chunk."""
        counts = Counter(row["status"] for row in self.chunks)
        parts = [f"{counts[name]} {name}" for name in ("kept", "dropped", "failed", "not asked") if counts[name]]
        fewer = sum(0 < row["written"] < row["asked_for"] for row in self.chunks)
        short = f"; {fewer} chunks gave fewer questions than asked for" if fewer else ""
        questions = sum(row["kept"] for row in self.chunks)
        return f"{questions} questions from {len(self.chunks)} chunks ({', '.join(parts)}){short}."


@dataclass
class _Plan:
    """Which prompt belongs to which chunk."""

    llm: object
    texts: dict[str, str]
    skipped: dict[str, str]  # chunk id -> reason
    requests: dict[str, Request]  # chunk id -> request; chunks of the same text share one

    @cached_property
    def by_key(self) -> dict[str, Request]:
        return {request.key: request for request in self.requests.values()}

    @cached_property
    def owners(self) -> dict[str, list[str]]:
        """The chunk ids of each request, the one that stands for all first."""
        owners: dict[str, list[str]] = {}
        for chunk_id, request in self.requests.items():
            owners.setdefault(request.key, []).append(chunk_id)
        return owners

    def missing(self, answers: Mapping[str, Answer]) -> list[Request]:
        return [request for key, request in self.by_key.items() if key not in answers or answers[key].error]


def generate_qa_embedding_pairs(
    nodes: "Sequence[BaseNode]",
    llm: "LLM | str",
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    retry_limit: int = 7,
    on_failure: str = "continue",
    save_every: int = 500,
    output_path: str | Path = "qa_finetune_dataset.json",
    verbose: bool = True,
    **options,
) -> EmbeddingQAFinetuneDataset:
    """Write questions about every chunk and return (question, chunk) pairs; stands in for LlamaIndex's function.

    Answers are kept as they come: started again after anything, it asks only for what is missing. A chunk is asked once
    for each prompt, model, setting and number of questions, however often this runs.

    Args:
        nodes: the chunks, as LlamaIndex nodes.
        llm: a LlamaIndex LLM, or a name that `nbutils.questions.llms.resolve_llm` knows.
        qa_generate_prompt_tmpl: the prompt. `{context_str}` is the chunk, `{num_questions_per_chunk}` the number;
            `{question_styles}` and `{language}` may be used too.
        num_questions_per_chunk: questions to ask for.
        retry_limit: tries per chunk before it has failed; waits grow from half a second to thirty. (LlamaIndex tries
            three times without a wait, too few for a server that is busy for a few seconds.)
        on_failure: "continue" leaves a failed chunk without questions, "fail" stops at the first.
        save_every: chunks between two saves of `output_path`. Nothing is lost in between.
        output_path: the dataset. It is written anew, from these nodes alone.
        verbose: show a bar with rate, tokens and time left, and a line that accounts for every chunk.
        **options: `filters`, `budget`, `prices`, `concurrency`, `store`, … as in
            `nbutils.questions.settings.QuestionSettings`.

    Returns:
        The dataset; its corpus holds all chunks, also those without questions. Its `account` is an `Account` of what was
        asked, kept, dropped and spent.

    Raises:
        GenerationError: (a RuntimeError) the LLM refuses, or too many chunks in a row failed. Run again to continue.
        UserError: an argument that cannot be.
    """
    settings = QuestionSettings(
        num_questions_per_chunk=num_questions_per_chunk, retry_limit=retry_limit, on_failure=on_failure,
        save_every=save_every, **options,
    )  # fmt: skip
    output_path = Path(output_path)
    store_path = _store_path(output_path, settings)
    plan = _plan(
        nodes, resolve_llm(llm, seed=settings.seed, timeout=settings.timeout), qa_generate_prompt_tmpl, settings
    )
    with ExitStack() as opened:
        learns = _learns(plan.llm)  # is asked anew each time, at no cost
        store = opened.enter_context(AnswerStore(":memory:" if learns else store_path))
        shared = settings.shared and not learns and opened.enter_context(AnswerStore.shared(settings.shared))
        work = _Work(plan, settings, store, shared or None, output_path)
        problem: BaseException | None = None
        try:
            work.ask(verbose)
        except BaseException as error:
            problem = error
        if (
            problem is None
            and work.this_run
            and not any(answer for answer in work.answers.values() if not answer.error)
        ):
            problem = GenerationError(f"No chunk was answered: {work.this_run[-1].error}. Run again to continue.")
        dataset = work.dataset()
    if problem is None or dataset.queries:
        dataset.save_json(output_path)
    if isinstance(problem, GenerationError):
        done = sum(row["status"] in ("kept", "dropped") for row in dataset.account.chunks)
        raise GenerationError(
            f"{problem} ({done} of {len(plan.texts)} chunks are done; kept in {store_path})"
        ) from problem
    if problem is not None:
        raise problem
    if verbose:
        print(dataset.account.summary())
        if work.asker.out_of_budget:
            spent = f"{settings.budget.used_calls} calls, {settings.budget.used_tokens:,} tokens"
            print(f"The budget is spent ({spent}). Raise it to go on.")
    return dataset


class _Work:
    """The answers that there are, and the asking for those that are missing."""

    def __init__(self, plan, settings, store: AnswerStore, shared: AnswerStore | None, output_path: Path):
        self.plan, self.settings, self.output_path = plan, settings, output_path
        self.store, self.shared = store, shared
        self.answers = store.read(plan.by_key)
        self.this_run: list[Answer] = []
        settings.budget.spend(*_spent(self.answers.values()))
        self.asker = Asker(plan.llm, settings, self._keep, count_tokens, _learns(plan.llm))
        self._model, self._saved = model_name(plan.llm), 0

    def ask(self, verbose: bool) -> None:
        """Ask for all that is missing. What another process is asking is waited for."""
        missing = self._in_order(self.plan.missing(self.answers))
        while missing:
            with (self.shared or self.store).claim(request.key for request in missing) as mine:
                self._look_up(missing)
                wanted = {request.key for request in self.plan.missing(self.answers)}
                here = [request for request in missing if request.key in mine & wanted]
                self.asker.run(here, self._save_now_and_then, verbose)
            wanted = {request.key for request in self.plan.missing(self.answers)}
            missing = [request for request in missing if request.key in wanted - mine]
            if self.asker.out_of_budget:
                return
            if missing:
                time.sleep(0.5)

    def _in_order(self, missing: list[Request]) -> list[Request]:
        """Put what failed before last; under a budget, shuffle."""
        if self.settings.budget.tokens:
            for request in missing:
                request.tokens = count_tokens(request.prompt)
                request.tokens_out = TOKENS_PER_QUESTION * self.settings.num_questions_per_chunk
        if self.settings.budget:
            return sorted(missing, key=lambda request: content_hash(str(self.settings.seed), request.key))
        return sorted(missing, key=lambda request: request.key in self.answers)

    def _look_up(self, requests: list[Request]) -> None:
        """Take over what other processes have answered meanwhile; it costs this run nothing."""
        keys = [request.key for request in requests]
        self.answers |= self.store.read(keys)
        for answer in self.shared.read(keys).values() if self.shared else ():
            if not answer.error:
                self.store.add(replace(answer, calls=0, tokens_in=0, tokens_out=0))
        if self.shared:
            self.answers |= self.store.read(keys)

    def _keep(self, answer: Answer) -> None:
        answer.model = self._model
        self.this_run.append(answer)
        self.store.add(answer)
        if self.shared and not answer.error:
            self.shared.add(answer)
        self.answers |= self.store.read([answer.key])

    def _save_now_and_then(self) -> None:
        # a round trip reads the whole corpus each time, and what is not filtered is not shown
        if (
            len(self.this_run) - self._saved >= self.settings.save_every
            and not self.settings.applied_filters.round_trip
        ):
            self._saved = len(self.this_run)
            self.dataset().save_json(self.output_path)

    def dataset(self) -> EmbeddingQAFinetuneDataset:
        """Return the pairs that the answers give, filtered, with their account."""
        answers, prices = dict(self.answers), self.settings.prices
        dataset, chunks, dropped = _assemble(self.plan, answers, self.settings)
        usage = _usage(answers.values(), prices) | {"this_run": _usage(self.this_run, prices)}
        dataset.account = Account(usage, chunks, dropped)
        return dataset


def estimate_questions(
    sets: "Mapping[str, Sequence[BaseNode]]",
    llm: "LLM | str",
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    output_path: str | Path = "qa_finetune_dataset.json",
    *,
    seconds_per_call: float | None = None,
    **options,
) -> "pd.DataFrame":
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
    import pandas as pd

    settings = QuestionSettings(num_questions_per_chunk=num_questions_per_chunk, **options)
    if isinstance(llm, str) and not has_key(llm):  # what it would cost can be told without the key
        llm = SimpleNamespace(model=llm.partition(":")[2])
    else:
        llm = resolve_llm(llm, seed=settings.seed)
    answers = read_answers(_store_path(Path(output_path), settings))
    budget, rows, chunks_left = Budget(settings.budget.calls, settings.budget.tokens), {}, sum(map(len, sets.values()))
    for name, nodes in sets.items():
        plan, share = _plan(nodes, llm, qa_generate_prompt_tmpl, settings), budget.share(len(nodes) / chunks_left)
        rows[name] = _estimate(plan, answers, share, settings, seconds_per_call)
        chunks_left -= len(nodes)
    table = pd.DataFrame(rows.values(), index=list(rows))
    table.loc["all"] = table.sum()
    whole = table.columns.difference(["seconds", "cost"])
    table[whole] = table[whole].astype(int)
    return table


def _estimate(
    plan: _Plan, answers: dict[str, Answer], budget: Budget, settings, seconds_per_call: float | None
) -> dict:
    if settings.shared and not _learns(plan.llm):
        with AnswerStore.shared(settings.shared) as shared:
            theirs = shared.read(plan.by_key).values()
            answers = {answer.key: replace(answer, calls=0, tokens_in=0, tokens_out=0) for answer in theirs} | answers
    missing = plan.missing(answers)
    known = [answers[key] for key in plan.by_key if key in answers and not answers[key].error]
    replies = [answer.tokens_out / answer.calls for answer in known if answer.calls]
    out = sum(replies) / len(replies) if replies else TOKENS_PER_QUESTION * settings.num_questions_per_chunk
    waits = [answer.seconds for answer in known if answer.seconds]
    if seconds_per_call is None:
        fallback = 0.01 if _learns(plan.llm) else SECONDS_PER_CALL
        seconds_per_call = sum(waits) / len(waits) if waits else fallback
    budget.spend(*_spent(answers[key] for key in plan.by_key if key in answers))
    affordable = []
    for request in missing:
        tokens = count_tokens(request.prompt)
        if not budget.allows(tokens + round(out)):
            break
        budget.spend(1, tokens + round(out))
        affordable.append(tokens)
    calls, tokens_in, tokens_out = len(affordable), sum(affordable), round(out * len(affordable))
    row = {"chunks": len(plan.texts), "skipped": len(plan.skipped), "already_done": len(plan.by_key) - len(missing)}
    row |= {"calls": calls, "tokens_in": tokens_in, "tokens_out": tokens_out}
    row["seconds"] = round(-(-calls // settings.concurrency) * seconds_per_call, 1)
    return row if settings.prices is None else row | {"cost": settings.prices.cost(tokens_in, tokens_out)}


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text with LlamaIndex's tokenizer."""
    from llama_index.core.utils import get_tokenizer

    return len(get_tokenizer()(text))


def _store_path(output_path: Path, settings: QuestionSettings) -> Path:
    store = settings.store or output_path.parent / STORE
    if output_path.is_dir() or store == output_path:
        raise UserError(f"output_path is {output_path}; name a file that ends in .json.")
    return store


def _plan(nodes: "Sequence[BaseNode]", llm, template, settings: QuestionSettings) -> _Plan:
    from llama_index.core.schema import MetadataMode

    if not nodes:
        raise UserError("There is no chunk to ask about. Run 01_build_corpus first, or check its input files.")
    template = getattr(template, "template", template)
    texts = {node.node_id: node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes}
    if _learns(llm):
        llm = llm.model_copy().fit(texts.values())
    signature, number = llm_signature(llm), settings.num_questions_per_chunk
    skipped, requests, by_text = {}, {}, {}
    for chunk_id, text in texts.items():
        if reason := skip_reason(text, settings.applied_filters):
            skipped[chunk_id] = reason
            continue
        if text not in by_text:
            prompt = render_prompt(template, text, number, settings.language, settings.seed)
            by_text[text] = Request(content_hash(prompt, signature, str(number), length=32), prompt)
        requests[chunk_id] = by_text[text]
    return _Plan(llm, texts, skipped, requests)


def _learns(llm) -> bool:
    """Whether an LLM is a writer that learns from the corpus (`offline`)."""
    return callable(getattr(llm, "fit", None)) and hasattr(llm, "model_copy")


def _spent(answers: Iterable[Answer]) -> tuple[int, int]:
    """Return the calls and the tokens that answers have cost together."""
    answers = list(answers)
    return sum(answer.calls for answer in answers), sum(answer.tokens_in + answer.tokens_out for answer in answers)


def _usage(answers: Iterable[Answer], prices: Prices | None) -> dict:
    answers = list(answers)
    usage = {name: sum(getattr(answer, name) for answer in answers) for name in ("calls", "tokens_in", "tokens_out")}
    usage["estimated"] = any(answer.estimated for answer in answers)
    usage["cost"] = prices and prices.cost(usage["tokens_in"], usage["tokens_out"])
    return usage


def _assemble(plan: _Plan, answers: dict[str, Answer], settings: QuestionSettings):
    """Return the dataset, one record per chunk, and one record per filter, from the answers there are."""
    written = {}
    for key, ids in plan.owners.items():
        answer = answers.get(key)
        found = parse_questions(answer.reply, settings.num_questions_per_chunk) if answer and answer.reply else []
        written[ids[0]] = found[:-1] if found and answer.truncated else found
    questions = [(chunk_id, question) for chunk_id, found in written.items() for question in found]
    reasons = drop_reasons(questions, plan.texts, settings.applied_filters)

    queries, relevant = {}, {}
    kept, chunk_reasons, dropped = Counter(), {}, {}
    for (chunk_id, question), reason in zip(questions, reasons, strict=True):
        if reason:
            dropped.setdefault(("questions", reason), []).append(question)
            chunk_reasons.setdefault(chunk_id, {})[reason] = True
            continue
        query_id = content_hash(plan.texts[chunk_id], question)
        if query_id in queries:
            query_id = content_hash(plan.texts[chunk_id], question, str(len(queries)))
        queries[query_id] = question
        relevant[query_id] = list(plan.owners[plan.requests[chunk_id].key])
        kept[chunk_id] += 1
    dataset = EmbeddingQAFinetuneDataset(queries=queries, corpus=dict(plan.texts), relevant_docs=relevant)

    chunks = [
        _record(plan, chunk_id, answers, settings, written, kept[chunk_id], chunk_reasons.get(chunk_id, {}))
        for chunk_id in plan.texts
    ]
    skipped: dict[tuple[str, str], list[str]] = {}
    for chunk_id, reason in plan.skipped.items():
        skipped.setdefault(("chunks", reason), []).append(" ".join(plan.texts[chunk_id][:80].split()))
    table = [
        {"filter": name, "what": what, "dropped": len(found), "examples": found[:5]}
        for (what, name), found in (skipped | dropped).items()
    ]
    return dataset, chunks, table


def _record(plan: _Plan, chunk_id: str, answers, settings, written, kept: int, reasons: Iterable[str]) -> dict:
    """Return what became of one chunk."""
    request = plan.requests.get(chunk_id)
    first = plan.owners[request.key][0] if request else chunk_id
    answer = answers.get(request.key) if request and first == chunk_id else None
    asked, found, status, reason = settings.num_questions_per_chunk, 0, "not asked", ""
    if request is None:
        status, reason = "dropped", plan.skipped[chunk_id]
    elif first != chunk_id:
        status, reason = "dropped", f"same text as {first}"
    elif answer is not None and answer.error:
        status, reason = "failed", answer.error
    elif answer is not None:
        found, status = len(written[chunk_id]), "kept" if kept else "dropped"
        why_none = "the reply was cut off" if answer.truncated else "the reply held no question"
        reason = "; ".join(reasons) if found else answer.dropped or why_none
    return {
        "chunk_id": chunk_id,
        "status": status,
        "asked_for": asked if answer else 0,
        "written": found,
        "kept": kept,
        "reason": reason,
        "calls": answer.calls if answer else 0,
        "tokens_in": answer.tokens_in if answer else 0,
        "tokens_out": answer.tokens_out if answer else 0,
    }
