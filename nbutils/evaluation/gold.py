"""Questions to judge with: gold questions from a table, wording they share with their chunks, leaks, a general set."""

import copy
import csv
import functools
import io
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import UserError, content_hash, project_folder
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.schema import TextNode


def find_gold_questions(name: str, val_files: "Sequence[str]") -> Path | None:
    """Return the file of gold questions that is meant, or None.

    Args:
        name: a path; "auto" for gold_questions.csv in the folder of a validation file, if there is one; "" for none.
        val_files: the validation files.
    """
    from nbutils.pipeline.run import find_file

    if name != "auto":
        return Path(find_file(name)) if name else None
    folders = [Path(find_file(file)).parent for file in val_files if "://" not in str(file)]
    return next(
        (folder / "gold_questions.csv" for folder in folders if (folder / "gold_questions.csv").is_file()), None
    )


def load_gold_questions(path: str | Path, nodes: "Sequence[TextNode]", by: str = "page") -> EmbeddingQAFinetuneDataset:
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
            rows = []
            for number, line in enumerate(text.split("\n"), 1):
                if line.strip():
                    try:
                        rows.append((number, json.loads(line)))
                    except json.JSONDecodeError as error:
                        raise UserError(f"{path}, row {number} is no JSON object: {error.msg}.") from error
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
                if None in row:
                    raise UserError(
                        f"{path}, row {before + 1} has more cells than the header. Put text that holds "
                        f"{dialect.delimiter!r} in quotation marks."
                    )
                rows.append((before + 1, row))
                before = reader.line_num
    except (json.JSONDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read as {path.suffix or 'CSV'}: {error}.") from error
    if not all(isinstance(row, dict) for _, row in rows):
        raise UserError(f"{path}: each entry must be an object with 'question' and 'pages', 'chunk' or 'quote'.")
    return [(number, {str(key).strip().lower(): value for key, value in row.items()}) for number, row in rows]


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
                    raise UserError(
                        f"{where}: there is no chunk {chunk_id!r} in the corpus. Correct the column 'chunk'."
                    )
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
        solid, size = "".join(wanted), min(3, len(wanted))
        grams = shingles(wanted, size)
        exact, near = [], []
        for node, words in zip(self.nodes, self.words, strict=True):
            if file is not None and str(node.metadata.get("file_name", "")) != file:
                continue
            # without spaces, since a hyphen at a line's end may or may not belong to the word
            if solid in "".join(words) if len(solid) >= 12 else f" {' '.join(wanted)} " in f" {' '.join(words)} ":
                exact.append(node.node_id)
            elif not exact and len(wanted) >= 5:
                share = len(grams & shingles(words, size)) / len(grams)
                if share >= 0.6:
                    near.append((-share, node.node_id))
        return exact or [chunk for share, chunk in sorted(near) if share <= min(near)[0] + 0.1]


def plain_words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without accents, hyphenation or punctuation."""
    text = re.sub(r"(\w)[-\u2010]\s*\n\s*(\w)", r"\1\2", text)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.replace("\u00ad", ""))
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    text = text.lower()
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
        source: id of the training chunk that holds most of it.
        share: of the validation chunk's word runs that stand in the training chunks, 0 to 1.
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

    Near means that at least `threshold` of a chunk's runs of `size` words stand in the training chunks, in one or,
    where documents were cut differently, in several (containment of shingles: Broder 1997).

    Args:
        train_corpus: id -> text of the training chunks.
        val_corpus: id -> text of the validation chunks.
        threshold: share of runs from which a chunk counts as leaked.
        size: words a run.
    """
    asked = {chunk: words for chunk, text in val_corpus.items() if (words := plain_words(text))}
    runs = {chunk: {hash(run) for run in shingles(words, size)} for chunk, words in asked.items()}
    wanted = set().union(*runs.values())
    train_ids, whole, where = list(train_corpus), {}, {}
    for i, text in enumerate(train_corpus.values()):
        words = plain_words(text)
        whole.setdefault(" ".join(words), i)
        for run in wanted.intersection(map(hash, shingles(words, size))):
            where.setdefault(run, []).append(i)
    leaks = []
    for chunk, words in asked.items():
        source = whole.get(" ".join(words))
        if source is not None:
            leaks.append(Leak(chunk, train_ids[source], 1.0, True))
            continue
        share = sum(run in where for run in runs[chunk]) / len(runs[chunk])
        if share >= threshold:
            counts = np.bincount([i for run in runs[chunk] for i in where.get(run, ())])
            leaks.append(Leak(chunk, train_ids[int(counts.argmax())], share, False))
    return leaks


def without_chunks(dataset, chunks: Sequence[str]):
    """Return a copy of the dataset without these chunks and without the questions that only they answer."""
    gone, rest = set(chunks), copy.copy(dataset)
    relevant = {}
    for query, found in dataset.relevant_docs.items():
        kept = [chunk for chunk in found if chunk not in gone]
        if kept:
            relevant[query] = {chunk: found[chunk] for chunk in kept} if isinstance(found, Mapping) else kept
    rest.queries = {query: text for query, text in dataset.queries.items() if query in relevant}
    rest.corpus = {chunk: text for chunk, text in dataset.corpus.items() if chunk not in gone}
    rest.relevant_docs = relevant
    return rest


def remove_leaks(dataset, train_corpus: dict[str, str], *, keep: bool = False, threshold: float = 0.8):
    """Return the validation dataset without the chunks that stand in the training corpus, and the leaks found.

    What was found is printed, with the chunks' ids.

    Args:
        dataset: the validation dataset.
        train_corpus: id -> text of the training chunks.
        keep: only name and count them.
        threshold: as for `find_leaks`.

    Raises:
        UserError: nothing would be left to judge with.
    """
    leaks = find_leaks(train_corpus, dataset.corpus, threshold)
    if not leaks:
        return dataset, leaks
    exact = sum(leak.exact for leak in leaks)
    named = "; ".join(f"{leak.chunk} ({leak.share:.0%}, as in {leak.source})" for leak in leaks[:10])
    print(
        f"{len(leaks)} of {len(dataset.corpus)} validation chunks stand in the training corpus ({exact} word for word) "
        f"and were {'kept' if keep else 'removed'}: {named}{'; …' if len(leaks) > 10 else ''}"
    )
    if keep:
        return dataset, leaks
    rest = without_chunks(dataset, [leak.chunk for leak in leaks])
    if not rest.queries:
        raise UserError(
            "Every validation question asks about a chunk of the training corpus. Choose other files for validation."
        )
    return rest, leaks


def same_writer_warning(train_writer: str, val_writer: str) -> str | None:
    """Return a warning where the same writer made training and validation questions, else None."""
    if train_writer.strip().lower() != val_writer.strip().lower():
        return None
    return (
        f"Training and validation questions have the same writer ({train_writer}): part of any gain on these is having "
        "learnt its habits. Judge by questions that people wrote."
    )


GENERAL_KNOWLEDGE = project_folder() / "data" / "general_knowledge.jsonl"


def load_general_knowledge(path: str | Path = GENERAL_KNOWLEDGE) -> EmbeddingQAFinetuneDataset:
    """Return the general-knowledge retrieval set: short passages on many subjects, with a question on each.

    Args:
        path: JSON Lines with `id`, `subject`, `passage` and `question`.

    Raises:
        UserError: no such file, or a line that lacks a field.
    """
    corpus, queries, relevant = {}, {}, {}
    for number, row in _rows(Path(path)):
        passage, question, passage_id = _cell(row, "passage"), _cell(row, "question"), _cell(row, "id")
        if not (passage and question and passage_id):
            raise UserError(f"{path}, row {number}: 'id', 'passage' and 'question' are needed.")
        corpus[passage_id] = passage
        queries[f"q-{passage_id}"] = question
        relevant[f"q-{passage_id}"] = [passage_id]
    return EmbeddingQAFinetuneDataset(queries=queries, corpus=corpus, relevant_docs=relevant)
