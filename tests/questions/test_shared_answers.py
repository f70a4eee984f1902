"""Runs of a batch that ask about the same chunks at the same time."""

import subprocess
import sys
import time

import pytest

ASK = """
import sys
from llama_index.core.schema import TextNode
from llama_index.llms.openai_like import OpenAILike
from nbutils.questions.generate import generate_qa_embedding_pairs
url, cache, out, first, last = sys.argv[1:]
llm = OpenAILike(model="m", api_base=url, api_key="none", is_chat_model=True, max_retries=0)
nodes = [TextNode(id_=f"c{i}", text=f"Orchard number {i} yielded {i * 37} tonnes of apples in the harvest. " * 8)
         for i in range(int(first), int(last))]
dataset = generate_qa_embedding_pairs(nodes, llm, output_path=out, shared=cache, concurrency=4, verbose=False)
print(dataset.account.usage["calls"], len(dataset.queries))
"""


@pytest.mark.slow
def test_runs_that_overlap_ask_each_question_once_even_when_one_is_killed(tmp_path):
    pytest.importorskip("llama_index.llms.openai_like")
    from openai_server import serving

    with serving(delay=0.2) as server:

        def ask(name, first, last):
            return subprocess.Popen(
                [sys.executable, "-c", ASK, server.url, tmp_path / "cache", tmp_path / name / "set.json", str(first), str(last)],
                stdout=subprocess.PIPE, text=True,
            )  # fmt: skip

        killed = ask("killed", 0, 40)
        while server.calls <= 8:
            time.sleep(0.1)
        killed.kill()
        both = [ask("one", 0, 30), ask("two", 10, 40)]
        said = [process.communicate(timeout=60)[0].split() for process in both]
        assert [process.returncode for process in both] == [0, 0]
        in_flight = 4
        assert server.calls <= 40 + in_flight, "only what was under way in the killed process was asked again"
        assert sum(int(calls) for calls, _ in said) < 40
        assert all(int(questions) > 40 for _, questions in said)
        third = ask("three", 0, 40)
        assert third.communicate(timeout=60)[0].split()[0] == "0"
