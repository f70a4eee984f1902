"""Fixtures of the tests of questions."""

from pathlib import Path

import pytest
from openai_server import serving
from question_helpers import Launcher, make_llm, make_nodes

from nbutils.questions import ask as asking
from nbutils.questions.generate import generate_qa_embedding_pairs


@pytest.fixture
def out(tmp_path) -> Path:
    return tmp_path / "set.json"


@pytest.fixture(scope="session")
def warm(tmp_path_factory):
    """Load what is loaded on first use, so that no test times it."""
    with serving() as server:
        path = tmp_path_factory.mktemp("warm") / "set.json"
        generate_qa_embedding_pairs(make_nodes(1), make_llm(server.url), output_path=path, verbose=False)


@pytest.fixture(scope="session")
def launcher():
    with Launcher() as started:
        yield started


@pytest.fixture
def quick(monkeypatch):
    """Shorten the waits between tries, not their number."""
    monkeypatch.setattr(asking, "BACKOFF_SECONDS", (0.02, 0.2))
