"""What the tests of the corpus share."""

from pathlib import Path

import pytest
from documents import draw_pdf, sentences


@pytest.fixture
def report(tmp_path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(draw_pdf(*(sentences(30, seed) for seed in range(10))))
    return path
