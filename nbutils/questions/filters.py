"""Which chunks are worth asking about, and which questions are worth training on; each filter on its own switch."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nbutils.core import UserError


@dataclass(frozen=True)
class Filters:
    """The switches. `Filters(near_duplicates=0, prose=False, …)` turns single ones off, `None` in their place all.

    Args:
        prose: do not ask about contents pages, signature pages and lists of exhibits.
        bare_tables: ask about chunks that are little but a table.
        min_words, max_words: a question's length in words (in characters halved where a script has no spaces).
        self_contained: drop questions that point to a text the reader cannot see ("the table above").
        near_duplicates: drop a question that shares at least this part of its words with an earlier one
            (Jaccard, 0 to 1); questions that differ in a number are never duplicates. 0 turns it off.
        round_trip: keep a question only if it brings its own chunk back within the first so many. 0 turns it off.
        round_trip_model: what brings chunks back: "bm25", or the name of an embedding model.
    """

    prose: bool = True
    bare_tables: bool = True
    min_words: int = 2
    max_words: int = 60
    self_contained: bool = True
    near_duplicates: float = 0.85
    round_trip: int = 0
    round_trip_model: str = "bm25"

    def __post_init__(self):
        if not 0 <= self.near_duplicates <= 1:
            raise UserError(f"near_duplicates is {self.near_duplicates}; set it between 0 (off) and 1.")
        if self.round_trip < 0:
            raise UserError(f"round_trip is {self.round_trip}; set it to 0 (off) or more.")
        if self.min_words > self.max_words:
            raise UserError(f"min_words ({self.min_words}) is above max_words ({self.max_words}).")


NO_FILTERS = Filters(prose=False, min_words=0, max_words=10**9, self_contained=False, near_duplicates=0)

_UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:[.,][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text, folded to one case; a script without spaces gives pairs of characters."""
    tokens = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    unspaced = [bool(re.match(f"[{_UNSPACED}]", token)) for token in tokens]
    pairs = []
    for index, token in enumerate(tokens):
        if unspaced[index] and index + 1 < len(tokens) and unspaced[index + 1]:
            pairs.append(token + tokens[index + 1])
        elif not (unspaced[index] and index and unspaced[index - 1]):
            pairs.append(token)
    return pairs


def is_too_short_or_long(question: str, least: int, most: int) -> bool:
    """Whether a question has fewer than `least` or more than `most` words."""
    return not least <= len(words(question)) <= most


_POINTS_AWAY = re.compile(
    r"""
      \b(?:according\ to|based\ (?:up)?on|(?:stated|described|mentioned|shown|outlined|noted|discussed)\ (?:in|by)
          |in|context\ of|from|within|by|per|given|using|with|throughout)
        \s+(?:the|this|that|these)\s+(?:(?:given|provided|above|following|preceding|same|attached|whole|entire)\s+)*
        (?:context(?!\ of\b)|passage|excerpt|snippet|paragraph|extract|text(?!\ (?:of|messag))|chunk|source\ text
          |tables?\ (?:above|below|provided|shown)
          |(?:\w+\s+)?(?:information|data|details|content|material)\ (?:provided|given|above)(?!\ (?:by|in|to|under)\b))\b
    | \b(?:according\ to|based\ on|stated\ in|described\ in|mentioned\ in|discussed\ in|outlined\ in|provided\ in)
        \s+(?:the|this)\s+(?:document|section|list|table|page|information|statement)\b(?!\s+(?:of|on|for|between|dated)\b)
    | \b(?:the|this)\s+(?:given|provided|above|preceding|aforementioned|following)\s+
        (?:context|passage|excerpt|text|document|information|table|list|paragraph|section|data|content|chart|figure
          |schedule)s?\b
    | \bcontext\ (?:information|provided|given)\b
    | \bthis\ (?:passage|excerpt|paragraph|snippet|extract|chunk|table)\b
    | \b(?:does|of|from)\ the\ document\b
    | \bin\ this\ (?:document|context|text|section)\b
    | \b(?:table|chart|figure|list|section|paragraph|passage|text|information|statement|data)s?\ (?:above|below)\b
    | \b(?:above|below)[-\ ]mentioned\b
    | \b(?:mentioned|described|listed|shown|stated|discussed)\ (?:above|below|here)\b
    | \bas\ a\ (?:teacher|professor|student)\b | \b(?:teacher|professor)\ or\ (?:teacher|professor)\b
    | \b(?:laut|gemäß|nach|im|in|aus)\s+(?:dem\ |der\ |diesem\ )?(?:obigen|obiger|vorliegenden|gegebenen)\s+\w+
    | \b(?:laut|gemäß)\s+(?:dem|diesem)\s+(?:text|kontext|abschnitt|auszug|dokument)\b
    | \bin\ diesem\ (?:text|abschnitt|auszug)\b | \boben\ (?:genannt|erwähnt|beschrieben)
    | \b(?:selon|d['’]après|dans)\s+(?:le|ce|cet|cette)\s+(?:texte|passage|extrait|contexte|document)\b
    | \bci-des(?:sus|sous)\b
    | \b(?:según|de\ acuerdo\ con|en)\s+(?:el|este)\s+(?:texto|pasaje|fragmento|contexto|documento|párrafo)\b
    | \b(?:secondo\ (?:il|questo)|in\ questo|nel)\s+(?:testo|brano|passaggio|documento)\b
    | \b(?:segundo\ o|de\ acordo\ com\ o|neste|no)\s+(?:texto|trecho|documento)\b
    | \b(?:volgens|in)\s+(?:de|deze|dit|het)\s+(?:tekst|passage|fragment|document|bovenstaande)\b
    | (?:согласно|в)\s+(?:этому|этом|данному|данном|приведенн\w+)\s+(?:тексту?|отрывк\w+|контекст\w+|документ\w+)
    | 根据(?:上文|本文|以上|上述|文中|给定|该段) | (?:上述|以上)(?:文本|段落|表格|内容)
    | (?:この|上記の)(?:文章|文書|表|段落|テキスト|文脈) | 위(?:의)?\s?(?:글|표|문단|본문)
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
    counts = Counter(word for found in sets for word in found)
    holders: dict[str, list[int]] = defaultdict(list)
    repeats: dict[int, int] = {}
    for index, found in enumerate(sets):
        ordered = sorted(found, key=lambda word: (counts[word], word))
        prefix = ordered[: len(ordered) - math.ceil(threshold * len(ordered) - 1e-9) + 1]
        numbers = {word for word in found if word[0].isdigit()}
        candidates = sorted({other for word in prefix for other in holders[word]})
        for other in candidates:
            common = len(found & sets[other])
            if common >= threshold * (len(found) + len(sets[other]) - common) - 1e-9 and numbers == {
                word for word in sets[other] if word[0].isdigit()
            }:
                repeats[index] = other
                break
        else:
            for word in prefix:
                holders[word].append(index)
    return repeats


_SIGNED = re.compile(
    r"/s/|^\s*(?:signatures?|by:\s*_*)\s*$|pursuant to the requirements of|power of attorney",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBERED = re.compile(
    r"\bincorporated (?:herein )?by reference\b|^\s*\(?(?:exhibit\s+)?\d{1,3}(?:\.\d{1,2}){1,2}[a-z]?[*†+#]*\)?\s",
    re.IGNORECASE | re.MULTILINE,
)
_FILED = re.compile(r"\b(?:8-K|10-[KQ]|S-\d|F-\d|filed|exhibits?|xbrl|incorporated)\b", re.IGNORECASE)
_LEADER = re.compile(
    r"(?:\.\s?){4}\s*\d{1,4}\s*$"
    r"|^\s*(?:item|part|note|chapter|section|appendix|kapitel|abschnitt|chapitre|capítulo|capitolo)\s+[\divx]+[a-z]?\b"
    r"[^\n]{0,120}?\d{1,4}\s*$",
    re.IGNORECASE | re.MULTILINE,
)


_DOTS = re.compile(r"(?:\.\s?){4,}")


def junk_kind(text: str) -> str:
    """Return "contents", "signatures" or "exhibits" for a chunk that is mostly that, else an empty string."""
    lines = [line for line in text.splitlines() if line.strip()]
    size = max(len(words(text)), 1)
    dots = sum(len(run) for run in _DOTS.findall(text))
    if len(_LEADER.findall(text)) >= max(5, 0.25 * len(lines)) or dots > 0.3 * len(text):
        return "contents"
    if len(_SIGNED.findall(text)) >= max(2, size / 70):
        return "signatures"
    if len(_NUMBERED.findall(text)) >= max(5, size / 60) and len(_FILED.findall(text)) >= max(5, size / 60):
        return "exhibits"
    return ""


def is_prose(text: str) -> bool:
    """Whether a chunk says something in sentences, as against a contents page, signatures, exhibits or a bare table."""
    return not junk_kind(text) and not is_bare_table(text)


def is_bare_table(text: str) -> bool:
    """Whether a chunk is little but figures: two words in five are numbers."""
    tokens = _WORD.findall(text)
    return len(tokens) >= 10 and sum(token[0].isdigit() for token in tokens) > 0.4 * len(tokens)


def skip_reason(text: str, filters: Filters) -> str:
    """Return why a chunk is not asked about, or an empty string."""
    if not any(character.isalnum() for character in text):
        return "empty"
    if filters.prose and (kind := junk_kind(text)):
        return f"no prose ({kind})"
    if not filters.bare_tables and is_bare_table(text):
        return "no prose (bare table)"
    return ""


def brings_back(
    questions: list[str], chunk_ids: list[str], corpus: dict[str, str], first: int, model: str = "bm25"
) -> list[bool]:
    """Return for each question whether its own chunk is among the `first` that a search over the corpus finds.

    Args:
        questions: the questions.
        chunk_ids: each question's own chunk, in the same order.
        corpus: chunk id -> text.
        first: how many results to look at.
        model: "bm25", or the name of an embedding model (see `nbutils.models.names.load_model`).
    """
    if not questions:
        return []
    ids = list(corpus)
    first = min(first, len(ids))
    if model == "bm25":
        import bm25s

        index = bm25s.BM25()
        index.index([words(text) or [""] for text in corpus.values()], show_progress=False)
        found, _ = index.retrieve([words(question) or [""] for question in questions], k=first, show_progress=False)
    else:
        from nbutils.models.names import load_model
        from nbutils.models.search import vector_search
        from nbutils.models.vectors import encode

        encoder = load_model(model)
        found = vector_search(encode(encoder, questions, "query"), encode(encoder, corpus.values()), ids, first).index
    return [chunk_id in {ids[int(row)] for row in rows} for chunk_id, rows in zip(chunk_ids, found, strict=True)]


def drop_reasons(questions: list[tuple[str, str]], corpus: dict[str, str], filters: Filters) -> list[str]:
    """Return for each question the name of the filter that drops it, or an empty string.

    Args:
        questions: (chunk id, question) in corpus order.
        corpus: chunk id -> text, of all chunks, asked about or not.
        filters: the switches.
    """
    reasons = [""] * len(questions)

    def drop(name: str, fails: Callable[[list[int]], Iterable[int]]) -> None:
        for index in list(fails([index for index, reason in enumerate(reasons) if not reason])):
            reasons[index] = name

    def texts(indices: list[int]) -> list[str]:
        return [questions[index][1] for index in indices]

    drop(
        "length",
        lambda left: [i for i in left if is_too_short_or_long(questions[i][1], filters.min_words, filters.max_words)],
    )
    if filters.self_contained:
        drop("not self-contained", lambda left: [i for i in left if points_away(questions[i][1])])
    if filters.near_duplicates:
        drop("near-duplicate", lambda left: [left[i] for i in near_duplicates(texts(left), filters.near_duplicates)])
    if filters.round_trip:

        def lost(left: list[int]) -> list[int]:
            own = [questions[index][0] for index in left]
            back = brings_back(texts(left), own, corpus, filters.round_trip, filters.round_trip_model)
            return [index for index, found in zip(left, back, strict=True) if not found]

        drop("round trip", lost)
    return reasons
