"""The store of answers: resuming, kills, several processes, what is never stored."""

import json
import os
import random
import signal
import time

import pytest
from llama_index.core.schema import TextNode
from openai_server import Fault, serving
from question_helpers import make_llm, make_nodes, store, wait_for_lines

from nbutils.core import UserError
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.questions.generate import generate_qa_embedding_pairs
from nbutils.questions.llms import llm_signature
from nbutils.questions.prompts import (
    EXAM_PROMPT_TMPL,
)
from nbutils.questions.store import read_answers


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


@pytest.mark.slow
def test_two_processes_on_one_store_ask_each_question_once(out, launcher):
    with serving(delay=0.1) as server:
        one, two = launcher.start(server.url, out), launcher.start(server.url, out)
        assert launcher.wait(one) == launcher.wait(two) == 0
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
    with (
        serving() as server,
        pytest.warns(UserWarning, match="is on a network file system: let one machine at a time use it"),
    ):
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)


def test_a_file_that_is_no_store_is_left_alone(out):
    store(out).write_text('{"a": 1}' * 1000)
    with serving() as server, pytest.raises(UserError, match=r"Cannot use .*answers\.sqlite as a store of answers"):
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=out, verbose=False)
    assert store(out).read_text() == '{"a": 1}' * 1000


@pytest.mark.slow
def test_twelve_kills_lose_nothing_and_ask_nothing_twice(out, launcher):
    rng = random.Random(5)
    journal = store(out)
    with serving(delay=0.1) as server:
        undisturbed = out.with_name("undisturbed.json")
        llm = make_llm(server.url)
        generate_qa_embedding_pairs(
            make_nodes(200), llm, output_path=undisturbed, store=out.with_name("b.db"), concurrency=16, verbose=False
        )
        server.answered.clear()
        finished_at_kill = []
        for _ in range(12):
            finished = len(read_answers(journal))
            finished_at_kill.append(finished)
            before = server.answered.copy()
            process = launcher.start(server.url, out)
            wait_for_lines(journal, finished + rng.randint(0, 4))  # 0: at any moment of the start
            time.sleep(rng.uniform(0.0, 0.1))
            os.kill(process, signal.SIGKILL)
            assert launcher.wait(process) == -signal.SIGKILL
            time.sleep(0.05)
            server.settle()
            asked = server.answered - before
            assert max(asked.values(), default=0) <= 1
            assert sum(asked.values()) <= 200 - finished
        assert len(set(finished_at_kill)) > 5  # the kills fell at different points of the work
        assert launcher.wait(launcher.start(server.url, out)) == 0
    assert len(read_answers(journal)) == 200
    assert out.read_bytes() == undisturbed.read_bytes()
    assert sum(server.answered.values()) <= 200 + 12 * 4  # only what was under way when a kill came


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_answered(out, launcher):
    with serving(delay=0.1) as server:
        process = launcher.start(server.url, out)
        wait_for_lines(store(out), 8)
        os.kill(process, signal.SIGINT)
        assert launcher.wait(process) == 130
    done = len(read_answers(store(out)))
    assert 8 <= done < 200
    assert len(EmbeddingQAFinetuneDataset.from_json(out).queries) == 2 * done


@pytest.mark.slow
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
