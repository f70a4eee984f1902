"""Questions about a text without an LLM: its phrases and clauses, reworded the way people ask."""

import functools
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib import resources
from itertools import accumulate
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from pydantic import PrivateAttr

VERSION = "offline-4"
SLOTS = "abc"

_TOKEN = re.compile(r"[^\W\d_]+(?:[-&'./][^\W\d_]+)*|\d[\d,.]*\d%?|\d%?|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]”\"%][.!?;])\s*(?=[A-Z“\"(•☒☐])|[•●▪■◦]|\n\s*\n|(?<=[.!?])\s+(?=\S)")
_YEARS = re.compile(r"(?<![\d.$])(?:19[89]\d|20[0-4]\d)+(?![\d%])")
_NAME = re.compile(
    r"\b((?!The )[A-Z\d][\w&'-]+(?i:\.com)?(?: [A-Z][\w&'-]+){0,3}),? "
    r"(?:I(?i:nc(?:orporated)?)\b|C(?i:orp(?:oration)?)\b|Ltd|plc|PLC|AG\b|SE\b|GmbH|LLC|Co\.|Company\b|Limited|N\.V\.)"
)
_COVER = re.compile(r"\(?exact name of (?:the )?registrant", re.I)
_NO_COMPANY = re.compile(
    r"Exchange|Nasdaq|Delaware|Insurance|Trust|Bank|Company|^(?:\d+|Our|This|Such|Parent|Holding|Total|Public)$"
)
_FIGURE = r"(?:\$\s*\(?[\d,.]+|\(?\d{1,3}(?:,\d{3})+|\(?\d+\.\d+|\(?\d{2,3}(?=[\s)%]))"
_ROW = re.compile(rf"([A-Z][A-Za-z',&() /-]{{5,70}}?)[\s.:]*(?:\(\d\))?\s*{_FIGURE}\)?\s*%?\s*(?:{_FIGURE}|—)")
_BEFORE_ROW = re.compile(r"^.*\b(thousands|millions|billions|data|amounts|percentages|change)\b\)?", re.I)
_DEFINED = re.compile(
    r"[“\"]([A-Z][\w'& -]{3,45})[”\"] (?:means|shall mean|refers|has the meaning|is defined|will mean)|"
    r"\b[Ww]e define ([A-Za-z][\w'& -]{3,45}?) as\b"
)
_ELIDED = re.compile(r"^(?:[dl]|dell|all|nell|dall|sull|un|quest)'", re.I)
_MODIFIER = re.compile(r"\w\w(?:ed|ing|ful|ous|(?<!receiv)(?<!pay)(?<!deliver)able|ible)$")
_JOINED = re.compile(r"[a-z][.;][A-Z]|[a-z][A-Z][a-z]")
_JOINT = re.compile(
    r"(?<=[a-z])(?=[\d$])|(?<=\d)(?=[a-zA-Z]{3})|(?<=[a-z][.;:])(?=[A-Z])|(?<=[a-z])(?=[A-Z][a-z])|(?<=['’]s)(?=[a-z]{3})"
)


class OfflineQuestionWriter(CustomLLM):
    """A LlamaIndex LLM that writes questions about a text with no network and no model.

    It answers any prompt that holds a text between two dashed lines (or another delimiter) and asks for a number
    of questions with that many questions, one a line, or with NONE where the text holds no words. The same seed,
    corpus and text give the same questions, in whatever order or thread they are asked for.

    Args:
        seed: another seed, other questions.
        synonym_rate: how often a word that has a synonym gives way to it, 0 to 1.
    """

    seed: int = 0
    synonym_rate: float = 0.45
    _corpus: "_Corpus" = PrivateAttr(default_factory=lambda: _Corpus())

    @property
    def metadata(self) -> LLMMetadata:
        name = VERSION if self.seed == 0 else f"{VERSION}-seed{self.seed}"
        return LLMMetadata(model_name=name, context_window=1_000_000, num_output=4096, is_chat_model=False)

    @classmethod
    def class_name(cls) -> str:
        return "OfflineQuestionWriter"

    @classmethod
    def for_corpus(cls, nodes: Iterable, **options) -> "OfflineQuestionWriter":
        """Return a writer fitted to `nodes`, LlamaIndex nodes or plain texts."""
        return cls(**options).fit(node if isinstance(node, str) else node.get_content() for node in nodes)

    def fit(self, texts: Iterable[str]) -> "OfflineQuestionWriter":
        """Learn from all texts of a corpus, in their order; return the writer.

        It learns how common each word is, whose documents these are, and which few texts each topic of business
        documents is best asked about. A writer that was not fitted does without.
        """
        self._corpus = _Corpus.of(list(texts))
        return self

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        text, number = read_prompt(prompt)
        return CompletionResponse(text="\n".join(self.questions(text, number)) or "NONE")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        answer = self.complete(prompt).text

        def tokens() -> CompletionResponseGen:
            said = ""
            for piece in re.findall(r"\S+\s*", answer):
                said += piece
                yield CompletionResponse(text=said, delta=piece)

        return tokens()

    def questions(self, text: str, number: int = 2) -> list[str]:
        """Return up to `number` different questions about `text`; fewer only where it holds too few words.

        Those for a smaller number are the first of those for a larger one.
        """
        return _Draft(self, text).write(number)


def read_prompt(prompt: str) -> tuple[str, int]:
    """Return the text that a prompt holds and the number of questions it asks for (2 where it does not say)."""
    fences = list(re.finditer(r"^[ \t]*([-=_*~#`\"'<>])\1{2,}\w*[ \t]*$", prompt, re.M))
    tag = re.search(r"<(\w+)>(.*)</\1>", prompt, re.S)
    if len(fences) >= 2:
        same = [fence for fence in fences if fence[1] == fences[0][1]]
        last = same[-1] if len(same) > 1 else fences[-1]
        start, end, text = fences[0].start(), last.end(), prompt[fences[0].end() : last.start()]
    elif tag:
        start, end, text = tag.start(), tag.end(), tag[2]
    else:
        text = max(re.split(r"\n\s*\n", prompt), key=len)
        start = prompt.index(text)
        end = start + len(text)
    rest = prompt[:start] + "\n" + prompt[end:]
    number = re.search(r"\b(\d{1,3})\b(?=(?:\W+\w+){0,6}\W+(?:questions?|queries|Fragen)\b)", rest, re.I)
    number = number or re.search(r"(?<![\w.])(\d{1,2})(?![\w.%])", rest)
    return text.strip(), min(max(int(number[1]), 1), 100) if number else 2


def guess_language(words: Sequence[str]) -> str:
    """Return the code of the language whose stop words make up most of `words` (lower case), or "" for none."""
    counts = Counter(words)
    shares = {
        language: sum(counts[word] for word in stop) / max(len(words), 1)
        for language, stop in _lexicon()["stop"].items()
    }
    best = max(shares, key=shares.get)
    return best if shares[best] > 0.12 else "en" if shares["en"] > 0.05 else ""


@functools.cache
def _lexicon() -> dict[str, Any]:
    """Return lexicon.json in the form in which it is looked up."""
    raw = json.loads(resources.files("nbutils.questions").joinpath("lexicon.json").read_text(encoding="utf-8"))
    synonyms: dict[str, list[str]] = {}
    for line in raw["synonyms"]:
        head, *others = line.replace("’", "'").split("|")
        synonyms.setdefault(head.lower(), []).extend(others)
    longest_first = "|".join(re.escape(head) for head in sorted(synonyms, key=len, reverse=True))
    forms = _verb_forms(raw["verbs"].split(), raw["irregular"].split())
    words = [*forms, *raw["stop"].values(), raw["adjectives"], *synonyms]
    return {
        **{name: frozenset(words.split()) for name, words in raw["english"].items()},
        "self": [words.split() for words in raw["english"]["self"].split("|")],
        "stop": {language: frozenset(words.split()) for language, words in raw["stop"].items()},
        "forms": forms,
        "nounish": frozenset(raw["nounish"].split()),
        "plain": frozenset(raw["adjectives"].split()),
        "synonyms": synonyms,
        "synonym_pattern": re.compile(rf"\b({longest_first})(?![\w-])", re.I),
        "topics": [([re.compile(cue) for cue in cues], questions) for cues, questions in raw["topics"]],
        "known": frozenset(_words(" ".join(words))),
        "frames": raw["frames"],
    }


def _verb_forms(verbs: Iterable[str], irregular: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return {form: (verb, "base", "third", "past", "participle" or "ing")}."""
    parts = {entry.split(":")[0]: entry.split(":")[1:] for entry in irregular}
    forms: dict[str, tuple[str, str]] = {}
    for verb in [*verbs, *parts]:
        stem = re.sub(r"([^aeiou])y$", r"\1i", verb)
        doubled = verb + verb[-1] if re.search(r"[^aeiou][aeiou][bdgmnprt]$", verb) else verb.removesuffix("e")
        ending = "es" if re.search(r"(s|x|z|ch|sh|o|[^aeiou]y)$", verb) else "s"
        past, participle = parts.get(verb) or (stem.removesuffix("e") + "ed", stem.removesuffix("e") + "ed")
        forms.setdefault(verb, (verb, "base"))
        forms.setdefault(stem + ending, (verb, "third"))
        forms.setdefault(past, (verb, "past"))
        forms.setdefault(participle, (verb, "participle"))
        if verb not in parts:
            forms.setdefault(doubled + "ed", (verb, "past"))
        forms.setdefault(verb.removesuffix("e") + "ing", (verb, "ing"))
        forms.setdefault(doubled + "ing", (verb, "ing"))
    return forms


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text.lower())


def _key(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _topic_scores(text: str) -> dict[int, float]:
    """Return {topic: how densely `text` (lower case, single spaces) holds its cues} for topics that it holds all cues
    of, or the only cue of more than twice."""
    scores = {}
    for topic, (cues, _) in enumerate(_lexicon()["topics"]):
        if all(cue.search(text) for cue in cues):
            times = [len(cue.findall(text)) for cue in cues]
            if len(cues) > 1 or times[0] > 2:
                scores[topic] = sum(map(math.log1p, times)) / math.log(len(text) + 9)
    return scores


@dataclass
class _Corpus:
    """What a writer knows of the texts that it was fitted to."""

    size: int = 0
    run_together: bool = False  # a PDF reader lost the spaces between many words
    business: bool = False  # companies speak in it, or are spoken of
    frequency: Counter = field(default_factory=Counter)  # number of texts that hold a word
    commonest: frozenset[str] = frozenset()  # words that every other text holds
    company: dict[str, str] = field(default_factory=dict)  # by text
    topics: dict[str, list[int]] = field(default_factory=dict)  # by text

    @classmethod
    def of(cls, texts: list[str]) -> "_Corpus":
        joined = sum(len(_JOINED.findall(text)) for text in texts)
        corpus = cls(size=len(texts), run_together=joined > 2 * len(texts))
        keys = [_key(text) for text in texts]
        for text in texts:
            corpus.frequency.update(set(_words(text)))
        corpus.commonest = frozenset(word for word, n in corpus.frequency.items() if n > len(texts) / 2)
        corpus.business = max(corpus.frequency["company"], corpus.frequency["our"]) > len(texts) / 5
        corpus._find_companies(texts, keys)
        found: dict[int, list[tuple[float, str]]] = {}
        for text, key in zip(texts, keys, strict=True):
            for topic, score in _topic_scores(" ".join(text.lower().split())).items():
                found.setdefault(topic, []).append((score, key))
        for topic, scored in found.items():
            for _, key in sorted(scored, reverse=True)[: max(3, len(texts) // 60)]:
                corpus.topics.setdefault(key, []).append(topic)
        return corpus

    def _find_companies(self, texts: list[str], keys: list[str], reach: int = 25) -> None:
        """Give each text the registrant on the last cover page before it, or else the company that most of its
        neighbours name, if a fifth of them do."""
        texts = [" ".join(text.replace("’", "'").split()) for text in texts]
        named = Counter(name for text in texts for name in _NAME.findall(text))
        names = [name for name, times in named.most_common(30) if times > 1 and not _NO_COMPANY.search(name)]
        holds = {name: list(accumulate((name in text for text in texts), initial=0)) for name in names}
        parts = {a for a in names for b in names if a != b and a in b and 2 * holds[b][-1] > holds[a][-1]}
        names = [name for name in names if name not in parts]
        registrant = ""
        for i, key in enumerate(keys):
            if cover := _COVER.search(texts[i]):
                above = _NAME.findall(texts[i][: cover.start()])
                name = re.sub(r"^\d[\d-]{2,}\s*", "", above[-1]) if above else ""
                registrant = name.title().replace(".Com", ".com") if name.isupper() and len(name) > 4 else name
            if registrant:
                self.company[key] = registrant
                continue
            first, last = max(0, i - reach), min(len(texts), i + reach + 1)
            best = max(names, key=lambda name: (holds[name][last] - holds[name][first], name), default="")
            if best and holds[best][last] - holds[best][first] >= (last - first) / 5:
                self.company[key] = best


class _Draft:
    """The questions about one text."""

    def __init__(self, writer: OfflineQuestionWriter, text: str):
        self.writer, self.corpus, self.lexicon = writer, writer._corpus, _lexicon()
        self.key = _key(text)
        self.random = random.Random(f"{writer.seed}:{self.key}")
        self.text = " ".join(self._part(text).split()).replace("’", "'")
        self.words = _words(self.text)
        self.count = Counter(self.words)
        self.language = guess_language(self.words)
        self.english = self.language == "en"
        self.stop = self.lexicon["stop"].get(self.language, frozenset())
        self.company = self.corpus.company.get(self.key, "")
        if not self.corpus.size:
            self.company = next((name for name in _NAME.findall(self.text) if not _NO_COMPANY.search(name)), "")
        self.years = Counter(run[i : i + 4] for run in _YEARS.findall(self.text) for i in range(0, len(run), 4))
        self.business = bool(self.company or self.corpus.business or self.count["company"] or self.count["registrant"])
        if self.corpus.size > 20 and not self.english:
            self.stop |= self.corpus.commonest
        self.weak = self.stop | self.lexicon["plain"] if self.english else self.stop  # no word to end a phrase with
        self.used: Counter = Counter()

    def _part(self, text: str) -> str:
        """Part the words that a PDF reader ran together, where the corpus knows both."""
        if not self.corpus.run_together:
            return text
        frequency, known, stop = self.corpus.frequency, self.lexicon["known"], self.lexicon["stop"]["en"]
        common = self.corpus.size / 6

        def split(match: re.Match) -> str:
            word, low = match[0], match[0].lower()
            own = frequency[low]
            if low in known:
                return word
            best = cut = 0
            for i in range(1 if low[0] == "a" and own < 3 else 2, len(word) - 1):
                left, right = low[:i], low[i:]
                score = min(frequency[left], frequency[right]) if i > 1 else frequency[right]
                both = left in stop and right in stop
                frequent = any(part in stop or frequency[part] > common for part in (left, right))
                least = 0 if both else own if frequent else 2 * own + 2
                frequent &= left != "in" or frequency[right] > common  # no prefix
                fits = both or (own <= min(12, common) and (frequent or min(i, len(right)) > 3))
                if score > best and score >= least and fits and right not in self.lexicon["suffix"]:
                    best, cut = score, i
            return f"{word[:cut]} {word[cut:]}" if cut else word

        return re.sub(r"[^\W\d_]{5,}", split, _JOINT.sub(" ", text))

    # What there is to ask about.

    @functools.cached_property
    def sentences(self) -> list[list[str]]:
        """Tokens of each sentence."""
        parts = [_TOKEN.findall(part) for part in _SENTENCE.split(self.text) if part]
        return [tokens for tokens in parts if len(tokens) > 2] or parts

    @functools.cached_property
    def phrases(self) -> list[tuple[float, str, int]]:
        """(weight, phrase, sentence that it stands in), best first; no telling word is in two of them."""
        return self._phrases(tables=False) or self._phrases(tables=True)

    def _phrases(self, tables: bool) -> list[tuple[float, str, int]]:
        best: dict[str, tuple[float, str, int]] = {}
        for i, tokens in enumerate(self.sentences):
            few = self.stop and len(tokens) > 7 and sum(t.lower() in self.stop for t in tokens) < len(tokens) / 8
            if few and not tables:
                continue
            run: list[str] = []
            before = article = ""
            for token in [*tokens, "."]:
                if "'" in token and self.language in ("fr", "it"):
                    token = _ELIDED.sub("", token) or token
                low = token.lower()
                if low not in self.stop and token[0].isalpha() and self._extends(run, token, before):
                    article = article if run else before
                    run.append(token)
                elif self.english and low == "of" and 0 < len(run) < 3:
                    run.append("of")
                elif run:
                    self._add(best, run, i, article)
                    run = []
                before = low
        used: set[str] = set()
        kept = []
        for weight, phrase, i in sorted(best.values(), key=lambda found: (-found[0], found[1])):
            words = set(_words(phrase)) - self.stop
            if not words & used:
                used |= words
                kept.append((weight, phrase, i))
        return kept[:24]

    def _extends(self, run: list[str], token: str, before: str) -> bool:
        """Whether a token that is no stop word may belong to a noun phrase that so far is `run`."""
        if len(token) > 24 and self.language != "de":
            return False
        if not self.english:
            return len(run) < 3 and not (self.language in ("fr", "it") and (token.endswith("ment") or "'" in token))
        low = token.lower()
        verb, form = self.lexicon["forms"].get(low, ("", ""))
        nounish = low in self.lexicon["nounish"] or verb + "s" in self.lexicon["nounish"]
        if (
            "/" in token
            or before in ("not", "may", "could", "might", "would", "should", "must")
            or (form == "base" and before in ("to", "can", "will"))
        ):
            return False
        if low in self.lexicon["plain"]:
            return bool(run)
        if low.endswith("ly"):
            return False
        if form in ("past", "participle", "ing") or low.endswith(("ed", "ing")):
            return (
                nounish
                or (low in self.lexicon["synonyms"] and not form)
                or (not run and before in self.lexicon["before_noun"])
            )
        return not form or nounish or (form == "base" and bool(run) and before in self.lexicon["before_noun"])

    def _is_modifier(self, token: str) -> bool:
        """Whether a word looks like a participle or adjective and is not known as a noun."""
        low = token.lower()
        form = self.lexicon["forms"].get(low, ("", ""))[1]
        if low in self.lexicon["nounish"] or (low in self.lexicon["synonyms"] and not form):
            return False
        return form in ("past", "participle", "ing") or bool(_MODIFIER.search(low)) or low in self.lexicon["adjective"]

    def _add(self, best: dict[str, tuple[float, str, int]], run: list[str], sentence: int, article: str) -> None:
        """Trim a run of words to a phrase, weigh it, and keep it if it is worth it."""
        while run and run[0].lower() in ("company", "company's", "registrant"):
            run, article = run[1:], ""
        if self.language == "de" and any(word[0].isupper() for word in run):
            nouns = [i for i, word in enumerate(run) if word[0].isupper()]
            run = run[nouns[0] : nouns[-1] + 1]
        while run and (run[-1].lower() in self.weak or (self.english and self._is_modifier(run[-1]))):
            run = run[:-1]
        if "of" in run and len(run) > 4:
            run = run[: run.index("of")]
        if len(run) > 4:
            run, article = run[-4:], ""
        low = [word.lower() for word in run]
        if not run or (self.company and " ".join(low) in self.company.lower()) or (len(run[0]) < 4 and len(run) == 1):
            return
        weight = sum(self.weight(word) * (1 + math.log(self.count[word] or 1)) for word in low) / len(run) ** 0.5
        weight *= 0.5 if len(run) == 1 else 1.0
        if weight > 0 and " ".join(low) not in best:
            article = article if self.english and article in ("the", "a", "an") else ""
            phrase = " ".join(word if self._keeps_case(word) else word.lower() for word in run)
            best[" ".join(low)] = (weight, f"{article} {phrase}".strip(), sentence)

    def weight(self, word: str) -> float:
        """Return how telling a word is, 0 to 1: its inverse document frequency, less if no other text holds it."""
        if word in self.stop or len(word) < 3:
            return 0.0
        size, seen = self.corpus.size, self.corpus.frequency[word]
        if size < 3:
            return min(1.0, len(word) / 8)
        return math.log((size + 1) / (seen + 0.5)) / math.log(size + 1) * (0.4 if seen < 2 else 1.0)

    def _keeps_case(self, word: str) -> bool:
        """Whether a word is written with its capitals anywhere: an abbreviation, or never small in the text."""
        if self.language == "de" or any(letter.isupper() for letter in word[1:]):
            return True
        return word[:1].isupper() and not re.search(rf"\b{re.escape(word.lower())}\b", self.text)

    @functools.cached_property
    def rows(self) -> list[str]:
        """Labels of a table's rows: words before two figures."""
        labels = []
        forms, nounish = self.lexicon["forms"], self.lexicon["nounish"]
        for match in _ROW.finditer(self.text):
            label = _BEFORE_ROW.sub("", match[1]).strip(" ,-()/")
            last = re.split(r"(?<=[a-z]) (?=[A-Z])", label)[-1]  # headings stand before the first row's label
            label = last if last.count(" ") > 1 else label
            words = [word if word.isupper() else word.lower() for word in label.split()]
            if (
                1 <= len(words) <= 8
                and words[0] not in self.stop
                and words[-1] not in self.stop
                and (words[0] not in forms or words[0] in nounish)
                and self.lexicon["not_a_row"].isdisjoint(_words(label))
            ):
                labels.append(" ".join(words))
        labels = list(dict.fromkeys(labels))
        return labels if len(labels) > 2 else []

    @functools.cached_property
    def amounts(self) -> list[str]:
        """Phrases from sentences that tell an amount of money or a percentage."""
        marks = {"$", "€", "£", "%"}
        return [
            phrase
            for _, phrase, i in self.phrases
            if len(self.sentences[i]) < 60 and any(token[-1] in marks for token in self.sentences[i])
        ]

    @functools.cached_property
    def changes(self) -> list[tuple[str, str]]:
        """("up" or "down", what moved) wherever the text tells of a rise or fall."""
        found: dict[tuple[str, str], None] = {}
        for tokens in self.sentences:
            for i, token in enumerate(tokens):
                direction = next((way for way in ("up", "down") if token.lower() in self.lexicon[way]), "")
                if direction and (what := self._what_moved(tokens[max(0, i - 7) : i])):
                    found[direction, self._neutral(what)] = None
        return list(found)

    def _what_moved(self, before: list[str]) -> list[str]:
        """Return the noun phrase that `before` ends with."""
        what: list[str] = []
        for token in reversed(before):
            low = token.lower()
            verb, form = self.lexicon["forms"].get(low, ("", ""))
            nounish = (
                not form or low in self.lexicon["nounish"] or verb + "s" in self.lexicon["nounish"] or form == "ing"
            )
            linked = what and low in ("of", "and", "per", "our", "from", "in")
            if not token[0].isalpha() or low.endswith("ly") or not nounish or (low in self.stop and not linked):
                break
            what.insert(0, token)
        while what and (what[0].lower() in self.stop and what[0].lower() != "our"):
            what = what[1:]
        return (
            what
            if what and what[-1].lower() not in self.weak | self.lexicon["vague"] and not self._is_modifier(what[-1])
            else []
        )

    @functools.cached_property
    def terms(self) -> list[str]:
        """Terms that the text defines."""
        terms = dict.fromkeys(first or second for first, second in _DEFINED.findall(self.text))
        return [term for term in terms if term.lower() not in ("company", "employee", "party", "agreement")]

    @functools.cached_property
    def genre(self) -> str:
        """`risk`, `terms` (a contract), `policy` (accounting), or "": by the share of each one's words."""
        shares = {
            genre: sum(self.count[word] for word in self.lexicon[genre]) / (len(self.words) or 1)
            for genre in ("risk", "terms", "policy")
        }
        best = max(shares, key=shares.get)
        return best if shares[best] > 0.012 else ""

    @functools.cached_property
    def table(self) -> bool:
        """Whether the text is mostly a table of figures."""
        tokens = [token for sentence in self.sentences for token in sentence if token[0].isalnum()]
        return sum(token[0].isdigit() for token in tokens) > len(tokens) / 5

    @functools.cached_property
    def topics(self) -> list[int]:
        if self.corpus.size > 2:
            return self.corpus.topics.get(self.key, [])
        return list(_topic_scores(self.text.lower()))

    @functools.cached_property
    def clauses(self) -> list[tuple[str, str, str, str]]:
        """(subject, auxiliary, predicate, word after it) of sentences plain enough to be turned into a question."""
        return [clause for tokens in self.sentences if (clause := self._clause(tokens))]

    def _clause(self, tokens: list[str]) -> tuple[str, str, str, str] | None:
        """Find the subject of a sentence and its finite verb."""
        lexicon, start = self.lexicon, 0
        if "," in tokens[1:14] and tokens[0].lower() in lexicon["opener"]:
            start = tokens.index(",", 1) + 1
        subject: list[str] = []
        for i in range(start, min(start + 11, len(tokens) - 2)):
            low = tokens[i].lower()
            if low in lexicon["auxiliary"] and subject:
                main = next((word for word in tokens[i + 1 :] if not self._is_adverb(word)), "").lower()
                if low in ("has", "have", "had") and not (main in ("been", "not") or self._is_past(main)):
                    return self._turn(subject, "did" if low == "had" else "do", ["have", *tokens[i + 1 :]])
                return self._turn(subject, low, tokens[i + 1 :])
            if low in lexicon["break"] or not (low[0].isalpha() or low == "'"):
                return None
            verb, form = lexicon["forms"].get(low, ("", ""))
            actor = [word.lower() for word in subject] in lexicon["self"] or subject == [self.company]
            third = form == "third" and low not in lexicon["nounish"]
            if subject and (
                (actor and form in ("base", "third", "past"))
                or (third and tokens[i + 1].lower() not in (",", "of", "and"))
                or low in lexicon["up"] or low in lexicon["down"]
            ):  # fmt: skip
                return self._turn(subject, "did" if form == "past" else "do", [verb or low, *tokens[i + 1 :]])
            if not (low.endswith("ly") and actor):
                subject.append(tokens[i])
        return None

    def _dangles(self, predicate: list[str]) -> bool:
        """Whether the last word leads to something that was cut away."""
        before, last = ([""] + [word.lower() for word in predicate])[-2:]
        leads = (last[0].isdigit() and before in ("a", "an", "the")) or (last.endswith("ing") and before in self.stop)
        return last in self.weak or self._is_adverb(last) or leads

    @staticmethod
    def _is_adverb(word: str) -> bool:
        return word.endswith("ly") or word.lower() in ("also", "already", "always", "never", "often")

    def _is_past(self, word: str) -> bool:
        return self.lexicon["forms"].get(word, ("", ""))[1] in ("past", "participle", "base") or word.endswith("ed")

    def _turn(self, subject: list[str], auxiliary: str, rest: list[str]) -> tuple[str, str, str, str] | None:
        """Cut the predicate where the sentence goes on to details, which are left for the answer."""
        lexicon, low = self.lexicon, [word.lower() for word in subject]
        actor = low in lexicon["self"]
        if not actor and (low[-1] in self.stop or low[0] in lexicon["vague"] or low[0] in lexicon["cut"]):
            return None
        if rest[0] in lexicon["saying"] and rest[1].lower() not in ("to", "in", "on", "with", "for", "upon"):
            return self._clause(rest[2:] if rest[1].lower() == "that" else rest[1:])
        predicate: list[str] = []
        after = ""
        for token, ahead in zip(rest, [*(word.lower() for word in rest[1:]), ""], strict=True):
            word = token.lower()
            another = ahead in lexicon["auxiliary"] or lexicon["forms"].get(ahead, ("", ""))[1] == "third"
            if word in ("and", "or") and another:
                break
            ends = word in lexicon["cut"] or not (word[0].isalnum() or word in "'%")
            if ends and len(predicate) < 2 and word not in lexicon["cut"]:
                return None
            if (ends and len(predicate) >= 2) or len(predicate) == 14:
                after = word
                break
            predicate.append(token)
        while predicate and self._dangles(predicate):
            predicate.pop()
        if sum(not word.endswith("ly") for word in predicate) < 2 or len(predicate) + len(subject) < 4:
            return None
        several = low in (["i"], ["you"], ["they"]) or (low == ["we"] and not self.business)
        many = (low[-1].endswith("s") and not low[-1].endswith("ss")) or "and" in low
        if auxiliary == "do" and not several and (actor or not many):
            auxiliary = "does"
        elif actor and not several:
            auxiliary = {"are": "is", "were": "was", "have": "has"}.get(auxiliary, auxiliary)
        return self._neutral(subject), auxiliary, self._neutral(predicate), after

    def _neutral(self, words: list[str]) -> str:
        """Words as someone outside the company would say them."""
        text = " ".join(words).replace(" ' ", "'")
        text = re.sub(r"\b(?:[Ww]e|us|[Tt]he Company|the Registrant)\b(?!')", "{co}", text)
        text = re.sub(r"\b(?:[Oo]ur|[Tt]he Company's)\b", "{co_s}", text)
        text = re.sub(r"\bourselves\b", "itself", text)
        text = re.sub(r"\b[Yy]our\b", "my", text)
        text = re.sub(r"\b(?<=(?:\bto|\bby|\bof) )you\b|\b(?<=(?:with|from|give|upon) )you\b|(?<=\w )you$", "me", text)
        text = re.sub(r"\b[Yy]ou\b", "I", text)
        first = text.split(" ", 1)[0]
        small = first.lower() in self.stop and first != "I"
        if small or (first.istitle() and first != self.company and not self._keeps_case(first)):
            text = first.lower() + text[len(first) :]
        return text

    # How to ask about it.

    def kinds(self) -> tuple[dict[str, float], dict[str, float]]:
        """Return {kind of question: its weight} for this text, of long questions and of short ones."""
        if not self.english:
            short = {"one": 1, "two": 1, "keys": 1} if self.language else {"keys": 1}
            return ({"two": 1, "three": 1} if self.language else short), short
        long = {
            "long": 2.5 if self.clauses else 0,
            "pair": 1.5 if len(self.clauses) > 1 else 0,
            "two": 0.8,
            "three": 1.2,
            "gist": 1.2 if self.topics and self.business else 0,
        }
        short = {
            "ask": 2.0 if self.clauses else 0,
            "two": 0.7,
            "one": 0.4,
            "keys": 1.0,
            "topic": 2.5 if self.topics and self.business else 0,
            "row": 2.5 if self.rows else 0,
            "amount": 1.0 if self.amounts else 0,
            "change": 3.0 if self.changes else 0,
            "define": 1.5 if self.terms else 0,
        }
        if self.genre and self.business and not self.table:
            long[self.genre] = 2.0
        if self.table and self.rows:
            long |= {"long": 0, "pair": 0, "row": 6.0}
            short |= {"row": 6.0, "topic": 3 * short["topic"], "ask": 0}
        return long, short

    def write(self, number: int) -> list[str]:
        """Long and short questions in turn, no kind too often."""
        asked: dict[str, str] = {}
        lengths = self.kinds()
        first = self.random.randrange(2)
        for attempt in range(10 * number):
            if len(asked) == number:
                break
            turn = (first + len(asked) + attempt // 8) % 2
            kinds = lengths[turn]
            kind = self.random.choices(list(kinds), list(kinds.values()))[0]
            write = getattr(self, f"_{kind}", None)
            draft = write() if write else self._frame(kind)
            question = self._finish(self._lengthen(draft) if draft and turn == 0 else draft)
            key = " ".join(sorted(set(_words(question))))
            terse = kind == "keys" and question.count(" ") < 2
            if len(key) > 7 and key not in asked and not terse and not self._copies(question):
                asked[key] = question
                kinds[kind] *= 0.35
        for _, phrase, _ in self.phrases:
            if len(asked) == number:
                break
            asked.setdefault(phrase.lower(), phrase)
        return list(asked.values())

    def _lengthen(self, question: str) -> str:
        """Add what people put around a question: where they look, and what more they would like to hear."""
        if not self.english:
            return question
        if self.random.random() < 0.12 and question[0].isupper():
            question = self._pick("opening") + question[0].lower() + question[1:]
        single = len(re.findall(r"[.?](?= |$)", question)) == 1
        return f"{question} {self._pick('tail')}" if single and self.random.random() < 0.6 else question

    def _frame(self, kind: str) -> str:
        """A ready-made question around phrases of the text."""
        frame = self._pick(kind)
        phrases = self._choose(sum(f"{{{slot}}}" in frame for slot in SLOTS))
        if kind == "keys":
            phrases = [re.sub(r"^(the|an?) ", "", phrase) for phrase in phrases]
        return self._fill(frame, *phrases) if phrases else ""

    def _topic(self) -> str:
        """What analysts ask of such a text, in none of its words."""
        question = self._about()
        return question + self._order() if re.search("much|ratio|margin|percent|growth", question) else question

    def _gist(self) -> str:
        """The same, and then something from the text."""
        question, other = self._about(), self._choose(1)
        return f"{question} {self._fill(self._pick('second'), *other)}" if other and question[-1] == "?" else question

    def _about(self) -> str:
        topic = min(self.topics, key=lambda topic: (self.used[topic], self.random.random()))
        self.used[topic] += 1
        return self.random.choice(self.lexicon["topics"][topic][1])

    def _row(self) -> str:
        return self._fill(self._pick("row"), *self.random.sample(self.rows, 2)) + self._order()

    def _amount(self) -> str:
        return self._fill(self._pick("amount"), self.random.choice(self.amounts)) + self._order()

    def _change(self) -> str:
        direction, what = self.random.choice(self.changes)
        return self._fill(self._pick(direction), what)

    def _define(self) -> str:
        return self._fill(self._pick("define"), self.random.choice(self.terms))

    def _ask(self) -> str:
        """A sentence of the text turned into a question."""
        fresh = [clause for clause in self.clauses if not self.used[clause]] or self.clauses
        clause = self.random.choice(fresh)
        self.used[clause] += 1
        subject, auxiliary, predicate, after = clause
        subject, predicate = self._vary(subject), self._vary(predicate)
        if auxiliary == "may":
            auxiliary = self.random.choice(("could", "might"))
        asked = f"{auxiliary} {subject} {predicate}?"
        if auxiliary in ("could", "might", "can", "would"):
            openings = ("How ", "Why ", "In what circumstances ", "")
            if self.random.random() < 0.25:
                return f"What happens if {subject} {auxiliary} {predicate}?"
        elif after in ("when", "if", "upon", "unless", "until", "once"):
            openings = ("When ", "Under what conditions ")
        elif after in ("because", "due", "since"):
            openings = ("Why ", "For what reasons ")
        elif auxiliary in ("is", "are", "was", "were"):
            openings = ("How ", "Why ", "")
        else:
            openings = ("How ", "Why ", "In what way ", "")
        asked = self.random.choice(openings) + asked
        return asked[0].upper() + asked[1:]

    def _long(self) -> str:
        """A sentence turned into a question, and a second question about something else in the text."""
        other = self._choose(1)
        return f"{self._ask()} {self._fill(self._pick('second'), *other)}" if other else self._ask()

    def _pair(self) -> str:
        """Two sentences turned into questions."""
        return f"{self._ask()} {self._ask()}"

    def _pick(self, kind: str) -> str:
        frames = (self.lexicon["frames"].get(self.language) or self.lexicon["frames"][""])[kind]
        if self.english and not self.business:
            frames = [frame for frame in frames if "{co" not in frame] or frames
        return self.random.choice(frames)

    def _order(self) -> str:
        """What analysts add to a question now and then."""
        return " " + self._pick("order") if self.random.random() < 0.15 else ""

    def _choose(self, number: int) -> list[str]:
        """Return phrases of the text, heavier ones and neighbours of the first more often, fresh ones first."""
        picked: list[tuple[float, str, int]] = []
        pool = self.phrases[:14]
        while pool and len(picked) < number:
            weights = [
                weight * (3.0 if picked and abs(i - picked[0][2]) < 2 else 1.0) * 0.3 ** self.used[phrase]
                for weight, phrase, i in pool
            ]
            picked.append(self.random.choices(pool, weights)[0])
            pool = [found for found in pool if found not in picked]
        phrases = [phrase for _, phrase, _ in picked]
        self.used.update(phrases)
        return phrases if len(phrases) == number else []

    def _fill(self, frame: str, *phrases: str) -> str:
        """Put phrases, reworded, into the slots of a frame."""
        for slot, phrase in zip(SLOTS, phrases, strict=False):
            head = phrase.split(" of ")[0]
            if head.endswith("s") and not head.endswith(("ss", "is", "us")):
                for one, many in (("is", "are"), ("was", "were"), ("does", "do"), ("has", "have")):
                    frame = re.sub(rf"\b{one}(?= \{{{slot}\}})", many, frame)
                    frame = re.sub(rf"\b{one.title()}(?= \{{{slot}\}})", many.title(), frame)
            frame = frame.replace(f"{{{slot}}}", self._vary(phrase))
        return frame

    def _vary(self, phrase: str) -> str:
        """Put other words for some of a phrase's own."""
        if not self.english:
            return phrase

        def other(match: re.Match) -> str:
            if self.random.random() > self.writer.synonym_rate:
                return match[0]
            return self.random.choice(self.lexicon["synonyms"][match[0].lower()])

        varied = self.lexicon["synonym_pattern"].sub(other, phrase)
        return re.sub(r"\ban? (?=(\w))", lambda match: "an " if match[1] in "aeiou" else "a ", varied)

    def _finish(self, question: str) -> str:
        """Fill in company and period, and put the last touch to spaces and capitals."""
        year = self.random.choices(list(self.years), list(self.years.values()))[0] if self.years else ""
        spelt = self.random.choice(("FY{}", "{}", "fiscal {}", "FY {}"))
        sentence = question.rstrip().endswith(("?", "."))
        fy, fy0 = (spelt.format(year), spelt.format(int(year) - 1)) if year else ("the year", "the year before")
        named = self.company and self.random.random() < 0.6
        company = self.company if named else "the company" if self.business else "the authors"
        values = {
            "co": company,
            "co_s": company + ("'" if company.endswith("s") else "'s"),
            "name": self.company,
            "per": self.random.choice((f"in {fy}", f"as of {fy}", f"for {fy}", "")) if year else "",
            "fy": fy if sentence or year else "",
            "fy0": fy0,
        }
        question = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], ""), question)
        question = re.sub(r"\s+([?.,](?:\s|$))" if self.language != "fr" else r"\s+([.,](?:\s|$))", r"\1", question)
        question = " ".join(question.split())
        return question[:1].upper() + question[1:] if sentence else question

    def _copies(self, question: str) -> bool:
        """Whether the question repeats ten words of the text in a row."""
        words, text = _words(question), f" {' '.join(self.words)} "
        return any(f" {' '.join(words[i : i + 10])} " in text for i in range(len(words) - 9))
