import functools
import json
import shutil

import pytest
import short_chain

from nbutils.pipeline import run as runs
from nbutils.pipeline import steps
from nbutils.pipeline.parameters import notebooks_folder


@pytest.fixture(scope="session")
def notebooks(tmp_path_factory):
    return short_chain.write(tmp_path_factory.mktemp("notebooks") / "short")


@pytest.fixture
def short(notebooks, monkeypatch):
    """Run the short notebooks in place of the real ones, here and in every process started from here."""
    monkeypatch.setenv("NBUTILS_NOTEBOOKS", str(notebooks))


@pytest.fixture
def outputs(tmp_path):
    return tmp_path / "outputs"


@pytest.fixture
def in_this_process(short, tmp_path, monkeypatch):
    """Execute the cells of the short notebooks here instead of in kernels, which takes milliseconds."""
    monkeypatch.setenv("NBUTILS_NOTEBOOKS", str(shutil.copytree(notebooks_folder(), tmp_path / "notebooks")))

    def execute(notebook, run, parameters, say, waiting):
        names = {}
        with monkeypatch.context() as kernel:
            kernel.setenv("NBUTILS_OUTPUTS", str(run.folder.parent))
            kernel.setenv("NBUTILS_RUN", str(run.folder))
            for cell in json.loads((notebooks_folder() / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]:
                exec("".join(cell["source"]) if cell["cell_type"] == "code" else "", names)
                names |= parameters if "parameters" in cell["metadata"].get("tags", []) else {}
        run.path(f"{notebook}.ipynb").touch()

    def write_report(folder):
        (folder / "report.html").touch()

    monkeypatch.setattr(steps, "_package_code", functools.cache(steps._package_code))  # it does not change meanwhile
    monkeypatch.setattr(runs, "execute", execute)
    monkeypatch.setattr(runs, "write_report", write_report)
