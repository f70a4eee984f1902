"""Asking, retries, faults and budgets, against a real server that misbehaves on demand."""

import asyncio
import os
import random
import subprocess
import sys
import time

import pytest
from openai_server import Fault, serving
from question_helpers import (
    Slow,
    make_llm,
    make_nodes,
    poisoned,
    store,
)

from nbutils.questions import ask as asking
from nbutils.questions.ask import GenerationError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.settings import Budget
from nbutils.questions.store import read_answers

pytestmark = pytest.mark.usefixtures("warm")


def test_calls_run_at_once_up_to_the_limit_and_results_keep_the_order(out):
    nodes = make_nodes(33)
    with serving(delay=0.1) as server:
        dataset = generate_qa_embedding_pairs(
            nodes, make_llm(server.url), output_path=out, concurrency=8, verbose=False
        )
    assert server.calls == 33
    assert 1 < server.most_at_once <= 8
    assert list(dataset.corpus) == [node.node_id for node in nodes]
    assert [ids[0] for ids in dataset.relevant_docs.values()] == [node.node_id for node in nodes for _ in range(2)]
    assert EmbeddingQAFinetuneDataset.from_json(out) == dataset


def test_works_inside_a_running_event_loop(out):
    async def notebook_cell():
        with serving() as server:
            first = generate_qa_embedding_pairs(make_nodes(4), make_llm(server.url), output_path=out, verbose=False)
            llm = make_llm(server.url)
            generate_qa_embedding_pairs(make_nodes(4, 4), llm, output_path=out, verbose=False)
            again = generate_qa_embedding_pairs(make_nodes(4, 8), llm, output_path=out, verbose=False)
        return first, again

    first, again = asyncio.run(notebook_cell())
    assert len(first.queries) == len(again.queries) == 8


def test_an_llm_without_async_runs_in_threads(out):
    at_work, most = [], []

    class Counted(Slow):
        def complete(self, prompt, formatted=False, **kwargs):
            at_work.append(prompt)
            most.append(len(at_work))
            reply = super().complete(prompt)
            at_work.remove(prompt)
            return reply

    result = generate_qa_embedding_pairs(make_nodes(24), Counted(), output_path=out, concurrency=12, verbose=False)
    assert 1 < max(most) <= 12
    assert len(result.queries) == 48
    assert result.account.usage["estimated"] and result.account.usage["tokens_in"] > 0


def transient_faults(seed: int):
    rng = random.Random(seed)
    kinds = [
        Fault(status=429, headers={"Retry-After": "0.05"}),
        Fault(status=500),
        Fault(status=503),
        Fault(drop=True),
        Fault(delay=3.0),
        Fault(text=""),
        Fault(text="1. What is th", finish_reason="length"),
        Fault(status=408),
    ]
    last = {}

    def fault(call, prompt):
        # a prompt that failed is answered the next time, so that nothing fails for good
        if rng.random() < 0.4 and last.get(prompt, 0) < 2:
            last[prompt] = last.get(prompt, 0) + 1
            return rng.choice(kinds)
        return None

    return fault


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_everything_transient_is_retried_and_nothing_is_lost(out, quick, seed):
    with serving(fault=transient_faults(seed)) as server:
        result = generate_qa_embedding_pairs(
            make_nodes(40), make_llm(server.url), output_path=out, timeout=1.5, verbose=False
        )
        disturbed = server.calls
    assert disturbed > 45
    assert (result.account.report["status"] == "kept").all() and (result.account.report["kept"] == 2).all()
    with serving() as server:
        calm = out.with_name("calm.json")
        generate_qa_embedding_pairs(make_nodes(40), make_llm(server.url), output_path=calm, verbose=False)
    assert out.read_bytes() == calm.read_bytes()


@pytest.mark.slow
def test_retry_after_is_honoured_by_all_calls(out):
    def fault(call, prompt):
        return Fault(status=429, headers={"Retry-After": "1"}) if call == 3 else None

    with serving(fault=fault, delay=0.02) as server:
        generate_qa_embedding_pairs(make_nodes(12), make_llm(server.url), output_path=out, concurrency=2, verbose=False)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.95
    assert server.calls == 13


@pytest.mark.slow
def test_a_rate_limit_slower_than_the_concurrency_loses_nothing(out, quick):
    """Ten calls a second pass, the rest is told to wait: many more refusals than retry_limit, none for good."""
    passed = []

    def fault(call, prompt):
        now = time.monotonic()
        if passed and now - passed[-1] < 0.1:
            return Fault(status=429, headers={"Retry-After": "0.1"})
        passed.append(now)
        return None

    with serving(fault=fault) as server:
        result = generate_qa_embedding_pairs(
            make_nodes(20), make_llm(server.url), output_path=out, concurrency=16, retry_limit=3, verbose=False
        )
    assert (result.account.report["status"] == "kept").all()


@pytest.mark.slow
def test_waits_grow_and_carry_jitter(out, monkeypatch):
    monkeypatch.setattr(asking, "BACKOFF_SECONDS", (0.2, 30.0))
    with serving(fault=lambda call, prompt: Fault(status=500) if call < 5 else None) as server:
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 4
    for number, wait in enumerate(waits):
        assert 0.5 * 0.2 * 2**number <= wait <= 0.2 * 2**number + 5  # on a busy machine


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=401, message="Incorrect API key provided"), "401 Incorrect API key provided"),
        (Fault(status=403, message="Your plan has no access"), "403 Your plan has no access"),
        (Fault(status=404, message="The model tiny does not exist", code="model_not_found"), "tiny does not exist"),
        (Fault(status=400, message="stream must be off"), "stream must be off"),
        (Fault(status=429, message="You exceeded your quota", code="insufficient_quota"), "exceeded your quota"),
        (Fault(status=301, message="Moved for good"), "301 Moved for good"),
        (Fault(status=500, message="model requires more system memory (7.5 GiB) than is available"), "requires more"),
        (Fault(status=429, message="Insufficient balance or no resource package. Please recharge."), "Insufficient"),
        (Fault(status=429, message="Budget has been exceeded! Max budget: 10.0", code="429"), "Budget has been"),
        (Fault(status=403, message="Your account has been flagged for potential abuse."), "Your account"),
        (Fault(status=404, message="Not Found"), r"404 Not Found \(is the address complete\? Most end in /v1\)"),
    ],
    ids=[
        "401",
        "403",
        "404",
        "400",
        "quota",
        "moved",
        "Ollama's memory",
        "z.ai's balance",
        "LiteLLM's budget",
        "a flagged account",
        "no /v1",
    ],
)
def test_a_refusal_stops_at_once_with_the_reason(out, fault, reason):
    told = pytest.raises(GenerationError, match=f"refused: .*{reason}")
    with serving(fault=lambda call, prompt: fault) as server, told:
        generate_qa_embedding_pairs(make_nodes(30), make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 1
    assert not out.exists()


def test_a_refusal_on_the_way_keeps_what_was_answered(out):
    def fault(call, prompt):
        return Fault(status=401, message="The key was revoked") if call > 10 else None

    with serving(fault=fault) as server, pytest.raises(GenerationError, match=r"revoked.*of 30 chunks are done"):
        generate_qa_embedding_pairs(make_nodes(30), make_llm(server.url), output_path=out, concurrency=4, verbose=False)
    assert server.calls <= 14
    done = len(read_answers(store(out)))
    assert done >= 8
    with serving() as server:
        generate_qa_embedding_pairs(make_nodes(30), make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 30  # another address may serve another model under the same name: nothing is mixed


def test_failures_in_a_row_stop_and_say_how_to_continue(out, quick):
    def fault(call, prompt):
        return Fault(status=503, message="overloaded") if call > 6 and not mended else None

    mended = False
    with serving(fault=fault) as server:
        llm = make_llm(server.url)
        with pytest.raises(GenerationError, match=r"5 chunks in a row failed.*overloaded.*run again to continue"):
            generate_qa_embedding_pairs(make_nodes(40), llm, output_path=out, retry_limit=3, verbose=False)
        assert server.calls <= 6 + 3 * (5 + 8)
        mended, spent = True, server.calls
        result = generate_qa_embedding_pairs(make_nodes(40), llm, output_path=out, verbose=False)
        assert server.calls - spent == 40 - 6
        assert (result.account.report["status"] == "kept").all()


def test_nothing_listening_stops_with_the_reason(out, quick):
    with serving() as server:
        llm = make_llm(server.url)
    with pytest.raises(GenerationError, match=r"in a row failed.*onnect"):
        generate_qa_embedding_pairs(make_nodes(20), llm, output_path=out, retry_limit=2, verbose=False)


def test_a_set_without_one_answer_is_an_error(out, quick):
    broken = Fault(status=500, message="broken")
    reason = r"No chunk was answered: 500 broken"
    with serving(fault=lambda *_: broken) as server, pytest.raises(GenerationError, match=reason):
        generate_qa_embedding_pairs(make_nodes(2), make_llm(server.url), output_path=out, retry_limit=2, verbose=False)
    assert not out.exists()


def test_on_failure_fail_stops_at_the_first(out, quick):
    with serving(fault=poisoned("region 4 ", Fault(status=500, message="broken"))) as server:
        with pytest.raises(RuntimeError, match="500 broken"):
            generate_qa_embedding_pairs(
                make_nodes(30),
                make_llm(server.url),
                output_path=out,
                retry_limit=3,
                on_failure="fail",
                concurrency=2,
                verbose=False,
            )
        assert server.calls < 15


@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=400, message="This model's maximum context length is 512 tokens."),
        Fault(status=400, message="the request exceeds the available context size, try increasing it"),
        Fault(status=400, message="Cannot truncate prompt with n_keep (15028) >= n_ctx (7424)"),
        Fault(status=400, message="max_tokens must be at least 1, got -20."),
        Fault(status=400, message="The input token count (1200000) exceeds the maximum number of tokens allowed."),
        Fault(status=422, message="Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096."),
        Fault(status=400, message="Input is too long for requested model."),
        Fault(status=429, message="Request too large for gpt-4o on tokens per min: Limit 30000, Requested 43000."),
    ],
    ids=[
        "vLLM",
        "llama.cpp",
        "LM Studio",
        "vLLM: no room",
        "Gemini",
        "TGI",
        "Bedrock",
        "OpenAI: too large for the limit",
    ],
)
def test_one_prompt_that_is_refused_does_not_stop_the_others(out, fault):
    with serving(fault=poisoned("region 4 ", fault)) as server:
        result = generate_qa_embedding_pairs(make_nodes(8), make_llm(server.url), output_path=out, verbose=False)
    assert result.account.report["status"].value_counts().to_dict() == {"kept": 7, "failed": 1}
    assert server.calls == 8


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0.1 with this model."),
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ("reasoning_effort", "reasoning_effort is not supported"),
    ],
)
def test_a_parameter_that_a_model_refuses_is_left_out(out, refused, message):
    def fault(body):
        return Fault(status=400, message=message) if refused in body else None

    with serving(fault_of_body=fault) as server:
        llm = make_llm(server.url, max_tokens=300, additional_kwargs={"reasoning_effort": "low"})
        result = generate_qa_embedding_pairs(make_nodes(5), llm, output_path=out, retry_limit=1, verbose=False)
    assert (result.account.report["status"] == "kept").all()
    assert server.calls == 6 and result.account.usage["calls"] == 5
    assert refused not in server.bodies[-1]
    assert refused != "max_tokens" or server.bodies[-1]["max_completion_tokens"] == 300


def test_reasoning_is_left_out_of_the_answer_and_counted(out):
    thoughts = "<think>\n1. What is the first thing to ask?\n2. And the second?\n</think>\n"
    with serving(
        fault=lambda call, prompt: Fault(text=thoughts + "1. What did they pick?\n2. Who bought it?")
    ) as server:
        result = generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    assert list(result.queries.values()) == ["What did they pick?", "Who bought it?"]
    assert "think" not in next(iter(read_answers(store(out)).values())).reply
    assert result.account.usage["tokens_out"] > 15


def test_a_reply_that_is_always_cut_off_gives_its_whole_questions(out, quick):
    fault = Fault(text="1. What did region 4 pick?\n2. How many tonnes did", finish_reason="length")
    with serving(fault=poisoned("region 4 ", fault)) as server:
        result = generate_qa_embedding_pairs(make_nodes(6), make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 5 + asking.BAD_REPLY_TRIES
    assert "What did region 4 pick?" in result.queries.values()
    assert not any(question.startswith("How many tonnes did") for question in result.queries.values())
    assert "1 chunks gave fewer questions" in result.account.summary()


def test_a_reply_of_none_is_an_answer(out):
    with serving(fault=poisoned("region 4 ", Fault(text="NONE"))) as server:
        result = generate_qa_embedding_pairs(make_nodes(6), make_llm(server.url), output_path=out, verbose=False)
        generate_qa_embedding_pairs(make_nodes(6), make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 6
    row = result.account.report.set_index("chunk_id").loc["n4"]
    assert (row["status"], row["reason"]) == ("dropped", "the reply held no question")


def test_what_failed_before_is_asked_last(out, quick):
    order = []

    def fault(call, prompt):
        order.append("region 2 " in prompt)
        return Fault(status=500) if order[-1] and not mended else None

    mended = False
    with serving(fault=fault) as server:
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(make_nodes(6), llm, output_path=out, retry_limit=2, verbose=False)
        order.clear()
        mended = True
        generate_qa_embedding_pairs(make_nodes(12), llm, output_path=out, concurrency=1, verbose=False)
    assert order == [False] * 6 + [True]


@pytest.mark.slow
def test_a_hanging_synchronous_llm_is_given_up_on(out, quick):
    class Hanging(Slow):
        def complete(self, prompt, formatted=False, **kwargs):
            if "region 1 " in prompt:
                time.sleep(5)
            return super().complete(prompt)

    result = generate_qa_embedding_pairs(
        make_nodes(3), Hanging(), output_path=out, timeout=1.5, retry_limit=2, verbose=False
    )
    assert result.account.report["status"].tolist() == ["kept", "failed", "kept"]
    assert result.account.report["reason"][1] == "no reply within 1.5 s"


@pytest.mark.slow
def test_a_call_that_hangs_does_not_hold_up_the_end_of_the_process(out, project):
    code = """
import time
from question_helpers import Slow, make_nodes
from nbutils.questions.generate import generate_qa_embedding_pairs
class Hanging(Slow):
    def complete(self, prompt, formatted=False, **kwargs):
        time.sleep(1000)
generate_qa_embedding_pairs(make_nodes(1), Hanging(), output_path="pairs.json", timeout=0.2, retry_limit=1)
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(project / "tests"), str(project)])}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=out.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 1
    assert "no reply within 0.2 s" in done.stderr


@pytest.mark.slow
def test_synchronous_calls_that_timed_out_keep_their_place(out, quick):
    at_work, most = [], []

    class Hanging(Slow):
        def complete(self, prompt, formatted=False, **kwargs):
            at_work.append(prompt)
            most.append(len(at_work))
            time.sleep(0.7)
            at_work.remove(prompt)
            return super().complete(prompt)

    with pytest.raises(GenerationError, match=r"no reply within 0\.2 s"):
        generate_qa_embedding_pairs(
            make_nodes(9), Hanging(), output_path=out, timeout=0.2, retry_limit=3, concurrency=2, verbose=False
        )
    assert max(most) <= 2


def test_a_budget_of_calls_stops_cleanly_and_can_be_raised(out):
    with serving(delay=0.01) as server:
        llm = make_llm(server.url)
        first = generate_qa_embedding_pairs(make_nodes(30), llm, output_path=out, budget=Budget(10), verbose=False)
        assert server.calls == 10
        assert first.account.report["status"].value_counts().to_dict() == {"not asked": 20, "kept": 10}
        assert len(EmbeddingQAFinetuneDataset.from_json(out).queries) == 20
        generate_qa_embedding_pairs(make_nodes(30), llm, output_path=out, budget=Budget(10), verbose=False)
        assert server.calls == 10
        generate_qa_embedding_pairs(make_nodes(30), llm, output_path=out, budget=Budget(25), verbose=False)
        assert server.calls == 25
        generate_qa_embedding_pairs(make_nodes(30), llm, output_path=out, verbose=False)
        assert server.calls == 30
        whole = out.with_name("whole.json")
        generate_qa_embedding_pairs(
            make_nodes(30), llm, output_path=whole, store=whole.with_suffix(".db"), verbose=False
        )
    assert out.read_bytes() == whole.read_bytes()


def test_a_budget_of_tokens_is_not_overspent(out):
    with serving(delay=0.01) as server:
        result = generate_qa_embedding_pairs(
            make_nodes(30), make_llm(server.url), output_path=out, budget=Budget(tokens=3000), verbose=False
        )
    assert 0 < result.account.usage["tokens_in"] + result.account.usage["tokens_out"] <= 3000
    assert "not asked" in set(result.account.report["status"])


def test_a_budget_of_tokens_holds_where_replies_are_longer_than_estimated(out):
    wordy = Fault(text="1. What grew?\n2. Who picked it?\n\n" + "And so on. " * 100, delay=0.05)
    with serving(fault=lambda call, prompt: wordy) as server:
        result = generate_qa_embedding_pairs(
            make_nodes(60), make_llm(server.url), output_path=out, budget=Budget(tokens=9000), verbose=False
        )
    assert 9000 * 0.7 < result.account.usage["tokens_in"] + result.account.usage["tokens_out"] <= 9000


def test_one_budget_covers_several_sets_and_leaves_the_later_its_share(out):
    train, val = make_nodes(30), make_nodes(20, start=30)

    def both(llm, calls):
        budget = Budget(calls)
        first = generate_qa_embedding_pairs(train, llm, output_path=out, budget=budget.share(0.6), verbose=False)
        other = out.with_name("val.json")
        second = generate_qa_embedding_pairs(val, llm, output_path=other, budget=budget, verbose=False)
        assert budget.used_calls <= calls
        return first.account.usage["calls"], second.account.usage["calls"]

    with serving() as server:
        llm = make_llm(server.url)
        assert both(llm, 10) == (6, 4)
        assert both(llm, 10) == (6, 4)
        assert server.calls == 10
        assert both(llm, 25) == (15, 10)
        assert server.calls == 25
    assert both("offline", 10) == (6, 4)


def test_retries_count_against_the_budget(out, quick):
    with serving(fault=lambda call, prompt: Fault(status=500) if call < 4 else None) as server:
        generate_qa_embedding_pairs(
            make_nodes(9), make_llm(server.url), output_path=out, budget=Budget(5), verbose=False
        )
        assert server.calls == 5
