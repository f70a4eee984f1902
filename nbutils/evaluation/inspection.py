"""Where models differ: wins and losses with their texts, slices, similarities, maps, and the price of size."""

import html
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from nbutils.core import UserError
from nbutils.evaluation.compare import Comparison, ranking_metrics
from nbutils.evaluation.stats import bootstrap_intervals
from nbutils.evaluation.walkthrough import embed_dataset, relevance
from nbutils.models.search import vector_search
from nbutils.models.vectors import unit
from nbutils.questions.places import source

if TYPE_CHECKING:
    from IPython.display import HTML


def _pair(comparison: Comparison, question_set: str | None, system: str | None):
    question_set, system = question_set or comparison.decisive, system or comparison.tuned
    if question_set not in comparison.datasets or system not in comparison.rankings[question_set]:
        raise UserError(f"There is no system {system!r} or no question set {question_set!r} in the comparison.")
    rows = comparison.per_query[comparison.per_query.question_set == question_set]
    return question_set, *(rows[rows.system == name].set_index("query") for name in (comparison.base, system))


def wins_and_losses(
    comparison: Comparison, question_set: str | None = None, system: str | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Return the questions whose relevant chunk moved up or down against the base, the largest moves first.

    Args:
        comparison: from `compare_models`.
        question_set: default is the decisive one.
        system: default is the fine-tuned one.
        limit: rows of each outcome; default is all.

    Returns:
        `outcome` ("win" or "loss"), `query`, `question`, `base_rank`, `rank` (NaN beyond 100), `change` of the
        reciprocal rank; ids with their texts: `expected` (of several the one found first), `base_first`, `first`.
    """
    question_set, before, after = _pair(comparison, question_set, system)
    dataset = comparison.datasets[question_set]
    change = (1 / after["rank"]).fillna(0) - (1 / before["rank"]).fillna(0)
    expected = {
        query: next(id_ for id_ in [*after.retrieved[query], *before.retrieved[query], *grades] if id_ in grades)
        for query, grades in relevance(dataset).items()
    }
    columns = {
        "outcome": np.where(change > 0, "win", "loss"), "question": after.question,
        "base_rank": before["rank"], "rank": after["rank"], "change": change,
    }  # fmt: skip
    found = pd.Series(expected), before.retrieved.str.get(0), after.retrieved.str.get(0)
    for name, ids in zip(("expected", "base_first", "first"), found, strict=True):
        columns |= {name: ids, f"{name}_text": ids.map(dataset.corpus).fillna("")}
    frame = pd.DataFrame(columns)[change.abs() > 1e-12].reset_index()
    frame = frame.sort_values("change", key=lambda c: -c.abs(), kind="stable")
    parts = [frame[frame.outcome == outcome].head(limit or len(frame)) for outcome in ("win", "loss")]
    return pd.concat(parts, ignore_index=True)


def examples_html(frame: pd.DataFrame, characters: int = 400) -> "HTML":
    """Return rows of `wins_and_losses` as HTML to read, with so many characters of each chunk; all text is escaped."""
    from IPython.display import HTML

    def shown(text) -> str:
        text = " ".join(str(text or "").split())
        return html.escape(text if len(text) <= characters else text[:characters].rsplit(" ", 1)[0] + " …")

    def rank(value) -> str:
        return "beyond rank 100" if value != value else f"at rank {int(value)}"

    parts = []
    for row in frame.itertuples():
        title = f"<strong>{'▲ win' if row.outcome == 'win' else '▼ loss'}</strong> {html.escape(str(row.question))}"
        texts = {
            "relevant chunk": row.expected_text, "first before": row.base_first_text, "first after": row.first_text,
        }  # fmt: skip
        cells = "".join(
            f"<tr><th style='width:7em'>{name}</th><td style='text-align:left'>{shown(text)}</td></tr>"
            for name, text in texts.items()
        )
        parts.append(
            f"<details open><summary>{title} — relevant chunk {rank(row.base_rank)} before, {rank(row.rank)} after"
            f"</summary><table style='width:100%'>{cells}</table></details>"
        )
    return HTML("".join(parts) or "<p>No question moved.</p>")


_HOW_MANY = r"\bhow (many|much|large|big|long|often|far|high|old)\b|\bwhat (percentage|share|amount|number)\b"
_ASKING = r"(?<!\S)(how|why|who|when|where|which|what|whom|whose)(?!\S)"
_AUXILIARIES = r"(is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might|must|am)(?!\S)"


def question_style(question: str) -> str:
    """Return how a question asks: how many, how, why, who, when, where, which, what, yes or no, or no question word."""
    words = " ".join(re.findall(r"[a-z']+", question.lower()))
    if re.search(_HOW_MANY, words):
        return "how many"
    asking = re.search(_ASKING, words)
    if re.match(_AUXILIARIES, words) and (not asking or words[: asking.start()].count(" ") > 3):
        return "yes or no"
    return asking[1].replace("whom", "who").replace("whose", "who") if asking else "no question word"


def question_attributes(dataset, nodes: Sequence | None = None) -> pd.DataFrame:
    """Return what slices are cut by, for each question.

    Args:
        dataset: the questions.
        nodes: the corpus' nodes, for document and page region (third of the document); without them these are left out.

    Returns:
        By question id: `question style`, `question length`, `numbers`, `document`, `page region`.
    """
    places = {node.node_id: source(node) for node in nodes or ()}
    last = {document: page or 0 for document, page in sorted(places.values(), key=lambda place: place[1] or 0)}
    rows = {}
    for query_id, question in dataset.queries.items():
        count = len(question.split())
        rows[query_id] = row = {
            "question style": question_style(question),
            "question length": "up to 8 words" if count <= 8 else "9 to 15 words" if count <= 15 else "over 15 words",
            "numbers": "with a number" if re.search(r"\d", question) else "without a number",
        }
        document, page = places.get(next(iter(dataset.relevant_docs[query_id])), ("", None))
        row |= {"document": document} if document else {}
        if page:
            third = min(2, (page - 1) * 3 // max(last[document], 1))
            row["page region"] = ("1st third", "2nd third", "3rd third")[third]
    return pd.DataFrame.from_dict(rows, orient="index")


def slices(
    comparison: Comparison, nodes: Sequence | None = None, question_set: str | None = None, system: str | None = None
) -> pd.DataFrame:
    """Return the MRR@10 of base and system and their paired difference on parts of the questions.

    What does not split the questions, such as the document where there is but one, is left out. The intervals are each
    slice's own: of 20 slices one is expected to exclude 0 by chance.

    Args:
        comparison, question_set, system: as for `wins_and_losses`.
        nodes: as for `question_attributes`.

    Returns:
        `slice`, `group`, `questions`, `base`, `system`, `difference`, `low`, `high` (95 % interval over chunks).
    """
    question_set, before, after = _pair(comparison, question_set, system)
    attributes = question_attributes(comparison.datasets[question_set], nodes)
    rows = []
    for name in attributes:
        groups = attributes.groupby(name, sort=True)
        for group, part in groups if len(groups) > 1 else ():
            one, other = (each.loc[part.index, "mrr@10"].to_numpy() for each in (before, after))
            (low,), (high,) = bootstrap_intervals(other - one, after.loc[part.index, "cluster"])
            rows.append((name, group, len(part), one.mean(), other.mean(), (other - one).mean(), low, high))
    return pd.DataFrame(rows, columns=["slice", "group", "questions", "base", "system", "difference", "low", "high"])


def similarities(dataset, model) -> pd.DataFrame:
    """Return how near each question is to its nearest relevant chunk and to the nearest other one.

    Returns:
        By question id: `right`, `wrong` (cosine similarities; NaN in `wrong` where every chunk is right).
    """
    queries, corpus = embed_dataset(dataset, model)
    position = {chunk: i for i, chunk in enumerate(dataset.corpus)}
    rows = []
    for vector, grades in zip(queries, relevance(dataset).values(), strict=True):
        scores, right = corpus @ vector, [position[chunk] for chunk in grades]
        wrong = np.delete(scores, right)
        rows.append((scores[right].max(), wrong.max() if len(wrong) else np.nan))
    return pd.DataFrame(rows, columns=["right", "wrong"], index=pd.Index(list(dataset.queries), name="query"))


def map_points(dataset, model) -> pd.DataFrame:
    """Return chunks and questions in the plane: their first two principal components (of the chunks).

    Returns:
        `kind` ("chunk" or "question"), `id`, `x`, `y`, and `target` (for a question the id of its chunk).
    """
    queries, corpus = embed_dataset(dataset, model)
    centre = corpus.mean(axis=0)
    axes = np.linalg.svd(corpus - centre, full_matrices=False)[2][:2]
    axes *= np.sign(axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)])[:, None]
    points = np.zeros((len(corpus) + len(queries), 2))
    points[:, : len(axes)] = (np.concatenate([corpus, queries]) - centre) @ axes.T
    frame = pd.DataFrame(points, columns=["x", "y"])
    frame.insert(0, "kind", ["chunk"] * len(corpus) + ["question"] * len(queries))
    frame.insert(1, "id", [*dataset.corpus, *dataset.queries])
    frame["target"] = [None] * len(corpus) + [next(iter(grades)) for grades in relevance(dataset).values()]
    return frame


BITS = {"float32": 32, "int8": 8, "binary": 1}


def _quantise(queries: np.ndarray, corpus: np.ndarray, precision: str) -> tuple[np.ndarray, np.ndarray]:
    if precision == "binary":
        return tuple(np.where(vectors > 0, 1, -1).astype(np.float32) for vectors in (queries, corpus))
    if precision == "int8":
        low, high = corpus.min(axis=0), corpus.max(axis=0)
        step = np.maximum(high - low, 1e-12) / 255
        corpus = (np.clip(np.round((corpus - low) / step), 0, 255) * step + low).astype(np.float32)
    return queries, corpus


def size_curve(
    dataset,
    models: dict[str, object],
    dimensions: Sequence[int] = (32, 64, 128, 256, 512, 1024),
    metric: str = "ndcg@10",
) -> pd.DataFrame:
    """Return quality against the size of a stored vector: fewer dimensions, fewer bits.

    Truncated vectors are scaled to length 1 again. int8 keeps 256 steps between each dimension's least and greatest
    value in the corpus (as sentence-transformers' `quantize_embeddings`); binary keeps signs, of the question too.

    Args:
        dataset: the questions.
        models: system name -> model or name.
        dimensions: how many leading numbers to keep, beside all.
        metric: a metric of `nbutils.models.metrics.query_metrics`.

    Returns:
        `system`, `dimensions`, `precision` (float32, int8, binary), `bytes` (per vector), `value`, `low`, `high` (95 %
        interval over chunks).
    """
    clusters = [next(iter(grades)) for grades in relevance(dataset).values()]
    rows = []
    for system, model in models.items():
        queries, corpus = embed_dataset(dataset, model)
        full = corpus.shape[1]
        for count in sorted({d for d in (*dimensions, full) if d <= full}):
            parts = [unit(part[:, :count]) for part in (queries, corpus)]
            for precision, bits in BITS.items():
                ranking = vector_search(*_quantise(*parts, precision), list(dataset.corpus))
                values = ranking_metrics(dataset, ranking)[metric]
                (low,), (high,) = bootstrap_intervals(values, clusters, draws=500)
                rows.append((system, count, precision, -(-count * bits // 8), values.mean(), low, high))
    return pd.DataFrame(rows, columns=["system", "dimensions", "precision", "bytes", "value", "low", "high"])
