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
LONGEST_RETRY_AFTER = 600.0
_TOO_LONG = re.compile(
    r"context (?:length|size|window)|prompt is too long|too many (?:input )?tokens|input is too long|input length"
    r"|context_length_exceeded|string_above_max_length|n_ctx|input token count|max_tokens must be at least 1|max_new_tokens.{0,3} must be"
    r"|request too large",
    re.IGNORECASE,
)
_NO_ACCESS = re.compile(  # no money, or a blocked account
    r"insufficient.{0,12}(?:balance|quota|credit|funds)|budget.{0,12}exceeded|余额不足|欠费"
    r"|\b(?:account|organi[sz]ation|api key)\b.{0,40}\b(?:flagged|suspended|deactivated|disabled)",
    re.IGNORECASE,
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
    """Why a call brought no reply, and what to do about it; `retry_after`: seconds that the server asks to wait.

    Kinds: "wait" (a rate limit), "again" (transient), "reply" (a bad reply; again, a few times), "anew" (with other
    parameters, at once), "drop" or "skip" (this prompt only, for good or until the next run), "stop", or "budget".
    """

    reason: str
    kind: str
    retry_after: float | None = None


def _get(thing, *names: str):
    """Return the first of these entries or attributes that there is."""
    found = (thing.get(name) if isinstance(thing, dict) else getattr(thing, name, None) for name in names)
    return next((value for value in found if value is not None), None)


def text_of(reply) -> str:
    """Return what a reply says."""
    return str(getattr(reply, "text", reply) or "")


def tokens_of(reply) -> tuple[int, int] | None:
    """Return the tokens in and out that the server reported, or None."""
    raw = _get(reply, "raw")
    for source in (_get(raw, "usage", "usage_metadata"), raw, _get(reply, "additional_kwargs")):
        tokens_in = _get(source, "prompt_tokens", "input_tokens", "prompt_eval_count", "prompt_token_count")
        tokens_out = _get(source, "completion_tokens", "output_tokens", "eval_count", "candidates_token_count")
        if isinstance(tokens_in, int) and isinstance(tokens_out, int) and tokens_in + tokens_out:
            return tokens_in, tokens_out
    return None


def finish_reason(reply) -> str:
    """Return why a reply ended, in lower case; raises the Fault that a provider put into its place."""
    raw = _get(reply, "raw")
    source = next(iter(_get(raw, "choices") or [raw]))
    if error := _get(source, "error"):  # OpenRouter puts a provider's error into the choice
        raise _server_fault(error, 200)
    message = _get(source, "message")
    if (refusal := _get(message, "refusal")) and not _get(message, "content"):
        return f"refusal: {refusal}"
    return str(_get(source, "finish_reason", "done_reason", "stop_reason") or "").lower()


def classify(error: Exception) -> Fault:
    """Tell from an exception of any client library whether to wait, try again, drop the prompt, or stop."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, UserError | ImportError | NotImplementedError) or "Unknown model" in str(error):
        return Fault(_line(error), "stop")
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    for cause in chain:
        if status := _status(cause):
            body = getattr(cause, "body", None)
            told = body.get("error", body) if isinstance(body, dict) else None
            return _server_fault(told or _line(cause), status, retry_after(cause))
    received = next(filter(None, map(_received, chain)), None)
    if (told := _get(received, "error")) and _get(received, "choices") is None:
        return _server_fault(told, 200)
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
    message = str(_get(told, "message", "detail") or told)
    code = _get(told, "code", "type") or ""
    if re.fullmatch(r"[345]\d\d", str(code)):
        status = int(code)
    message = redact(message)[:300]
    reason = message if str(status) in message or status == 200 else f"{status} {message}"
    words = f"{code} {message}"
    if _NO_ACCESS.search(words) or (status >= 500 and _NO_ROOM.search(words)):
        return Fault(reason, "stop")
    if status in (200, 400, 403, 413, 422, 451, 500) and FILTERED.search(words):
        return Fault(f"content filter: {reason}", "drop")
    if status == 413 or (status in (200, 400, 422, 429, 500) and _TOO_LONG.search(words)):
        return Fault(reason, "skip")
    if (retry_after or 0) > LONGEST_RETRY_AFTER:
        return Fault(f"it asks to wait {retry_after / 60:.0f} minutes ({reason})", "stop")
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
    content = _get(_get(next(iter(_get(reply, "choices") or [None])), "message"), "content")
    if not isinstance(content, list):
        return None
    return CompletionResponse(text="".join(part["text"] for part in content if part.get("type") == "text"), raw=reply)


def _status(error: BaseException) -> int | None:
    names = ("status_code", "status", "http_status", "code")
    found = (getattr(source, name, None) for source in (error, _get(error, "response")) for name in names)
    return next((value for value in found if isinstance(value, int) and 300 <= value < 600), None)


def retry_after(error: BaseException) -> float | None:
    """Return the seconds that a server asks to wait, as seconds, milliseconds or a date."""
    headers = _get(_get(error, "response") or error, "headers") or {}
    for name, read in (
        ("retry-after-ms", lambda value: float(value) / 1000),
        ("retry-after", float),
        ("retry-after", lambda value: email.utils.parsedate_to_datetime(value).timestamp() - time.time()),
    ):
        with contextlib.suppress(TypeError, ValueError):
            return max(read(headers.get(name)), 0.0)
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
