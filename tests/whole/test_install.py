"""The wheel, installed without the checkout: `nbutils` finds its notebooks, profiles and data in what it brought along."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import papermill
import pytest
from recording_proxy import recording_proxy, with_keys
from short_chain import two_texts

from nbutils.pipeline.steps import CHAIN

pytestmark = pytest.mark.slow
BROUGHT = (
    "notebooks/01_build_corpus.ipynb", "notebooks/06_use_the_model.ipynb", "notebooks/profiles/offline.yaml",
    "data/general_knowledge.jsonl", "data/sample/norvane_2024.pdf", "data/sample/gold_questions.csv",
    "data/sample/library/norvane_2023.pdf", "data/sample/library/gold_questions.csv",
)  # fmt: skip


def call(*command: object, cwd: Path, environment: Mapping[str, str] = os.environ) -> subprocess.CompletedProcess:
    env = {name: value for name, value in environment.items() if name not in ("PYTHONPATH", "NBUTILS_OUTPUTS")}
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd, env=env)


@pytest.fixture(scope="module")
def installed(project, tmp_path_factory) -> Path:
    """A Python with the wheel in a virtual environment that sees this one's other packages, and not the checkout."""
    folder = tmp_path_factory.mktemp("install")
    for part in ("nbutils", "notebooks", "data"):
        shutil.copytree(
            project / part, folder / "project" / part, ignore=shutil.ignore_patterns("downloads", "__pycache__")
        )
    for part in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(project / part, folder / "project")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    wheel = call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "project", cwd=folder)
    assert wheel.returncode == 0, wheel.stderr
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    done = call(*pip, "--python", python, "install", "--no-deps", next(folder.glob("nbutils-*.whl")), cwd=folder)
    assert done.returncode == 0, done.stderr
    others = next((folder / "venv").glob("lib/python*/site-packages")) / "others.pth"
    others.write_text("".join(f"{path}\n" for path in sys.path if path.endswith("site-packages")))
    shutil.rmtree(folder / "project")
    kernel = call(python, "-m", "ipykernel", "install", "--prefix", folder / "venv", cwd=folder)  # as pip does with it
    assert kernel.returncode == 0, kernel.stderr
    templates = Path("share", "jupyter", "nbconvert")  # as pip does with nbconvert
    (folder / "venv" / templates).symlink_to(sys.prefix / templates)
    return python


def test_an_installed_nbutils_brings_what_it_needs(installed, tmp_path, project):
    shared = installed.parents[1] / "share" / "nbutils"
    assert [file for file in BROUGHT if not (shared / file).is_file()] == []
    code = (
        "import nbutils; from nbutils import core; print(nbutils.__file__, core.project_folder(), core.outputs_root())"
    )
    package, found, outputs = call(installed, "-c", code, cwd=tmp_path).stdout.split()
    assert str(project) not in package
    assert (Path(found), Path(outputs)) == (shared, tmp_path / "outputs")
    listed = call(installed.with_name("nbutils"), "params", cwd=tmp_path)
    assert listed.returncode == 0, listed.stderr
    assert "04_evaluate_models" in listed.stdout
    assert list(tmp_path.iterdir()) == []


def test_an_installed_nbutils_runs_the_chain_continues_and_redoes_only_what_changed_and_asks_no_service(
    installed, tmp_path, project, monkeypatch
):
    """In an empty folder, on two texts with people's questions beside them, to which its last model is trained too."""
    estimate = call(installed.with_name("nbutils"), "estimate", cwd=tmp_path)  # of the sample reports
    assert estimate.returncode == 0, estimate.stderr
    documents = two_texts(tmp_path / "documents")
    about = {"train.txt": ("crane", "tide", "barge"), "val.txt": ("cider", "press")}
    asked = [f"What was done to the {word}?,{file},The {word} report" for file in about for word in about[file]]
    (documents / "gold_questions.csv").write_text("\n".join(["question,file,quote", *asked]))
    values = {"TRAIN_FILES": "documents/train.txt", "VAL_FILES": "documents/val.txt", "CHUNK_SIZE": 64}
    values |= {"CHUNK_OVERLAP": 8, "EPOCHS": 1}

    def run(**more: str) -> str:
        given = [part for name, value in {**values, **more}.items() for part in ("-p", name, value)]
        with recording_proxy() as (proxy, sent):
            done = call(installed.with_name("nbutils"), "run", *given, cwd=tmp_path, environment=with_keys(proxy))
        assert sent == []
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-1500:]
        return done.stdout

    def systems() -> set[str]:
        return set(pd.read_csv(folder / "results" / "metrics.csv").system)

    folder, steps = tmp_path / "outputs" / "tutorial", [step.name for step in CHAIN]
    said = run(TRAIN_ON_GOLD="auto")
    assert re.findall(r"\] (\w+): done in", said) == steps and "cell 1/" in said
    assert all(step["finished"] for step in json.loads((folder / "run.json").read_text())["steps"].values())
    assert (folder / "folds" / "folds.json").exists() and {"base", "fine-tuned", "fine-tuned on all"} <= systems()
    for made in ("report.html", "results/metrics.csv", "model/model.safetensors", "model_all/model.safetensors"):
        assert (folder / made).stat().st_size > 0, made

    assert re.findall(r"\] (\w+): up to date", run(TRAIN_ON_GOLD="auto")) == steps

    said = run(ENGINE="adapter", GOLD_QUESTIONS="")
    assert re.findall(r"\] (\w+): up to date", said) == steps[:2]
    assert re.findall(r"\] (\w+): done in", said) == steps[2:]
    assert {"base", "fine-tuned"} <= systems()
    assert (folder / "model_all" / "adapter.npy").exists() and not (folder / "folds").exists()
    monkeypatch.setenv("NBUTILS_OUTPUTS", str(folder.parent))
    for name, more in (("06_use_the_model", {"FILES": []}), ("07_look_closer", {})):
        notebook = project / "notebooks" / f"{name}.ipynb"
        papermill.execute_notebook(notebook, tmp_path / "out.ipynb", more, progress_bar=False)
