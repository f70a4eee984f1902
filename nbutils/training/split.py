"""Which questions are trained on and which are held out, and how well a model finds the chunks of the latter."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbutils.core import UserError
from nbutils.models.metrics import query_metrics
from nbutils.models.search import vector_search
from nbutils.models.vectors import encode
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset, headed, passages
from nbutils.questions.places import plain_words

LONGEST_BLOCK = 8  # neighbouring chunks that are held out together
LEAST_OVERLAP = 20  # characters that two neighbours share by more than chance
DISTRACTORS = 200  # irrelevant chunks that development questions are searched among at most
SCORES = ("hit_rate@5", "mrr@10", "ndcg@10")


def split_questions(dataset: Any, fraction: float, seed: int = 0) -> tuple[list[str], list[str]]:
    """Hold out whole blocks of neighbouring chunks with their questions.

    Questions about a chunk that shares text with a held-out neighbour belong to neither part: training on them would
    flatter the development score.

    Args:
        dataset: anything with `queries`, `corpus` (in reading order) and `relevant_docs`.
        fraction: share of the chunks with questions to hold out, 0 to 1.
        seed: of the choice.

    Returns:
        The ids of the questions to train on and of those held out: none of a corpus too small for it.

    Raises:
        UserError: a question points to no chunk.
    """
    EmbeddingQAFinetuneDataset.check(dataset)
    queries, corpus, relevant = dataset.queries, dataset.corpus, dataset.relevant_docs
    texts = list(dict.fromkeys(corpus.values()))
    about = {query_id: {corpus[chunk_id] for chunk_id in relevant[query_id]} for query_id in queries}
    asked = set().union(*about.values())
    held_out = _draw([text for text in texts if text in asked], fraction, seed)
    unused = _overlapping(texts, held_out)
    dev = [query_id for query_id in queries if about[query_id] & held_out]
    train = [query_id for query_id in queries if not about[query_id] & (held_out | unused)]
    return (train, dev) if len(asked - held_out - unused) >= 2 else (list(queries), [])


def _draw(texts: list[str], fraction: float, seed: int) -> set[str]:
    """Return that share of the texts, in blocks of neighbours."""
    wanted = round(len(texts) * fraction)
    length = max(1, min(LONGEST_BLOCK, wanted // 2))
    blocks = [texts[start : start + length] for start in range(0, len(texts), length)]
    random.Random(seed).shuffle(blocks)
    return set([text for block in blocks for text in block][:wanted])


def _overlapping(texts: list[str], held_out: set[str]) -> set[str]:
    """Return the texts that share text with a held-out one before or after them."""
    found = set()
    for place in [place for place, text in enumerate(texts) if text in held_out]:
        for step in (-1, 1):
            other = place + step
            while 0 <= other < len(texts) and _overlap(*(texts[each] for each in sorted((place, other)))):
                found.add(texts[other])
                other += step
    return found - held_out


def _overlap(earlier: str, later: str) -> bool:
    """Whether the end of one text begins the other."""
    longest = min(len(earlier), len(later))
    return any(earlier.endswith(later[:length]) for length in range(LEAST_OVERLAP, longest + 1))


@dataclass(frozen=True)
class TrainingPairs:
    """Questions and chunks by number."""

    queries: list[str]
    chunks: list[str]  # none stands twice under the same header
    headers: list[str]  # what stands before each chunk where it is embedded, or ""
    positives: list[list[int]]  # for each question all chunks that answer it, its own first
    groups: dict[int, list[int]]  # for each chunk that is trained on its questions
    names: dict[int, str] = field(default_factory=dict)  # of each chunk's document

    @property
    def passages(self) -> list[str]:
        """What is embedded of each chunk."""
        return list(map(headed, self.headers, self.chunks))

    @property
    def borrowed(self) -> float:
        """The share of the queries that are made of words of their own chunk."""
        words = {chunk: set(plain_words(self.chunks[chunk])) for chunk in self.groups}
        own = [words[chunk].issuperset(plain_words(self.queries[q])) for chunk, qs in self.groups.items() for q in qs]
        return sum(own) / len(own)


def training_pairs(dataset: Any, query_ids: list[str], use_all_docs: bool = False) -> TrainingPairs:
    """Return the pairs of these questions with their first chunk, or with all of them.

    Raises:
        UserError: the questions are about fewer than two chunks.
    """
    headers = getattr(dataset, "headers", {})
    key = {chunk_id: (headers.get(chunk_id, ""), text) for chunk_id, text in dataset.corpus.items()}
    number = {chunk: position for position, chunk in enumerate(dict.fromkeys(key.values()))}
    same: dict[str, list[int]] = {}  # chunks that differ in their headers alone: none is a negative of another
    for (_, text), position in number.items():
        same.setdefault(text, []).append(position)
    own = [list(dict.fromkeys(number[key[c]] for c in dataset.relevant_docs[q])) for q in query_ids]
    texts = [text for _, text in number]
    positives = [list(dict.fromkeys([*chunks, *(n for c in chunks for n in same[texts[c]])])) for chunks in own]
    groups: dict[int, list[int]] = {}
    for query, chunks in enumerate(own):
        for chunk in chunks if use_all_docs else chunks[:1]:
            groups.setdefault(chunk, []).append(query)
    if len(groups) < 2:
        raise UserError(
            f"The dataset has questions for {len(groups)} chunk(s) to train on, and training needs two at least. "
            "Add documents or write more questions."
        )
    queries = [dataset.queries[query_id] for query_id in query_ids]
    names = {number[key[chunk_id]]: name for chunk_id, name in getattr(dataset, "names", {}).items() if chunk_id in key}
    if len({*names.values()}) < 3:  # names are learned where there are several documents to tell apart
        names = {}
    return TrainingPairs(queries, texts, [header for header, _ in number], positives, groups, names)


def search_scores(
    model: Any, dataset: Any, queries: list[str] | None = None, embed: Callable[..., np.ndarray] = encode
) -> dict[str, float]:
    """Search a dataset's chunks, with their headers, with its questions.

    Args:
        model: a SentenceTransformer or a LlamaIndex embedding.
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        queries: ids of the questions to ask; default is all. With these, at most 200 irrelevant chunks are searched.
        embed: from the model, n texts and their kind to n vectors.

    Returns:
        hit_rate@5, mrr@10 and ndcg@10, means between 0 and 1.
    """
    asked = list(dataset.queries if queries is None else queries)
    grades = [_grades(dataset.relevant_docs[query_id]) for query_id in asked]
    needed = dict.fromkeys(chunk_id for row in grades for chunk_id in row)
    others = [chunk_id for chunk_id in dataset.corpus if chunk_id not in needed]
    if queries is not None:
        others = others[:: max(1, math.ceil(len(others) / DISTRACTORS))]
    chunk_ids, texts = [*needed, *others], passages(dataset)
    found = vector_search(
        embed(model, [dataset.queries[query_id] for query_id in asked], "query"),
        embed(model, [texts[chunk_id] for chunk_id in chunk_ids], "document"),
        chunk_ids,
        depth=10,
    ).index
    gains = np.array([[row.get(chunk_ids[i], 0.0) for i in best] for row, best in zip(grades, found, strict=True)])
    metrics = query_metrics(gains, [list(row.values()) for row in grades])
    return {name: float(metrics[name].mean()) for name in SCORES}


def development_scores(model: Any, dataset: Any, queries: list[str], embed: Callable[..., np.ndarray] = encode) -> dict:
    """Return the scores of `search_scores` by their names in a training's history; none where there are no questions."""
    found = search_scores(model, dataset, queries, embed) if queries else {}
    return {f"dev_{name}": value for name, value in found.items()}


def _grades(relevant: Any) -> dict[str, float]:
    return dict(relevant) if isinstance(relevant, dict) else dict.fromkeys(relevant, 1.0)
