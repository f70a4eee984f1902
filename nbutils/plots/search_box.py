"""Ask the same question of several retrievers and read the answers side by side; in a notebook, as you type."""

import html
import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ipywidgets
    import pandas as pd
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.schema import NodeWithScore, TextNode

    Retrievers = Mapping[str, BaseRetriever]

_CSS = """<style>
.nb-search {display: flex; flex-wrap: wrap; gap: 1em; line-height: 1.4;}
.nb-search > section {flex: 1 1 22em; min-width: 0;}
.nb-search h4 {margin: 0 0 .4em; font-size: 1em;}
.nb-search article {border: 1px solid var(--jp-border-color1, #8888); border-left-width: 3px; border-radius: 3px;
  padding: .4em .7em; margin-bottom: .6em; overflow-wrap: anywhere;}
.nb-search article.right {border-left-color: #0072b2;}
.nb-search small {opacity: .75;}
.nb-search mark {background: none; color: inherit; font-weight: bold; text-decoration: underline;}
</style>"""


def where(node: "TextNode") -> str:
    """Return the file and page of a chunk as people cite it: "report.pdf, page 7"."""
    name, page = node.metadata.get("file_name", "no file"), node.metadata.get("page")
    return f"{name}, page {page}" if page else str(name)


def side_by_side(
    retrievers: "Retrievers", questions: Sequence[str], relevant: Mapping[str, Sequence[str]] | None = None
) -> "pd.DataFrame":
    """Return where each retriever finds the answer to each question.

    Args:
        retrievers: name -> LlamaIndex retriever.
        questions: what to ask.
        relevant: question -> ids of the chunks that answer it, where that is known.

    Returns:
        One row per question, one column per retriever with the place of its first chunk, and, where `relevant` is given,
        one with the rank of the first relevant chunk (None where it is not among those retrieved).
    """
    import pandas as pd

    rows = []
    for question in questions:
        row: dict[str, Any] = {"question": question}
        for name, retriever in retrievers.items():
            found = retriever.retrieve(question)
            row[f"{name}: first chunk"] = where(found[0].node) if found else "nothing"
            if relevant is not None:
                right = set(relevant.get(question, ()))
                ranks = (rank for rank, hit in enumerate(found, 1) if hit.node.node_id in right)
                row[f"{name}: rank of the relevant chunk"] = next(ranks, None)
        rows.append(row)
    return pd.DataFrame(rows).astype({name: "Int64" for name in rows[0] if "rank" in name}).set_index("question")


def results_html(question: str, retrievers: "Retrievers", relevant: Sequence[str] = ()) -> str:
    """Return as HTML what each retriever finds for a question, one column each; all text from documents is escaped.

    The chunks whose ids are in `relevant` get a mark.
    """
    if not question.strip():
        return "<p>Type a question.</p>"
    columns = []
    for name, retriever in retrievers.items():
        start = time.perf_counter()
        found = retriever.retrieve(question)
        milliseconds = 1000 * (time.perf_counter() - start)
        cards = "".join(_card(rank, hit, question, set(relevant)) for rank, hit in enumerate(found, 1))
        head = f"<h4>{html.escape(name)} <small>· {milliseconds:.0f} ms</small></h4>"
        columns.append(f"<section>{head}{cards or '<p>Nothing found.</p>'}</section>")
    return f"{_CSS}<div class='nb-search'>{''.join(columns)}</div>"


def _card(rank: int, hit: "NodeWithScore", question: str, relevant: set[str]) -> str:
    right = hit.node.node_id in relevant
    score = "" if hit.score is None else f" · score {hit.score:.3f}"
    note = " · ✓ known to answer it" if right else ""
    return (
        f"<article{' class=right' if right else ''}><small>{rank} · {html.escape(where(hit.node))}{score}{note}</small>"
        f"<br>{_excerpt(hit.node.get_content(), question)}</article>"
    )


def _excerpt(text: str, question: str, characters: int = 320) -> str:
    """Return the part of a text that holds most of the question's words, with these marked."""
    from bm25s.stopwords import STOPWORDS_EN_PLUS

    text = re.sub(r"(?:[._] ?){4,}", "… ", " ".join(text.split()))
    words = [word for word in re.findall(r"\w{3,}|\d+", question) if word.lower() not in STOPWORDS_EN_PLUS]
    pattern = re.compile(rf"\b({'|'.join(words)})\b" if words else "((?!))", re.IGNORECASE)
    places = [match.start() for match in pattern.finditer(text)]
    best = max(places, key=lambda start: sum(start <= place < start + characters - 60 for place in places), default=0)
    start = max(0, min(best - 60, len(text) - characters))
    if start:
        start = text.rfind(" ", 0, start) + 1
    parts = map(html.escape, pattern.split(text[start : start + characters]))  # text, word, text, word, …
    shown = "".join(f"<mark>{part}</mark>" if number % 2 else part for number, part in enumerate(parts))
    return ("…" if start else "") + shown + ("…" if start + characters < len(text) else "")


def search_box(
    retrievers: "Retrievers", question: str = "", relevant: Mapping[str, Sequence[str]] | None = None
) -> "ipywidgets.VBox":
    """Return a widget: a line to type a question in, and below it what each retriever finds.

    It begins with `question`; the other arguments are as for `side_by_side`.
    """
    import ipywidgets

    line = ipywidgets.Text(
        value=question, placeholder="Type a question and press Enter", continuous_update=False,
        layout=ipywidgets.Layout(width="36em"),
    )  # fmt: skip
    button = ipywidgets.Button(description="Search", icon="search", button_style="primary")
    found = ipywidgets.HTML()

    def search(_=None) -> None:
        try:
            found.value = results_html(line.value, retrievers, (relevant or {}).get(line.value, ()))
        except Exception as error:
            found.value = f"<p>{html.escape(f'{type(error).__name__}: {error}')}</p>"

    button.on_click(search)
    line.observe(search, names="value")
    search()
    return ipywidgets.VBox([ipywidgets.HBox([line, button]), found])
