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

from llama_index.core.llms import CustomLLM
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from nbutils.core import UserError, progress
from nbutils.questions.faults import FILTERED, Fault, classify, finish_reason, reply_in_parts, text_of, tokens_of
from nbutils.questions.llms import client_timeout, prepared, without_refused, without_retries
from nbutils.questions.parse import without_thoughts
from nbutils.questions.settings import QuestionSettings
from nbutils.questions.store import Answer

BACKOFF_SECONDS = (0.5, 30.0)  # the first wait and the longest
BAD_REPLY_TRIES = 3  # an empty or cut-off reply tends to come back the same, and costs each time


class GenerationError(UserError, RuntimeError):
    """Asking stopped before its end; what was answered is in the store, and running again continues there."""


@dataclass
class Request:
    """One prompt to ask, with the estimated tokens of the prompt and of its reply, and how often it has failed."""

    key: str
    prompt: str
    tokens: int = 0
    tokens_out: int = 0
    failures: int = 0
    refusals: int = 0
    bad_replies: int = 0
    successes: int = 0  # of all requests, when it was refused last

    @property
    def tries(self) -> int:
        """What counts against `retry_limit`; a refusal by rate is no failure while other requests get through."""
        return max(self.failures, self.refusals)


class Asker:
    """Asks requests of one LLM (in threads, if it can only be called synchronously) and hands on each answer as it comes.

    The first call goes alone, so that a wrong key costs one call. `count_tokens` estimates the tokens of a text where the
    server does not say; `empty_is_answer`: an empty reply means that there is nothing to ask.
    """

    def __init__(
        self, llm, settings: QuestionSettings, on_answer: Callable[[Answer], None], count_tokens, empty_is_answer: bool
    ):
        self.llm = without_retries(llm)
        self.settings, self.on_answer = settings, on_answer
        self.timeout = settings.timeout or client_timeout(self.llm)
        self.count_tokens, self.empty_is_answer = count_tokens, empty_is_answer
        self.out_of_budget = False
        self._random = random.Random(settings.seed)
        self._tokens, self._note, self._finished = 0, "", 0
        self._successes = self._failed_in_row = 0
        self._not_before = 0.0  # what a server says to one call goes for all
        self._understated = 1.0  # the most tokens a call has used, as a multiple of its estimate

    def run(self, requests: list[Request], on_tick: Callable[[], None], verbose: bool) -> None:
        """Ask everything and return when it is answered, failed, or out of budget.

        Works in plain Python and inside a running event loop (Jupyter): calls run in a loop of their own. `on_tick` is
        called about ten times a second from the caller's thread.

        Raises:
            GenerationError: the server refuses (key, model, request), or too many requests failed in a row.
        """
        if not requests:
            return
        self.llm = prepared(self.llm, (request.prompt for request in requests), self.settings.concurrency)
        ended, start = threading.Event(), self._finished
        future = asyncio.run_coroutine_threadsafe(self._ask_all(requests, ended), _loop(os.getpid()))
        with progress(total=len(requests), desc="Asking", unit="chunk", disable=not verbose) as bar:
            try:
                while not future.done():
                    with contextlib.suppress(TimeoutError):
                        future.result(timeout=0.1)
                    bar.update(self._finished - start - bar.n)
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
        room, self._threads = (asyncio.Semaphore(self.settings.concurrency) for _ in range(2))

        async def in_turn(request: Request) -> None:
            async with room:
                if not self.out_of_budget:
                    await self._ask(request)

        try:
            await in_turn(requests[0])
            async with asyncio.TaskGroup() as group:
                for request in requests[1:]:
                    group.create_task(in_turn(request))
        except ExceptionGroup as problems:
            raise problems.exceptions[0] from None
        finally:
            ended.set()

    async def _ask(self, request: Request) -> None:
        """Ask one request until it is answered or has failed."""
        answer, request.successes = Answer(request.key), self._successes
        again = AsyncRetrying(
            retry=retry_if_exception(lambda error: getattr(error, "kind", "") in ("wait", "again", "reply", "anew")),
            wait=functools.partial(self._wait, request),
            stop=lambda state: request.tries >= self.settings.retry_limit,
            reraise=True,
        )
        try:
            await again(self._try, request, answer)
        except Fault as fault:
            self._give_up(answer, fault)
        else:
            self._successes += 1
            self._failed_in_row, self._note = 0, ""
            self._hand_on(answer)

    async def _try(self, request: Request, answer: Answer) -> None:
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
            self._read(answer, reply, request)
            answer.seconds = round(time.monotonic() - started, 3)
        except Exception as error:
            late = Fault(f"no reply within {self.timeout:g} s", "again") if isinstance(error, TimeoutError) else None
            fault = late or classify(error)
            if fault.kind == "stop" and (changed := without_refused(llm, fault.reason)) is not llm:
                self.llm, fault.kind = changed, "anew"
            if fault.kind in ("wait", "anew"):  # costs nothing
                answer.calls -= 1
                budget.spend(-1, 0)
            raise fault from (None if fault is error else error)
        finally:
            budget.spend(0, used - reserved)

    def _read(self, answer: Answer, reply, request: Request) -> None:
        """Take the text out of a reply; an empty or cut-off one is a fault until it has come too often."""
        answer.reply, reason = without_thoughts(text_of(reply)), finish_reason(reply)
        answer.truncated = reason in ("length", "max_tokens")
        last = request.bad_replies + 1 >= min(BAD_REPLY_TRIES, self.settings.retry_limit)
        if FILTERED.search(reason.replace("_", " ")):
            raise Fault(f"content filter: {reason}", "drop")
        if not answer.reply.strip() and not self.empty_is_answer:
            cut = "the reply was empty"
            if answer.truncated:
                cut = "the reply was cut off before it began; LLM_OPTIONS can allow it more tokens, or less thinking"
            raise Fault(cut, "skip" if last else "reply")
        if answer.truncated and not last:
            raise Fault("the reply was cut off", "reply")

    def _wait(self, request: Request, state: RetryCallState) -> float:
        """Count a failed try and return how long this request waits; what a server says to one call goes for all."""
        fault: Fault = state.outcome.exception()
        self._note = f", retrying: {fault.reason[:60]}"
        if fault.kind == "anew":
            return 0
        if fault.kind == "wait":
            request.refusals = 1 if self._successes > request.successes else request.refusals + 1
            request.successes = self._successes
        else:
            request.failures += 1
            request.bad_replies += fault.kind == "reply"
        first, longest = BACKOFF_SECONDS
        backoff = min(first * 2 ** (request.tries - 1), longest) * self._random.uniform(0.5, 1.0)
        if fault.retry_after or fault.kind == "wait":
            self._not_before = max(self._not_before, time.monotonic() + (fault.retry_after or backoff))
            return 0
        return backoff

    def _give_up(self, answer: Answer, fault: Fault) -> None:
        answer.reply = ""
        self.out_of_budget |= fault.kind == "budget"
        if fault.kind == "stop":
            raise GenerationError(f"The LLM refused: {fault.reason}")
        if fault.kind == "budget" and not answer.calls:
            return
        if fault.kind == "drop":
            answer.dropped = fault.reason
        else:
            answer.error = fault.reason
        self._hand_on(answer)
        self._failed_in_row += fault.kind not in ("budget", "drop")
        if self._failed_in_row >= (1 if self.settings.on_failure == "fail" else self.settings.stop_after):
            count = self._failed_in_row
            failed = f"{count} chunks in a row failed, the last" if count > 1 else "a chunk failed"
            raise GenerationError(
                f"Stopped: {failed} with: {fault.reason}. What was answered is kept; run again to continue."
            )

    def _hand_on(self, answer: Answer) -> None:
        self.on_answer(answer)
        self._finished += 1

    def _count(self, answer: Answer, request: Request, reply) -> int:
        tokens_in, tokens_out = tokens_of(reply) or (0, 0)
        if not tokens_in:
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
        await self._threads.acquire()  # a call that hangs keeps its place, so that never more are at work than allowed
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
    method = getattr(type(llm), "acomplete", CustomLLM.acomplete)
    return inspect.unwrap(method) is not inspect.unwrap(CustomLLM.acomplete)
