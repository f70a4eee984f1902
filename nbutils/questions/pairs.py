"""Training pairs of one's own: questions with what answers them, read from a table and placed on the chunks."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from nbutils.core import UserError, content_hash
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, headers_of, names_of
from nbutils.questions.places import BAD, ELSEWHERE, NOWHERE, PLACED, Place, Places
from nbutils.questions.tables import find_table, read_table

if TYPE_CHECKING:
    from llama_index.core.schema import TextNode


class Pairs(EmbeddingQAFinetuneDataset):
    """Questions and chunks from `load_pairs`, with what became of each row."""

    placed: Any = Field(default=None, exclude=True, repr=False)


def find_pairs(name: str, files: Sequence[str]) -> Path | None:
    """Return the file of pairs that is meant, or None; "auto" means training_questions.csv, see `find_table`."""
    return find_table(name, files, "training_questions.csv")


def load_pairs(path: str | Path, nodes: "Sequence[TextNode]", *, bad_rows: str = "fail") -> Pairs:
    """Return (question, chunk) pairs that were written, logged or collected elsewhere, over the chunks of `nodes`.

    A row is a question (column `question` or `query`; `search_term` and others of search logs; `subject` of tickets)
    and what answers it: `passage` (found by its text, in several chunks where they are smaller), or `file` and `page`,
    or `file`, `page` and `quote`, which finds its chunk whatever CHUNK_SIZE is. `url` and `clicked_url` name a file
    too, "…/report.pdf#page=3" its page; `answer`, `resolution` or `response` of eight words or more counts as a passage
    where a row has nothing better. All names: `nbutils.questions.tables.NAMES`. The same question in several rows
    becomes one with several chunks. Rows about files that are not among those of the nodes are no mistake: training
    and validation chunks each take their own. How many rows were placed, and which were not, is printed.

    Args:
        path: CSV, TSV, XLSX, JSON Lines, JSON, or a question dataset of the walkthrough's form.
        nodes: the chunks; rows without a file that name only a page need nodes of one file.
        bad_rows: "fail", or "skip" to use the other rows.

    Returns:
        A dataset whose corpus is all nodes; it may hold no question. Its `placed` is a DataFrame of one row per row of
        the file: `row` (number), `question`, `file`, `pages`, `status` ("placed", "no chunk holds it", "of another
        file", "bad row"), `reason`, `by` ("quote", "page", "chunk"), `chunks` (ids) and `query` (id in the dataset).

    Raises:
        UserError: the file cannot be read or holds no row, or bad rows with "fail": all of them, by number.
    """
    import pandas as pd

    if bad_rows not in ("fail", "skip"):
        raise UserError(f"bad_rows is {bad_rows!r}; use 'fail' or 'skip'.")
    found = list(Places(nodes, answers=True).place(*read_table(path)))
    if not found:
        raise UserError(f"PAIRS: {path} holds no row. It needs a header and columns such as 'question' and 'passage'.")
    bad = [place for place in found if place.status == BAD]
    if bad and (bad_rows == "fail" or len(bad) == len(found)):
        raise UserError(
            f"PAIRS: {path} has {len(bad)} bad rows of {len(found)}: {told(bad, 20)}. Correct them, or use the rest "
            'with bad_rows="skip" (BAD_ROWS of a run).'
        )
    queries, relevant = {}, {}
    table = pd.DataFrame([asdict(place) for place in found])
    ids = [f"pair-{content_hash(' '.join(place.question.casefold().split()), length=12)}" for place in found]
    table["query"] = pd.Series(ids).where(table.status == PLACED)
    for place, query in zip(found, ids, strict=True):
        if place.status == PLACED:
            queries.setdefault(query, place.question)
            relevant[query] = list(dict.fromkeys([*relevant.get(query, ()), *place.chunks]))
    print(f"PAIRS: {_account(found, queries, relevant)}.")
    corpus = {node.node_id: node.get_content() for node in nodes}
    known = {"headers": headers_of(nodes), "names": names_of(nodes)}
    return Pairs(queries=queries, corpus=corpus, relevant_docs=relevant, placed=table, **known)


def told(places: Sequence[Place], limit: int = 5) -> str:
    """Return the numbers of rows and why they are not placed, for a message."""
    rows = [f"row {place.row}: {place.reason}" for place in places]
    return "; ".join([*rows[:limit], "…"] if len(rows) > limit else rows)


def _account(found: list[Place], queries: dict, relevant: dict) -> str:
    chunks = {chunk for ids in relevant.values() for chunk in ids}
    placed = sum(place.status == PLACED for place in found)
    parts = [f"{placed} of {len(found)} rows give {len(queries)} questions about {len(chunks)} chunks"]
    elsewhere = sum(place.status == ELSEWHERE for place in found)
    parts += [f"{elsewhere} are about other files"] if elsewhere else []
    for status, text in ((NOWHERE, "point to no chunk"), (BAD, "are bad and were skipped")):
        rows = [place for place in found if place.status == status]
        parts += [f"{len(rows)} {text} ({told(rows)})"] if rows else []
    return "; ".join(parts)
