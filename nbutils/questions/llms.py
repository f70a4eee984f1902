"""From a name to an LLM that writes questions."""

import inspect
import json
import os
import re
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import ValidationError

from nbutils.core import UserError, content_hash
from nbutils.models.names import need_key, need_package

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

LONGEST_REPLY = 512  # tokens


def has_key(name: str) -> bool:
    """Whether the key that `name` needs is set; True for names that need none."""
    return not re.match("openai:.", name) or bool(os.environ.get("OPENAI_API_KEY"))


def resolve_llm(
    name: "str | LLM", *, seed: int = 0, timeout: float | None = None, llm_options: dict | None = None
) -> "LLM":
    """Return a LlamaIndex LLM for a name; an LLM passes through.

    Only the service that the name says is ever asked; a key in the environment chooses none.

    Args:
        name: `offline`, `openai:MODEL`, `ollama:MODEL` (at $OLLAMA_HOST, without thinking), `gguf:FILE` (run by llama.cpp
            on this machine), or `openai-like:MODEL@URL` for any server that speaks the OpenAI protocol (vLLM,
            llama.cpp, LM Studio). Keys come from the environment only.
        seed: for the offline question writer.
        timeout: seconds to wait for one answer; by default 120, and 600 of a model on this machine.
        llm_options: what to set of the LLM's class, such as `{"temperature": 0.7, "timeout": 300}`; what only the
            server knows goes in "additional_kwargs".

    Raises:
        UserError: an unknown provider or option, an object that is no LLM, or the file, package or key that it needs
            is missing.
    """
    options = dict(llm_options or {})
    if not isinstance(name, str):
        if not callable(getattr(name, "complete", None)):
            raise UserError(f"llm is {name!r}; give a LlamaIndex LLM, or a name such as 'offline' or 'openai:MODEL'.")
        if options:
            raise UserError("llm_options go with the name of an LLM; set them on the LLM itself.")
        return name
    provider, _, model = name.partition(":")
    service = {"max_retries": 0, "timeout": timeout or 120.0}
    like = re.fullmatch(r"openai-like:(.+?)@(https?://.+)", name)
    if name == "offline":
        from nbutils.questions.offline import OfflineQuestionWriter

        return _made(OfflineQuestionWriter, options, seed=seed)
    if not like and not (model and provider in ("openai", "ollama", "gguf")):
        known = "'offline', 'openai:MODEL', 'ollama:MODEL', 'gguf:FILE' or 'openai-like:MODEL@http://…'"
        raise UserError(f"LLM is {name!r}; use {known}.")
    module = "openai_like" if like or provider == "gguf" else provider
    need_package(f"llama_index.llms.{module}", "openai" if like else provider, name)
    if provider == "openai":
        need_key("OPENAI_API_KEY", name)
        from llama_index.llms.openai import OpenAI

        key = os.environ["OPENAI_API_KEY"].strip()
        llm = _made(OpenAI, options, model=model, api_key=key, **service)
        try:
            llm.metadata  # noqa: B018 (raises where the client does not know the model)
        except ValueError:  # newer than the client; whether it exists is for the server to say
            return _openai_like(options, model, llm.api_base, llm.api_key, **service)
        return llm
    if provider == "ollama":
        from llama_index.llms.ollama import Ollama

        if "timeout" in options:
            options["request_timeout"] = options.pop("timeout")
        host = os.environ.get("OLLAMA_HOST", "").replace("0.0.0.0", "127.0.0.1")  # a server listens there, none answers
        options["additional_kwargs"] = {"num_predict": LONGEST_REPLY} | options.get("additional_kwargs", {})
        url = host or "http://localhost:11434"
        llm = _made(Ollama, options, model=model, request_timeout=timeout or 600.0, thinking=False, base_url=url)
        if _without_proxy(str(llm.client._client.base_url)):
            from ollama import AsyncClient

            llm._async_client = AsyncClient(
                host=llm.base_url, timeout=llm.request_timeout, headers=llm.headers, trust_env=False
            )
        return llm
    if provider == "gguf":
        need_package("xllamacpp", "gguf", name)
        from nbutils.questions.gguf import GgufLLM

        return _made(GgufLLM, options, file=model, timeout=timeout or 600.0)
    key = os.environ.get("OPENAI_LIKE_API_KEY", "").strip() or "none"
    return _openai_like(options, *like.groups(), key, **service)


def _openai_like(options: dict, model: str, url: str, key: str, **service) -> "LLM":
    from llama_index.llms.openai_like import OpenAILike

    defaults = dict(model=model, api_base=url, api_key=key, is_chat_model=True, **service, **_without_proxy(url))
    return _made(OpenAILike, options, **defaults)


def _without_proxy(url: str) -> dict:
    """Return clients for a server on this machine, which no proxy of the environment can reach; {} for any other."""
    import httpx

    if not re.match(r"http://(?:localhost|127\.[\d.]+|\[::1\])(?=[:/]|$)", url):
        return {}
    own = {"trust_env": False, "follow_redirects": True}
    return {"http_client": httpx.Client(**own), "async_http_client": httpx.AsyncClient(**own)}


def _made(cls: type, options: dict, **defaults) -> "LLM":
    """Return an LLM of this class with a user's options; one that it does not have is an error that lists its own."""
    known = {name for name in cls.model_fields if not _NOT_THE_MODEL.fullmatch(name)} - {"model", "content"}
    known |= {name for name in cls.model_fields if "timeout" in name or name == "keep_alive"}
    if unknown := sorted(set(options) - known):
        raise UserError(
            f"llm_options holds {', '.join(map(repr, unknown))}, which {cls.__name__} does not take. It takes "
            f"{', '.join(sorted(known))}; what only the server knows goes in 'additional_kwargs', keys in the environment."
        )
    extra = options.get("additional_kwargs")
    if hasattr(cls, "_get_model_kwargs") and isinstance(extra, dict):  # what the client does not know, it would refuse
        from openai.resources.chat.completions import AsyncCompletions

        named = inspect.signature(AsyncCompletions.create).parameters
        unknown = {name: value for name, value in extra.items() if name not in named}
        body = {"extra_body": unknown | extra.get("extra_body", {})} if unknown else {}
        options["additional_kwargs"] = {name: value for name, value in extra.items() if name in named} | body
    try:
        return cls(**(defaults | options))
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"llm_options: {first['loc'][0]} is {first['input']!r}: {first['msg']}.") from error


def prepared(llm: "LLM", prompts: Iterable[str], concurrency: int) -> "LLM":
    """Return an LLM that is ready for these prompts: on this machine, with a context no larger than they need."""
    context = -(-(max(map(_most_tokens, prompts)) + LONGEST_REPLY) // 1024) * 1024
    if callable(getattr(llm, "start", None)):
        llm.start(concurrency, context)
    if hasattr(llm, "thinking") and getattr(llm, "context_window", 0) == -1:  # Ollama's: all that the model can hold
        return llm.model_copy(update={"context_window": context})
    return llm


def _most_tokens(text: str) -> int:
    """Return about how many tokens a text is at most: of letters that a model does not know, each byte is one."""
    plain = len(text.encode("ascii", "ignore"))
    return plain // 3 + len(text.encode("utf-8", "replace")) - plain


def client_timeout(llm: "LLM") -> float:
    """Return the seconds that an LLM's own client waits for a reply; 120 where it does not say."""
    found = getattr(llm, "request_timeout", None) or getattr(llm, "timeout", None)
    return found if isinstance(found, int | float) else 120.0


def without_retries(llm: "LLM") -> "LLM":
    """Return a copy of an LLM whose client does not retry by itself, where that can be told; else the LLM.

    Who counts, spaces and budgets calls must see them all; a client's own retries would multiply them unseen.
    """
    if not isinstance(getattr(llm, "max_retries", None), int) or not hasattr(llm, "model_copy"):
        return llm
    quiet = llm.model_copy(update={"max_retries": 0})
    if hasattr(getattr(quiet, "_aclient", None), "with_options"):
        quiet._aclient = quiet._aclient.with_options(max_retries=0)
    return quiet


_PARAMETERS = re.compile(r"\b(temperature|top_p|max_tokens|max_completion_tokens|response_format|reasoning_effort)\b")


def without_refused(llm: "LLM", reason: str) -> "LLM":
    """Return a copy of an LLM that no longer sends the parameter that its server refuses; the LLM where there is none.

    The reason is what the server says: "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    """
    named, extra = _PARAMETERS.findall(reason), getattr(llm, "additional_kwargs", None) or {}
    refused = next((name for name in named if str(extra.get(name, "")) != "NOT_GIVEN"), None)
    if refused is None or not hasattr(llm, "_get_model_kwargs"):  # of the OpenAI family
        return llm
    from openai import NOT_GIVEN

    update: dict = {"additional_kwargs": dict(extra) | {refused: NOT_GIVEN}}
    if refused == "max_tokens":
        update["max_tokens"] = None
        if "max_completion_tokens" in named and llm.max_tokens:
            update["additional_kwargs"]["max_completion_tokens"] = llm.max_tokens
    return llm.model_copy(update=update)


# What an LLM's answers do not depend on. A field that merely contains one of these words stays (`keywords`, `max_tokens`).
_NOT_THE_MODEL = re.compile(
    r"(?:.*_)?(?:key|secret|token|password|credentials?|headers|timeout|retries|retry|client|callbacks?|callback_manager)"
    r"|reuse_client|verbose|class_name|keep_alive|messages_to_prompt|completion_to_prompt|output_parser"
    r"|pydantic_program_mode|query_wrapper_prompt",
    re.IGNORECASE,
)
_THIS_PROCESS = uuid.uuid4().hex


def llm_signature(llm: "LLM") -> str:
    """Return what makes an LLM's answers its own: class, model and settings, without keys, time-outs and connections.

    Two LLMs that may answer differently have different signatures. What cannot be told apart after the process has ended
    (a field that holds an object without a readable form) makes a signature of its own for each object.
    """
    fields = getattr(type(llm), "model_fields", {})
    settings = {name: getattr(llm, name, None) for name in fields} if fields else dict(vars(llm))
    defaults = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    settings = {name: value for name, value in settings.items() if name not in fields or value != defaults[name]}
    settings |= getattr(llm, "__pydantic_extra__", None) or {}
    known = ("llama_index.", "nbutils.", "pydantic.", "builtins", "abc")
    own = [cls for cls in type(llm).__mro__ if not cls.__module__.startswith(known)]
    if own:  # not a class of LlamaIndex's: its own lines, and what it keeps to itself, count
        private = getattr(llm, "__pydantic_private__", None) or {}
        settings |= {name: value for name, value in private.items() if isinstance(value, str | int | float)}
    functions = [value for cls in own for value in vars(cls).values() if inspect.isfunction(value)]
    written = content_hash(*map(_code, functions))
    name = [type(llm).__module__, type(llm).__qualname__, model_name(llm), written]
    return json.dumps([*name, _plain(settings)], sort_keys=True, ensure_ascii=False)


def model_name(llm: "LLM") -> str:
    """Return the name of an LLM's model, or of its class where it has none."""
    name = getattr(llm, "model", None)
    if not isinstance(name, str):  # Ollama's metadata asks its server, OpenAI's knows no newer models
        name = getattr(getattr(llm, "metadata", None), "model_name", None)
    return str(name or type(llm).__name__)


def _code(function) -> str:
    """Return what a function does, in a form that is the same in every process."""
    code = getattr(function, "__code__", function)
    constants = [_code(each) if hasattr(each, "co_code") else repr(each) for each in code.co_consts]
    around = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    around = [value for value in around if isinstance(value, str | int | float | bool | tuple)]
    return f"{code.co_code.hex()} {code.co_names} {constants} {around}"


def _plain(value):
    """Return a settings tree in a form that JSON can hold."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items() if not _NOT_THE_MODEL.fullmatch(str(key))}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, str | int | float | bool) or value is None:
        return value
    if hasattr(value, "model_dump"):
        return [type(value).__qualname__, _plain(dict(value))]
    if inspect.isfunction(value):
        return _code(value)
    return re.sub(r"0x[0-9a-f]+", lambda address: f"{address[0]} in {_THIS_PROCESS}", repr(value))
