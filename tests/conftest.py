import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(autouse=True)
def own_outputs(tmp_path, monkeypatch):
    """Every test writes its runs to a folder of its own."""
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(tmp_path / "outputs"))


@pytest.fixture(scope="session")
def project() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real filings in ../shared/data are not here")
    return folder
