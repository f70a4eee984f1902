"""Gold questions: questions that people wrote, read from a table and placed on the chunks that answer them."""

import codecs
import functools
import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.core import UserError, content_hash, first_line
from nbutils.evaluation.leaks import plain_words, shingles
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


class GoldQuestions(EmbeddingQAFinetuneDataset):
    """Questions that people wrote, with what says which chunks are relevant.

    Args:
        human: people wrote them; `compare_models` and `verdict` trust such a set more than others.
        placed: question id -> "quote", "page" or "chunk".
        left_out: for each row that points to nothing in this corpus, its number and why.
    """

    human: bool = True
    placed: dict[str, str]
    left_out: list[str]

    @property
    def judged_by(self) -> str:
        """How many questions are judged by what, for example "170 by quote, 10 by page"."""
        counts = Counter(self.placed[query] for query in self.queries)
        return ", ".join(f"{count} by {kind}" for kind, count in counts.most_common())


class _Absent(Exception):
    """What a row points to is not in this corpus."""


def find_gold_questions(name: str, val_files: Sequence[str]) -> Path | None:
    """Return the file of gold questions that is meant, or None.

    Args:
        name: a path; "auto" for gold_questions.csv in the folder of a validation file, if there is one; "" for none.
        val_files: the validation files.
    """
    from nbutils.corpus.files import find_files, resolve

    if name != "auto" or not val_files:
        return Path(resolve(name)) if name not in ("", "auto") else None
    folders = dict.fromkeys(file.parent for file in find_files(val_files) if isinstance(file, Path))
    return next(
        (folder / "gold_questions.csv" for folder in folders if (folder / "gold_questions.csv").is_file()), None
    )


def gold_questions(name: str, val_files: Sequence[str], nodes: "Sequence[TextNode]") -> GoldQuestions | None:
    """Return the gold questions about these chunks, or None; what is left out, and why, is printed.

    A file that "auto" finds and that has no column `file` may be about any of the documents beside it. It is used for
    the one document that holds its quotes, or where only one document lies there; otherwise it is left.

    Args:
        name, val_files: as for `find_gold_questions`.
        nodes: the validation chunks.

    Raises:
        UserError: the file that `name` gives cannot be used.
    """
    path = find_gold_questions(name, val_files)
    if path is None:
        print("No gold questions: everything below is about questions that a machine wrote.")
        return None
    if name != "auto":
        return load_gold_questions(path, nodes)
    try:
        rows = [row for _, row in read_table(path)]
        document = None if any(_file(row) for row in rows) else _document_meant(rows, path, _Chunks(nodes))
        return load_gold_questions(path, nodes, document=document)
    except UserError as error:
        print(f"{path.name}, found beside the validation files, is not used: {error}")
        return None


def _document_meant(rows: list[dict], path: Path, chunks: "_Chunks") -> str:
    quotes = list(filter(None, (_quote(row) for row in rows)))
    counts = Counter(file for quote in quotes for file in {chunks.file[chunk] for chunk in chunks.by_quote(quote)})
    (best, most), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    if most >= max(1, len(quotes) / 10) and most > 2 * second:  # a tenth: the document may have been split
        return best
    from nbutils.corpus.files import find_files

    if not quotes and len(chunks.files) == 1 and len(find_files([str(path.parent)])) == 1:
        return next(iter(chunks.files))
    raise UserError(
        "it has no column 'file', and its quotes stand in "
        + (f"{len(counts)} of the validation documents." if counts else "no validation document.")
        + " Add the column, or name the file by GOLD_QUESTIONS."
    )


def load_gold_questions(
    path: str | Path, nodes: "Sequence[TextNode]", by: str = "quote", *, document: str | None = None
) -> GoldQuestions:
    """Return questions that people wrote as a dataset over the chunks of `nodes`.

    A row names the place of its answer in one or several of these columns: `chunk` (chunk ids), `quote` (a passage of
    the document), `pages` or `page` (counted from 1, such as 12, 12;14 or 12-14). A column `file` (or `document`) says
    which document is meant where there are several. Where a row has a quote, the chunks that hold it are the relevant
    ones, whatever its spaces, hyphens and ligatures; its pages count only where there is none, or it is not found. Of
    a quote that a border between chunks cuts, both chunks are relevant if each holds a third of it or more, otherwise
    the one with the larger part. A row about what is not in this corpus (a page that was split off for training) is
    left out and said so; of several pages those count that are there.

    Args:
        path: a CSV with a header (any delimiter and encoding), a JSON list of objects, or JSON Lines.
        nodes: the chunks, with `file_name` and `page` in their metadata.
        by: "page" lets pages count before quotes.
        document: the file name that rows without `file` mean.

    Raises:
        UserError: no such file, no question in it that points to this corpus, or a row that says nothing; the message
            names file and row.
    """
    if by not in ("page", "quote"):
        raise UserError(f"by is {by!r}; use 'page' or 'quote'.")
    chunks, rows = _Chunks(nodes), read_table(Path(path))
    queries, relevant, placed, left_out = {}, {}, {}, []
    for number, row in rows:
        where = f"{path}, row {number}"
        question = _cell(row, "question", "query")
        if not question:
            raise UserError(f"{where}: the column 'question' is empty. Write the question or remove the row.")
        query_id = "gold-" + content_hash(str(number), question, length=12)
        try:
            placed[query_id], relevant[query_id] = chunks.place(row, where, by, document)
            queries[query_id] = question
        except _Absent as error:
            left_out.append(f"row {number}: {error}")
    shown = "; ".join(left_out[:5]) + ("; …" if len(left_out) > 5 else "")
    if not queries:
        reason = f"none of its {len(rows)} questions is about this corpus ({shown})" if rows else "holds no question"
        raise UserError(f"{path} {reason}. It needs the columns 'question' and 'quote', 'pages' or 'chunk'.")
    if left_out:
        print(f"{len(left_out)} of {len(rows)} gold questions are not about this corpus and were left out: {shown}.")
    corpus = {node.node_id: node.get_content() for node in nodes}
    return GoldQuestions(queries=queries, corpus=corpus, relevant_docs=relevant, placed=placed, left_out=left_out)


def read_table(path: Path) -> list[tuple[int, dict]]:
    """Return the rows of a CSV or JSON file, each with its number as a spreadsheet counts and its column names lower.

    Raises:
        UserError: the file cannot be read, or is no such table.
    """
    text = _decoded(path)
    suffix = path.suffix.lower()
    try:
        if suffix in (".jsonl", ".ndjson"):
            lines = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
            rows = []
            for number, line in lines:
                try:
                    rows.append((number, json.loads(line)))
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, row {number} is no JSON object: {error.msg}.") from error
        elif suffix == ".json":
            data = json.loads(text)
            data = data.get("questions", data) if isinstance(data, dict) else data
            rows = list(enumerate(data if isinstance(data, list) else [data], 1))
        else:
            rows = _csv_rows(text, path)
    except json.JSONDecodeError as error:
        raise UserError(f"{path} cannot be read as {suffix}: {error}.") from error
    if not all(isinstance(row, dict) for _, row in rows):
        raise UserError(f"{path}: each entry must be an object with 'question' and 'quote', 'pages' or 'chunk'.")
    return [(number, {str(key).strip().lower(): value for key, value in row.items()}) for number, row in rows]


def _decoded(path: Path) -> str:
    from charset_normalizer import from_bytes

    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Name a CSV or JSON file of questions.") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        found = from_bytes(data).best()
    if found is None:
        raise UserError(f"{path} is no text in a known encoding. Save it as CSV with UTF-8 encoding.")
    return str(found)


def _csv_rows(text: str, path: Path) -> list[tuple[int, dict]]:
    """Return the filled rows; the delimiter is the one that Excel's `sep=` line or the header names."""
    import pandas as pd

    first = text.partition("\n")[0]
    named = re.fullmatch(r"sep=(.)\s*", first, re.IGNORECASE)
    delimiter = named[1] if named else max(",;\t|", key=first.count)
    columns = first.count(delimiter) + 1 if not named else 50
    try:
        # more columns than the header has, so that a row with too many cells can be told
        frame = pd.read_csv(
            io.StringIO(text), sep=delimiter, header=None, names=range(columns + 20), dtype=str, keep_default_na=False,
            skip_blank_lines=False, skiprows=1 if named else 0,
        ).fillna("")  # fmt: skip
    except ValueError as error:  # pandas' own errors of parsing, and an empty file
        raise UserError(f"{path} cannot be read as CSV: {first_line(error)}.") from error
    header, *rows = [[cell.strip() for cell in row] for row in frame.itertuples(index=False)]
    names = {i: name for i, name in enumerate(header) if name}
    found = []
    for number, row in enumerate(rows, 3 if named else 2):
        if any(cell for i, cell in enumerate(row) if i not in names):
            raise UserError(
                f"{path}, row {number} has more cells than the header. Put text that contains {delimiter!r} in "
                "quotation marks."
            )
        if any(row):
            found.append((number, {name: row[i] for i, name in names.items()}))
    return found


def _cell(row: dict, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, list | tuple):
            value = ";".join(str(part) for part in value)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


def _quote(row: dict) -> str:
    return _cell(row, "quote", "passage")


def _file(row: dict) -> str:
    return _cell(row, "file", "file_name", "document")


class _Chunks:
    """Finds chunks by id, page or quoted text."""

    def __init__(self, nodes: "Sequence[TextNode]"):
        self.file = {node.node_id: str(node.metadata.get("file_name", "")) for node in nodes}
        self.files = set(self.file.values())
        self.words = {node.node_id: plain_words(node.get_content()) for node in nodes}
        # without spaces, since a hyphen at a line's end may or may not belong to the word
        self.solid = {chunk: "".join(words) for chunk, words in self.words.items()}
        self.pages: dict[tuple[str, int], list[str]] = {}
        for node in nodes:
            page = node.metadata.get("page", node.metadata.get("page_label", ""))
            if str(page).isdigit():
                self.pages.setdefault((self.file[node.node_id], int(page)), []).append(node.node_id)

    def place(self, row: dict, where: str, by: str, document: str | None) -> tuple[str, list[str]]:
        """Return by what the row was placed ("chunk", "quote" or "page") and the relevant chunks."""
        if chunk := _cell(row, "chunk", "chunk_id", "node_id"):
            ids = [part.strip() for part in chunk.split(";") if part.strip()]
            if missing := [chunk_id for chunk_id in ids if chunk_id not in self.file]:
                raise _Absent(f"there is no chunk {missing[0]!r}")
            return "chunk", ids
        quote, pages = _quote(row), _cell(row, "pages", "page")
        if not quote and not pages:
            raise UserError(f"{where}: no 'quote', 'pages' or 'chunk' says where the answer is. Fill one of them.")
        file = self._document(_file(row)) if _file(row) else document
        if quote and (by == "quote" or not pages) and (found := self.by_quote(quote, file)):
            return "quote", found
        if not pages:
            raise _Absent(f"the quote {quote[:60]!r} stands nowhere")
        return "page", self._by_page(_page_numbers(pages, where), file, where)

    def _document(self, name: str) -> str:
        matches = [file for file in sorted(self.files) if name in (file, Path(file).name, Path(file).stem)]
        if not matches:
            raise _Absent(f"there is no document {name!r}")
        return matches[0]

    def _by_page(self, pages: list[int], file: str | None, where: str) -> list[str]:
        if file is None and len(self.files) > 1:
            raise UserError(
                f"{where}: the corpus holds {len(self.files)} documents; add a column 'file' that says which is meant."
            )
        file = file if file is not None else next(iter(self.files), "")
        found = list(dict.fromkeys(chunk for page in pages for chunk in self.pages.get((file, page), ())))
        if not found:
            last = max((page for name, page in self.pages if name == file), default=0)
            raise _Absent(f"page {pages[0]} of {file or 'the document'} has no chunk (pages end at {last})")
        return found

    def by_quote(self, quote: str, file: str | None = None) -> list[str]:
        """Return the chunks that hold the quote: whole, cut by a border between chunks, or most of its word triples."""
        wanted = plain_words(quote)
        chunks = [chunk for chunk in self.file if file in (None, self.file[chunk])]
        solid, phrase = "".join(wanted), f" {' '.join(wanted)} "
        if not wanted:
            return []
        if len(solid) < 12:  # too short to be found inside other words
            return [chunk for chunk in chunks if phrase in f" {' '.join(self.words[chunk])} "]
        whole = [chunk for chunk in chunks if solid in self.solid[chunk]]
        return whole or self._cut(solid, chunks) or self._nearly(wanted, chunks)

    def _cut(self, solid: str, chunks: list[str]) -> list[str]:
        ends = {chunk: _overlap(self.solid[chunk], solid) for chunk in chunks}
        starts = {chunk: _overlap(solid, self.solid[chunk]) for chunk in chunks}
        if max(ends.values(), default=0) + max(starts.values(), default=0) < len(solid):
            return []
        parts = {chunk: max(ends[chunk], starts[chunk]) for chunk in chunks}
        return [chunk for chunk in chunks if parts[chunk] >= min(len(solid) / 3, max(parts.values()))]

    def _nearly(self, wanted: list[str], chunks: list[str]) -> list[str]:
        if len(wanted) < 5:
            return []
        triples = shingles(wanted, 3)
        shares = {chunk: len(triples & self.triples[chunk]) / len(triples) for chunk in chunks}
        best = max(shares.values(), default=0)
        return [chunk for chunk in chunks if shares[chunk] >= max(0.6, best - 0.1)]

    @functools.cached_property
    def triples(self) -> dict[str, set[tuple[str, ...]]]:
        return {chunk: shingles(words, 3) for chunk, words in self.words.items()}


def _overlap(left: str, right: str) -> int:
    """Return how long the longest end of `left` is that `right` begins with (0 below three characters)."""
    start = left.find(right[:3], max(0, len(left) - len(right)))
    while start >= 0 and not right.startswith(left[start:]):
        start = left.find(right[:3], start + 1)
    return len(left) - start if start >= 0 else 0


def _page_numbers(pages: str, where: str) -> list[int]:
    numbers: list[int] = []
    for part in filter(None, re.split(r"[;,\s]+", re.sub(r"\s*[-\u2013]\s*", "-", pages))):
        match = re.fullmatch(r"(\d+)(?:\.0+)?(?:-(\d+))?", part)
        if not match or (match[2] and not 0 <= int(match[2]) - int(match[1]) < 1000):
            raise UserError(f"{where}: {part!r} is no page number. Write pages as 12, 12;14 or 12-14, counted from 1.")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers
