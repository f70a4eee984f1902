"""What errors of servers say, and what is done about them."""

import time

import pytest
from openai_server import Fault, serving
from question_helpers import make_llm, make_nodes, poisoned

from nbutils.questions import faults
from nbutils.questions.ask import GenerationError
from nbutils.questions.generate import generate_qa_embedding_pairs


def answered(**message) -> dict:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | message}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}


@pytest.mark.parametrize(
    "text",
    [
        "Incorrect API key provided: sk-abcdef***wxyz.",
        "Authorization: Bearer abc.def.ghi",
        "token hf_abcdefghijklmnopqrstuv is expired",
        "https://host/v1?key=AIzaSyA1234567890abcdef: 403",
        "AIzaSyA1234567890abcdef is invalid",
        "cannot reach https://user:pa55word@host/v1",
        "key gsk_abcdefghijklmnopqrstuvwx",
        "the-key-of-this-environment is unknown",
    ],
)
def test_keys_are_left_out_of_what_is_stored(text, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "the-key-of-this-environment")
    kept = faults.redact(text)
    assert "[key]" in kept
    for secret in ("abcdef", "abc.def", "pa55word", "the-key-of", "AIza"):
        assert secret not in kept


def test_retry_after_may_be_a_date_or_milliseconds():
    import email.utils

    class Response:
        def __init__(self, **headers):
            self.headers = {name.replace("_", "-"): value for name, value in headers.items()}

    class Refused(Exception):
        def __init__(self, **headers):
            self.response = Response(**headers)

    later = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert 28 < faults.retry_after(Refused(retry_after=later)) <= 30
    assert faults.retry_after(Refused(retry_after_ms="1500")) == 1.5
    assert faults.retry_after(Refused(retry_after="7")) == 7
    assert faults.retry_after(Refused()) is None
    assert faults.retry_after(Refused(retry_after="soon")) is None


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, message="filtered", code="content_filter"),
        Fault(status=400, message="Content Exists Risk", code="invalid_request_error"),
        Fault(status=400, message="Input data may contain inappropriate content.", code="data_inspection_failed"),
        Fault(status=403, message="Your chosen model requires moderation and your input was flagged."),
        Fault(status=400, message="The response was filtered due to Azure's content management policy."),
        Fault(text="", finish_reason="content_filter"),
        Fault(raw={"error": {"code": 403, "message": "Input was flagged by moderation"}}),
        Fault(raw=answered(content=None, refusal="I'm sorry, I can't help with that.")),
    ],
    ids=["OpenAI", "DeepSeek", "Qwen", "OpenRouter", "Azure", "finish reason", "within a 200", "refusal"],
)
def test_a_content_filter_drops_its_chunk_alone_and_for_good(out, fault):
    with serving(fault=poisoned("region 4 ", fault)) as server:
        llm = make_llm(server.url)
        for _ in range(2):
            result = generate_qa_embedding_pairs(make_nodes(8), llm, output_path=out, stop_after=1, verbose=False)
    row = result.account.report.set_index("chunk_id").loc["n4"]
    assert row["status"] == "dropped" and row["reason"].startswith("content filter: ")
    assert len(result.queries) == 14
    assert server.calls == 8


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": "Unexpected endpoint or method. (POST /chat/completions)"}, "Unexpected endpoint"),
        ({"error": {"message": "No such model", "code": 404}}, "404 No such model"),
        ({"choices": [{"error": {"message": "Key limit", "code": 402}, "finish_reason": "error", "index": 0,
                       "message": {"role": "assistant", "content": ""}}]}, "402 Key limit"),
    ],
    ids=["LM Studio", "gateway", "OpenRouter"],
)  # fmt: skip
def test_an_error_in_a_reply_of_200_is_told(out, body, said):
    with serving(fault=lambda call, prompt: Fault(raw=body)) as server, pytest.raises(GenerationError, match=said):
        generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 1


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"<!doctype html><html><title>Open WebUI</title></html>", "refused: no JSON came, but '<!doctype.*end in /v1"),
        (b'data: {"choices": []}', "refused: no JSON came, but 'data:"),
        (b"upstream error", "no JSON came, but 'upstream error'"),
        (answered() | {"choices": None}, "the reply holds no message"),
        (answered() | {"choices": []}, "the reply holds no message"),
    ],
    ids=["a page", "a stream", "a line", "choices null", "no choices"],
)
def test_a_reply_that_is_none_is_described(out, quick, body, said):
    with serving(fault=lambda call, prompt: Fault(raw=body)) as server, pytest.raises(GenerationError, match=said):
        generate_qa_embedding_pairs(
            make_nodes(2), make_llm(server.url), output_path=out, retry_limit=1, stop_after=1, verbose=False
        )


def test_a_gateway_s_page_is_told_by_its_title(out, quick):
    page = b"<!DOCTYPE html>\n<html><head>\n<title>host | 524: A timeout occurred</title></head></html>"
    fault, said = Fault(status=524, raw=page), r"with: host \| 524: A timeout occurred"
    with serving(fault=lambda call, prompt: fault) as server, pytest.raises(GenerationError, match=said):
        generate_qa_embedding_pairs(
            make_nodes(1), make_llm(server.url), output_path=out, retry_limit=1, stop_after=1, verbose=False
        )


@pytest.mark.parametrize("code", [429, "429", "rate_limit_exceeded"])
def test_a_rate_limit_within_a_200_is_waited_for(out, quick, code):
    busy = Fault(raw={"error": {"code": code, "message": "slow down"}})
    with serving(fault=lambda call, prompt: busy if call == 2 else None) as server:
        result = generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
    assert len(result.queries) == 6 and server.calls == 4


def test_a_reply_in_parts_is_read_without_its_thinking(out):
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]
    parts += [{"type": "text", "text": "1. Who picked apples?\n2. What grew in town?"}]
    with serving(fault=lambda call, prompt: Fault(raw=answered(content=parts))) as server:
        result = generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    assert list(result.queries.values()) == ["Who picked apples?", "What grew in town?"] and server.calls == 1
