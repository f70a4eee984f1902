"""From a name to an LLM that writes questions."""

import inspect
import json
import os
import re
import uuid
from typing import TYPE_CHECKING

from nbutils.core import UserError, content_hash
from nbutils.models.names import need_key, need_package

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


def has_key(name: str) -> bool:
    """Whether the key that `name` needs is set; True for names that need none."""
    return not re.match("openai:.", name) or bool(os.environ.get("OPENAI_API_KEY"))


def resolve_llm(name: "str | LLM", *, seed: int = 0, timeout: float = 60.0) -> "LLM":
    """Return a LlamaIndex LLM for a name; an LLM passes through.

    Only the service that the name says is ever asked; a key in the environment chooses none.

    Args:
        name: `offline`, `openai:MODEL`, `ollama:MODEL`, or `openai-like:MODEL@URL` for any server that speaks
            the OpenAI protocol (vLLM, llama.cpp, LM Studio). Keys come from the environment only.
        seed: for the offline question writer.
        timeout: seconds to wait for one answer.

    Raises:
        UserError: an unknown provider, an object that is no LLM, or the package or key that it needs is missing.
    """
    if not isinstance(name, str):
        if not callable(getattr(name, "complete", None)):
            raise UserError(f"llm is {name!r}; give a LlamaIndex LLM, or a name such as 'offline' or 'openai:MODEL'.")
        return name
    provider, _, model = name.partition(":")
    if name == "offline":
        from nbutils.questions.offline import OfflineQuestionWriter

        return OfflineQuestionWriter(seed=seed)
    if provider == "openai" and model:
        need_package("llama_index.llms.openai", "openai", name)
        need_key("OPENAI_API_KEY", name)
        from llama_index.llms.openai import OpenAI

        llm = OpenAI(model=model, max_retries=0, timeout=timeout)
        try:
            llm.metadata  # noqa: B018 (raises where the client does not know the model)
        except ValueError:  # newer than the client; whether it exists is for the server to say
            need_package("llama_index.llms.openai_like", "openai", name)
            return _openai_like(model, llm.api_base, llm.api_key, timeout)
        return llm
    if provider == "ollama" and model:
        need_package("llama_index.llms.ollama", "ollama", name)
        from llama_index.llms.ollama import Ollama

        return Ollama(model=model, request_timeout=timeout)
    if provider == "openai-like" and (server := re.fullmatch(r"(.+?)@(https?://.+)", model)):
        need_package("llama_index.llms.openai_like", "openai", name)
        return _openai_like(*server.groups(), os.environ.get("OPENAI_LIKE_API_KEY", "none"), timeout)
    raise UserError(f"LLM is {name!r}; use 'offline', 'openai:MODEL', 'ollama:MODEL' or 'openai-like:MODEL@http://…'.")


def _openai_like(model: str, url: str, key: str, timeout: float) -> "LLM":
    from llama_index.llms.openai_like import OpenAILike

    return OpenAILike(model=model, api_base=url, api_key=key, is_chat_model=True, max_retries=0, timeout=timeout)


def without_retries(llm: "LLM") -> "LLM":
    """Return a copy of an LLM whose client does not retry by itself, where that can be told; else the LLM.

    Who counts, spaces and budgets calls must see them all; a client's own retries would multiply them unseen.
    """
    if not isinstance(getattr(llm, "max_retries", None), int) or not hasattr(llm, "model_copy"):
        return llm
    quiet = llm.model_copy(update={"max_retries": 0})
    client = getattr(quiet, "_aclient", None)
    if hasattr(client, "with_options"):
        quiet._aclient = client.with_options(max_retries=0)
    return quiet


def with_parameters(llm: "LLM", **parameters) -> "LLM | None":
    """Return a copy of an LLM of the OpenAI family that sends these parameters, None for one of another family.

    A parameter whose value is None is not sent at all, whatever the LLM's own setting.
    """
    if not hasattr(llm, "_get_model_kwargs") or not hasattr(llm, "additional_kwargs"):
        return None
    from openai import NOT_GIVEN

    sent = {name: NOT_GIVEN if value is None else value for name, value in parameters.items()}
    update = {"additional_kwargs": dict(llm.additional_kwargs) | sent}
    if "max_tokens" in parameters:
        update["max_tokens"] = parameters["max_tokens"]
    return llm.model_copy(update=update)


_PARAMETERS = re.compile(r"\b(temperature|top_p|max_tokens|max_completion_tokens|response_format|reasoning_effort)\b")


def without_refused(llm: "LLM", reason: str) -> "LLM | None":
    """Return a copy of an LLM that no longer sends the parameter that its server refuses, None where it has none.

    Args:
        llm: the LLM that was refused.
        reason: what the server says: "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
    """
    named = list(dict.fromkeys(_PARAMETERS.findall(reason)))
    extra = getattr(llm, "additional_kwargs", None) or {}
    refused = next((name for name in named if str(extra.get(name, "")) != "NOT_GIVEN"), None)
    if refused is None:
        return None
    instead = {}
    if refused == "max_tokens" and "max_completion_tokens" in named and llm.max_tokens:
        instead = {"max_completion_tokens": llm.max_tokens}
    return with_parameters(llm, **{refused: None}, **instead)


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
    fields = getattr(type(llm), "model_fields", None)
    if fields is None:
        settings = dict(vars(llm)) if hasattr(llm, "__dict__") else {"object": llm}
    else:
        settings = {name: getattr(llm, name, None) for name, field in fields.items()}
        settings = {name: value for name, value in settings.items() if not _is_default(value, fields[name])}
        settings |= getattr(llm, "__pydantic_extra__", None) or {}
    own = [
        cls
        for cls in type(llm).__mro__
        if not cls.__module__.startswith(("llama_index.", "pydantic.", "builtins", "abc"))
    ]
    if own:  # not a class of LlamaIndex's: its own lines, and what it keeps to itself, count
        private = getattr(llm, "__pydantic_private__", None) or {}
        settings |= {name: value for name, value in private.items() if isinstance(value, str | int | float)}
    functions = [value for cls in own for value in vars(cls).values() if inspect.isfunction(value)]
    written = content_hash(*(_code(function) for function in functions))
    name = [type(llm).__module__, type(llm).__qualname__, model_name(llm), written]
    return json.dumps([*name, _plain(settings)], sort_keys=True, ensure_ascii=False)


def model_name(llm: "LLM") -> str:
    """Return the name of an LLM's model, or of its class where it has none."""
    try:
        name = llm.metadata.model_name
    except (AttributeError, ValueError):  # LlamaIndex's OpenAI raises ValueError for models it does not know
        name = getattr(llm, "model", None)
    return str(name or type(llm).__name__)


def _is_default(value, field) -> bool:
    try:
        return bool(value == field.get_default(call_default_factory=True))
    except Exception:  # a comparison of objects that cannot be compared
        return False


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
