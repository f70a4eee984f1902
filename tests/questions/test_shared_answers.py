"""Runs of a batch that ask about the same chunks at the same time."""

import os
import signal
import time

import pytest

from nbutils.questions.dataset import EmbeddingQAFinetuneDataset


@pytest.mark.slow
def test_runs_that_overlap_ask_each_question_once_even_when_one_is_killed(tmp_path, launcher):
    pytest.importorskip("llama_index.llms.openai_like")
    from openai_server import serving

    with serving(delay=0.2) as server:

        def ask(name: str, first: int, last: int) -> int:
            file = tmp_path / name / "set.json"
            return launcher.start(server.url, file, count=last - first, start=first, shared=tmp_path / "cache")

        killed = ask("killed", 0, 40)
        end = time.monotonic() + 300
        while server.calls <= 8:
            assert time.monotonic() < end
            time.sleep(0.05)
        os.kill(killed, signal.SIGKILL)
        assert launcher.wait(killed) == -signal.SIGKILL
        before = server.calls
        both = [ask("one", 0, 30), ask("two", 10, 40)]
        assert [launcher.wait(process) for process in both] == [0, 0]
        in_flight = 4
        assert server.calls <= 40 + in_flight, "only what was under way in the killed process was asked again"
        assert server.calls - before < 40
        for name in ("one", "two"):
            assert len(EmbeddingQAFinetuneDataset.from_json(tmp_path / name / "set.json").queries) > 40
        before = server.calls
        assert launcher.wait(ask("three", 0, 40)) == 0
        assert server.calls == before
