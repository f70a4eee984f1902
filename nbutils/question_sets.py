"""Questions to judge with: gold questions from a table, wording they share with their chunks, leaks, a general set."""

import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbutils.common import UserError, content_hash
from nbutils.dataset import EmbeddingQAFinetuneDataset

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.schema import TextNode


def load_gold_questions(
    path: str | Path, nodes: "Sequence[TextNode]", by: str = "page"
) -> EmbeddingQAFinetuneDataset:
    """Return questions that people wrote as a dataset over the chunks of `nodes`.

    A row names the place of its answer in one of these columns, the first that is filled: `chunk` (chunk ids),
    `pages` or `page` (counted from 1, several separated by ";"), `quote` (a passage of the document). A column
    `file` (or `document`) says which document is meant where there are several. Ids are made from row and question.

    Args:
        path: a CSV with a header, a JSON list of objects, or JSON Lines.
        nodes: the chunks, with `file_name` and `page` in their metadata.
        by: "page": any chunk of the pages named is relevant, and a row with only a quote is placed on the chunks that
            hold it; "quote": the chunks that hold the quote are, and the pages count only where there is no quote.

    Raises:
        UserError: no such file, no question in it, or a row that points nowhere; the message names file and row.
    """
    if by not in ("page", "quote"):
        raise UserError(f"by is {by!r}; use 'page' or 'quote'.")
    index = _Chunks(nodes)
    queries, relevant = {}, {}
    for number, row in _rows(Path(path)):
        where = f"{path}, row {number}"
        question = _cell(row, "question", "query")
        if not question:
            raise UserError(f"{where}: the column 'question' is empty. Write the question or remove the row.")
        query_id = "gold-" + content_hash(str(number), question, length=12)
        queries[query_id] = question
        relevant[query_id] = index.place(row, where, by)
    if not queries:
        raise UserError(f"{path} holds no question. It needs the columns 'question' and 'pages', 'chunk' or 'quote'.")
    corpus = {node.node_id: node.get_content() for node in nodes}
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)


def _rows(path: Path) -> list[tuple[int, dict]]:
    """Return the rows with their numbers as a person counts them: lines of a CSV or JSONL, entries of a JSON list."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Name a CSV or JSON file of questions.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text. Save it as CSV with UTF-8 encoding.") from error
    try:
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            rows = [(i, json.loads(line)) for i, line in enumerate(text.splitlines(), 1) if line.strip()]
        elif path.suffix.lower() == ".json":
            data = json.loads(text)
            data = data.get("questions", data) if isinstance(data, dict) else data
            rows = list(enumerate(data if isinstance(data, list) else [data], 1))
        else:
            try:
                dialect = csv.Sniffer().sniff(text.partition("\n")[0], delimiters=",;\t")
            except csv.Error:
                dialect = csv.excel
            reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=dialect.delimiter, strict=True)
            rows, before = [], 1
            for row in reader:
                rows.append((before + 1, row))
                before = reader.line_num
    except (json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {path.suffix or 'CSV'}: {error}.") from error
    if not all(isinstance(row, dict) for _, row in rows):
        raise UserError(f"{path}: each entry must be an object with 'question' and 'pages', 'chunk' or 'quote'.")
    return [
        (number, {str(key).strip().lower(): value for key, value in row.items() if key is not None})
        for number, row in rows
    ]


def _cell(row: dict, *names: str) -> str:
    for name in names:
        value = row.get(name)
        if isinstance(value, list | tuple):
            value = ";".join(str(part) for part in value)
        if value is not None and str(value).strip():
            return str(value).strip()
    return ""


class _Chunks:
    """Finds chunks by id, page or quoted text."""

    def __init__(self, nodes: "Sequence[TextNode]"):
        self.nodes = list(nodes)
        self.ids = {node.node_id for node in self.nodes}
        self.files = {str(node.metadata.get("file_name", "")) for node in self.nodes}
        self.pages: dict[tuple[str, int], list[str]] = {}
        for node in self.nodes:
            page = node.metadata.get("page", node.metadata.get("page_label", ""))
            if str(page).isdigit():
                self.pages.setdefault((str(node.metadata.get("file_name", "")), int(page)), []).append(node.node_id)
        self.words: list[list[str]] | None = None

    def place(self, row: dict, where: str, by: str) -> list[str]:
        file = self._file(row, where)
        chunk, pages, quote = (
            _cell(row, "chunk", "chunk_id", "node_id"), _cell(row, "pages", "page"), _cell(row, "quote", "passage"),
        )  # fmt: skip
        if chunk:
            ids = [part.strip() for part in chunk.split(";") if part.strip()]
            for chunk_id in ids:
                if chunk_id not in self.ids:
                    raise UserError(f"{where}: there is no chunk {chunk_id!r} in the corpus. Correct the column 'chunk'.")
            return ids
        if quote and (by == "quote" or not pages):
            found = self._by_quote(quote, file)
            if found or not pages:
                if not found:
                    raise UserError(f"{where}: the quote {quote[:60]!r} stands nowhere in the corpus. Correct it.")
                return found
        if not pages:
            raise UserError(f"{where}: no 'pages', 'chunk' or 'quote' says where the answer is. Fill one of them.")
        return self._by_page(pages, file, where)

    def _file(self, row: dict, where: str) -> str | None:
        name = _cell(row, "file", "file_name", "document")
        if not name:
            return None
        matches = [file for file in self.files if name in (file, Path(file).stem)]
        if not matches:
            known = ", ".join(sorted(self.files)[:5])
            raise UserError(f"{where}: there is no document {name!r} in the corpus, which holds {known}.")
        return matches[0]

    def _by_page(self, pages: str, file: str | None, where: str) -> list[str]:
        if file is None and len(self.files) > 1:
            raise UserError(
                f"{where}: the corpus holds {len(self.files)} documents; add a column 'file' that says which is meant."
            )
        file = file if file is not None else next(iter(self.files), "")
        found: list[str] = []
        for part in filter(None, (part.strip() for part in re.split(r"[;,\s]+", pages))):
            if not re.fullmatch(r"\d+(\.0+)?", part):
                raise UserError(f"{where}: {part!r} is no page number. Write pages as 12 or 12;13, counted from 1.")
            chunks = self.pages.get((file, int(float(part))))
            if not chunks:
                last = max((page for name, page in self.pages if name == file), default=0)
                raise UserError(f"{where}: page {part} of {file or 'the document'} has no chunk (pages end at {last}).")
            found += [chunk for chunk in chunks if chunk not in found]
        return found

    def _by_quote(self, quote: str, file: str | None) -> list[str]:
        """Return the chunks that hold the quote, best first: all its words in order, or most of its word triples."""
        if self.words is None:
            self.words = [plain_words(node.get_content()) for node in self.nodes]
        wanted = plain_words(quote)
        if not wanted:
            return []
        text, size = f" {' '.join(wanted)} ", min(3, len(wanted))
        grams = shingles(wanted, size)
        exact, near = [], []
        for node, words in zip(self.nodes, self.words, strict=True):
            if file is not None and str(node.metadata.get("file_name", "")) != file:
                continue
            if text in f" {' '.join(words)} ":
                exact.append(node.node_id)
            elif not exact and len(wanted) >= 5:
                share = len(grams & shingles(words, size)) / len(grams)
                if share >= 0.8:
                    near.append((-share, node.node_id))
        return exact or [chunk for _, chunk in sorted(near)]


def plain_words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without accents, hyphenation or punctuation."""
    text = unicodedata.normalize("NFKD", text.replace("\u00ad", ""))
    text = re.sub(r"(\w)[-\u2010]\s*\n\s*(\w)", r"\1\2", text)
    text = "".join(c for c in text if not unicodedata.combining(c)).lower()
    return re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+", text)


def shingles(words: Sequence[str], size: int = 8) -> set[tuple[str, ...]]:
    """Return the runs of `size` words (one run of all words where there are fewer)."""
    size = min(size, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if size else set()


@functools.cache
def _stemming():
    import Stemmer
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    return Stemmer.Stemmer("english"), frozenset(STOPWORDS_EN_PLUS)


def content_stems(text: str) -> set[str]:
    """Return the English stems of a text's content words (stop words left out, numbers kept)."""
    stemmer, stop = _stemming()
    return set(stemmer.stemWords([word for word in plain_words(text) if word not in stop]))


def wording_overlap(dataset) -> "pd.Series":
    """Return for each question the share of its content words (stems) that stand in its relevant chunk.

    Of several relevant chunks the one that shares most counts. Questions that a model wrote from a chunk score high,
    those that people wrote low; word search looks better on the former than it is.

    Returns:
        Series of float from 0 to 1, indexed by question id; NaN for a question without content words.
    """
    import pandas as pd

    stems = functools.lru_cache(maxsize=None)(content_stems)
    shares = {}
    for query_id, query in dataset.queries.items():
        asked = stems(query)
        shares[query_id] = max(
            (len(asked & stems(dataset.corpus[chunk])) / len(asked) for chunk in dataset.relevant_docs[query_id]),
            default=np.nan,
        ) if asked else np.nan  # fmt: skip
    return pd.Series(shares, name="wording_overlap", dtype=float)


@dataclass
class Leak:
    """A validation chunk that stands in the training corpus.

    Args:
        chunk: id of the validation chunk.
        source: id of the training chunk.
        share: of the validation chunk's word runs that stand in the training chunk, 0 to 1.
        exact: whether all its words are the same in the same order.
    """

    chunk: str
    source: str
    share: float
    exact: bool


def find_leaks(
    train_corpus: dict[str, str], val_corpus: dict[str, str], threshold: float = 0.8, size: int = 8
) -> list[Leak]:
    """Return the validation chunks whose text stands, exactly or nearly, in the training corpus.

    Near means that at least `threshold` of a chunk's runs of `size` words stand in one training chunk
    (containment of shingles: Broder 1997).

    Args:
        train_corpus: id -> text of the training chunks.
        val_corpus: id -> text of the validation chunks.
        threshold: share of runs from which a chunk counts as leaked.
        size: words a run.
    """
    where: dict[tuple[str, ...], list[int]] = {}
    train_ids = list(train_corpus)
    whole: dict[tuple[str, ...], int] = {}
    for i, text in enumerate(train_corpus.values()):
        words = plain_words(text)
        whole.setdefault(tuple(words), i)
        for run in shingles(words, size):
            where.setdefault(run, []).append(i)
    leaks = []
    for chunk, text in val_corpus.items():
        words = plain_words(text)
        if not words:
            continue
        if tuple(words) in whole:
            leaks.append(Leak(chunk, train_ids[whole[tuple(words)]], 1.0, True))
            continue
        runs = shingles(words, size)
        counts = np.bincount([i for run in runs for i in where.get(run, ())], minlength=1)
        if counts.max() >= threshold * len(runs):
            leaks.append(Leak(chunk, train_ids[int(counts.argmax())], float(counts.max() / len(runs)), False))
    return leaks


def without_chunks(dataset, chunks: Sequence[str]) -> EmbeddingQAFinetuneDataset:
    """Return the dataset without these chunks and without the questions that only they answer."""
    gone = set(chunks)
    relevant = {
        query: [chunk for chunk in found if chunk not in gone] for query, found in dataset.relevant_docs.items()
    }
    return EmbeddingQAFinetuneDataset(
        queries={query: text for query, text in dataset.queries.items() if relevant.get(query)},
        corpus={chunk: text for chunk, text in dataset.corpus.items() if chunk not in gone},
        relevant_docs={query: found for query, found in relevant.items() if found},
    )
