"""Queries for a text without a language model: its own sentences, and its rarest phrases as keywords.

Nothing here knows a subject. What a word weighs, which sentences are headers and footers, and which dots end no
sentence is learnt from the corpus; only the stop words come from a list (that of the package bm25s).
"""

import functools
import hashlib
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from pydantic import PrivateAttr

VERSION = "offline-5"
LONGEST = 24  # words in a query
LONGEST_PHRASE = 4

_LETTERS = r"[^\s\d\x00-@\[-`{-¿×÷।॥\u2000-\u2bff\u3000-\u303f\ufe00-\uffff]+"  # \w lacks the vowel signs of Hindi
_WORD = re.compile(rf"{_LETTERS}(?:[-'’&]{_LETTERS})*")
_TOKEN = re.compile(rf"{_WORD.pattern}|\d[\w.,]*|[^\w\s]")
_BULLET = re.compile(r"[•●▪■◦☒☐►✓·|\ue000-\uf8ff]+|\.(?:\s?\.){2,}|_{2,}")
_NUMBERING = re.compile(r"^(?:[\W_]*(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)]|[-–—*]+)\s+")
_FUSED = re.compile(r"(?<=[^\W\d_][^\W\d_])([.!?])(?=[A-Z][a-z])")
_END = re.compile(r"([.!?…।؟]+)[\"”’»)\]]*\s+(?=[\"“«(¿¡]*([^\W_]))")
_JOINED = re.compile(r"[^\W\d_][.!?;][\dA-Z]|[a-z]{2}[A-Z]|\d[a-z]{3}|://|www\.|[\ufffd\x00-\x1f]")


class OfflineQuestionWriter(CustomLLM):
    """A LlamaIndex LLM that writes search queries for a text with no network and no model.

    It answers any prompt that holds a text between two dashed lines (or another delimiter) and asks for a number of
    questions with that many queries, one per line, or with NONE where the text holds no words. The same seed, corpus
    and text give the same queries, in whatever order or thread they are asked for.

    Args:
        seed: another seed, other queries.
        kinds: what the first, second, … query of a text is, over and over: "sentence" (one of the text's own, of at
            most 24 words) or "keywords" (two or three phrases, those of rare words more often).
    """

    seed: int = 0
    kinds: tuple[str, ...] = ("sentence", "keywords")
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
        """Learn from all texts of a corpus how common each word and each sentence is; return the writer."""
        self._corpus = _Corpus.of(list(texts))
        return self

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        text, number = read_prompt(prompt)
        return CompletionResponse(text="\n".join(self.questions(text, number)) or "NONE")

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        answer = self.complete(prompt).text
        yield CompletionResponse(text=answer, delta=answer)

    def questions(self, text: str, number: int = 2) -> list[str]:
        """Return up to `number` different queries for `text`, fewer only where it holds too few words.

        Those for a smaller number are the first of those for a larger one.
        """
        key = hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()
        writers = {"sentence": self._corpus.sentence_queries, "keywords": self._corpus.keyword_queries}
        pools = {kind: writers[kind](text, random.Random(f"{self.seed}:{kind}:{key}")) for kind in writers}
        written: dict[str, str] = {}
        for position in range(number):
            kind = self.kinds[position % len(self.kinds)]
            for pool in (pools[kind], *pools.values()):
                query = next((query for query in pool if query.casefold() not in written), "")
                if query:
                    written[query.casefold()] = query
                    break
        return list(written.values())


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


@functools.cache
def _stop_lists() -> list[frozenset[str]]:
    from bm25s import stopwords

    names = [name for name in dir(stopwords) if name.startswith("STOPWORDS_") and name != "STOPWORDS_EN"]
    return [frozenset(word.casefold() for word in getattr(stopwords, name)) for name in sorted(names)]


def _stop_words(counts: Counter) -> frozenset[str]:
    """Return the stop words of the language whose stop words are the most frequent among words counted."""
    return max(_stop_lists(), key=lambda stop: sum(counts[word] for word in stop))


def _blocks(text: str) -> Iterator[str]:
    """Yield paragraphs and single lines: a line of full width goes on in the next, a short one only in lower case."""
    lines = [line for part in _BULLET.split(text) for line in [*part.split("\n"), ""]]
    width = 0.7 * sorted(map(len, lines))[int(0.9 * len(lines))]
    block = last = ""
    for line in map(str.strip, lines):
        goes_on = block and line and (line[0].islower() or len(last) >= width)
        if not goes_on and block:
            yield block
        block = f"{block} {line}" if goes_on else line
        last = line
    if block:
        yield block


@dataclass
class _Corpus:
    """What a writer knows of the texts that it was fitted to."""

    size: int = 0
    frequency: Counter = field(default_factory=Counter)  # number of texts that hold a word
    lower: frozenset[str] = frozenset()  # words that occur in lower case
    commonest: frozenset[str] = frozenset()  # stop words, and words that every other text holds
    repeated: frozenset[str] = frozenset()  # sentences of more than two texts: headers, footers, phrases of a form
    abbreviations: frozenset[str] = frozenset()  # words that a dot may follow within a sentence

    @classmethod
    def of(cls, texts: list[str]) -> "_Corpus":
        frequency, lower, abbreviations = Counter(), Counter(), set()
        for text in texts:
            words = set(_WORD.findall(text))
            frequency.update({word.casefold() for word in words})
            lower.update(word for word in words if word.islower())
            abbreviations.update(re.findall(r"(?<![\w.])([^\W\d_]+)\.\s+(?=[a-z,])", text))
        common = {word for word, count in frequency.items() if len(texts) > 20 and count > len(texts) / 2}
        corpus = cls(
            len(texts), frequency, frozenset(lower), frozenset(common | _stop_words(frequency)),
            abbreviations=frozenset(abbreviations),
        )  # fmt: skip
        found = Counter(sentence for text in texts for sentence in set(corpus.sentences(text)))
        corpus.repeated = frozenset(sentence for sentence, count in found.items() if count > 2)
        return corpus

    def sentences(self, text: str) -> list[str]:
        """Return the text's whole sentences, as they stand in it but for line breaks."""
        found = []
        for block in _blocks(text):
            block, start = _FUSED.sub(r"\1 ", " ".join(block.split())), 0
            for end in _END.finditer(block):
                before = re.search(r"[^\W_]*$", block[start : end.start()])[0]
                short = end[1] == "." and (len(before) < 2 or (len(before) < 4 and before.istitle()))
                if not (end[2].islower() or end[2].isdigit() or short or before in self.abbreviations):
                    found.append(block[start : end.end()])
                    start = end.end()
            found.append(block[start:])
        return [_NUMBERING.sub("", sentence.strip()) for sentence in found]

    def reads_well(self, sentence: str) -> bool:
        """Whether a sentence is whole, and neither a heading nor a line of a table."""
        words = sentence.split()
        if not 5 <= len(words) <= LONGEST or sentence in self.repeated or _JOINED.search(sentence):
            return False
        if sentence.lstrip('"“«(¿¡')[:1].islower() or not re.search(r"[^\s.][.!?…।؟]+[\"”’»)\]]*$", sentence):
            return False
        if any(sentence.count(a) != sentence.count(b) for a, b in ("()", "[]", "“”", "«»")) or sentence.count('"') % 2:
            return False
        letters = (len(words) + sum(map(len, _WORD.findall(sentence)))) / len(sentence)
        figures = sum(any(map(str.isdigit, word)) for word in words) / len(words)
        shouted = sum(len(word) > 1 and word.isupper() for word in words) / len(words)
        capital = sum(word[0].isupper() for word in words) / len(words)
        title = len(words) < 13 and not self.commonest.isdisjoint(words)  # names without such words are no sentence
        if letters < 0.85 or figures > 0.2 or shouted > 0.2 or (capital > 0.5 and not title):
            return False
        return not any(map(self.is_run_together, _WORD.findall(sentence)))

    def is_run_together(self, word: str) -> bool:
        """Whether a rare word is two far more common ones: a lost space."""
        word, count = word.casefold(), self.frequency
        return self.size > 20 and count[word] < 3 and any(
            5 * count[word] <= min(count[word[:i]], count[word[i:]]) for i in range(1, len(word))
        )  # fmt: skip

    def sentence_queries(self, text: str, rng: random.Random) -> Iterator[str]:
        """Yield the sentences that read well, in random order."""
        found = [sentence for sentence in dict.fromkeys(self.sentences(text)) if self.reads_well(sentence)]
        yield from rng.sample(found, len(found))

    def phrases(self, text: str) -> dict[str, float]:
        """Return the runs of words between stop words and punctuation, in the order of the text, with their weights."""
        once = Counter(map(str.casefold, _WORD.findall(text)))
        stop, size = self.commonest or _stop_words(once), self.size
        runs: list[tuple[str, ...]] = []
        for block in _blocks(text):
            run: list[str] = []
            for token in [*_TOKEN.findall(block), "."]:
                if len(token) > 1 and not token[0].isdigit() and token.casefold() not in stop:
                    run.append(token)
                elif run:
                    runs += [tuple(run)] if len(run) <= LONGEST_PHRASE else zip(run)
                    run = []
        weights: dict[str, float] = {}
        for run, times in Counter(runs).items():
            counts = [(word, self.frequency[word]) for word in map(str.casefold, run)]
            if size and any((count < 2 and once[word] < 2) or self.is_run_together(word) for word, count in counts):
                continue
            rare = sum(math.log((size + 2) / (count + 1)) for _, count in counts) / len(counts)
            phrase = self.cased(run)
            if len(phrase) > 3 and not _JOINED.search(phrase):
                weights[phrase] = rare * (1 + math.log(times)) * (1 if len(run) > 1 else 0.5)
        return weights

    def cased(self, run: tuple[str, ...]) -> str:
        """Return a run of words in lower case, unless it is or holds a name."""
        lowered = [word.lower() for word in run]
        name = any(word[0].isupper() for word in run[1:]) and not all(map(str.isupper, run))
        return " ".join(run if name or not self.lower.issuperset(lowered) else lowered)

    def keyword_queries(self, text: str, rng: random.Random) -> Iterator[str]:
        """Yield one to three phrases at a time that stand near each other, in the order of the text: first one of the
        heaviest, heavy ones more often, then its heaviest neighbours."""
        weights = self.phrases(text)
        order = {phrase: position for position, phrase in enumerate(weights)}
        best = sorted(weights, key=lambda phrase: (-weights[phrase], phrase))[: min(10, max(4, len(weights) // 2))]
        for first in sorted(best, key=lambda phrase: -(rng.random() ** (1 / max(weights[phrase], 1e-9) ** 2))):
            near = [phrase for phrase in weights if 0 < abs(order[phrase] - order[first]) < 4]
            chosen = [first]
            for phrase in sorted(near, key=lambda phrase: -weights[phrase]):
                words = " ".join([*chosen, phrase]).casefold().split()
                if len(words) == len(set(words)) <= 7 and len(chosen) < 3:
                    chosen.append(phrase)
            if len(" ".join(chosen).split()) > 1:
                yield " ".join(sorted(chosen, key=order.__getitem__))
