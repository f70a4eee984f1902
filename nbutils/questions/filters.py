"""Which chunks are worth asking about, and which questions are worth training on; each filter on its own switch."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable

from nbutils.models.search import UNSPACED, bm25_search, in_pairs, vector_search
from nbutils.questions.settings import Filters

_WORD = re.compile(rf"([{UNSPACED}]+)|[^\W_{UNSPACED}]+(?:[.,][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text, folded to one case; a script without spaces gives pairs of characters."""
    return in_pairs(_WORD, unicodedata.normalize("NFKC", text).casefold())


# A question points away where it names the text it was written from. A word such as "above" does so only at the end of a
# phrase ("as stated above?"), never before an amount ("above $1 million", "stated below cost").
_HERE = (
    r"(?:passage|excerpt|snippet|extract|paragraph|text|context|chunk|document|section|table|chart|list|information)s?"
)
_END = r"(?=\s*(?:[?,.;:)]|$))"
_POINTS_AWAY = re.compile(
    rf"""
      \b(?:this|the\ (?:given|provided|above|preceding|following|aforementioned))\s+(?:\w+\s+)?{_HERE}\b
        (?!\s+(?:of|message))
    | \b(?:in|from|by|to|per|of|does)\ the\ (?:(?:passage|excerpt|snippet|paragraph|context)\b(?!\s+of\b)
        |(?:text|document|chunk){_END})
    | \b(?:according\ to|based\ (?:up)?on)\ the\ {_HERE}\b(?!\s+(?:of|on|for|between|dated)\b)
    | \b(?:the|which|given)\ (?:\w+\s+)?{_HERE}\s+(?:above|below|(?:provided|given){_END})(?!\s+[$€£\d])
    | \bcontext\ information\b | \b(?:information|data|details)\ (?:provided|given|above|below){_END}
    | ^\W*the\ (?:passage|excerpt|snippet)\b(?!\s+of\b) | \b(?:above|below)[-\ ]mentioned\b
    | \b(?:mentioned|described|listed|shown|stated|discussed)\ (?:above|below|here){_END}
    | \bas\ a\ (?:teacher|professor|student)\b
    | \b(?:laut|gemäß|selon|d['’]après|dans|según|en|secondo|segundo|volgens|in|согласно|в)\s(?:\w+\s)?
        (?:vorliegenden\ \w+|te(?:x|ks)t[eo]?|testo|тексту?|отрывк\w+|kontext|contexte|contexto)\b{_END}
    | \boben\ (?:genannt|erwähnt|beschrieben) | 根据(?:上文|本文|文中) | この(?:文章|文書|表|段落)
    """,
    re.IGNORECASE | re.VERBOSE,
)


def points_away(question: str) -> bool:
    """Whether a question leans on a text its reader cannot see: "according to the table above", "in this passage"."""
    return bool(_POINTS_AWAY.search(question))


def near_duplicates(texts: list[str], threshold: float) -> dict[int, int]:
    """Return, for each text that nearly repeats an earlier kept one, the position of that one.

    Two texts are near-duplicates when the Jaccard overlap of their word sets is at least `threshold` and they hold
    the same numbers. Exact, by prefix filtering: of two sets that overlap this much, the rarest few words must meet.

    Source: Bayardo, Ma, Srikant: Scaling Up All Pairs Similarity Search, WWW 2007.
    """
    sets = [frozenset(words(text)) for text in texts]
    numbers = [{word for word in found if word[0].isdigit()} for found in sets]
    counts = Counter(word for found in sets for word in found)
    holders: dict[str, list[int]] = defaultdict(list)
    repeats: dict[int, int] = {}

    def alike(i: int, j: int) -> bool:
        common = len(sets[i] & sets[j])
        return numbers[i] == numbers[j] and common >= threshold * (len(sets[i]) + len(sets[j]) - common) - 1e-9

    for index, found in enumerate(sets):
        ordered = sorted(found, key=lambda word: (counts[word], word))
        prefix = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
        earlier = sorted({other for word in prefix for other in holders[word] if alike(index, other)})
        if earlier:
            repeats[index] = earlier[0]
        else:
            for word in prefix:
                holders[word].append(index)
    return repeats


_LEADER = re.compile(
    r"(?:\.\s?){4}\s*\d{1,4}\s*$"
    r"|^\s*(?:item|part|note|chapter|section|appendix|kapitel|abschnitt|chapitre|capítulo|capitolo)\s+[\divx]+[a-z]?\b"
    r"[^\n]{0,120}?\d{1,4}\s*$",
    re.IGNORECASE | re.MULTILINE,
)


def is_contents(text: str) -> bool:
    """Whether a chunk is mostly a table of contents: lines that end in page numbers, or dots that lead to them."""
    lines = [line for line in text.splitlines() if line.strip()]
    dots = sum(map(len, re.findall(r"(?:\.\s?){4,}", text)))
    return len(_LEADER.findall(text)) >= max(5, 0.25 * len(lines)) or dots > 0.3 * len(text)


def skip_reason(text: str, filters: Filters) -> str:
    """Return why a chunk is not asked about, or an empty string."""
    if not any(character.isalnum() for character in text):
        return "empty"
    return "no prose (contents)" if filters.prose and is_contents(text) else ""


def brings_back(
    questions: list[str], chunk_ids: list[str], corpus: dict[str, str], first: int, model: str = "bm25"
) -> list[bool]:
    """Return for each question whether its own chunk is among the `first` that a search over the corpus finds.

    `chunk_ids` holds each question's own chunk; `model` is "bm25" or the name of an embedding model.
    """
    if not questions:
        return []
    ids, texts = list(corpus), list(corpus.values())
    if model == "bm25":
        ranking = bm25_search(questions, texts, ids, first)
    else:
        from nbutils.models.names import load_model
        from nbutils.models.vectors import encode

        encoder = load_model(model)
        ranking = vector_search(encode(encoder, questions, "query"), encode(encoder, texts), ids, first)
    return [own in {ids[i] for i in row if i >= 0} for own, row in zip(chunk_ids, ranking.index.tolist(), strict=True)]


def drop_reasons(
    questions: list[tuple[str, str]], corpus: dict[str, str], filters: Filters, echoes: Iterable[str] = ()
) -> list[str]:
    """Return for each question the name of the filter that drops it, or an empty string.

    Args:
        questions: (chunk id, question) in corpus order.
        corpus: chunk id -> text, of all chunks, asked about or not.
        echoes: lines of the prompt; a question that merely repeats one is always dropped.
    """
    repeated = {" ".join(words(line)) for line in echoes}
    least, most = filters.min_words, filters.max_words

    def is_lost(texts: list[str], own: list[str]) -> list[bool]:
        return [not found for found in brings_back(texts, own, corpus, filters.round_trip, filters.round_trip_model)]

    def repeats(texts: list[str], own: list[str]) -> list[bool]:
        found = near_duplicates(texts, filters.near_duplicates)
        return [index in found for index in range(len(texts))]

    tests = {
        "repeats the prompt": lambda texts, own: [" ".join(words(text)) in repeated for text in texts],
        "length": lambda texts, own: [not least <= len(words(text)) <= most for text in texts],
        "not self-contained": filters.self_contained and (lambda texts, own: map(points_away, texts)),
        "near-duplicate": filters.near_duplicates and repeats,
        "round trip": filters.round_trip and is_lost,
    }
    reasons = [""] * len(questions)
    for name, fails in tests.items():
        left = [index for index, reason in enumerate(reasons) if fails and not reason]
        own, texts = [questions[index][0] for index in left], [questions[index][1] for index in left]
        for index, failed in zip(left, fails(texts, own) if left else (), strict=True):
            reasons[index] = name if failed else ""
    return reasons
