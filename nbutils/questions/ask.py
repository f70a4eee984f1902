"""Asking an LLM many prompts at once: a limit on concurrency, retries, time-outs, budgets, and reasons to stop."""

import asyncio
import contextlib
import email.utils
import functools
import inspect
import math
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from nbutils.core import UserError, progress

BACKOFF_SECONDS = (0.5, 30.0)  # the first wait and the longest
LONGEST_RETRY_AFTER = 600.0
BAD_REPLY_TRIES = 3  # an empty or cut-off reply tends to come back the same, and costs each time
TRANSIENT_STATUS = {408, 409, 423, 425, 429}
ONE_PROMPT_ONLY = {"content_filter", "content_policy_violation", "context_length_exceeded", "string_above_max_length"}
_TOO_LONG = re.compile(r"context (?:length|size|window)|prompt is too long|too many (?:input )?tokens", re.IGNORECASE)


class GenerationError(UserError, RuntimeError):
    """Asking stopped before its end; what was answered is in the journal, and running again continues there."""


@dataclass
class Request:
    """One prompt to ask, with the estimated tokens of the prompt and of its reply."""

    key: str
    prompt: str
    tokens: int = 0
    tokens_out: int = 0


@dataclass
class Answer:
    """What came of one request: `reply`, or `error` (the reason) where it failed for good."""

    key: str
    reply: str = ""
    error: str = ""
    truncated: bool = False
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: bool = False
    seconds: float = 0.0


@dataclass
class Budget:
    """What may be spent, and what has been."""

    calls: int | None = None
    tokens: int | None = None
    used_calls: int = 0
    used_tokens: int = 0
    reserved_tokens: int = 0

    def reserve(self, tokens: int) -> bool:
        """Set aside one call of about `tokens` tokens; False where the budget does not allow it."""
        planned = self.used_tokens + self.reserved_tokens + tokens
        if (self.calls is not None and self.used_calls >= self.calls) or (
            self.tokens is not None and planned > self.tokens
        ):
            return False
        self.used_calls += 1
        self.reserved_tokens += tokens
        return True

    def settle(self, reserved: int, used: int) -> None:
        """Replace a reservation by what the call really used."""
        self.reserved_tokens -= reserved
        self.used_tokens += used


@dataclass
class _Fault:
    reason: str
    kind: str  # "wait" (rate limit), "again" (transient), "skip" (this prompt only), "stop" (no use in going on)
    retry_after: float | None = None


@dataclass
class Asker:
    """Asks requests of one LLM and hands each answer on as it comes.

    Args:
        llm: a LlamaIndex LLM; one that can only be called synchronously is called in threads.
        on_answer: called with each `Answer`, from one thread, as soon as it is there.
        concurrency: calls at a time. The first call goes alone, so that a wrong key costs one call.
        retry_limit: tries a request before it has failed.
        timeout: seconds to wait for one reply.
        stop_after: requests that failed in a row before asking stops.
        fail_fast: stop at the first failed request.
        budget: calls and tokens that may be spent.
        count_tokens: estimates the tokens of a text, where the server does not say.
        empty_is_answer: an empty reply means that there is nothing to ask, not that something went wrong.
        seed: for the jitter of the waits.
    """

    llm: object
    on_answer: Callable[[Answer], None]
    concurrency: int = 8
    retry_limit: int = 7
    timeout: float = 120.0
    stop_after: int = 5
    fail_fast: bool = False
    budget: Budget = field(default_factory=Budget)
    count_tokens: Callable[[str], int] = lambda text: len(text) // 4
    empty_is_answer: bool = False
    seed: int = 0
    out_of_budget: bool = False
    tokens: int = 0
    calls: int = 0
    note: str = ""
    _successes: int = 0
    _failed_in_row: int = 0
    _not_before: float = 0.0
    _understated: float = 1.0  # the most tokens a call has used, as a multiple of its estimate

    def run(self, requests: list[Request], on_tick: Callable[[], None] = lambda: None, verbose: bool = True) -> None:
        """Ask everything and return when it is answered, failed, or out of budget.

        Works in plain Python and inside a running event loop (Jupyter): calls run in a loop of their own.

        Args:
            requests: what to ask, in the order to ask it.
            on_tick: called about ten times a second from the caller's thread.
            verbose: show a bar with rate, tokens so far and time left.

        Raises:
            GenerationError: the server refuses (key, model, request), or too many requests failed in a row.
        """
        if not requests:
            return
        self._random = random.Random(self.seed)
        self._finished, self._ended = 0, threading.Event()
        future = asyncio.run_coroutine_threadsafe(self._ask_all(requests), _loop(os.getpid()))
        shown = 0
        with progress(total=len(requests), desc="Asking", unit="chunk", disable=not verbose) as bar:
            try:
                while not future.done():
                    with contextlib.suppress(TimeoutError):
                        future.result(timeout=0.1)
                    bar.update(self._finished - shown)
                    shown = self._finished
                    bar.set_postfix_str(f"{self.tokens:,} tokens{self.note}", refresh=False)
                    on_tick()
            except BaseException:
                future.cancel()
                self._ended.wait(5)
                raise
        future.result()

    async def _ask_all(self, requests: list[Request]) -> None:
        try:
            await self._ask_in_turn(iter(requests), min(self.concurrency, len(requests)))
        finally:
            self._ended.set()

    async def _ask_in_turn(self, waiting: Iterator[Request], concurrency: int) -> None:

        async def worker() -> None:
            for request in waiting:
                if self.out_of_budget or not await self._ask(request):
                    return

        first = next(waiting)
        if not await self._ask(first):
            return
        workers = [asyncio.ensure_future(worker()) for _ in range(concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _ask(self, request: Request) -> bool:
        """Ask one request until it is answered or has failed; False when the budget ends."""
        answer = Answer(request.key)
        failures, refusals, bad_replies = 0, 0, 0
        successes = self._successes
        while True:
            await self._gate()
            reserved = math.ceil((request.tokens + request.tokens_out) * self._understated)
            if not self.budget.reserve(reserved):
                self.out_of_budget = True
                if answer.calls:
                    self._hand_on(answer, "the budget ended while it was retried")
                return False
            answer.calls += 1
            self.calls += 1
            started = time.monotonic()
            used = 0
            try:
                reply = await asyncio.wait_for(self._call(request), self.timeout)
                used = self._count(answer, request, reply)
                self._understated = max(self._understated, used / max(request.tokens + request.tokens_out, 1))
                text = str(getattr(reply, "text", reply) or "")
                truncated = _finish_reason(reply) in ("length", "max_tokens")
                fault, last = None, bad_replies + 1 >= min(BAD_REPLY_TRIES, self.retry_limit)
                if not text.strip() and not self.empty_is_answer:
                    reason = "the reply was cut off at once" if truncated else "the reply was empty"
                    fault = _Fault(reason, "skip" if last else "again")
                elif truncated and not last:
                    fault = _Fault("the reply was cut off", "again")
                bad_replies += fault is not None
            except TimeoutError:
                fault = _Fault(f"no reply within {self.timeout:g} s", "again")
            except Exception as error:
                fault = classify(error)
            finally:
                self.budget.settle(reserved, used)
            if fault is None:
                answer.reply, answer.truncated, answer.seconds = text, truncated, time.monotonic() - started
                self._successes += 1
                self._failed_in_row = 0
                self.note = ""
                self._hand_on(answer)
                return True
            if fault.kind == "stop":
                raise GenerationError(f"The LLM refused: {fault.reason}")
            if fault.kind == "skip":
                return self._give_up(answer, fault.reason)
            if fault.kind == "wait":  # a refused call costs nothing, and while others get through it is no failure
                answer.calls -= 1
                self.budget.used_calls -= 1
                refusals = 1 if self._successes > successes else refusals + 1
                successes = self._successes
            else:
                failures += 1
            self.note = f", retrying: {fault.reason[:60]}"
            if max(failures, refusals) >= self.retry_limit:
                return self._give_up(answer, fault.reason)
            await self._back_off(fault, max(failures, refusals))

    async def _gate(self) -> None:
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left + self._random.uniform(0, 0.25))

    async def _back_off(self, fault: _Fault, failures: int) -> None:
        if (fault.retry_after or 0) > LONGEST_RETRY_AFTER:
            raise GenerationError(
                f"The server asks to wait {fault.retry_after / 60:.0f} minutes ({fault.reason}). "
                "Run again later to continue."
            )
        first, longest = BACKOFF_SECONDS
        delay = fault.retry_after or min(first * 2 ** (failures - 1), longest) * self._random.uniform(0.5, 1.0)
        if fault.retry_after or fault.kind == "wait":  # what the server says to one call goes for all
            self._not_before = max(self._not_before, time.monotonic() + delay)
        else:
            await asyncio.sleep(delay)

    def _give_up(self, answer: Answer, reason: str) -> bool:
        self._hand_on(answer, reason)
        self._failed_in_row += 1
        if self.fail_fast:
            raise GenerationError(f"A chunk failed after {answer.calls} calls: {reason}. Run again to continue.")
        if self._failed_in_row >= self.stop_after:
            raise GenerationError(
                f"Stopped: {self._failed_in_row} chunks in a row failed, the last with: {reason}. "
                "What was answered is in the journal; run again to continue."
            )
        return True

    def _hand_on(self, answer: Answer, error: str = "") -> None:
        answer.error = error
        self.on_answer(answer)
        self._finished += 1

    def _count(self, answer: Answer, request: Request, reply) -> int:
        tokens_in, tokens_out = _usage(reply)
        if tokens_in is None or tokens_out is None:
            answer.estimated = True
            tokens_in = request.tokens or self.count_tokens(request.prompt)
            tokens_out = self.count_tokens(str(getattr(reply, "text", reply) or ""))
        answer.tokens_in += tokens_in
        answer.tokens_out += tokens_out
        self.tokens += tokens_in + tokens_out
        return tokens_in + tokens_out

    async def _call(self, request: Request):
        llm = self.llm
        if _is_async(llm):
            return await llm.acomplete(request.prompt)
        return await _in_thread(lambda: llm.complete(request.prompt))


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return one loop for the life of a process: an LLM's connections belong to the loop that opened them."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="nbutils-asking", daemon=True).start()
    return loop


async def _in_thread(function: Callable):
    """Await a blocking call in a daemon thread, so that one that hangs holds up neither the others nor the exit."""
    loop, result = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def settle(method: Callable, value) -> None:
        if not result.done():
            method(value)

    def work() -> None:
        try:
            outcome = (result.set_result, function())
        except BaseException as error:
            outcome = (result.set_exception, error if isinstance(error, Exception) else RuntimeError(repr(error)))
        loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, daemon=True).start()
    return await result


def without_retries(llm):
    """Return a copy of an LLM whose client does not retry by itself, where that can be told; else the LLM.

    Retries are counted, spaced and budgeted here; a client's own would multiply them unseen.
    """
    if not isinstance(getattr(llm, "max_retries", None), int) or not hasattr(llm, "model_copy"):
        return llm
    quiet = llm.model_copy(update={"max_retries": 0})
    client = getattr(quiet, "_aclient", None)
    if hasattr(client, "with_options"):
        quiet._aclient = client.with_options(max_retries=0)
    return quiet


def _is_async(llm) -> bool:
    from llama_index.core.llms import CustomLLM

    method = getattr(type(llm), "acomplete", None)
    return method is not None and inspect.unwrap(method) is not inspect.unwrap(CustomLLM.acomplete)


def _get(thing, name: str):
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def _usage(reply) -> tuple[int | None, int | None]:
    """Return the tokens in and out that the server reported, or None."""
    raw = getattr(reply, "raw", None)
    extra = getattr(reply, "additional_kwargs", None) or {}
    for source in (_get(raw, "usage"), raw, _get(raw, "usage_metadata"), extra):
        counts = [
            next((value for name in names if isinstance(value := _get(source, name), int)), None)
            for names in (
                ("prompt_tokens", "input_tokens", "prompt_eval_count", "prompt_token_count"),
                ("completion_tokens", "output_tokens", "eval_count", "candidates_token_count"),
            )
        ]
        if None not in counts and any(counts):
            return counts[0], counts[1]
    return None, None


def _finish_reason(reply) -> str:
    raw = getattr(reply, "raw", None)
    choices = _get(raw, "choices")
    source = choices[0] if isinstance(choices, list) and choices else raw
    for name in ("finish_reason", "done_reason", "stop_reason"):
        if isinstance(value := _get(source, name), str):
            return value.lower()
    return ""


def classify(error: Exception) -> _Fault:
    """Tell from an exception of any client library whether to wait, try again, skip the prompt, or stop."""
    chain = _causes(error)
    if isinstance(error, UserError | ImportError | NotImplementedError) or "Unknown model" in str(error):
        return _Fault(_first_line(error), "stop")
    status, source = next(((code, cause) for cause in chain if isinstance(code := _status(cause), int)), (None, error))
    if status is None:
        deepest = next((cause for cause in reversed(chain) if str(cause).strip()), error)
        reason = _first_line(error)
        if deepest is not error and _first_line(deepest) not in reason:
            reason = f"{reason} ({_first_line(deepest)})"
        return _Fault(reason, "again")
    reason, code = _server_reason(source, status)
    if code in ONE_PROMPT_ONLY or status == 413 or (status == 400 and _TOO_LONG.search(reason)):
        return _Fault(reason, "skip")
    if status == 429 and code not in ("insufficient_quota", "billing_hard_limit_reached"):
        return _Fault(reason, "wait", _retry_after(source))
    if status in TRANSIENT_STATUS - {429} or (status >= 500 and status != 501):
        return _Fault(reason, "again", _retry_after(source))
    return _Fault(reason, "stop")


def _causes(error: BaseException) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        attempt = getattr(error, "last_attempt", None)  # tenacity's RetryError
        inner = attempt.exception() if attempt is not None and hasattr(attempt, "exception") else None
        error = inner or error.__cause__ or error.__context__
    return chain


def _status(error: BaseException) -> int | None:
    for source in (error, getattr(error, "response", None)):
        for name in ("status_code", "status", "http_status", "code"):
            value = getattr(source, name, None)
            if isinstance(value, int) and 300 <= value < 600:
                return value
    return None


def _server_reason(error: BaseException, status: int) -> tuple[str, str]:
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    inner = inner if isinstance(inner, dict) else {}
    text = _redact(str(inner.get("message") or _first_line(error)))
    reason = text if str(status) in text else f"{status} {text}"
    return reason, str(inner.get("code") or inner.get("type") or "")


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return max(float(headers.get("retry-after-ms")) / 1000, 0.0)
    value = headers.get("retry-after") if hasattr(headers, "get") else None
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(TypeError, ValueError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return _redact(text.splitlines()[0][:300]) if text else type(error).__name__


def _redact(text: str) -> str:
    return re.sub(r"\b(?:sk|pk|key)-[\w*-]{6,}|(?<=Bearer )\S+", "[key]", " ".join(text.split()))
