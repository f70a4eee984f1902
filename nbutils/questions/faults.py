"""What a reply or an error of any client library says: its text, tokens and end, and whether to wait, retry or stop."""

import contextlib
import email.utils
import json
import os
import re
import time
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nbutils.core import UserError, first_line

if TYPE_CHECKING:
    from llama_index.core.llms import CompletionResponse

QUOTA = ("insufficient_quota", "billing_hard_limit_reached")
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|prompt is too long|too many (?:input )?tokens|input is too long|input length"
    r"|context_length_exceeded|string_above_max_length|n_ctx|input token count|max_tokens must be at least 1|max_new_tokens.{0,3} must be"
    r"|request too large",
    re.IGNORECASE,
)
_NO_MONEY = re.compile(
    r"insufficient.{0,12}(?:balance|quota|credit|funds)|budget.{0,12}exceeded|余额不足|欠费", re.IGNORECASE
)
_BLOCKED = re.compile(
    r"\b(?:account|organi[sz]ation|api key)\b.{0,40}\b(?:flagged|suspended|deactivated|disabled)", re.I
)
_RATE = re.compile(r"rate.?limit|too many requests|overloaded", re.IGNORECASE)
_NO_ROOM = re.compile(
    r"requires more (?:system )?memory|(?:error|failed|unable) (?:to load|loading) (?:the )?model", re.I
)
_NEVER_SENT = re.compile(
    r"unexpected keyword argument|scheme for proxy|Illegal header value|Missing credentials|CERT_FILE"
)
FILTERED = re.compile(
    r"content[ _-]?(?:filter|polic|management|exists risk|moderat)|data_inspection|inappropriate|moderation|flagged"
    r"|prohibited[ _]content|usage polic|\brefusal\b|\bunsafe\b|\bsafety\b|sensitive content|敏感|不安全",
    re.IGNORECASE,
)
_SECRETS = re.compile(
    r"\b(?:sk|pk|rk|key|gsk|xai|nvapi|pplx)-[\w*-]{6,}|\b(?:hf|gsk|r8|ghp|gho|github_pat|xoxb)_?[\w-]{16,}"
    r"|\bAIza[\w-]{10,}|\bAKIA\w{12,}|(?<=Bearer )\S+|(?<=key=)[^&\s\"']+|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",
    re.IGNORECASE,
)


@dataclass(eq=False)
class Fault(Exception):
    """Why a call brought no reply, and what to do about it.

    Attributes:
        kind: "wait" (a rate limit), "again" (transient), "reply" (a bad reply; again, a few times), "anew" (with other
            parameters, at once), "drop" or "skip" (this prompt only, for good or until the next run), "stop" (no use in
            going on), or "budget".
        retry_after: seconds that the server asks to wait.
    """

    reason: str
    kind: str
    retry_after: float | None = None


def _get(thing, name: str):
    return thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None)


def text_of(reply) -> str:
    """Return what a reply says."""
    return str(getattr(reply, "text", reply) or "")


def tokens_of(reply) -> tuple[int | None, int | None]:
    """Return the tokens in and out that the server reported, or None."""
    raw = getattr(reply, "raw", None)
    for source in (_get(raw, "usage"), _get(raw, "usage_metadata"), raw, getattr(reply, "additional_kwargs", None)):
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


def finish_reason(reply) -> str:
    """Return why a reply ended, in lower case; raises the Fault that a provider put into its place."""
    raw = getattr(reply, "raw", None)
    choices = _get(raw, "choices")
    source = choices[0] if isinstance(choices, list) and choices else raw
    if error := _get(source, "error"):  # OpenRouter puts a provider's error into the choice
        raise _server_fault(error, 200)
    message = _get(source, "message")
    if (refusal := _get(message, "refusal")) and not _get(message, "content"):
        return f"refusal: {refusal}"
    for name in ("finish_reason", "done_reason", "stop_reason"):
        if isinstance(value := _get(source, name), str):
            return value.lower()
    return ""


def classify(error: Exception) -> Fault:
    """Tell from an exception of any client library whether to wait, try again, drop the prompt, or stop."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, UserError | ImportError | NotImplementedError) or "Unknown model" in str(error):
        return Fault(_line(error), "stop")
    chain = _causes(error)
    status, source = next(((code, cause) for cause in chain if isinstance(code := _status(cause), int)), (None, error))
    if status is not None:
        body = getattr(source, "body", None)
        told = body.get("error", body) if isinstance(body, dict) else None
        return _server_fault(told or _line(source), status, retry_after(source))
    if told := next(filter(None, map(_told_within, chain)), None):
        return _server_fault(told, 200)
    received = next(filter(None, map(_received, chain)), None)
    if isinstance(received, str):
        kind = "stop" if re.match(r"\s*<|data:", received) else "again"
        return Fault(f"no JSON came, but {redact(received)[:100]!r}; is the address complete? Most end in /v1", kind)
    deepest = next((cause for cause in reversed(chain) if str(cause).strip()), error)
    reason = _line(error)
    reason = reason if _line(deepest) in reason else f"{reason} ({_line(deepest)})"
    if received is not None:
        reason = f"the reply holds no message ({reason})"
    if isinstance(error, json.JSONDecodeError):
        reason = f"the reply is no JSON ({reason})"
    if isinstance(error, FileNotFoundError) and (certificates := os.environ.get("SSL_CERT_FILE")):
        reason = f"SSL_CERT_FILE is {certificates}, which is not there"
    unsent = _NEVER_SENT.search(reason) or isinstance(error, UnicodeEncodeError)  # as next time
    return Fault(reason, "stop" if unsent else "again")


def _server_fault(told, status: int, retry_after: float | None = None) -> Fault:
    """Judge what a server says: its error object or message, and the HTTP status it came with."""
    message = str(_get(told, "message") or _get(told, "detail") or told)
    code = _get(told, "code") or _get(told, "type") or ""
    if re.fullmatch(r"[345]\d\d", str(code)):
        status = int(code)
    message = redact(message)[:300]
    reason = message if str(status) in message or status == 200 else f"{status} {message}"
    words = f"{code} {message}"
    if _NO_MONEY.search(words) or _BLOCKED.search(words) or (status >= 500 and _NO_ROOM.search(words)):
        return Fault(reason, "stop")
    if status in (200, 400, 403, 413, 422, 451, 500) and FILTERED.search(words):
        return Fault(f"content filter: {reason}", "drop")
    if status == 413 or (status in (200, 400, 422, 429, 500) and _TOO_LONG.search(words)):
        return Fault(reason, "skip")
    if (status == 429 and code not in QUOTA) or (status == 200 and _RATE.search(words)):
        return Fault(reason, "wait", retry_after)
    if status in (408, 409, 423, 425) or (status >= 500 and status != 501):
        return Fault(reason, "again", retry_after)
    if status in (404, 405) and "model" not in words.lower():
        reason += " (is the address complete? Most end in /v1)"
    return Fault(reason, "stop")


def _received(error: BaseException):
    """Return the reply over which a client of the OpenAI family stumbled: its object, or text that is no JSON."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        value = frame.f_locals.get("response")
        if isinstance(value, str) or hasattr(value, "choices"):
            return value
    return None


def reply_in_parts(error: BaseException) -> "CompletionResponse | None":
    """Return a reply whose content is a list of parts (Mistral's), without its thinking; None where it is none."""
    from llama_index.core.llms import CompletionResponse

    reply = _received(error)
    choices = _get(reply, "choices") or [None]
    content = _get(_get(choices[0], "message"), "content")
    if not isinstance(content, list):
        return None
    return CompletionResponse(text="".join(part["text"] for part in content if part.get("type") == "text"), raw=reply)


def _told_within(error: BaseException):
    """Return the error that a server put into a reply of status 200, over which the client then stumbled."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        for value in frame.f_locals.values():
            if hasattr(value, "choices") or isinstance(value, dict):
                told = _get(value, "error")
                if _get(value, "choices") is None and told and isinstance(told, str | dict):
                    return told
    return None


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


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that a server asks to wait, as seconds, milliseconds or a date."""
    headers = getattr(getattr(error, "response", None), "headers", None) or getattr(error, "headers", None) or {}
    with contextlib.suppress(TypeError, ValueError, AttributeError):
        return max(float(headers.get("retry-after-ms")) / 1000, 0.0)
    value = headers.get("retry-after") if hasattr(headers, "get") else None
    with contextlib.suppress(TypeError, ValueError):
        return max(float(value), 0.0)
    with contextlib.suppress(TypeError, ValueError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return None


def _line(error: BaseException) -> str:
    title = re.search(r"<title[^>]*>(.*?)</title>", str(error), re.DOTALL | re.IGNORECASE)  # of a gateway's page
    return redact(title[1] if title else first_line(error))[:300]


def redact(text: str) -> str:
    """Return a text in one line without what looks like a key, and without the values of keys in the environment."""
    text = _SECRETS.sub("[key]", " ".join(text.split()))
    for name, value in os.environ.items():
        if len(value) > 7 and re.search(r"KEY|TOKEN|SECRET|PASSWORD", name):
            text = text.replace(value, "[key]")
    return text
