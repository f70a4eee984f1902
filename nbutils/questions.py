"""Questions for every chunk of a corpus: asked at once, journaled, filtered, and accounted for."""

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.asking import Answer, Asker, Budget, GenerationError, Request
from nbutils.common import UserError, content_hash
from nbutils.dataset import EmbeddingQAFinetuneDataset
from nbutils.filters import NO_FILTERS, Filters, drop_reasons, skip_reason
from nbutils.journal import Journal, read_journal
from nbutils.parsing import parse_questions

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.llms import LLM
    from llama_index.core.schema import BaseNode

QUESTION_STYLES = (
    "a few search keywords, not a sentence",
    "a plain question in everyday words",
    "a question about one specific figure, date, name or term, saying whose and of when",
    "a question in other words than the passage's: synonyms, general terms, abbreviations spelt out",
)

DEFAULT_QA_GENERATE_PROMPT_TMPL = """\
This passage comes from a collection of documents that people search.

---------------------
{context_str}
---------------------

Write {num_questions_per_chunk} search queries that people who have never seen the passage would type into a search \
box, and that this passage answers better than any other:
{question_styles}

Each must make sense on its own: name the company, product, person, place or period it is about, and never speak of \
"the passage", "the text" or "the table above". Prefer words that a searcher would think of to those of the passage.
Write in {language}, one query a line, numbered, with nothing before or after.
If nobody would search for what the passage holds (a table of contents, a page of signatures), write only NONE.
"""

EXAM_PROMPT_TMPL = """\
Here is a section of a document.

---------------------
{context_str}
---------------------

You teach this subject. From this section alone, without other knowledge, set {num_questions_per_chunk} questions for \
a written exam. Let them cover different points of the section, and let the section hold the whole answer to each.
Write in {language}, one question a line, numbered, with nothing before or after.
"""

_PLACEHOLDER = re.compile(r"\{\{|\}\}|\{(context_str|num_questions_per_chunk|question_styles|language)\}")
_NOT_THE_MODEL = re.compile(
    r"key|secret|token$|password|credential|header|timeout|retr|client|callback|verbose|class_name|keep_alive|"
    r"messages_to_prompt|completion_to_prompt|output_parser|pydantic_program_mode|query_wrapper",
    re.IGNORECASE,
)
TOKENS_PER_QUESTION = 22
SECONDS_PER_CALL = 2.0


@dataclass
class GenerationResult:
    """What `generate_questions` returns.

    Attributes:
        dataset: the questions that were kept, and all chunks.
        report: a DataFrame with a row for each chunk: `status` ("kept", "dropped", "failed" or "not asked"),
            `asked_for`, `written` and `kept` questions, `reason`, `calls`, `tokens_in`, `tokens_out`.
        filters: a DataFrame with a row for each filter: `dropped` and up to five `examples`.
        usage: `calls`, `tokens_in`, `tokens_out`, `cost` (None without prices) and `estimated` (True where the server
            gave no counts) over the whole set, and the same of this run alone under `this_run`.
    """

    dataset: EmbeddingQAFinetuneDataset
    report: "pd.DataFrame"
    filters: "pd.DataFrame"
    usage: dict

    def summary(self) -> str:
        """Return one line that accounts for every chunk."""
        counts = self.report["status"].value_counts()
        names = ("kept", "dropped", "failed", "not asked")
        parts = [f"{counts[status]} {status}" for status in names if status in counts]
        fewer = int(((self.report["written"] < self.report["asked_for"]) & (self.report["written"] > 0)).sum())
        short = f"; {fewer} chunks gave fewer questions than asked for" if fewer else ""
        return f"{len(self.dataset.queries)} questions from {len(self.report)} chunks ({', '.join(parts)}){short}."


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
    **options,
) -> EmbeddingQAFinetuneDataset:
    """Write questions about every chunk and return (question, chunk) pairs; stands in for LlamaIndex's function.

    Args:
        nodes: the chunks, as LlamaIndex nodes.
        llm: a LlamaIndex LLM, or a name that `nbutils.providers.resolve_llm` knows.
        qa_generate_prompt_tmpl: the prompt. `{context_str}` is the chunk, `{num_questions_per_chunk}` the number;
            `{question_styles}` and `{language}` may be used too.
        num_questions_per_chunk: questions to ask for.
        retry_limit: tries a chunk before it has failed; waits grow from half a second to thirty.
        on_failure: "continue" leaves a failed chunk without questions, "fail" stops at the first.
        save_every: chunks between two saves of `output_path`. Nothing is lost in between: answers are journaled.
        output_path: the dataset; its journal lies beside it, `.jsonl` in place of `.json`.
        verbose: show a bar, and a line that accounts for every chunk.
        **options: the further arguments of `generate_questions`: `concurrency`, `filters`, `budget_calls`, …

    Returns:
        The dataset. Its corpus holds all chunks, also those without questions.

    Raises:
        GenerationError: (a RuntimeError) the LLM refuses, or too many chunks in a row failed. Run again to continue.
        UserError: an argument that cannot be.
    """
    return generate_questions(
        nodes,
        llm,
        qa_generate_prompt_tmpl,
        num_questions_per_chunk,
        retry_limit,
        on_failure,
        save_every,
        output_path,
        verbose,
        **options,
    ).dataset


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
    filters: Filters | Mapping | None = Filters(),  # noqa: B008 (frozen)
    language: str | None = None,
    budget_calls: int | None = None,
    budget_tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    timeout: float = 120.0,
    stop_after: int = 5,
    seed: int = 0,
) -> GenerationResult:
    """As `generate_qa_embedding_pairs`, with the whole account of what was asked, kept, dropped and spent.

    Args:
        concurrency: calls at a time.
        journal_path: one line for each finished chunk; by default beside `output_path`. A chunk is asked once for each
            prompt, model, setting and number of questions, however often this runs.
        filters: `Filters(…)`, its fields as a mapping, or None for no filter at all.
        language: what `{language}` stands for, "German" for example; by default the chunk's own.
        budget_calls, budget_tokens: stop cleanly when the set has cost so much, earlier runs included; raise it to
            go on. Chunks are then asked in a shuffled order, so that a part of them stands for all.
        prices: `{"input": …, "output": …}` in your currency for a million tokens.
        timeout: seconds to wait for one reply.
        stop_after: chunks that failed in a row before everything stops.
        seed: for the choice of styles, the order under a budget, and the jitter of waits.
    """
    _check(num_questions_per_chunk, retry_limit, on_failure, concurrency, timeout, stop_after, save_every)
    output_path = Path(output_path)
    llm = _resolve(llm, seed, timeout)
    plan = _plan(nodes, llm, qa_generate_prompt_tmpl, num_questions_per_chunk, filters, language, seed)
    chosen_prices = _prices(prices)
    with Journal(journal_path or output_path.with_suffix(".jsonl")) as journal:
        earlier = _answers(journal.lines)
        wanted = {request.key for request in plan.requests.values()}
        plan.answers = {key: answer for key, answer in earlier.items() if key in wanted}
        already = _usage(plan.answers.values(), chosen_prices)
        missing = list({r.key: r for r in plan.requests.values() if _is_missing(plan.answers.get(r.key))}.values())
        budget = Budget(budget_calls, budget_tokens, already["calls"], already["tokens_in"] + already["tokens_out"])
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
            plan.answers[answer.key] = _add(before, answer)

        saved = 0

        def save_now_and_then() -> None:
            nonlocal saved
            if len(this_run) - saved >= save_every:
                saved = len(this_run)
                _assemble(plan, num_questions_per_chunk, dict(plan.answers), NO_FILTERS)[0].save_json(output_path)

        asker = Asker(
            plan.llm,
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
            asker.run(missing, save_now_and_then, verbose)
        except BaseException as error:
            problem = error
        dataset, report, dropped = _assemble(plan, num_questions_per_chunk, plan.answers, plan.filters)
        usage = _usage(plan.answers.values(), chosen_prices) | {"this_run": _usage(this_run, chosen_prices)}
        result = GenerationResult(dataset, report, dropped, usage)
        if problem is None or dataset.queries:
            dataset.save_json(output_path)
        if isinstance(problem, GenerationError):
            done = int((report["status"].isin(["kept", "dropped"])).sum())
            raise GenerationError(
                f"{problem} ({done} of {len(report)} chunks are done; journal: {journal.path})"
            ) from problem
        if problem is not None:
            raise problem
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
    filters: Filters | Mapping | None = Filters(),  # noqa: B008 (frozen)
    language: str | None = None,
    budget_calls: int | None = None,
    budget_tokens: int | None = None,
    prices: Mapping[str, float] | None = None,
    seed: int = 0,
    seconds_per_call: float | None = None,
) -> dict:
    """Return what `generate_questions` with the same arguments would cost, without asking anything.

    Args:
        seconds_per_call: how long one call takes; by default what the journal says, else two seconds.

    Returns:
        `chunks`, `skipped` (no prose), `already_done` (in the journal), `calls` still to make, `tokens_in`,
        `tokens_out`, `seconds` at this concurrency, and `cost` (None without prices). Token counts are estimates.
    """
    _check(num_questions_per_chunk, 1, "continue", concurrency, 1, 1, 1)
    llm = _resolve(llm, seed, 60.0)
    plan = _plan(nodes, llm, qa_generate_prompt_tmpl, num_questions_per_chunk, filters, language, seed)
    answers = _answers(read_journal(journal_path or Path(output_path).with_suffix(".jsonl")))
    wanted = {request.key: request for request in plan.requests.values()}
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
        if not budget.reserve(request.tokens + round(out)):
            break
        affordable.append(request)
    tokens_in, tokens_out = sum(request.tokens for request in affordable), round(out * len(affordable))
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


def documented_prompt() -> str:
    """Return the exam prompt that LlamaIndex ships, word for word, from the installed package."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        from llama_index.finetuning.embeddings.common import DEFAULT_QA_GENERATE_PROMPT_TMPL as documented
    return documented


def prompt_by_name(name: str) -> str:
    """Return the prompt called "search", "exam" or "documented"; any other text is itself a prompt.

    Raises:
        UserError: no such name, and no prompt either: it lacks `{context_str}`.
    """
    if name == "documented":
        return documented_prompt()
    known = {"search": DEFAULT_QA_GENERATE_PROMPT_TMPL, "exam": EXAM_PROMPT_TMPL}
    if name not in known and "{context_str}" not in name:
        raise UserError(
            f"PROMPT is {name!r}; use 'search', 'exam', 'documented', or a prompt that holds {{context_str}}."
        )
    return known.get(name, name)


def render_prompt(template: str, text: str, num_questions: int, language: str | None = None, seed: int = 0) -> str:
    """Fill a template. Braces that are no placeholder stay as they are; `{{` and `}}` give single ones.

    Which of `QUESTION_STYLES` a chunk is asked for depends on its text and the seed, so that each gets its share.

    Raises:
        UserError: the template lacks `{context_str}`.
    """
    if "{context_str}" not in template:
        raise UserError("qa_generate_prompt_tmpl lacks {context_str}, the place where the chunk goes. Add it.")
    start = int(hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).hexdigest(), 16)
    styles = [QUESTION_STYLES[(start + i) % len(QUESTION_STYLES)] for i in range(num_questions)]
    values = {
        "context_str": text,
        "num_questions_per_chunk": str(num_questions),
        "question_styles": "\n".join(f"{number}. {style}" for number, style in enumerate(styles, 1)),
        "language": language or "the language of the passage",
    }
    return _PLACEHOLDER.sub(lambda match: values[match[1]] if match[1] else match[0][0], template)


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


def _resolve(llm, seed: int, timeout: float):
    from nbutils.providers import resolve_llm

    return resolve_llm(llm, seed=seed, timeout=timeout)


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
            requests[chunk_id] = by_text[text] = Request(
                key, prompt, count_tokens(prompt), TOKENS_PER_QUESTION * num_questions
            )
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
    metadata = getattr(llm, "metadata", None)
    return str(getattr(metadata, "model_name", None) or type(llm).__name__)


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
    import pandas as pd

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
    return dataset, pd.DataFrame(rows), pd.DataFrame(table, columns=["filter", "what", "dropped", "examples"])
