"""Questions for every chunk of a corpus: asked at once, journaled, filtered, and accounted for."""

import contextlib
import json
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

from nbutils.core import UserError, content_hash
from nbutils.models.names import has_key, resolve_llm
from nbutils.questions.ask import Answer, Asker, Budget, GenerationError, Request, without_retries
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.filters import NO_FILTERS, Filters, drop_reasons, skip_reason
from nbutils.questions.journal import Journal, read_journal
from nbutils.questions.parse import parse_questions
from nbutils.questions.prompts import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    EXAM_PROMPT_TMPL,
    QUESTION_STYLES,
    documented_prompt,
    prompt_by_name,
    render_prompt,
)
from nbutils.questions.store import SharedAnswers

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.llms import LLM
    from llama_index.core.schema import BaseNode

_NOT_THE_MODEL = re.compile(
    r"key|secret|token$|password|credential|header|timeout|retr|client|callback|verbose|class_name|keep_alive|"
    r"messages_to_prompt|completion_to_prompt|output_parser|pydantic_program_mode|query_wrapper",
    re.IGNORECASE,
)
__all__ = [
    "DEFAULT_QA_GENERATE_PROMPT_TMPL",
    "EXAM_PROMPT_TMPL",
    "QUESTION_STYLES",
    "Filters",
    "GenerationError",
    "GenerationResult",
    "documented_prompt",
    "estimate_questions",
    "generate_qa_embedding_pairs",
    "generate_questions",
    "prompt_by_name",
    "render_prompt",
]

TOKENS_PER_QUESTION = 22
SECONDS_PER_CALL = 2.0


@dataclass
class GenerationResult:
    """What `generate_questions` returns.

    Attributes:
        dataset: the questions that were kept, and all chunks.
        usage: `calls`, `tokens_in`, `tokens_out`, `cost` (None without prices) and `estimated` (True where the server
            gave no counts) over the whole set, and the same of this run alone under `this_run`.
    """

    dataset: EmbeddingQAFinetuneDataset
    usage: dict
    _chunks: list[dict]
    _filters: list[dict]

    @property
    def report(self) -> "pd.DataFrame":
        """A row for each chunk: `status` ("kept", "dropped", "failed" or "not asked"), `asked_for`, `written` and
        `kept` questions, `reason`, `calls`, `tokens_in`, `tokens_out`."""
        import pandas as pd

        return pd.DataFrame(self._chunks)

    @property
    def filters(self) -> "pd.DataFrame":
        """A row for each filter that dropped something: `filter`, `what` (chunks or questions), `dropped`, and up to
        five `examples`."""
        import pandas as pd

        return pd.DataFrame(self._filters, columns=["filter", "what", "dropped", "examples"])

    def summary(self) -> str:
        """Return one line that accounts for every chunk."""
        counts = Counter(row["status"] for row in self._chunks)
        names = ("kept", "dropped", "failed", "not asked")
        parts = [f"{counts[status]} {status}" for status in names if counts[status]]
        fewer = sum(0 < row["written"] < row["asked_for"] for row in self._chunks)
        short = f"; {fewer} chunks gave fewer questions than asked for" if fewer else ""
        return f"{len(self.dataset.queries)} questions from {len(self._chunks)} chunks ({', '.join(parts)}){short}."


@dataclass
class _Plan:
    """Which prompt belongs to which chunk, and what the journal already holds."""

    llm: object
    texts: dict[str, str]
    skipped: dict[str, str]
    requests: dict[str, Request]  # chunk id -> request
    filters: Filters
    answers: dict[str, Answer] = field(default_factory=dict)  # key -> answer


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
    *,
    concurrency: int = 8,
    journal_path: str | Path | None = None,
    cache: str | Path | None = None,
    filters: Filters | Mapping | None = Filters(),  # noqa: B008 (frozen)
    language: str | None = None,
    budget_calls: int | None = None,
    budget_tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    timeout: float = 120.0,
    stop_after: int = 5,
    seed: int = 0,
) -> EmbeddingQAFinetuneDataset:
    """Write questions about every chunk and return (question, chunk) pairs; stands in for LlamaIndex's function.

    Answers are journaled as they come: started again after anything, it asks only for what is missing.

    Args:
        nodes: the chunks, as LlamaIndex nodes.
        llm: a LlamaIndex LLM, or a name that `nbutils.models.names.resolve_llm` knows.
        qa_generate_prompt_tmpl: the prompt. `{context_str}` is the chunk, `{num_questions_per_chunk}` the number;
            `{question_styles}` and `{language}` may be used too.
        num_questions_per_chunk: questions to ask for.
        retry_limit: tries a chunk before it has failed; waits grow from half a second to thirty. (LlamaIndex tries
            three times without a wait, too few for a server that is busy for a few seconds.)
        on_failure: "continue" leaves a failed chunk without questions, "fail" stops at the first.
        save_every: chunks between two saves of `output_path`. Nothing is lost in between.
        output_path: the dataset. It is written anew, from these nodes alone.
        verbose: show a bar with rate, tokens and time left, and a line that accounts for every chunk.
        concurrency: calls at a time.
        journal_path: one line for each finished chunk; by default beside `output_path`, `.jsonl` in place of `.json`.
            A chunk is asked once for each prompt, model, setting and number of questions, however often this runs.
        cache: a folder of answers that several runs share: what another run has asked, or is asking, is not asked
            again. Writers that learn from the corpus (`offline`) do not use it.
        filters: `Filters(…)`, its fields as a mapping, or None for no filter at all.
        language: what `{language}` stands for, "German" for example; by default the chunk's own.
        budget_calls, budget_tokens: stop cleanly when the set has cost so much, earlier runs included; raise it to
            go on. Chunks are then asked in a shuffled order, so that a part of them stands for all.
        prices: `{"input": …, "output": …}` in your currency for a million tokens.
        timeout: seconds to wait for one reply.
        stop_after: chunks that failed in a row before everything stops.
        seed: for the choice of styles, the order under a budget, and the jitter of waits.

    Returns:
        The dataset. Its corpus holds all chunks, also those without questions.

    Raises:
        GenerationError: (a RuntimeError) the LLM refuses, or too many chunks in a row failed. Run again to continue.
        UserError: an argument that cannot be, or another run at work on the same journal.
    """
    return generate_questions(**locals()).dataset


def generate_questions(
    nodes: "Sequence[BaseNode]",
    llm: "LLM | str",
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    retry_limit: int = 7,
    on_failure: str = "continue",
    save_every: int = 500,
    output_path: str | Path = "qa_finetune_dataset.json",
    verbose: bool = True,
    *,
    concurrency: int = 8,
    journal_path: str | Path | None = None,
    cache: str | Path | None = None,
    filters: Filters | Mapping | None = Filters(),  # noqa: B008 (frozen)
    language: str | None = None,
    budget_calls: int | None = None,
    budget_tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    timeout: float = 120.0,
    stop_after: int = 5,
    seed: int = 0,
) -> GenerationResult:
    """As `generate_qa_embedding_pairs`, with the whole account of what was asked, kept, dropped and spent."""
    _check(num_questions_per_chunk, retry_limit, on_failure, concurrency, timeout, stop_after, save_every)
    output_path = Path(output_path)
    journal_path = Path(journal_path or output_path.with_suffix(".jsonl"))
    if output_path.is_dir() or journal_path == output_path:
        raise UserError(f"output_path is {output_path}; name a file that ends in .json.")
    llm = resolve_llm(llm, seed=seed, timeout=timeout)
    plan = _plan(nodes, llm, qa_generate_prompt_tmpl, num_questions_per_chunk, filters, language, seed)
    chosen_prices = _prices(prices)
    shared = SharedAnswers(cache) if cache and not _learns(plan.llm) else None
    with Journal(journal_path) as journal, closing(shared) if shared else nullcontext():
        earlier = _answers(journal.lines)
        wanted = {request.key for request in plan.requests.values()}
        plan.answers = {key: answer for key, answer in earlier.items() if key in wanted}
        already = _usage(plan.answers.values(), chosen_prices)
        missing = list({r.key: r for r in plan.requests.values() if _is_missing(plan.answers.get(r.key))}.values())
        budget = Budget(budget_calls, budget_tokens, already["calls"], already["tokens_in"] + already["tokens_out"])
        missing.sort(key=lambda request: request.key in plan.answers)  # what failed before comes last
        if budget_tokens is not None:
            for request in missing:
                request.tokens = count_tokens(request.prompt)
                request.tokens_out = TOKENS_PER_QUESTION * num_questions_per_chunk
        if budget_calls is not None or budget_tokens is not None:
            missing.sort(key=lambda request: content_hash(str(seed), request.key))
        this_run: list[Answer] = []
        model = _model_name(llm)

        def on_answer(answer: Answer) -> None:
            this_run.append(answer)
            before = plan.answers.get(answer.key)
            entry = {"key": answer.key, "model": model} | {
                name: value for name, value in vars(answer).items() if name != "key" and value not in ("", False)
            }
            entry["seconds"] = round(answer.seconds, 3)
            journal.append(entry)
            if shared and not answer.error:
                shared.write(answer.key, {"reply": answer.reply, "truncated": answer.truncated})
            plan.answers[answer.key] = _add(before, answer)

        def borrow(requests: list[Request]) -> None:
            for key, known in (shared.read(r.key for r in requests) if shared else {}).items():
                journal.append({"key": key, "model": model, "shared": True} | known)
                plan.answers[key] = _add(plan.answers.get(key), Answer(key, **known))

        def unanswered(requests: list[Request]) -> list[Request]:
            return [request for request in requests if _is_missing(plan.answers.get(request.key))]

        saved = 0

        def save_now_and_then() -> None:
            nonlocal saved
            if len(this_run) - saved >= save_every:
                saved = len(this_run)
                _assemble(plan, num_questions_per_chunk, dict(plan.answers), NO_FILTERS)[0].save_json(output_path)

        asker = Asker(
            without_retries(plan.llm),
            on_answer,
            concurrency=concurrency,
            retry_limit=retry_limit,
            timeout=timeout,
            stop_after=stop_after,
            fail_fast=on_failure == "fail",
            budget=budget,
            count_tokens=count_tokens,
            empty_is_answer=_learns(plan.llm),
            seed=seed,
        )
        problem: BaseException | None = None
        try:
            while missing:
                with _claimed(shared, missing) as mine:
                    borrow(missing)
                    asker.run(unanswered(mine), save_now_and_then, verbose)
                    asked = {request.key for request in mine}
                missing = unanswered([request for request in missing if request.key not in asked])
                if asker.out_of_budget:
                    break
                if missing:  # another run is asking them
                    time.sleep(0.5)
        except BaseException as error:
            problem = error
        if problem is None and this_run and all(_is_missing(answer) for answer in plan.answers.values()):
            problem = GenerationError(f"No chunk was answered: {this_run[-1].error}. Run again to continue.")
        dataset, rows, dropped = _assemble(plan, num_questions_per_chunk, plan.answers, plan.filters)
        usage = _usage(plan.answers.values(), chosen_prices) | {"this_run": _usage(this_run, chosen_prices)}
        if problem is None or dataset.queries:
            dataset.save_json(output_path)
        if isinstance(problem, GenerationError):
            done = sum(row["status"] in ("kept", "dropped") for row in rows)
            raise GenerationError(
                f"{problem} ({done} of {len(rows)} chunks are done; journal: {journal.path})"
            ) from problem
        if problem is not None:
            raise problem
    result = GenerationResult(dataset, usage, rows, dropped)
    if verbose:
        print(result.summary())
        if asker.out_of_budget:
            print(f"The budget is spent ({budget.used_calls} calls, {budget.used_tokens:,} tokens). Raise it to go on.")
    return result


def estimate_questions(
    nodes: "Sequence[BaseNode]",
    llm: "LLM | str",
    qa_generate_prompt_tmpl: str = DEFAULT_QA_GENERATE_PROMPT_TMPL,
    num_questions_per_chunk: int = 2,
    output_path: str | Path = "qa_finetune_dataset.json",
    *,
    concurrency: int = 8,
    journal_path: str | Path | None = None,
    cache: str | Path | None = None,
    filters: Filters | Mapping | None = Filters(),  # noqa: B008 (frozen)
    language: str | None = None,
    budget_calls: int | None = None,
    budget_tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    seed: int = 0,
    seconds_per_call: float | None = None,
) -> dict:
    """Return what `generate_questions` with the same arguments would cost, without asking anything.

    Without the provider's key the journal cannot be matched, and the cost is that of starting anew.

    Args:
        seconds_per_call: how long one call takes; by default what the journal says, else two seconds.

    Returns:
        `chunks`, `skipped` (no prose), `already_done` (in the journal), `calls` still to make, `tokens_in`,
        `tokens_out`, `seconds` at this concurrency, and `cost` (None without prices). Token counts are estimates.
    """
    _check(num_questions_per_chunk, 1, "continue", concurrency, 1, 1, 1)
    if isinstance(llm, str) and not has_key(llm):  # what it would cost can be told without the key
        llm = SimpleNamespace(model=llm.partition(":")[2])
    else:
        llm = resolve_llm(llm, seed=seed)
    plan = _plan(nodes, llm, qa_generate_prompt_tmpl, num_questions_per_chunk, filters, language, seed)
    answers = _answers(read_journal(journal_path or Path(output_path).with_suffix(".jsonl")))
    wanted = {request.key: request for request in plan.requests.values()}
    if cache and not _learns(plan.llm):
        with closing(SharedAnswers(cache)) as shared:
            missing = [key for key in wanted if _is_missing(answers.get(key))]
            answers |= {key: Answer(key, **known) for key, known in shared.read(missing).items()}
    missing = [request for key, request in wanted.items() if _is_missing(answers.get(key))]
    known = [answers[key] for key in wanted if key in answers and not answers[key].error]
    replies = [answer.tokens_out / max(answer.calls, 1) for answer in known]
    out = sum(replies) / len(replies) if replies else TOKENS_PER_QUESTION * num_questions_per_chunk
    if seconds_per_call is None:
        waits = [answer.seconds for answer in known if answer.seconds]
        fallback = 0.01 if _learns(llm) else SECONDS_PER_CALL
        seconds_per_call = sum(waits) / len(waits) if waits else fallback
    spent = [answers[key] for key in wanted if key in answers]
    budget = Budget(
        budget_calls, budget_tokens, sum(a.calls for a in spent), sum(a.tokens_in + a.tokens_out for a in spent)
    )
    affordable = []
    for request in missing:
        affordable.append(count_tokens(request.prompt))
        if not budget.reserve(affordable[-1] + round(out)):
            affordable.pop()
            break
    tokens_in, tokens_out = sum(affordable), round(out * len(affordable))
    return {
        "chunks": len(plan.texts),
        "skipped": len(plan.skipped),
        "already_done": len(wanted) - len(missing),
        "calls": len(affordable),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "seconds": round(-(-len(affordable) // concurrency) * seconds_per_call, 1),
        "cost": _cost(tokens_in, tokens_out, _prices(prices)),
    }


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text with LlamaIndex's tokenizer."""
    from llama_index.core.utils import get_tokenizer

    return len(get_tokenizer()(text))


def _check(num_questions, retry_limit, on_failure, concurrency, timeout, stop_after, save_every) -> None:
    for name, value in {
        "num_questions_per_chunk": num_questions,
        "retry_limit": retry_limit,
        "concurrency": concurrency,
        "stop_after": stop_after,
        "save_every": save_every,
    }.items():
        if value < 1:
            raise UserError(f"{name} is {value}; set it to 1 or more.")
    if timeout <= 0:
        raise UserError(f"timeout is {timeout}; set it to some seconds.")
    if on_failure not in ("fail", "continue"):
        raise UserError(f"on_failure is {on_failure!r}; use 'fail' or 'continue'.")


def _prices(prices: Mapping[str, float] | None) -> Mapping[str, float] | None:
    if prices is not None and not {"input", "output"} <= set(prices):
        raise UserError("prices needs 'input' and 'output', each the price of a million tokens.")
    return prices


def _plan(nodes, llm, template, num_questions, filters, language, seed) -> _Plan:
    from llama_index.core.schema import MetadataMode

    if not nodes:
        raise UserError("There is no chunk to ask about. Run 01_build_corpus first, or check its input files.")
    template = getattr(template, "template", template)
    filters = NO_FILTERS if filters is None else filters if isinstance(filters, Filters) else _from_mapping(filters)
    texts = {node.node_id: node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes}
    llm, signature = _fit(llm, texts)
    skipped, requests, by_text = {}, {}, {}
    for chunk_id, text in texts.items():
        if reason := skip_reason(text, filters):
            skipped[chunk_id] = reason
        elif text in by_text:
            requests[chunk_id] = by_text[text]
        else:
            prompt = render_prompt(template, text, num_questions, language, seed)
            key = content_hash(prompt, signature, str(num_questions), length=32)
            requests[chunk_id] = by_text[text] = Request(key, prompt)
    return _Plan(llm, texts, skipped, requests, filters)


def _fit(llm, texts: Mapping[str, str]):
    """Return the LLM and its signature; a writer that learns from the corpus (`offline`) learns from this one first."""
    if not _learns(llm):
        return llm, llm_signature(llm)
    return llm.model_copy().fit(texts.values()), llm_signature(llm) + content_hash(*texts.values())


def _learns(llm) -> bool:
    return callable(getattr(llm, "fit", None)) and hasattr(llm, "model_copy")


def _from_mapping(filters: Mapping) -> Filters:
    try:
        return Filters(**filters)
    except TypeError as error:
        known = ", ".join(Filters.__dataclass_fields__)
        raise UserError(f"filters holds an unknown name ({', '.join(filters)}); known are {known}.") from error


def llm_signature(llm) -> str:
    """Return what makes an LLM's answers its own: model and settings, without keys, time-outs and connections."""
    settings = {}
    if hasattr(llm, "model_dump"):
        with contextlib.suppress(Exception):
            settings = llm.model_dump(exclude_defaults=True)
    return json.dumps([type(llm).__name__, _model_name(llm), _plain(settings)], sort_keys=True, ensure_ascii=False)


def _plain(value):
    """Keep of a settings tree what has a stable form."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if not _NOT_THE_MODEL.search(str(k))}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else type(value).__name__


def _model_name(llm) -> str:
    try:
        name = llm.metadata.model_name
    except (AttributeError, ValueError):  # LlamaIndex's OpenAI raises ValueError for models it does not know
        name = getattr(llm, "model", None)
    return str(name or type(llm).__name__)


def _answers(lines: list[dict]) -> dict[str, Answer]:
    """Return the latest answer for each key, with the calls and tokens of all its lines."""
    answers: dict[str, Answer] = {}
    for line in lines:
        known = {name: line[name] for name in Answer.__dataclass_fields__ if name in line}
        answers[line["key"]] = _add(answers.get(line["key"]), Answer(**known))
    return answers


def _add(before: Answer | None, new: Answer) -> Answer:
    if before is None:
        return new
    latest = Answer(**vars(new if not new.error or before.error else before))
    latest.calls = before.calls + new.calls
    latest.tokens_in = before.tokens_in + new.tokens_in
    latest.tokens_out = before.tokens_out + new.tokens_out
    return latest


@contextmanager
def _claimed(shared: SharedAnswers | None, requests: list[Request]):
    """Yield those of the requests that are this process's to ask."""
    if shared is None:
        yield requests
        return
    with shared.claim(request.key for request in requests) as keys:
        yield [request for request in requests if request.key in keys]


def _is_missing(answer: Answer | None) -> bool:
    return answer is None or bool(answer.error)


def _usage(answers, prices: Mapping[str, float] | None) -> dict:
    answers = list(answers)
    usage = {name: sum(getattr(answer, name) for answer in answers) for name in ("calls", "tokens_in", "tokens_out")}
    usage["estimated"] = any(answer.estimated for answer in answers)
    usage["cost"] = _cost(usage["tokens_in"], usage["tokens_out"], prices)
    return usage


def _cost(tokens_in: int, tokens_out: int, prices: Mapping[str, float] | None) -> float | None:
    return None if prices is None else round((tokens_in * prices["input"] + tokens_out * prices["output"]) / 1e6, 6)


def _assemble(plan: _Plan, num_questions: int, answers: dict[str, Answer], filters: Filters):
    """Return the dataset, the report on chunks and the report on filters, from the answers there are."""
    owners: dict[str, list[str]] = {}  # key -> chunk ids with that very text
    for chunk_id, request in plan.requests.items():
        owners.setdefault(request.key, []).append(chunk_id)
    written: dict[str, list[str]] = {}
    for key, ids in owners.items():
        answer = answers.get(key)
        found = [] if _is_missing(answer) else parse_questions(answer.reply, num_questions)
        written[ids[0]] = found[:-1] if found and answer.truncated else found
    questions = [(chunk_id, question) for chunk_id, found in written.items() for question in found]
    reasons = drop_reasons(questions, plan.texts, filters)

    queries, relevant, kept = {}, {}, dict.fromkeys(plan.texts, 0)
    dropped: dict[str, list[str]] = {}
    chunk_reasons: dict[str, list[str]] = {}
    for (chunk_id, question), reason in zip(questions, reasons, strict=True):
        if reason:
            dropped.setdefault(reason, []).append(question)
            chunk_reasons.setdefault(chunk_id, []).append(reason)
            continue
        query_id = content_hash(plan.texts[chunk_id], question)
        if query_id in queries:
            query_id = content_hash(plan.texts[chunk_id], question, str(len(queries)))
        queries[query_id] = question
        relevant[query_id] = list(owners[plan.requests[chunk_id].key])
        kept[chunk_id] += 1
    dataset = EmbeddingQAFinetuneDataset(queries=queries, corpus=dict(plan.texts), relevant_docs=relevant)

    rows = []
    for chunk_id in plan.texts:
        row = {"chunk_id": chunk_id, "status": "not asked", "asked_for": 0, "written": 0}
        row |= {"kept": kept[chunk_id], "reason": ""}
        request = plan.requests.get(chunk_id)
        answer = answers.get(request.key) if request else None
        if chunk_id in plan.skipped:
            row |= {"status": "dropped", "reason": plan.skipped[chunk_id]}
        elif owners[request.key][0] != chunk_id:
            row |= {"status": "dropped", "reason": f"same text as {owners[request.key][0]}"}
        elif answer is not None and answer.error:
            row |= {"status": "failed", "reason": answer.error, "asked_for": num_questions}
        elif answer is not None:
            why = "; ".join(dict.fromkeys(chunk_reasons.get(chunk_id, [])))
            if not written[chunk_id]:
                why = "the reply was cut off" if answer.truncated else "the reply held no question"
            row |= {"status": "kept" if kept[chunk_id] else "dropped", "reason": why}
            row |= {"asked_for": num_questions, "written": len(written[chunk_id])}
        own = answer if request and owners[request.key][0] == chunk_id else None
        for name in ("calls", "tokens_in", "tokens_out"):
            row[name] = getattr(own, name, 0)
        rows.append(row)
    skipped = {}
    for chunk_id, reason in plan.skipped.items():
        skipped.setdefault(reason, []).append(" ".join(plan.texts[chunk_id][:80].split()))
    table = [
        {"filter": name, "what": what, "dropped": len(found), "examples": found[:5]}
        for what, source in (("chunks", skipped), ("questions", dropped))
        for name, found in source.items()
    ]
    return dataset, rows, table
