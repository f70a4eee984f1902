"""Names of LLMs, and what makes an LLM's answers its own."""

import asyncio
import os

import pytest
from llama_index.core.llms import CompletionResponse
from openai_server import Fault, serving
from question_helpers import (
    Slow,
    make_llm,
    make_nodes,
)

from nbutils.core import UserError
from nbutils.questions import ask as asking
from nbutils.questions.ask import GenerationError
from nbutils.questions.estimate import estimate_questions
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.llms import llm_signature


@pytest.mark.parametrize("llm", [None, 5, object(), "openai-like:tiny@", "openai-like:tiny@localhost:80", "openai:"])
def test_what_is_no_llm_is_named_before_anything_is_asked(out, llm):
    with pytest.raises(UserError, match=r"^(llm|LLM) is "):
        generate_qa_embedding_pairs(make_nodes(1), llm, output_path=out)
    with pytest.raises(UserError, match=r"^(llm|LLM) is "):
        estimate_questions({"training": make_nodes(1)}, llm, output_path=out)
    assert not list(out.parent.iterdir())


def test_different_llms_never_share_a_signature():
    def llm_class(answer, **fields):
        class Mine(Slow):
            kind: str = "a"
            engine: object = None
            keyword_weight: float = 0.0
            _inner: str = "x"

            def complete(self, prompt, formatted=False, **kwargs):
                return CompletionResponse(text=answer)

            def model_dump(self, **kwargs):
                raise TypeError("cannot be dumped")

        return Mine(**fields)

    class Plain:
        def __init__(self, model):
            self.model = model

        def complete(self, prompt):
            return self.model

    other = llm_class("1. A?")
    other._inner = "y"
    llms = [
        llm_class("1. A?"), other, llm_class("1. B?"), llm_class("1. A?", kind="b"), llm_class("1. A?", engine=object()),
        llm_class("1. A?", engine=object()), llm_class("1. A?", keyword_weight=0.5), Plain("a"), Plain("b"),
        make_llm("http://one/v1"), make_llm("http://two/v1"), make_llm("http://one/v1", max_tokens=5),
    ]  # fmt: skip
    assert len({llm_signature(llm) for llm in llms}) == len(llms)
    assert llm_signature(llm_class("1. A?")) == llm_signature(llms[0])


def test_a_model_newer_than_the_client_is_asked(out, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123456789")
    with serving() as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        result = generate_qa_embedding_pairs(make_nodes(2), "openai:gpt-99-mini", output_path=out, verbose=False)
        assert server.bodies[0]["model"] == "gpt-99-mini"
    assert len(result.queries) == 4


def test_an_llm_with_retries_of_its_own_does_not_multiply_them(out, quick):
    with serving() as server:
        llm = make_llm(server.url, max_retries=3)
        generate_qa_embedding_pairs(make_nodes(1), llm, output_path=out, verbose=False)
        asyncio.run_coroutine_threadsafe(
            llm.acomplete("x"), asking._loop(os.getpid())
        ).result()  # its client exists now
        server.fault, spent = lambda call, prompt: Fault(status=500), server.calls
        with pytest.raises(GenerationError):
            generate_qa_embedding_pairs(
                make_nodes(2, 5), llm, output_path=out.with_name("b.json"), retry_limit=2, verbose=False
            )
        assert server.calls - spent == 2 * 2
    assert llm.max_retries == 3


def test_what_only_the_server_knows_reaches_it(out):
    with serving() as server:
        own = {"top_k": 20, "chat_template_kwargs": {"enable_thinking": False}}
        options = {"additional_kwargs": own | {"top_p": 0.5, "extra_body": {"min_p": 0.1}}}
        llm = f"openai-like:tiny@{server.url}"
        generate_qa_embedding_pairs(make_nodes(1), llm, output_path=out, llm_options=options, verbose=False)
    assert server.bodies[0].items() >= (own | {"top_p": 0.5, "min_p": 0.1}).items()


@pytest.mark.parametrize(
    "setting",
    [{"HTTP_PROXY": "http://127.0.0.1:9"}, {"ALL_PROXY": "socks5://127.0.0.1:9"}, {"ALL_PROXY": "socks://127.0.0.1:9"},
     {"SSL_CERT_FILE": "/nowhere/ca.pem"}, {"OPENAI_LIKE_API_KEY": "a-key\n"}, {"OPENAI_LIKE_API_KEY": ""}],
    ids=str,
)  # fmt: skip
def test_a_server_on_this_machine_answers_whatever_the_environment_says(out, monkeypatch, setting):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with serving() as server:
        result = generate_qa_embedding_pairs(
            make_nodes(1), f"openai-like:tiny@{server.url}", output_path=out, retry_limit=1, verbose=False
        )
    assert len(result.queries) == 2


def test_ollama_on_this_machine_is_asked_past_a_proxy(out, monkeypatch):
    pytest.importorskip("llama_index.llms.ollama")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    message = {"role": "assistant", "content": "1. Who picked apples?\n2. What grew in town?"}
    reply = {"model": "tiny", "message": message, "done": True, "prompt_eval_count": 9, "eval_count": 5}
    with serving(fault=lambda call, prompt: Fault(raw=reply)) as server:
        monkeypatch.setenv("OLLAMA_HOST", server.url.removesuffix("/v1"))
        result = generate_qa_embedding_pairs(
            make_nodes(1), "ollama:tiny", output_path=out, retry_limit=1, verbose=False
        )
    assert len(result.queries) == 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE is /nowhere/ca.pem, which is not there"),
        ({"ALL_PROXY": "socks://127.0.0.1:9"}, "scheme for proxy"),
        ({"OPENAI_LIKE_API_KEY": "ключ"}, "'ascii' codec"),
    ],
)
def test_settings_that_no_retry_can_mend_are_told_at_once(out, monkeypatch, setting, said):
    for name, value in setting.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(GenerationError, match=f"The LLM refused: .*{said}"):
        generate_qa_embedding_pairs(make_nodes(2), "openai-like:m@https://x.invalid/v1", output_path=out, verbose=False)
