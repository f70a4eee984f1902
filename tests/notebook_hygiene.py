"""What a committed notebook must not hold; `python tests/notebook_hygiene.py NOTEBOOK…` prints what it finds."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

MOST_BYTES = 1_500_000
MOST_OUTPUT = 20_000  # characters of one output's text
PATTERNS = {
    "a path of somebody's machine": re.compile(
        r"(?:/home|/Users|/root|/tmp|/private|/work)/[\w.-]+|[A-Za-z]:\\\\?Users\\"
    ),
    "what looks like a key": re.compile(
        r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|ghp_\w{30,})"
    ),
}


def problems(path: str | Path) -> Iterator[str]:
    """Yield what is wrong with a notebook, one sentence each."""
    text = Path(path).read_text(encoding="utf-8")
    if len(text) > MOST_BYTES:
        yield f"{len(text) / 1e6:.1f} MB; smaller figures or fewer of them"
    notebook = json.loads(text)
    for name in sorted(set(notebook["metadata"]) - {"kernelspec", "language_info", "nbutils"}):
        yield f"metadata {name!r}"
    cells = notebook["cells"]
    counts = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
    if any(counts) and counts != list(range(1, len(counts) + 1)):
        yield "execution counts out of order; restart and run all cells"
    for number, cell in enumerate(cells, 1):
        for problem in _cell_problems(cell):
            yield f"cell {number}: {problem}"


def _cell_problems(cell: dict) -> Iterator[str]:
    for name in sorted(set(cell["metadata"]) - {"tags"}):
        yield f"metadata {name!r}"
    texts = ["".join(cell["source"])]
    for output in cell.get("outputs", ()):
        if output["output_type"] == "error":
            yield f"the error {output['ename']}"
        if output.get("name") == "stderr":
            yield "warnings or progress lines on stderr"
        data = {"stream": output.get("text", "")} | output.get("data", {})
        for kind, value in data.items():
            if not kind.startswith("image/"):
                texts.append("".join(value) if isinstance(value, list | str) else json.dumps(value))
                if len(texts[-1]) > MOST_OUTPUT:
                    yield f"{len(texts[-1]):,} characters of output"
    for what, pattern in PATTERNS.items():
        for text in texts:
            if found := pattern.search(text):
                yield f"{what}: {found[0][:40]}"


def main(paths: list[str]) -> int:
    found = [f"{path}: {problem}" for path in paths for problem in problems(path)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
