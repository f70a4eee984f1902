"""Tables of questions as people keep them: CSV of any dialect and encoding, TSV, XLSX, JSON, JSON Lines."""

import io
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.core import UserError, first_line
from nbutils.corpus.files import find_files, resolve
from nbutils.corpus.read import decoded

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "question": ("question", "query", "anchor", "search_query", "search_term", "search_phrase", "search", "subject",
                 "problem", "description"),
    "quote": ("quote", "passage", "positive", "context", "chunk_text"),
    "answer": ("answer", "resolution", "solution", "reply", "response"),
    "file": ("file", "file_name", "filename", "document", "clicked_url", "clicked_file", "clicked_document", "url",
             "link"),
    "page": ("pages", "page", "page_number", "clicked_page"),
    "chunk": ("chunk", "chunk_id", "node_id"),
}  # fmt: skip


class Row(dict):
    """One row of a table: column name (lower case, words joined by _) -> value."""

    def cell(self, meaning: str) -> str:
        """Return what stands in the first filled column that means this, a key of `NAMES`; "" where none does."""
        for name in NAMES[meaning]:
            value = self.get(name)
            text = ";".join(map(str, value)) if isinstance(value, list) else str("" if value is None else value)
            if text.strip():
                return text.strip()
        return ""


def find_table(name: str, files: Sequence[str], beside: str) -> Path | None:
    """Return the table that a parameter means, or None.

    Args:
        name: a path; "auto" for the file called `beside` in the folder of one of the files, if there is one; "" for none.
        files: the documents that the table is about.
    """
    if name != "auto":
        return Path(resolve(name)) if name else None
    folders = dict.fromkeys(file.parent for file in find_files(files) if isinstance(file, Path)) if files else {}
    return next((folder / beside for folder in folders if (folder / beside).is_file()), None)


def read_questions(name: str | Path) -> list[str]:
    """Return the questions of a table (its column `question`), or the lines of a text file; [] for an empty name.

    Raises:
        UserError: the file cannot be read, or holds no question.
    """
    if not name:
        return []
    path = Path(resolve(str(name)))
    lines = _text(_bytes(path), path).splitlines() if path.suffix.lower() == ".txt" else None
    found = [row.cell("question") for _, row in read_table(path)[0]] if lines is None else map(str.strip, lines)
    if not (questions := list(filter(None, found))):
        raise UserError(f"{path} holds no question. It needs a column 'question', or one question per line in a .txt.")
    return questions


def read_table(path: str | Path) -> tuple[list[tuple[int, Row]], dict[int, str]]:
    """Return the filled rows of a table, each with its number, and what is wrong with the others: number -> reason.

    Rows are numbered as a spreadsheet shows them (lines in JSON Lines, entries in JSON, from 1).

    Args:
        path: .xlsx, .json (a list of objects, or a dataset of the walkthrough's form), .jsonl, or else text with a
            header and any delimiter: comma, semicolon, tab, bar, or what Excel's `sep=` line names.

    Raises:
        UserError: the file cannot be read, or is no such table.
    """
    path = Path(path)
    suffix, data = path.suffix.lower(), _bytes(path)
    try:
        if suffix in (".xlsx", ".xlsm"):
            found = _sheet(data)
        elif suffix in (".jsonl", ".ndjson"):
            found = _json_lines(_text(data, path))
        elif suffix == ".json":
            found = list(enumerate(_entries(json.loads(_text(data, path))), 1))
        else:
            found = _cells(_text(data, path))
    except ValueError as error:  # json's and pandas' own errors of parsing
        kind = suffix if suffix == ".json" else "a table"
        raise UserError(f"{path} cannot be read as {kind}: {first_line(error)}.") from error
    rows, bad = [], {}
    for number, row in found:
        if isinstance(row, dict):
            rows.append((number, Row({_column(name): cell for name, cell in row.items()})))
        else:
            bad[number] = row if isinstance(row, str) else "it is no JSON object"
    columns = dict.fromkeys(name for _, row in rows for name in row)
    if rows and not set(NAMES["question"]) & set(columns):
        raise UserError(f"{path} has no column 'question' (or 'query'); its columns are: {', '.join(columns)}.")
    return rows, bad


def _column(name: object) -> str:
    return re.sub(r"[\W_]+", "_", unicodedata.normalize("NFKC", str(name)).strip().lower()).strip("_")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Name a CSV, XLSX or JSON file of questions.") from error


def _text(data: bytes, path: Path) -> str:
    return decoded(path, data)[0].replace("\r\n", "\n").replace("\r", "\n")


def _json_lines(text: str) -> list[tuple[int, object]]:
    found: list[tuple[int, object]] = []
    for number, line in enumerate(text.split("\n"), 1):
        try:
            found += [(number, json.loads(line))] if line.strip() else []
        except json.JSONDecodeError as error:
            found.append((number, f"it is no JSON object: {error.msg}"))
    return found


def _entries(data: object) -> list:
    """Return the rows of a JSON file; of a dataset of the walkthrough's form, each question with its passages."""
    if isinstance(data, list):
        return data
    data = data if isinstance(data, dict) else {"questions": [data]}
    if not all(isinstance(data.get(name), dict) for name in ("queries", "corpus", "relevant_docs")):
        return _entries(data.get("questions", [data]))
    entries: list = []
    for query, question in data["queries"].items():
        passages = [data["corpus"].get(chunk) for chunk in data["relevant_docs"].get(query) or [None]]
        reason = f"question {query} points to no chunk of the file's corpus"
        entries.append(reason if None in passages else {"question": question, "passages": passages})
    return entries


def _sheet(data: bytes) -> list[tuple[int, object]]:
    """Return the rows of a workbook's first sheet; cells beyond the header are notes."""
    import pandas as pd

    try:
        frame = pd.read_excel(io.BytesIO(data), header=None, dtype=object, keep_default_na=False)
    except Exception as error:  # a file that is no workbook fails in many ways
        raise ValueError(f"it is no XLSX workbook ({first_line(error)})") from error
    return _with_header(frame, 1, strict=False)


def _cells(text: str) -> list[tuple[int, object]]:
    """Return the rows of a delimited text."""
    import pandas as pd

    named = re.match(r'\s*"?sep=(.)"?[^\S\n]*\n', text, re.IGNORECASE)
    text = text[named.end() :] if named else text
    header = next(filter(str.strip, text.split("\n")), "")
    if not header:
        return []
    delimiter = named[1] if named else max(",;\t|", key=header.count)
    width = max(line.count(delimiter) for line in text.split("\n")) + 1  # so that a row with too many cells can be told
    frame = pd.read_csv(
        io.StringIO(text), sep=delimiter, header=None, names=range(width), index_col=False, dtype=str,
        keep_default_na=False, skip_blank_lines=False,
    )  # fmt: skip
    return _with_header(frame, 2 if named else 1, strict=True)


def _with_header(frame: "pd.DataFrame", first: int, strict: bool) -> list[tuple[int, object]]:
    """Return the filled rows below the header by its names; if strict, of those with too many cells what is wrong."""
    rows = [[str(cell).strip() for cell in row] for row in frame.where(frame.notna(), "").itertuples(index=False)]
    (_, header), *filled = [(number, row) for number, row in enumerate(rows, first) if any(row)] or [(0, [])]
    many = "it has more cells than the header; put text that contains the delimiter in quotation marks"
    found: list[tuple[int, object]] = []
    for number, row in filled:
        beyond = any(cell for name, cell in zip(header, row, strict=True) if not name)
        named = {name: cell for name, cell in zip(header, row, strict=True) if name}
        found.append((number, many if strict and beyond else named))
    return found
