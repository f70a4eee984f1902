"""Asking, the store of answers, faults and budgets, against a real server that misbehaves on demand."""

import asyncio
import inspect
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.schema import TextNode
from openai_server import Fault, serving

from nbutils.core import UserError
from nbutils.models.llms import llm_signature
from nbutils.questions import ask as asking
from nbutils.questions import faults
from nbutils.questions.ask import GenerationError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.estimate import estimate_questions
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.prompts import (
    DEFAULT_QA_GENERATE_PROMPT_TMPL,
    EXAM_PROMPT_TMPL,
    documented_prompt,
    render_prompt,
)
from nbutils.questions.settings import Budget, Filters
from nbutils.questions.store import read_answers

FRUIT = "apple banana cherry damson elder fig grape hazel lemon mango nectarine olive peach quince raisin".split()  # noqa: SIM905


def make_nodes(count: int, start: int = 0) -> list[TextNode]:
    return [
        TextNode(
            id_=f"n{i}",
            text=f"{FRUIT[i % 15].title()} growers of region {i} picked {i * 37} tonnes in {1900 + i}. "
            f"Their cooperative in town {i} sold the harvest to bakeries and schools before the winter came.",
        )
        for i in range(start, start + count)
    ]


def make_llm(url: str, **options):
    like = pytest.importorskip("llama_index.llms.openai_like")
    defaults = {"model": "tiny", "api_key": "sk-secretsecretsecret", "is_chat_model": True, "max_retries": 0}
    return like.OpenAILike(api_base=url, **(defaults | options))


def store(out: Path) -> Path:
    return out.with_name("answers.sqlite")


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "set.json"


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory):
    """Load what is loaded on first use, so that no test times it."""
    with serving() as server:
        path = tmp_path_factory.mktemp("warm") / "set.json"
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=path, verbose=False)


@pytest.fixture
def quick(monkeypatch):
    """Shorten the waits between tries, not their number."""
    monkeypatch.setattr(asking, "BACKOFF_SECONDS", (0.02, 0.2))


# -- asking ------------------------------------------------------------------------------------------------------


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


def test_upstream_reads_what_is_written(out):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        upstream = pytest.importorskip("llama_index.finetuning")
    with serving() as server:
        dataset = generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
    assert upstream.EmbeddingQAFinetuneDataset.from_json(str(out)).query_docid_pairs == dataset.query_docid_pairs


def test_the_arguments_are_those_of_llamaindex():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        upstream = pytest.importorskip("llama_index.finetuning")
    theirs = inspect.signature(upstream.generate_qa_embedding_pairs).parameters
    ours = inspect.signature(generate_qa_embedding_pairs).parameters
    assert [name for name, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD] == list(theirs)
    differ = [name for name in theirs if theirs[name].default != ours[name].default]
    assert differ == ["qa_generate_prompt_tmpl", "retry_limit"]  # both on purpose, as the docstring says


def test_a_dataset_of_any_text_is_written_as_llamaindex_writes_it(out):
    dataset = EmbeddingQAFinetuneDataset(
        queries={"q": "Wie groß? \ud800"}, corpus={"c": "収入 \ud800"}, relevant_docs={"q": ["c"]}
    )
    dataset.save_json(out)
    assert EmbeddingQAFinetuneDataset.from_json(out) == dataset
    assert out.read_text(encoding="ascii") == json.dumps(dataset.model_dump(), indent=4)


@pytest.mark.parametrize("llm", [None, 5, object(), "openai-like:tiny@", "openai-like:tiny@localhost:80", "openai:"])
def test_what_is_no_llm_is_named_before_anything_is_asked(out, llm):
    with pytest.raises(UserError, match=r"^(llm|LLM) is "):
        generate_qa_embedding_pairs(make_nodes(1), llm, output_path=out)
    with pytest.raises(UserError, match=r"^(llm|LLM) is "):
        estimate_questions({"training": make_nodes(1)}, llm, output_path=out)
    assert not list(out.parent.iterdir())


def test_the_call_written_for_llamaindex_works_with_its_positional_arguments(out):
    with serving() as server:
        arguments = (documented_prompt(), 2, 3, "continue", 500, str(out), False)
        dataset = generate_qa_embedding_pairs(make_nodes(2), make_llm(server.url), *arguments)
    assert len(dataset.queries) == 4


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


class Slow(CustomLLM):
    """An LLM that can only be called synchronously."""

    @property
    def metadata(self):
        return LLMMetadata(model_name="slow")

    def complete(self, prompt, formatted=False, **kwargs):
        time.sleep(0.1)
        return CompletionResponse(text=f"1. What grew in {hash(prompt)}?\n2. Who picked the crop of {hash(prompt)}?")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


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


# -- the store -------------------------------------------------------------------------------------------------


def test_a_second_run_asks_nothing_and_writes_the_same_bytes(out):
    with serving() as server:
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(make_nodes(6), llm, output_path=out, verbose=False)
        first = out.read_bytes()
        result = generate_qa_embedding_pairs(make_nodes(6), llm, output_path=out, verbose=False)
        assert server.calls == 6
        assert result.account.usage["this_run"]["calls"] == 0 and result.account.usage["calls"] == 6
        assert out.read_bytes() == first
        fresh = out.with_name("fresh.json")
        generate_qa_embedding_pairs(
            make_nodes(6), llm, output_path=fresh, store=fresh.with_suffix(".db"), verbose=False
        )
        assert fresh.read_bytes() == first


@pytest.mark.parametrize(
    "change",
    [
        {"qa_generate_prompt_tmpl": EXAM_PROMPT_TMPL},
        {"num_questions_per_chunk": 1},
        {"language": "German"},
        {"llm": {"model": "other"}},
        {"llm": {"temperature": 0.9}},
        {"llm": {"system_prompt": "Ask as a child would."}},
    ],
    ids=str,
)
def test_a_change_that_matters_asks_anew(out, change):
    change = dict(change)
    with serving() as server:
        generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
        llm = make_llm(server.url, **change.pop("llm", {}))
        arguments = {"output_path": out, "verbose": False} | change
        changed = generate_qa_embedding_pairs(make_nodes(3), llm, **arguments)
        assert server.calls == 6
        fresh = arguments | {"output_path": out.with_name("fresh.json"), "store": out.with_name("fresh.db")}
        assert changed == generate_qa_embedding_pairs(make_nodes(3), llm, **fresh)


@pytest.mark.parametrize("change", [{"api_key": "sk-another"}, {"timeout": 9.0}, {"max_retries": 2}], ids=str)
def test_a_change_that_does_not_matter_asks_nothing(out, change):
    with serving() as server:
        generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url), output_path=out, verbose=False)
        generate_qa_embedding_pairs(make_nodes(3), make_llm(server.url, **change), output_path=out, verbose=False)
        assert server.calls == 3


def test_no_key_is_written_anywhere(out):
    with serving() as server:
        llm = make_llm(server.url, default_headers={"Authorization": "Bearer hidden"})
        generate_qa_embedding_pairs(make_nodes(2), llm, output_path=out, verbose=False)
    assert "secret" not in llm_signature(llm) and "hidden" not in llm_signature(llm)
    assert all(b"secret" not in path.read_bytes() for path in out.parent.iterdir())


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


def test_other_chunks_at_the_same_path_never_mix(out):
    with serving() as server:
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(make_nodes(5), llm, output_path=out, verbose=False)
        second = generate_qa_embedding_pairs(make_nodes(7, start=5), llm, output_path=out, verbose=False)
        assert list(second.corpus) == [f"n{i}" for i in range(5, 12)]
        assert len(second.queries) == 14
        generate_qa_embedding_pairs(make_nodes(12), llm, output_path=out, verbose=False)
        assert server.calls == 12


def test_equal_texts_are_asked_about_once_and_both_answer(out):
    nodes = [*make_nodes(2), TextNode(id_="copy", text=make_nodes(1)[0].text)]
    with serving() as server:
        result = generate_qa_embedding_pairs(nodes, make_llm(server.url), output_path=out, verbose=False)
    assert server.calls == 2
    assert next(iter(result.relevant_docs.values())) == ["n0", "copy"]
    assert result.account.report.set_index("chunk_id").loc["copy", "reason"] == "same text as n0"


def test_two_processes_on_one_store_ask_each_question_once(out):
    with serving(delay=0.1) as server, Launcher(server.url, out) as one, Launcher(server.url, out) as two:
        one.start(), two.start()
        assert one.wait() == two.wait() == 0
    assert server.calls == 200 and len(read_answers(store(out))) == 200
    assert len(EmbeddingQAFinetuneDataset.from_json(out).queries) == 400


def test_a_shared_store_that_is_damaged_is_one_warning(out, tmp_path):
    with serving() as server:
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(make_nodes(2), llm, output_path=out, shared=tmp_path / "all", verbose=False)
        (file,) = (tmp_path / "all").glob("*.sqlite")
        file.write_bytes(b"damaged " * 1000)
        (tmp_path / "b").mkdir()
        with pytest.warns(UserWarning, match="not shared with other runs") as warned:
            generate_qa_embedding_pairs(
                make_nodes(2), llm, output_path=tmp_path / "b" / "b.json", shared=tmp_path / "all", verbose=False
            )
        assert len(warned) == 1 and server.calls == 4


def test_a_network_file_system_is_named(out, monkeypatch):
    class Mount:
        mountpoint, fstype = str(out.parent), "nfs4"

    monkeypatch.setattr("psutil.disk_partitions", lambda all: [Mount])
    with serving() as server, pytest.warns(UserWarning, match="is on nfs4: let one machine at a time use it"):
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)


def test_a_file_that_is_no_store_is_left_alone(out):
    store(out).write_text('{"a": 1}' * 1000)
    with serving() as server, pytest.raises(UserError, match=r"Cannot use .*answers\.sqlite as a store of answers"):
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    assert store(out).read_text() == '{"a": 1}' * 1000


LAUNCHER = """
import os, sys
sys.path[:0] = [{tests!r}, {tests!r} + "/questions"]
import openai.resources
from test_generate import make_nodes, make_llm
from nbutils.questions.generate import generate_qa_embedding_pairs
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        llm = make_llm({url!r})
        try:
            generate_qa_embedding_pairs(make_nodes(200), llm, output_path={out!r}, concurrency=4, verbose=False)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(pid, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


class Launcher:
    """Starts runs in processes of their own, quickly: everything they need is imported once, before they fork."""

    def __init__(self, url: str, out: Path):
        code = LAUNCHER.format(tests=str(Path(__file__).parents[1]), url=url, out=str(out))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdin=pipe, stdout=pipe, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def start(self) -> int:
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        return int(self._process.stdout.readline())


def wait_for_lines(journal: Path, count: int) -> None:
    deadline = time.monotonic() + 30
    while len(read_answers(journal)) < count and time.monotonic() < deadline:
        time.sleep(0.02)


@pytest.mark.slow
def test_twenty_kills_lose_nothing_and_ask_nothing_twice(out):
    rng = random.Random(5)
    journal = store(out)
    with serving(delay=0.1) as server, Launcher(server.url, out) as launcher:
        undisturbed = out.with_name("undisturbed.json")
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(
            make_nodes(200), llm, output_path=undisturbed, store=out.with_name("b.db"), concurrency=16, verbose=False
        )
        server.answered.clear()
        finished_at_kill = []
        for _ in range(20):
            finished = len(read_answers(journal))
            finished_at_kill.append(finished)
            before = server.answered.copy()
            process = launcher.start()
            wait_for_lines(journal, finished + rng.randint(0, 4))  # 0: at any moment of the start
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(process, signal.SIGKILL)
            assert launcher.wait() == -signal.SIGKILL
            time.sleep(0.15)
            asked = server.answered - before
            assert max(asked.values(), default=0) <= 1
            assert sum(asked.values()) <= 200 - finished
        assert len(set(finished_at_kill)) > 5  # the kills fell at different points of the work
        launcher.start()
        assert launcher.wait() == 0
    assert len(read_answers(journal)) == 200
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sum(server.answered.values()) <= 200 + 20 * 4  # only what was under way when a kill came


def test_ctrl_c_keeps_what_was_answered(out):
    with serving(delay=0.1) as server, Launcher(server.url, out) as launcher:
        process = launcher.start()
        wait_for_lines(store(out), 8)
        os.kill(process, signal.SIGINT)
        assert launcher.wait() == 130
    done = len(read_answers(store(out)))
    assert 8 <= done < 200
    assert len(EmbeddingQAFinetuneDataset.from_json(out).queries) == 2 * done


def test_save_every_leaves_a_dataset_on_the_way(out):
    saved = []

    def watch(call, prompt):
        if out.exists():
            saved.append(len(json.loads(out.read_text())["queries"]))

    with serving(delay=0.15, fault=watch) as server:
        generate_qa_embedding_pairs(
            make_nodes(12), make_llm(server.url), output_path=out, save_every=2, concurrency=2, verbose=False
        )
    assert saved and 0 < min(saved) < 24


def test_what_is_saved_on_the_way_is_filtered(out):
    seen = []

    def watch(call, prompt):
        if out.exists():
            seen.extend(json.loads(out.read_text())["queries"].values())
        return Fault(text=f"1. What does the table above show?\n2. What grew in region {call}?", delay=0.1)

    with serving(fault=watch) as server:
        generate_qa_embedding_pairs(
            make_nodes(8), make_llm(server.url), output_path=out, save_every=2, concurrency=2, verbose=False
        )
    assert seen and "What does the table above show?" not in seen


# -- faults ------------------------------------------------------------------------------------------------------


def transient_faults(seed: int):
    rng = random.Random(seed)
    kinds = [
        Fault(status=429, headers={"Retry-After": "0.05"}),
        Fault(status=500),
        Fault(status=503),
        Fault(drop=True),
        Fault(delay=1.0),
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


@pytest.mark.parametrize("seed", range(3))
def test_everything_transient_is_retried_and_nothing_is_lost(out, quick, seed):
    with serving(fault=transient_faults(seed)) as server:
        result = generate_qa_embedding_pairs(
            make_nodes(40), make_llm(server.url), output_path=out, timeout=0.5, verbose=False
        )
        disturbed = server.calls
    assert disturbed > 45
    assert (result.account.report["status"] == "kept").all() and (result.account.report["kept"] == 2).all()
    with serving() as server:
        calm = out.with_name("calm.json")
        generate_qa_embedding_pairs(make_nodes(40), make_llm(server.url), output_path=calm, verbose=False)
    assert out.read_bytes() == calm.read_bytes()


def test_retry_after_is_honoured_by_all_calls(out):
    def fault(call, prompt):
        return Fault(status=429, headers={"Retry-After": "1"}) if call == 3 else None

    with serving(fault=fault, delay=0.02) as server:
        generate_qa_embedding_pairs(make_nodes(12), make_llm(server.url), output_path=out, concurrency=2, verbose=False)
    gaps = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert max(gaps) >= 0.95
    assert server.calls == 13


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


def test_waits_grow_and_carry_jitter(out, monkeypatch):
    monkeypatch.setattr(asking, "BACKOFF_SECONDS", (0.2, 30.0))
    with serving(fault=lambda call, prompt: Fault(status=500) if call < 5 else None) as server:
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 4
    for number, wait in enumerate(waits):
        assert 0.5 * 0.2 * 2**number <= wait <= 0.2 * 2**number + 0.3


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(status=401, message="Incorrect API key provided"), "401 Incorrect API key provided"),
        (Fault(status=403, message="Your plan has no access"), "403 Your plan has no access"),
        (Fault(status=404, message="The model tiny does not exist", code="model_not_found"), "tiny does not exist"),
        (Fault(status=400, message="stream must be off"), "stream must be off"),
        (Fault(status=429, message="You exceeded your quota", code="insufficient_quota"), "exceeded your quota"),
        (Fault(status=301, message="Moved for good"), "301 Moved for good"),
    ],
    ids=["401", "403", "404", "400", "quota", "moved"],
)
def test_a_refusal_stops_at_once_with_the_reason(out, fault, reason):
    with serving(fault=lambda call, prompt: fault) as server, pytest.raises(GenerationError, match=reason):
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


def poisoned(words: str, fault: Fault):
    return lambda call, prompt: fault if words in prompt else None


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


CONTENTS = "Table of Contents\n" + "\n".join(f"Item {i}. Matters of kind {i} ........ {i * 7}" for i in range(1, 16))


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
    ],
    ids=["vLLM: too long", "llama.cpp: too long"],
)
def test_one_prompt_that_is_refused_does_not_stop_the_others(out, fault):
    with serving(fault=poisoned("region 4 ", fault)) as server:
        result = generate_qa_embedding_pairs(make_nodes(8), make_llm(server.url), output_path=out, verbose=False)
    assert result.account.report["status"].value_counts().to_dict() == {"kept": 7, "failed": 1}
    assert server.calls == 8


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
    ],
    ids=["OpenAI", "DeepSeek", "Qwen", "OpenRouter", "Azure", "finish reason", "within a 200"],
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
    ("refused", "message"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0.1 with this model."),
        ("max_tokens", "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        ("response_format", "response_format.type json_schema is not supported"),
    ],
)
def test_a_parameter_that_a_model_refuses_is_left_out(out, refused, message):
    def fault(body):
        return Fault(status=400, message=message) if refused in body else None

    with serving(fault_of_body=fault) as server:
        llm = make_llm(server.url, max_tokens=300)
        result = generate_qa_embedding_pairs(
            make_nodes(5), llm, output_path=out, retry_limit=1, structured=True, verbose=False
        )
    assert (result.account.report["status"] == "kept").all()
    assert server.calls == 6 and result.account.usage["calls"] == 5
    assert refused not in server.bodies[-1]
    assert refused != "max_tokens" or server.bodies[-1]["max_completion_tokens"] == 300


def test_structured_replies_are_asked_for_and_read(out):
    fault = Fault(text='{"questions": ["What did region 1 pick?", "Who bought the harvest of town 1?"]}')
    with serving(fault=lambda call, prompt: fault) as server:
        llm = make_llm(server.url)
        result = generate_qa_embedding_pairs(make_nodes(1), llm, output_path=out, structured=True, verbose=False)
    assert list(result.queries.values()) == ["What did region 1 pick?", "Who bought the harvest of town 1?"]
    assert server.bodies[0]["response_format"]["type"] == "json_schema"


def test_reasoning_is_left_out_of_the_answer_and_counted(out):
    thoughts = "<think>\n1. What is the first thing to ask?\n2. And the second?\n</think>\n"
    with serving(
        fault=lambda call, prompt: Fault(text=thoughts + "1. What did they pick?\n2. Who bought it?")
    ) as server:
        result = generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    assert list(result.queries.values()) == ["What did they pick?", "Who bought it?"]
    assert "think" not in next(iter(read_answers(store(out)).values())).reply
    assert result.account.usage["tokens_out"] > 15


def test_a_model_newer_than_the_client_is_asked(out, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-123456789")
    with serving() as server:
        monkeypatch.setenv("OPENAI_API_BASE", server.url)
        result = generate_qa_embedding_pairs(make_nodes(2), "openai:gpt-99-mini", output_path=out, verbose=False)
        assert server.bodies[0]["model"] == "gpt-99-mini"
    assert len(result.queries) == 4


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


def test_a_hanging_synchronous_llm_is_given_up_on(out, quick):
    class Hanging(Slow):
        def complete(self, prompt, formatted=False, **kwargs):
            if "region 1 " in prompt:
                time.sleep(5)
            return super().complete(prompt)

    result = generate_qa_embedding_pairs(
        make_nodes(3), Hanging(), output_path=out, timeout=0.4, retry_limit=2, verbose=False
    )
    assert result.account.report["status"].tolist() == ["kept", "failed", "kept"]
    assert result.account.report["reason"][1] == "no reply within 0.4 s"


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


# -- cost --------------------------------------------------------------------------------------------------------


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


def test_the_estimate_matches_what_is_asked(out):
    nodes = [*make_nodes(9), TextNode(id_="contents", text=CONTENTS), TextNode(id_="copy", text=make_nodes(1)[0].text)]
    prices = {"input": 0.5, "output": 1.5}

    def estimate(llm, **options):
        return estimate_questions({"training": nodes}, llm, output_path=out, **options).loc["training"]

    with serving(delay=0.05) as server:
        llm = make_llm(server.url)
        before = estimate(llm, prices=prices, seconds_per_call=0.05, concurrency=3)
        assert server.calls == 0 and not list(out.parent.iterdir())
        assert (before["chunks"], before["skipped"], before["calls"]) == (11, 1, 9)
        assert before["seconds"] == pytest.approx(3 * 0.05, abs=0.06)
        assert before["cost"] == pytest.approx((before["tokens_in"] * 0.5 + before["tokens_out"] * 1.5) / 1e6, abs=1e-6)
        generate_qa_embedding_pairs(nodes, llm, output_path=out, budget=Budget(5), verbose=False)
        after = estimate(llm, prices=prices)
        assert (after["already_done"], after["calls"]) == (5, 4)
        assert estimate(llm, budget=Budget(7))["calls"] == 2
    assert estimate(MockLLM())["calls"] == 9


def test_the_estimate_shows_whole_numbers_no_cost_without_prices_and_shares_the_budget(out):
    sets = {"training": make_nodes(6), "validation": make_nodes(3, start=6)}
    table = estimate_questions(sets, MockLLM(), output_path=out)
    assert table["calls"].to_dict() == {"training": 6, "validation": 3, "all": 9}
    assert "cost" not in table and "." not in table.drop(columns="seconds").to_string()
    capped = estimate_questions(sets, MockLLM(), output_path=out, budget=Budget(6))
    assert capped["calls"].to_dict() == {"training": 4, "validation": 2, "all": 6}


def test_an_estimate_needs_no_key(out, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    estimate = estimate_questions({"training": make_nodes(3)}, "openai:gpt-4o-mini", output_path=out).loc["training"]
    assert estimate["calls"] == 3 and estimate["tokens_in"] > 300
    with pytest.raises(UserError, match="OPENAI_API_KEY"):
        generate_qa_embedding_pairs(make_nodes(3), "openai:gpt-4o-mini", output_path=out, verbose=False)
    with pytest.raises(UserError, match="gpt:5"):
        estimate_questions({"training": make_nodes(3)}, "gpt:5", output_path=out)


def test_the_offline_writer_gives_the_same_each_time_and_learns_from_the_whole_corpus(out):
    first = generate_qa_embedding_pairs(make_nodes(20), "offline", output_path=out, verbose=False)
    second = generate_qa_embedding_pairs(make_nodes(20), "offline", output_path=out, verbose=False)
    assert first == second
    more = generate_qa_embedding_pairs(make_nodes(21), "offline", output_path=out, verbose=False)
    assert more.account.usage["this_run"]["calls"] == 21
    assert not store(out).exists()


# -- prompts and arguments -------------------------------------------------------------------------------------


def test_prompts_fill_their_places_and_leave_other_braces_alone():
    template = 'Text: {context_str} Reply as {"questions": [...]}, {{n}} = {num_questions_per_chunk}, {language}.'
    prompt = render_prompt(template, "a {language} in {braces}", 3, "Dutch")
    assert prompt == 'Text: a {language} in {braces} Reply as {"questions": [...]}, {n} = 3, Dutch.'
    assert documented_prompt().format(context_str="x{}", num_questions_per_chunk=2) == render_prompt(
        documented_prompt(), "x{}", 2
    )


def test_all_styles_get_their_share():
    prompts = [render_prompt(DEFAULT_QA_GENERATE_PROMPT_TMPL, node.text, 2) for node in make_nodes(200)]
    assert all(prompt.count("\n1. ") == prompt.count("\n2. ") == 1 for prompt in prompts)
    assert (
        70
        < sum("1. a few search keywords" in prompt or "2. a few search keywords" in prompt for prompt in prompts)
        < 130
    )
    assert render_prompt(DEFAULT_QA_GENERATE_PROMPT_TMPL, "x", 6).count("a few search keywords") in (1, 2)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"qa_generate_prompt_tmpl": "Ask!"}, "lacks {context_str}"),
        ({"num_questions_per_chunk": 0}, "num_questions_per_chunk is 0"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"on_failure": "ignore"}, "on_failure is 'ignore'"),
        ({"prices": {"input": 1}}, "prices is .*output"),
        ({"filters": {"lenght": 3}}, "lenght"),
        ({"lenguage": "German"}, "lenguage.*Known are"),
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


# -- a server that is not ours ---------------------------------------------------------------------------------


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
