"""From chunks to a dataset with its account."""

import inspect
import os
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.schema import TextNode
from openai_server import Fault, serving
from question_helpers import (
    CONTENTS,
    FRUIT,
    make_llm,
    make_nodes,
    poisoned,
    store,
)

from nbutils.core import UserError
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.prompts import (
    QUESTION_STYLES,
    documented_prompt,
)
from nbutils.questions.settings import Filters
from nbutils.questions.store import read_answers


def test_the_arguments_are_those_of_llamaindex():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        upstream = pytest.importorskip("llama_index.finetuning")
    theirs = inspect.signature(upstream.generate_qa_embedding_pairs).parameters
    ours = inspect.signature(generate_qa_embedding_pairs).parameters
    assert [name for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == list(theirs)
    differ = [name for name in theirs if theirs[name].default != ours[name].default]
    assert differ == ["qa_generate_prompt_tmpl", "retry_limit"]  # both on purpose, as the docstring says


def test_the_call_written_for_llamaindex_works_with_its_positional_arguments(out):
    with serving() as server:
        arguments = (documented_prompt(), 2, 3, "continue", 500, str(out), False)
        dataset = generate_qa_embedding_pairs(make_nodes(2), make_llm(server.url), *arguments)
    assert len(dataset.queries) == 4


def test_usage_is_what_the_server_reports(out):
    with serving() as server:
        result = generate_qa_embedding_pairs(
            make_nodes(5), make_llm(server.url), output_path=out, prices={"input": 1e6, "output": 2e6}, verbose=False
        )
    replies = [answer.reply for answer in read_answers(store(out)).values()]
    assert result.account.usage["tokens_out"] == sum(len(reply.split()) for reply in replies)
    assert not result.account.usage["estimated"]
    assert result.account.usage["cost"] == result.account.usage["tokens_in"] + 2 * result.account.usage["tokens_out"]
    with serving(usage=False) as server:
        unknown = generate_qa_embedding_pairs(make_nodes(2), make_llm(server.url), output_path=out, verbose=False)
    assert unknown.account.usage["estimated"]


def test_on_failure_continue_accounts_for_every_chunk(out, quick):
    nodes = [*make_nodes(10), TextNode(id_="empty", text=" \n "), TextNode(id_="contents", text=CONTENTS)]
    with serving(fault=poisoned("region 4 ", Fault(status=500, message="broken"))) as server:
        result = generate_qa_embedding_pairs(nodes, make_llm(server.url), output_path=out, retry_limit=3, verbose=False)
    report = result.account.report.set_index("chunk_id")
    assert list(report.index) == [node.node_id for node in nodes]
    assert report.loc["n4", ["status", "reason", "calls"]].tolist() == ["failed", "500 broken", 3]
    assert report.loc["empty", ["status", "reason", "calls"]].tolist() == ["dropped", "empty", 0]
    assert report.loc["contents", ["status", "reason"]].tolist() == ["dropped", "no prose (contents)"]
    assert (report["status"] == "kept").sum() == 9
    assert "n4" in result.corpus
    assert result.account.summary() == "18 questions from 12 chunks (9 kept, 2 dropped, 1 failed)."
    assert server.calls == 9 + 3


def test_the_offline_writer_gives_the_same_each_time_and_learns_from_the_whole_corpus(out):
    first = generate_qa_embedding_pairs(make_nodes(20), "offline", output_path=out, verbose=False)
    second = generate_qa_embedding_pairs(make_nodes(20), "offline", output_path=out, verbose=False)
    assert first == second
    more = generate_qa_embedding_pairs(make_nodes(21), "offline", output_path=out, verbose=False)
    assert more.account.usage["this_run"]["calls"] == 21
    assert not store(out).exists()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"qa_generate_prompt_tmpl": "Ask!"}, "lacks {context_str}"),
        ({"num_questions_per_chunk": -1}, "num_questions_per_chunk is -1"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"prices": {"input": 1}}, "prices is .*output"),
        ({"filters": {"min_letters": 3}}, "min_letters"),
        ({"tongue": "German"}, "tongue.*Known are"),
        ({"timeout": 0}, "timeout is 0"),
        ({"nodes": []}, "no chunk to ask about"),
        ({"output_path": "/"}, "output_path is /"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_cannot_be_are_named(out, arguments, reason):
    with pytest.raises(UserError, match=reason):
        generate_qa_embedding_pairs(**({"nodes": make_nodes(1), "llm": MockLLM(), "output_path": out} | arguments))
    assert not list(out.parent.iterdir())


def test_filters_can_be_switched_off(out):
    fault = Fault(text="1. What does the table above show?\n2. Fig")
    nodes = make_nodes(2)
    with serving(fault=lambda call, prompt: fault) as server:
        llm = make_llm(server.url)
        result = generate_qa_embedding_pairs(nodes, llm, output_path=out, verbose=False)
        assert result.account.filters.set_index("filter")["dropped"].to_dict() == {"length": 2, "not self-contained": 2}
        assert result.queries == {}
        every = generate_qa_embedding_pairs(nodes, llm, output_path=out, filters=None, verbose=False)
        assert len(every.queries) == 4
        only = generate_qa_embedding_pairs(
            nodes,
            llm,
            output_path=out,
            filters={"min_words": 1, "self_contained": False, "near_duplicates": 0.8},
            verbose=False,
        )
        assert list(only.queries.values()) == ["What does the table above show?", "Fig"]
        assert server.calls == 2


@pytest.mark.slow
def test_transformers_serve(tmp_path, out):
    for module in ("fastapi", "uvicorn"):
        pytest.importorskip(module, reason="transformers serve needs `pip install 'transformers[serving]'`")
    model = tmp_path / "tiny-chat"
    write_tiny_chat_model(model)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    log = open(tmp_path / "serve.log", "wb")  # noqa: SIM115
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(model), "--port", port]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HOME": str(tmp_path / "hf")}
    with subprocess.Popen(command, stdout=log, stderr=log, env=environment) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server, tmp_path / "serve.log")
            llm = make_llm(f"http://127.0.0.1:{port}/v1", model=str(model), max_tokens=24)
            filters = Filters(min_words=0, self_contained=False, near_duplicates=0)
            result = generate_qa_embedding_pairs(
                make_nodes(4), llm, output_path=out, filters=filters, retry_limit=2, verbose=False
            )
        finally:
            server.terminate()
            log.close()
    assert set(result.account.report["status"]) <= {"kept", "dropped", "failed"}
    assert result.account.usage["calls"] >= 4 and result.account.usage["tokens_out"] > 0
    answers = read_answers(store(out)).values()
    assert len(answers) == 4 and any(answer.reply for answer in answers)


def write_tiny_chat_model(folder: Path) -> None:
    """A chat model of a few thousand random weights over a word-level vocabulary."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "\n", "?", "1.", "2.", *FRUIT, "What", "How", "many", "grew", "in", "region"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    fast.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    fast.save_pretrained(folder)
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def wait_for(url: str, server: subprocess.Popen, log: Path) -> None:
    import requests

    for _ in range(240):
        if server.poll() is not None:
            pytest.fail(f"transformers serve does not start: {log.read_text()[-300:]}")
        try:
            if requests.get(url, timeout=1).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.25)
    pytest.fail("transformers serve did not come up within a minute")


def test_examples_are_asked_with_and_never_taken_for_an_answer(out):
    with serving(
        fault=lambda call, prompt: Fault(text=f"1. Who owns Uber?\n2. {QUESTION_STYLES[0].title()}\n3. Who picks figs?")
    ) as server:
        for examples in ((), ("who owns uber",)):
            dataset = generate_qa_embedding_pairs(
                make_nodes(1),
                make_llm(server.url),
                num_questions_per_chunk=3,
                output_path=out,
                examples=examples,
                verbose=False,
            )
        assert server.calls == 2 and "who owns uber" in server.bodies[1]["messages"][-1]["content"]
    assert list(dataset.queries.values()) == ["Who picks figs?"]
    assert dataset.account.filters["filter"].tolist() == ["repeats the prompt"]


def test_no_question_is_asked_where_none_is_wanted(tmp_path):
    nodes = make_nodes(2)
    dataset = generate_qa_embedding_pairs(
        nodes, "offline", num_questions_per_chunk=0, output_path=tmp_path / "d.json", verbose=False
    )
    assert dataset.queries == {} and len(dataset.corpus) == 2
    assert set(dataset.account.report["status"]) == {"dropped"}
