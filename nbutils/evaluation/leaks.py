"""What was seen before it judges: validation chunks that stand in the training corpus, near-copies of questions, shared wording."""

import functools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nbutils.core import UserError
from nbutils.models.search import guess_language, stems
from nbutils.questions.dataset import with_queries
from nbutils.questions.places import plain_words, shingles


def wording_overlap(dataset) -> pd.Series:
    """Return for each question the share of its content words (stems) that stand in its relevant chunk.

    Of several relevant chunks the one that shares most counts. Questions that a model wrote from a chunk score high,
    those that people wrote low; keyword search looks better on the former than it is.

    Returns:
        0 to 1 by question id; NaN for a question without content words.
    """
    language = guess_language(list(dataset.corpus.values()))

    @functools.cache
    def content(text: str) -> set[str]:
        return set(stems(text, language))

    shares = {}
    for query_id, query in dataset.queries.items():
        asked, found = content(query), (content(dataset.corpus[chunk]) for chunk in dataset.relevant_docs[query_id])
        shares[query_id] = max(len(asked & words) / len(asked) for words in found) if asked else np.nan
    return pd.Series(shares, name="wording_overlap", dtype=float)


@dataclass
class Leak:
    """A validation chunk that stands in the training corpus."""

    chunk: str
    source: str  # the training chunk that holds most of it
    share: float  # of its word runs that stand in the training chunks, 0 to 1
    exact: bool  # all its words are the same in the same order


def find_leaks(
    train_corpus: dict[str, str], val_corpus: dict[str, str], threshold: float = 0.8, size: int = 8
) -> list[Leak]:
    """Return the validation chunks whose text stands, exactly or nearly, in the training corpus.

    Near means that at least `threshold` of a chunk's runs of `size` words stand in the training chunks, in one or,
    where documents were cut differently, in several (containment of shingles: Broder 1997). Each corpus: id -> text.
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


def without_chunks(dataset, chunks: Collection[str]):
    """Return a copy of the dataset without these chunks and without the questions that only they answer."""
    gone = set(chunks)
    rest = with_queries(
        dataset, {query for query, found in dataset.relevant_docs.items() if not gone.issuperset(found)}
    )
    for query, found in rest.relevant_docs.items():
        kept = [chunk for chunk in found if chunk not in gone]
        rest.relevant_docs[query] = {chunk: found[chunk] for chunk in kept} if isinstance(found, Mapping) else kept
    rest.corpus = {chunk: text for chunk, text in dataset.corpus.items() if chunk not in gone}
    for of_chunk in ("headers", "names"):
        if known := getattr(dataset, of_chunk, None):
            setattr(rest, of_chunk, {chunk: text for chunk, text in known.items() if chunk not in gone})
    return rest


def remove_leaks(dataset, train_corpus: dict[str, str], *, keep: bool = False):
    """Return the validation dataset without the chunks that stand in the training corpus, and the leaks found.

    What was found is printed, with the chunks' ids.

    Args:
        dataset: the validation dataset.
        train_corpus: id -> text of the training chunks.
        keep: only name and count them.

    Raises:
        UserError: nothing would be left to judge with.
    """
    leaks = find_leaks(train_corpus, dataset.corpus)
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
        raise UserError("Every validation question is about a chunk of the training corpus. Choose other files.")
    return rest, leaks


def near_copies(asked: Mapping[str, str], taught: Iterable[str], threshold: float = 0.8) -> pd.DataFrame:
    """Return the questions that share at least `threshold` of their words, both ways together, with a training question.

    Args:
        asked: id -> question of those that judge.
        taught: the training questions.
        threshold: words that both hold as a share of the words that either holds (Jaccard).

    Returns:
        By question id: `question`, `taught` (the nearest training question), `share`.
    """
    words = [(text, set(plain_words(text))) for text in dict.fromkeys(taught)]
    with_word: dict[str, list[int]] = {}
    for number, (_, found) in enumerate(words):
        for word in found:
            with_word.setdefault(word, []).append(number)
    rows = {}
    for key, question in asked.items():
        mine = set(plain_words(question))
        candidates = {number for word in mine for number in with_word.get(word, ())}
        shares = ((len(mine & words[number][1]) / len(mine | words[number][1]), number) for number in candidates)
        share, best = max(shares, default=(0, 0))
        if share >= threshold:
            rows[key] = (question, words[best][0], round(share, 2))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["question", "taught", "share"])
