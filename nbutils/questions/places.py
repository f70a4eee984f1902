"""Where in the chunks a question's answer stands: found by a quote, by file and page, or by the chunk's id."""

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import unquote

from nbutils.models.search import UNSPACED
from nbutils.questions.tables import Row

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode

PLACED, NOWHERE, ELSEWHERE, BAD = "placed", "no chunk holds it", "of another file", "bad row"


_PLAIN_WORDS = re.compile(rf"\d+(?:[.,]\d+)*|[{UNSPACED}]|(?:(?![{UNSPACED}])[^\W\d_])+")


def plain_words(text: str) -> list[str]:
    """Return the words and numbers of a text in lower case, without accents, hyphenation or punctuation.

    Where a script has no spaces, each character counts as a word.
    """
    text = re.sub(r"(\w)[-\u2010]\s*\n\s*(\w)", r"\1\2", text)
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.replace("\u00ad", ""))
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _PLAIN_WORDS.findall(text.lower())


def shingles(words: Sequence[str], size: int = 8) -> set[tuple[str, ...]]:
    """Return the runs of `size` words (one run of all words where there are fewer)."""
    size = min(size, len(words))
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)} if size else set()


def source(node: "TextNode") -> tuple[str, int | None]:
    """Return the file that a chunk comes from, and its page counted from 1, or None where there are no pages."""
    page = node.metadata.get("page", node.metadata.get("page_label", ""))
    return str(node.metadata.get("file_name", "")), int(page) if str(page).isdigit() else None


@dataclass
class Place:
    """Where the answer to one row's question stands; question, file and pages are as the row gives them.

    Args:
        status: `PLACED`, `NOWHERE` (no chunk holds it), `ELSEWHERE` (of another file) or `BAD` (bad row).
        reason: why it is not placed.
        by: "quote", "page" or "chunk".
        chunks: ids of the chunks that answer it.
    """

    row: int
    question: str = ""
    file: str = ""
    pages: str = ""
    status: str = PLACED
    reason: str = ""
    by: str = ""
    chunks: list[str] = field(default_factory=list)


class _Unplaced(Exception):
    """A row that is not placed: its status and why."""


class Places:
    """The chunks of a corpus, ready to be found by what rows of a table say.

    Args:
        nodes: the chunks, with `file_name` and `page` (counted from 1) in their metadata.
        by: "page" lets pages count before quotes.
        document: the file that rows without a file mean; default is the one file of the nodes, where there is but one.
        answers: find a row that has neither quote nor page by its answer.
    """

    def __init__(self, nodes: "Sequence[TextNode]", by: str = "quote", document: str | None = None, answers=False):
        self.by, self.document, self.answers = by, document, answers
        self.sources = {node.node_id: source(node) for node in nodes}
        self.file = {chunk: file for chunk, (file, _) in self.sources.items()}
        self.files = dict.fromkeys(self.file.values())
        self.words = {node.node_id: plain_words(node.get_content()) for node in nodes}
        # without spaces, since a hyphen at a line's end may or may not belong to the word
        self.solid = {chunk: "".join(words) for chunk, words in self.words.items()}
        self.by_quote = functools.cache(self._by_quote)

    def place(self, rows: Sequence[tuple[int, Row]], bad: dict[int, str]) -> Iterator[Place]:
        """Yield the place of each row, and the bad ones, in order; see `nbutils.questions.tables.read_table`."""
        for number, row in sorted([*rows, *bad.items()], key=lambda numbered: numbered[0]):
            if isinstance(row, str):
                yield Place(number, status=BAD, reason=row)
                continue
            place = Place(number, row.cell("question"), *_file_and_pages(row))
            try:
                place.by, place.chunks = self._find(row, place)
            except _Unplaced as unplaced:
                place.status, place.reason = unplaced.args
            yield place

    def _find(self, row: Row, place: Place) -> tuple[str, list[str]]:
        if not place.question:
            raise _Unplaced(BAD, "the column 'question' is empty")
        if ids := [part.strip() for part in row.cell("chunk").split(";") if part.strip()]:
            if missing := [chunk_id for chunk_id in ids if chunk_id not in self.sources]:
                raise _Unplaced(NOWHERE, f"there is no chunk {missing[0]!r}")
            return "chunk", ids
        quotes = row.get("passages") or list(filter(None, [row.cell("quote")]))
        pages, answer = _page_numbers(place.pages), row.cell("answer")
        if self.answers and not quotes and not pages and len(plain_words(answer)) >= 8:
            quotes = [answer]  # a shorter one may stand anywhere
        if not quotes and not pages:
            raise _Unplaced(BAD, "no 'quote', 'pages' or 'chunk' says where the answer is")
        file = self._document(place.file) if place.file else self.document
        if self.by == "quote" or not pages:
            found = dict.fromkeys(chunk for quote in quotes for chunk in self.by_quote(quote, file))
            if found:
                return "quote", list(found)
        if not pages:
            raise _Unplaced(NOWHERE, f"the quote {quotes[0][:60]!r} stands nowhere")
        return "page", self._by_page(pages, file)

    def _document(self, name: str) -> str:
        """Return the file that is meant: the name, or as many of its last folders as both give; with or without type."""
        wanted, found = _parts(name), {}
        for file in self.files:
            for known in (_parts(file), _parts(re.sub(r"\.\w+$", "", file))):
                depth = min(len(known), len(wanted))
                if depth and known[-depth:] == wanted[-depth:]:
                    found[file] = depth
        best = [file for file in found if found[file] == max(found.values())]
        if not best:
            raise _Unplaced(ELSEWHERE, f"there is no document {name!r}")
        if len(best) > 1:
            raise _Unplaced(BAD, f"{name!r} may mean {' or '.join(sorted(best))}; give its folder too")
        return best[0]

    def _by_page(self, pages: list[int], file: str | None) -> list[str]:
        if file is None and len(self.files) > 1:
            reason = f"the corpus holds {len(self.files)} documents; add a column 'file' that says which is meant"
            raise _Unplaced(BAD, reason)
        file = file if file is not None else next(iter(self.files), "")
        places = [(file, page) for page in dict.fromkeys(pages)]
        found = [chunk for place in places for chunk, of in self.sources.items() if of == place]
        if not found:
            last = max((page or 0 for name, page in self.sources.values() if name == file), default=0)
            ending = f"pages end at {last}" if last else "it has no pages; give a quote"
            raise _Unplaced(NOWHERE, f"page {pages[0]} of {file or 'the document'} has no chunk ({ending})")
        return found

    def _by_quote(self, quote: str, file: str | None = None) -> list[str]:
        """Return the chunks that hold the quote: whole, cut by borders between chunks, or most of its word triples."""
        wanted = plain_words(quote)
        chunks = [chunk for chunk, name in self.file.items() if file in (None, name)]
        solid, phrase = "".join(wanted), f" {' '.join(wanted)} "
        if len(solid) < 12:  # too short to be found inside other words
            return [chunk for chunk in chunks if wanted and phrase in f" {' '.join(self.words[chunk])} "]
        whole = [chunk for chunk in chunks if solid in self.solid[chunk]]
        return whole or self._cut(solid, chunks) or self._nearly(wanted, chunks)

    def _cut(self, solid: str, chunks: list[str]) -> list[str]:
        """Return the chunks that hold at least half as much of the text as the one that holds most, if all is there."""
        ends = {chunk: _overlap(self.solid[chunk], solid) for chunk in chunks}
        starts = {chunk: _overlap(solid, self.solid[chunk]) for chunk in chunks}
        inside = {chunk: len(text) for chunk in chunks if len(text := self.solid[chunk]) >= 12 and text in solid}
        if max(ends.values(), default=0) + max(starts.values(), default=0) + sum(inside.values()) < len(solid):
            return []
        parts = {chunk: max(ends[chunk], starts[chunk], inside.get(chunk, 0)) for chunk in chunks}
        return [chunk for chunk in chunks if parts[chunk] >= max(parts.values()) / 2]

    def _nearly(self, wanted: list[str], chunks: list[str]) -> list[str]:
        """Return the chunks that hold most of the text's word triples, or else those that lie mostly within it."""
        if len(wanted) < 5:
            return []
        triples = shingles(wanted, 3)
        common = {chunk: len(triples & self.triples[chunk]) for chunk in chunks}
        best = max(common.values(), default=0)
        if best >= 0.6 * len(triples):
            return [chunk for chunk in chunks if common[chunk] >= max(0.6 * len(triples), best - 0.1 * len(triples))]
        within = [chunk for chunk in chunks if common[chunk] >= max(10, 0.6 * len(self.triples[chunk]))]
        covered = set().union(*(triples & self.triples[chunk] for chunk in within))
        return within if len(covered) >= 0.6 * len(triples) else []

    @functools.cached_property
    def triples(self) -> dict[str, set[tuple[str, ...]]]:
        """The runs of three words of each chunk."""
        return {chunk: shingles(words, 3) for chunk, words in self.words.items()}


def _overlap(left: str, right: str) -> int:
    """Return how long the longest end of `left` is that `right` begins with (0 below three characters)."""
    start = left.find(right[:3], max(0, len(left) - len(right)))
    while start >= 0 and not right.startswith(left[start:]):
        start = left.find(right[:3], start + 1)
    return len(left) - start if start >= 0 else 0


def _file_and_pages(row: Row) -> tuple[str, str]:
    """Return what a row says of file and pages; a link may stand in either column and name a page, as x.pdf#page=3."""
    file, pages = row.cell("file"), row.cell("page")
    if "/" in pages:  # search consoles call a link a page
        file, pages = file or pages, ""
    address, page = re.match(r"([^#]*)(?:#.*\bpage=(\d+).*)?", file).groups()
    return (address if page else file), pages or page or ""


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a path or link, alike however a system spells them."""
    name = unicodedata.normalize("NFC", unquote(name)).casefold().replace("\\", "/")
    return PurePosixPath(name.partition("://")[2] or name).parts


def _page_numbers(pages: str) -> list[int]:
    numbers: list[int] = []
    bare = re.sub(r"\b(pages?|pp?)\b\.?\s*|\bpp?(?=\d)", "", pages, flags=re.IGNORECASE)
    for part in filter(None, re.split(r"[;,\s]+", re.sub(r"\s*[-\u2010-\u2015]\s*", "-", bare))):
        match = re.fullmatch(r"(\d+)(?:\.0+)?(?:-(\d+))?", part)
        if not match or (match[2] and not 0 <= int(match[2]) - int(match[1]) < 1000):
            raise _Unplaced(BAD, f"{part!r} is no page number; write pages as 12, 12;14 or 12-14, counted from 1")
        numbers += range(int(match[1]), int(match[2] or match[1]) + 1)
    return numbers
