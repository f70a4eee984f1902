"""Asking an LLM many prompts at once: a limit on concurrency, retries, time-outs, budgets, and reasons to stop."""

import asyncio
import contextlib
import functools
import inspect
import math
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from nbutils.core import UserError, progress
from nbutils.questions.faults import FILTERED, Fault, classify, finish_reason, reply_in_parts, text_of, tokens_of
from nbutils.questions.llms import client_timeout, prepared, with_parameters, without_refused, without_retries
from nbutils.questions.parse import without_thoughts
from nbutils.questions.settings import QuestionSettings
from nbutils.questions.store import Answer

BACKOFF_SECONDS = (0.5, 30.0)  # the first wait and the longest
LONGEST_RETRY_AFTER = 600.0
BAD_REPLY_TRIES = 3  # an empty or cut-off reply tends to come back the same, and costs each time
JSON_REPLY = {
    "type": "json_schema",
    "json_schema": {
        "name": "questions",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"questions": {"type": "array", "items": {"type": "string"}}},
            "required": ["questions"],
            "additionalProperties": False,
        },
    },
}


class GenerationError(UserError, RuntimeError):
    """Asking stopped before its end; what was answered is in the store, and running again continues there."""


@dataclass
class Request:
    """One prompt to ask, with the estimated tokens of the prompt and of its reply."""

    key: str
    prompt: str
    tokens: int = 0
    tokens_out: int = 0


@dataclass
class _Tries:
    """How often one request failed; a refusal by rate is no failure while other requests get through."""

    successes: int
    failures: int = 0
    refusals: int = 0
    bad_replies: int = 0

    @property
    def most(self) -> int:
        return max(self.failures, self.refusals)


class Asker:
    """Asks requests of one LLM and hands each answer on as it comes.

    Args:
        llm: a LlamaIndex LLM; one that can only be called synchronously is called in threads.
        settings: concurrency, retries, time-outs, budget. The first call goes alone, so that a wrong key costs one call.
        on_answer: called with each `Answer`, from one thread, as soon as it is there.
        count_tokens: estimates the tokens of a text, where the server does not say.
        empty_is_answer: an empty reply means that there is nothing to ask, not that something went wrong.
    """

    def __init__(
        self,
        llm,
        settings: QuestionSettings,
        on_answer: Callable[[Answer], None],
        count_tokens: Callable[[str], int] = lambda text: len(text) // 4,
        empty_is_answer: bool = False,
    ):
        self.llm = without_retries(llm)
        if settings.structured:
            self.llm = with_parameters(self.llm, response_format=JSON_REPLY) or self.llm
        self.settings, self.on_answer = settings, on_answer
        self.timeout = settings.timeout or client_timeout(self.llm)
        self.count_tokens, self.empty_is_answer = count_tokens, empty_is_answer
        self.out_of_budget = False
        self._random = random.Random(settings.seed)
        self._tokens, self._note, self._finished = 0, "", 0
        self._successes = self._failed_in_row = 0
        self._not_before = 0.0  # what a server says to one call goes for all
        self._understated = 1.0  # the most tokens a call has used, as a multiple of its estimate

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
        self.llm = prepared(self.llm, (request.prompt for request in requests), self.settings.concurrency)
        ended, start, shown = threading.Event(), self._finished, 0
        future = asyncio.run_coroutine_threadsafe(self._ask_all(requests, ended), _loop(os.getpid()))
        with progress(total=len(requests), desc="Asking", unit="chunk", disable=not verbose) as bar:
            try:
                while not future.done():
                    with contextlib.suppress(TimeoutError):
                        future.result(timeout=0.1)
                    bar.update(self._finished - start - shown)
                    shown = self._finished - start
                    bar.set_postfix_str(f"{self._tokens:,} tokens{self._note}", refresh=False)
                    on_tick()
            except BaseException:
                future.cancel()
                ended.wait(5)
                raise
            finally:
                getattr(self.llm, "stop", lambda: None)()  # a server of ours
        future.result()

    async def _ask_all(self, requests: list[Request], ended: threading.Event) -> None:
        room = asyncio.Semaphore(self.settings.concurrency)
        self._threads = asyncio.Semaphore(self.settings.concurrency)

        async def in_turn(request: Request) -> None:
            async with room:
                if not self.out_of_budget:
                    await self._ask(request)

        tasks: list[asyncio.Task] = []
        try:
            await in_turn(requests[0])
            tasks = [asyncio.ensure_future(in_turn(request)) for request in requests[1:]]
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            ended.set()

    async def _ask(self, request: Request) -> None:
        """Ask one request until it is answered or has failed."""
        answer, tries = Answer(request.key), _Tries(self._successes)
        try:
            async for attempt in AsyncRetrying(
                retry=retry_if_exception(
                    lambda error: getattr(error, "kind", "") in ("wait", "again", "reply", "anew")
                ),
                wait=functools.partial(self._wait, tries),
                stop=lambda state: tries.most >= self.settings.retry_limit,
                reraise=True,
            ):
                with attempt:
                    await self._try(request, answer, tries)
        except Fault as fault:
            self._give_up(answer, fault)
        else:
            self._successes += 1
            self._failed_in_row = 0
            self._note = ""
            self._hand_on(answer)

    async def _try(self, request: Request, answer: Answer, tries: _Tries) -> None:
        """Make one call and put its reply into the answer, or raise a Fault."""
        while (left := self._not_before - time.monotonic()) > 0:
            await asyncio.sleep(left + self._random.uniform(0, 0.25))
        estimated, budget = request.tokens + request.tokens_out, self.settings.budget
        reserved, used = math.ceil(estimated * self._understated), 0
        if not budget.allows(reserved):
            raise Fault("the budget ended while it was retried", "budget")
        budget.spend(1, reserved)
        answer.calls += 1
        started, llm = time.monotonic(), self.llm
        try:
            reply = await asyncio.wait_for(self._call(llm, request.prompt), self.timeout)
            used = self._count(answer, request, reply)
            self._understated = max(self._understated, used / max(estimated, 1))
            self._read(answer, reply, tries)
            answer.seconds = round(time.monotonic() - started, 3)
        except TimeoutError:
            raise Fault(f"no reply within {self.timeout:g} s", "again") from None
        except Fault:
            raise
        except Exception as error:
            fault = classify(error)
            if fault.kind == "stop" and (changed := without_refused(llm, fault.reason)):
                self.llm, fault.kind = changed, "anew"
            if fault.kind in ("wait", "anew"):  # costs nothing
                answer.calls -= 1
                budget.spend(-1, 0)
            raise fault from error
        finally:
            budget.spend(0, used - reserved)

    def _read(self, answer: Answer, reply, tries: _Tries) -> None:
        """Take the text out of a reply; an empty or cut-off one is a fault until it has come too often."""
        answer.reply, reason = without_thoughts(text_of(reply)), finish_reason(reply)
        answer.truncated = reason in ("length", "max_tokens")
        last = tries.bad_replies + 1 >= min(BAD_REPLY_TRIES, self.settings.retry_limit)
        if FILTERED.search(reason.replace("_", " ")):
            raise Fault(f"content filter: {reason}", "drop")
        if not answer.reply.strip() and not self.empty_is_answer:
            cut = "the reply was empty"
            if answer.truncated:
                cut = "the reply was cut off before it began; LLM_OPTIONS can allow it more tokens, or less thinking"
            raise Fault(cut, "skip" if last else "reply")
        if answer.truncated and not last:
            raise Fault("the reply was cut off", "reply")

    def _wait(self, tries: _Tries, state: RetryCallState) -> float:
        """Count a failed try and return how long this request waits; what a server says to one call goes for all."""
        fault: Fault = state.outcome.exception()
        self._note = f", retrying: {fault.reason[:60]}"
        if fault.kind == "anew":
            return 0
        if fault.kind == "wait":
            tries.refusals = 1 if self._successes > tries.successes else tries.refusals + 1
            tries.successes = self._successes
        else:
            tries.failures += 1
            tries.bad_replies += fault.kind == "reply"
        if (fault.retry_after or 0) > LONGEST_RETRY_AFTER:
            raise GenerationError(
                f"The server asks to wait {fault.retry_after / 60:.0f} minutes ({fault.reason}). "
                "Run again later to continue."
            )
        first, longest = BACKOFF_SECONDS
        backoff = min(first * 2 ** (tries.most - 1), longest) * self._random.uniform(0.5, 1.0)
        if fault.retry_after or fault.kind == "wait":
            self._not_before = max(self._not_before, time.monotonic() + (fault.retry_after or backoff))
            return 0
        return backoff

    def _give_up(self, answer: Answer, fault: Fault) -> None:
        answer.reply = ""
        if fault.kind == "budget":
            self.out_of_budget = True
            if not answer.calls:
                return
        if fault.kind == "stop":
            raise GenerationError(f"The LLM refused: {fault.reason}")
        if fault.kind == "drop":
            answer.dropped = fault.reason
        else:
            answer.error = fault.reason
        self._hand_on(answer)
        if fault.kind in ("budget", "drop"):
            return
        self._failed_in_row += 1
        if self.settings.on_failure == "fail":
            raise GenerationError(f"A chunk failed after {answer.calls} calls: {fault.reason}. Run again to continue.")
        if self._failed_in_row >= self.settings.stop_after:
            raise GenerationError(
                f"Stopped: {self._failed_in_row} chunks in a row failed, the last with: {fault.reason}. "
                "What was answered is kept; run again to continue."
            )

    def _hand_on(self, answer: Answer) -> None:
        self.on_answer(answer)
        self._finished += 1

    def _count(self, answer: Answer, request: Request, reply) -> int:
        tokens_in, tokens_out = tokens_of(reply)
        if tokens_in is None or tokens_out is None:
            answer.estimated = True
            tokens_in = request.tokens or self.count_tokens(request.prompt)
            tokens_out = self.count_tokens(text_of(reply))
        answer.tokens_in += tokens_in
        answer.tokens_out += tokens_out
        self._tokens += tokens_in + tokens_out
        return tokens_in + tokens_out

    async def _call(self, llm, prompt: str):
        if _is_async(llm):
            try:
                return await llm.acomplete(prompt)
            except ValidationError as error:
                if (reply := reply_in_parts(error)) is not None:
                    return reply
                raise
        await (
            self._threads.acquire()
        )  # a thread that hangs keeps its place, so that never more are at work than allowed
        return await _in_thread(lambda: llm.complete(prompt), self._threads.release)


@functools.cache
def _loop(process: int) -> asyncio.AbstractEventLoop:
    """Return one loop for the life of a process: an LLM's connections belong to the loop that opened them."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="nbutils-asking", daemon=True).start()
    return loop


async def _in_thread(function: Callable, when_done: Callable[[], None]):
    """Await a blocking call in a daemon thread, so that one that hangs holds up neither the others nor the exit."""
    loop = asyncio.get_running_loop()
    result = loop.create_future()

    def settle(method: Callable, value) -> None:
        when_done()
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


def _is_async(llm) -> bool:
    from llama_index.core.llms import CustomLLM

    method = getattr(type(llm), "acomplete", None)
    return method is not None and inspect.unwrap(method) is not inspect.unwrap(CustomLLM.acomplete)
