"""Chunks, an LLM of the test server, and processes that generate, for the tests of this folder."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import TextNode
from openai_server import Fault

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


LAUNCHER = """
import json, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # one that was started in the background ignores it
sys.path.insert(0, {tests!r})
import openai.resources
from question_helpers import make_nodes, make_llm
from nbutils.questions.generate import generate_qa_embedding_pairs
for line in sys.stdin:
    asked = json.loads(line)
    if "wait" in asked:
        print(os.waitstatus_to_exitcode(os.waitpid(asked["wait"], 0)[1]), flush=True)
        continue
    pid = os.fork()
    if pid == 0:
        llm, nodes = make_llm(asked.pop("url")), make_nodes(**asked.pop("nodes"))
        try:
            generate_qa_embedding_pairs(nodes, llm, concurrency=4, verbose=False, **asked)
        except KeyboardInterrupt:
            os._exit(130)
        os._exit(0)
    print(pid, flush=True)
"""


class Launcher:
    """Starts runs in processes of their own, quickly: everything they need is imported once, before they fork."""

    def __init__(self):
        code = LAUNCHER.format(tests=str(Path(__file__).parent))
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code], stdin=pipe, stdout=pipe, text=True
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.communicate()

    def _ask(self, **words) -> int:
        self._process.stdin.write(json.dumps(words, default=str) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, url: str, output_path: Path, count: int = 200, start: int = 0, **options) -> int:
        """Ask about `count` chunks from number `start` on, four at once; returns the process id."""
        return self._ask(url=url, output_path=output_path, nodes={"count": count, "start": start}, **options)

    def wait(self, pid: int) -> int:
        """Return the exit status of a process, once it has ended."""
        return self._ask(wait=pid)


def wait_for_lines(journal: Path, count: int) -> None:
    deadline = time.monotonic() + 120
    while len(read_answers(journal)) < count and time.monotonic() < deadline:
        time.sleep(0.02)


def poisoned(words: str, fault: Fault):
    return lambda call, prompt: fault if words in prompt else None


CONTENTS = "Table of Contents\n" + "\n".join(f"Item {i}. Matters of kind {i} ........ {i * 7}" for i in range(1, 16))
