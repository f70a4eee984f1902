"""What the documents say is there: links, commands, parameters; and the habits of pre-commit."""

import itertools
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import notebook_hygiene
import pytest
import yaml

from nbutils.pipeline.parameters import notebook_parameters

PROJECT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(
    path
    for path in PROJECT.glob("**/*.md")
    if not {".venv", ".pytest_cache", "outputs", "build"} & set(path.relative_to(PROJECT).parts)
    and not path.match("*_202[34].md")  # the sample reports
)
NOTEBOOKS = sorted([*PROJECT.glob("notebooks/*.ipynb"), *PROJECT.glob("notebooks/workshop/*.ipynb")])


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a Markdown text."""
    headings = re.findall(r"^#{1,6} (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def text_of(path: Path) -> str:
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def commands(text: str) -> list[list[str]]:
    """Return the shell commands of a document: the lines of bash blocks, and `nbutils …` and `make …` in the text."""
    blocks = re.findall(r"^ *```(?:bash|sh|shell|console)\n(.*?)^ *```", text, re.M | re.S)
    lines = [line for block in blocks for line in re.sub(r"\\\n", " ", block).splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    lines += re.findall(r"`((?:nbutils|make|python|\.venv/bin/\w+) [^`\n]+)`", prose)
    found = []
    for line in lines:
        line = line.strip().removeprefix("$ ")
        for part in re.split(r"&&|;(?= )|\|(?= )", line):
            try:
                words = shlex.split(part, comments=True)
            except ValueError:
                continue
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words = words[1:]
            if words:
                found.append([words[0].removeprefix(".venv/bin/"), *words[1:]])
    return found


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(path):
    text = text_of(path)
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if re.match(r"(https?|mailto):", target):
            assert re.match(r"https?://[\w.-]+\.\w+(/|$)", target), target
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{path.name} links to {target}, which does not exist"
        if anchor and there.suffix == ".md":
            assert anchor in anchors(there.read_text(encoding="utf-8")), f"{path.name}: no heading {target}"


def subcommands() -> dict[str, str]:
    """Return the subcommands of `nbutils`, each with its help."""

    def show(*arguments: str) -> str:
        return subprocess.run([sys.executable, "-m", "nbutils", *arguments], capture_output=True, text=True).stdout

    names = re.findall(r"^    (\w+)", show("--help"), re.M)
    return {name: show(name, "--help") for name in names}


@pytest.fixture(scope="module")
def known() -> dict:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    return {
        "nbutils": subcommands(),
        "make": set(re.findall(r"^([a-z-]+):", makefile, re.M)),
        "parameters": {name for path in PROJECT.glob("notebooks/0*.ipynb") for name in notebook_parameters(path.stem)},
        "profiles": {path.stem for path in PROJECT.glob("notebooks/profiles/*.yaml")},
    }


@pytest.mark.parametrize("path", [*DOCUMENTS, *NOTEBOOKS], ids=lambda path: str(path.relative_to(PROJECT)))
def test_commands_exist(path, known):
    for program, *words in commands(text_of(path)):
        line = shlex.join([program, *words])
        if program == "make":
            targets = [word for word in words if "=" not in word]
            assert set(targets) <= known["make"], line
        elif program == "nbutils":
            assert words and words[0] in known["nbutils"], line
            for option in (word.split("=")[0] for word in words[1:] if re.match(r"--?[a-z]", word)):
                assert option in known["nbutils"][words[0]], f"{line}: no option {option}"
            for flag, value in itertools.pairwise(words):
                if flag == "-p":
                    assert value in known["parameters"], f"{line}: no parameter {value}"
                if flag == "--profile" and "/" not in value and not value.endswith(".yaml"):
                    assert value in known["profiles"] | {"mine"}, f"{line}: no profile {value}"
        for word in words:
            if re.match(r"(notebooks|tests|data|nbutils|benchmarks|docs)/[\w./-]+\.(py|ipynb|pdf|md|yaml)$", word):
                assert (PROJECT / word).exists(), f"{line}: there is no {word}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_files_and_parameters_named_in_prose_exist(path, known):
    text = re.sub(r"^ *```.*?^ *```", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)
    for name in re.findall(r"`((?:nbutils|notebooks|tests|benchmarks|docs|data)/[\w./*<>-]+)`", text):
        if "<" not in name and not name.startswith("data/downloads"):
            assert list(PROJECT.glob(name.rstrip("/"))), f"{path.name} names {name}, which does not exist"
    for name in re.findall(r"`([A-Z]{2,}(?:_[A-Z]+)+)(?: =[^`]*)?`", text):
        environment = name.startswith(
            ("NBUTILS_", "OPENAI_", "HF_", "GOMP_", "OMP_", "CUDA_", "OLLAMA_", "HTTPS_", "REQUESTS_")
        )
        assert environment or name in known["parameters"], f"{path.name}: no notebook has the parameter {name}"


def test_the_commands_of_a_text_are_found():
    text = (
        "Say `nbutils run -p A 1`.\n\n```bash\nmake install  # all\nX=1 .venv/bin/nbutils run \\\n  --fresh && ls\n```"
    )
    block = [["make", "install"], ["nbutils", "run", "--fresh"], ["ls"]]
    assert commands(text) == [*block, ["nbutils", "run", "-p", "A", "1"]]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_are_clean(path):
    assert not list(notebook_hygiene.problems(path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_have_prose_for_every_cell_and_no_long_cell(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) <= len(cells) - len(code)
    lines = [len([line for line in source.splitlines() if line.strip()]) for source in code]
    assert max(lines) <= 40
    assert statistics.median(lines) <= 6
    kinds = [cell["cell_type"] for cell in cells]
    assert ("code", "code") not in itertools.pairwise(kinds)


def test_the_hygiene_check_sees_what_it_should(tmp_path):
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook, new_output

    key = "sk-" + "a1" * 12
    cells = [
        new_code_cell("x", execution_count=2, outputs=[new_output("error", ename="ValueError", evalue="v")]),
        new_code_cell("y", execution_count=1, outputs=[new_output("stream", text="see /home/somebody/file")]),
        new_code_cell(f"key = '{key}'", metadata={"papermill": {}}),
        new_code_cell("z", outputs=[new_output("stream", name="stderr", text="w" * 30_000)]),
    ]
    path = tmp_path / "dirty.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"papermill": {}}), path)
    found = "\n".join(notebook_hygiene.problems(path))
    expected = [
        "metadata 'papermill'", "out of order", "cell 1: the error ValueError", "cell 2: a path", "cell 3: metadata",
        "cell 3: what looks like a key", "cell 4: warnings", "cell 4: 30,000 characters",
    ]  # fmt: skip
    for words in expected:
        assert words in found
    nbformat.write(new_notebook(cells=[new_code_cell("1", execution_count=1)]), path)
    assert not list(notebook_hygiene.problems(path))


def test_every_hook_of_pre_commit_can_run():
    config = yaml.safe_load((PROJECT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    for hook in (hook for repo in config["repos"] for hook in repo["hooks"]):
        program, *words = shlex.split(hook["entry"])
        assert program.startswith(".venv/bin/")
        assert shutil.which(Path(program).name, path=str(Path(sys.executable).parent)), f"{program} is not installed"
        for word in words:
            assert not word.endswith(".py") or (PROJECT / word).exists(), hook["entry"]


def test_spelling(tmp_path):
    codespell = Path(sys.executable).with_name("codespell")
    if not codespell.exists():
        pytest.skip("codespell is not installed (pip install -e '.[dev]')")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=PROJECT, capture_output=True, text=True
    ).stdout.split()
    if not files:
        pytest.skip("this is no git checkout")
    for path in NOTEBOOKS:  # what people wrote; outputs may end in the middle of a word
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        (tmp_path / f"{path.stem}.txt").write_text("\n".join("".join(cell["source"]) for cell in cells))
    written = [file for file in files if not file.endswith(".ipynb")]
    done = subprocess.run([codespell, *written, str(tmp_path)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
