"""Gold questions: questions that people wrote, read from a table and placed on the chunks that answer them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from nbutils.core import UserError, content_hash
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, headers_of, names_of
from nbutils.questions.pairs import told
from nbutils.questions.places import BAD, PLACED, Places
from nbutils.questions.tables import Row, find_table, read_table

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


class GoldQuestions(EmbeddingQAFinetuneDataset):
    """Questions that people wrote, with what says which chunks are relevant.

    Args:
        human: people wrote them; `compare_models` and `verdict` trust such a set more.
        placed: question id -> "quote", "page" or "chunk".
        left_out: for each row that points to nothing in this corpus, its number and why.
        documents: chunk id -> document, where each question is to be searched in its own document only.
    """

    human: bool = True
    placed: dict[str, str]
    left_out: list[str]
    documents: dict[str, str] = Field(default={})

    @property
    def judged_by(self) -> str:
        """How many questions are judged by what, for example "170 by quote, 10 by page"."""
        counts = Counter(self.placed[query] for query in self.queries)
        return ", ".join(f"{count} by {kind}" for kind, count in counts.most_common())


def find_gold_questions(name: str, files: Sequence[str]) -> Path | None:
    """Return the file of gold questions that is meant, or None; "auto" means gold_questions.csv, see `find_table`."""
    return find_table(name, files, "gold_questions.csv")


def gold_questions(name: str, files: Sequence[str], nodes: "Sequence[TextNode]") -> GoldQuestions | None:
    """Return the gold questions about these chunks, or None; what is left out, and why, is printed.

    A file that "auto" finds and that has no column `file` is used for the one document that holds its quotes, or where
    only one document lies beside it; otherwise it is left.

    Args:
        name, files: as for `find_gold_questions`.
        nodes: the chunks of these files.

    Raises:
        UserError: the file that `name` gives cannot be used.
    """
    path = find_gold_questions(name, files)
    if path is None:
        print("No gold questions: everything below is about questions that a machine wrote.")
        return None
    if name != "auto":
        return load_gold_questions(path, nodes)
    try:
        rows = [row for _, row in read_table(path)[0]]
        document = None if any(row.cell("file") for row in rows) else _document_meant(rows, path, Places(nodes))
        return load_gold_questions(path, nodes, document=document)
    except UserError as error:
        print(f"{path.name}, found beside the documents, is not used: {error}")
        return None


def _document_meant(rows: list[Row], path: Path, chunks: Places) -> str:
    quotes = list(filter(None, (row.cell("quote") for row in rows)))
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
    ones, whatever its spaces, hyphens and ligatures; pages count where there is none, or it is not found. Of a quote
    that a border between chunks cuts, both chunks are relevant if each holds a third of it or more, otherwise the one
    with the larger part. A row about what is not in this corpus is left out and said so.

    Args:
        path: a table that `nbutils.questions.tables.read_table` reads.
        nodes: the chunks, with `file_name` and `page` in their metadata.
        by: "page" lets pages count before quotes.
        document: the file name that rows without `file` mean.

    Raises:
        UserError: no such file, no question in it about this corpus, or rows that say nothing; all are named.
    """
    if by not in ("page", "quote"):
        raise UserError(f"by is {by!r}; use 'page' or 'quote'.")
    found = list(Places(nodes, by, document).place(*read_table(path)))
    if bad := [place for place in found if place.status == BAD]:
        count = f" has {len(bad)} mistakes:" if len(bad) > 1 else ","
        raise UserError(f"{path}{count} {told(bad, 20)}. Correct or remove {'them' if len(bad) > 1 else 'it'}.")
    placed = {f"gold-{content_hash(str(place.row), place.question, length=12)}": place for place in found}
    placed = {query: place for query, place in placed.items() if place.status == PLACED}
    absent = [place for place in found if place.status != PLACED]
    if not placed:
        reason = f"none of its {len(found)} questions is about this corpus ({told(absent)})"
        needed = "It needs the columns 'question' and 'quote', 'pages' or 'chunk'."
        raise UserError(f"{path} {reason if found else 'holds no question'}. {needed}")
    if absent:
        told_of = f"{len(absent)} of {len(found)} gold questions are not about this corpus and were left out"
        print(f"{told_of}: {told(absent)}.")
    return GoldQuestions(
        queries={query: place.question for query, place in placed.items()},
        corpus={node.node_id: node.get_content() for node in nodes},
        relevant_docs={query: place.chunks for query, place in placed.items()},
        headers=headers_of(nodes),
        names=names_of(nodes),
        placed={query: place.by for query, place in placed.items()},
        left_out=[told([place]) for place in absent],
    )
