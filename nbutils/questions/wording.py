"""The sentences of a text that read well, and the phrases that tell what it is about.

Nothing here knows a subject. What a word weighs, which sentences are headers and footers, and which dots end no
sentence is learnt from the corpus; only the stop words come from a list (that of the package bm25s).
"""

import functools
import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence

LONGEST, LONGEST_PHRASE, MOST_KEYWORDS = 24, 4, 7  # words in a query, a phrase of keywords, and all keywords of a query
SEEN = 5  # texts that must hold a word before it is judged
WEAK = 0.15  # burst of "also" and "provide" in most corpora; of terms 0.3 and more

_LETTERS = r"[^\s\d\x00-@\[-`{-¿×÷।॥\u2000-\u2bff\u3000-\u303f\ufe00-\uffff]+"  # \w lacks the vowel signs of Hindi
_WORD = re.compile(rf"{_LETTERS}(?:[-'’&]{_LETTERS})*")
_TOKEN = re.compile(rf"{_WORD.pattern}|\d[\w.,]*|[^\w\s]")
_BULLET = re.compile(r"[•●▪■◦☒☐►✓·|\ue000-\uf8ff]+|\.(?:\s?\.){2,}|_{2,}")
_NUMBERING = re.compile(r"^(?:[\W_]*(?:\d{1,3}|[a-zA-Z]|[ivxIVX]{1,4})[.)]|[-–—*]+)\s+")
_FUSED = re.compile(r"(?<=[^\W\d_][^\W\d_])([.!?])(?=[A-Z][a-z])")
_END = re.compile(r"([.!?…।؟]+)[\"”’»)\]]*\s+(?=[\"“«(¿¡]*([^\W_]))")
_INNER = re.compile(r"\b[a-zß-ÿ]+ ([A-ZÀ-Þ]\w+) [a-zß-ÿ]")
_JOINED = re.compile(r"[^\W\d_][.!?;][\dA-Z]|[a-z]{2}[A-Z]|\d[a-z]{3}|://|www\.|[\ufffd\x00-\x1f]")


@functools.cache
def _stop_lists() -> list[frozenset[str]]:
    from bm25s import stopwords

    names = sorted(name for name in dir(stopwords) if name.startswith("STOPWORDS_") and name != "STOPWORDS_EN")
    return [frozenset(map(str.casefold, getattr(stopwords, name))) for name in names]


def _stop_words(counts: Counter) -> frozenset[str]:
    """Return the stop words of the language whose stop words are the most frequent among words counted."""
    return max(_stop_lists(), key=lambda stop: sum(counts[word] for word in stop))


@functools.lru_cache(maxsize=64)
def _blocks(text: str) -> list[str]:
    """Return paragraphs and single lines: a line of full width goes on in the next, a short one only in lower case."""
    lines = [line for part in _BULLET.split(text) for line in [*part.split("\n"), ""]]
    width = 0.7 * sorted(map(len, lines))[int(0.9 * len(lines))]
    blocks, block, last = [], "", ""
    for line in map(str.strip, lines):
        goes_on = block and line and (line[0].islower() or len(last) >= width)
        if not goes_on and block:
            blocks.append(block)
        block = f"{block} {line}" if goes_on else line
        last = line
    return [*blocks, block] if block else blocks


class Wording:
    """What is learnt from the texts of a corpus; without any, what a text alone says counts."""

    def __init__(self, texts: Sequence[str] = ()):
        cased, inner, abbreviations = Counter(), Counter(), set()
        self.size = len(texts)
        self.times, self.frequency = Counter(), Counter()  # how often a word occurs, and in how many texts
        for text in texts:
            words = _WORD.findall(text)
            folded = list(map(str.casefold, words))
            cased.update(words)
            self.times.update(folded)
            self.frequency.update(set(folded))
            inner.update(_INNER.findall(text))
            abbreviations.update(re.findall(r"(?<![\w.])([^\W\d_]+)\.\s+(?=[a-z,])", text))
        stop = _stop_words(self.frequency) if texts else frozenset()
        common = {word for word, count in self.frequency.items() if self.size > 20 and count > self.size / 2}
        self.lower = frozenset(filter(str.islower, cased))
        self.commonest = stop | common
        self.abbreviations = frozenset(abbreviations)
        # stop words that have a capital only where a sentence begins
        self.openers = frozenset(word for word in cased if word.casefold() in stop and 5 * inner[word] < cased[word])
        bursts = sorted(self.burst(word) for word, count in self.frequency.items() if count >= SEEN)
        told = len(bursts) > 200 and bursts[3 * len(bursts) // 4] > WEAK  # else the texts are too short or too few
        self.weak = WEAK if told else -1.0
        found = Counter(sentence for text in texts for sentence in set(self.sentences(text)))
        self.repeated = frozenset(sentence for sentence, count in found.items() if count > 2)  # headers and footers
        self.longest, self.most_keywords, self.keyword_share = LONGEST, MOST_KEYWORDS, 0.5

    def learn_style(self, examples: Sequence[str]) -> None:
        """Take over how many of these questions are keywords (few stop words, no mark at the end), and their lengths."""
        stop = _stop_words(Counter(_WORD.findall(" ".join(examples).casefold())))
        sentences, keywords = [12], [2]
        for example in examples:
            words = _WORD.findall(example.casefold())
            few = sum(word in stop for word in words) <= 0.25 * len(words)
            kind = keywords if few and example.rstrip()[-1:] not in "?.!؟？。" else sentences
            kind.append(len(words))
        self.keyword_share = (len(keywords) - 1) / len(examples)
        self.longest = min(LONGEST, max(sentences))
        self.most_keywords = min(MOST_KEYWORDS, max(keywords))

    def sentences(self, text: str) -> list[str]:
        """Return the text's sentences, as they stand in it but for line breaks, and what is left between them."""
        found = []
        for block in _blocks(text):
            block, start = _FUSED.sub(r"\1 ", " ".join(block.split())), 0
            for end in _END.finditer(block):
                before = re.search(r"[^\W_]*$", block[max(start, end.start() - 20) : end.start()])[0]
                short = end[1] == "." and (len(before) < 2 or (len(before) < 4 and before.istitle()))
                if not (end[2].islower() or end[2].isdigit() or short or before in self.abbreviations):
                    found.append(block[start : end.end()])
                    start = end.end()
            found.append(block[start:])
        return [sentence.strip() for sentence in found]

    def without_heading(self, sentence: str) -> str:
        """Return a sentence without a number or title that stands before it with no dot ("Your Choices We keep what you …")."""
        sentence = _NUMBERING.sub("", sentence)
        words = sentence.split()
        for i, word in enumerate(words[1:10], 1):
            if word in self.openers and word.istitle() and words[i + 1 : i + 2] and words[i + 1][0].islower():
                title = [before[0].isupper() for before in words[:i] if before.casefold() not in self.commonest]
                if title and sum(title) >= 0.75 * len(title) and words[i - 1][-1] not in ",:;(":
                    return " ".join(words[i:])
        return sentence

    def reads_well(self, sentence: str) -> bool:
        """Whether a sentence is whole, and neither a heading nor a line of a table."""
        words, bare_words = sentence.split(), _WORD.findall(sentence)
        if not 5 <= len(words) <= LONGEST or _JOINED.search(sentence) or any(map(self.is_run_together, bare_words)):
            return False
        if sentence.lstrip('"“«(¿¡')[:1].islower() or not re.search(r"[^\s.][.!?…।؟]+[\"”’»)\]]*$", sentence):
            return False
        if any(sentence.count(a) != sentence.count(b) for a, b in ("()", "[]", "“”", "«»")) or sentence.count('"') % 2:
            return False
        letters = (len(words) + sum(map(len, bare_words))) / len(sentence)
        figures = sum(any(map(str.isdigit, word)) for word in words)
        shouted = sum(len(word) > 1 and word.isupper() for word in words)
        if letters < 0.85 or max(figures, shouted) > 0.2 * len(words):
            return False
        capital = sum(word[0].isupper() for word in words) <= 0.5 * len(words)
        return capital or (len(words) < 13 and not self.commonest.isdisjoint(words))  # names alone are no sentence

    def is_run_together(self, word: str) -> bool:
        """Whether a rare word is two far more common ones: a lost space."""
        word, count = word.casefold(), self.frequency
        splits = range(1, len(word)) if self.size > 20 and count[word] < 3 else ()
        return any(5 * count[word] <= min(count[word[:i]], count[word[i:]]) for i in splits)

    def burst(self, word: str) -> float:
        """Return how much more a word (in lower case) comes together in few texts than if it were spread by chance.

        Source: residual inverse document frequency; Church, Gale: Inverse Document Frequency, WVLC 1995.
        """
        texts = self.frequency[word]
        return math.log2((1 - math.exp(-self.times[word] / self.size)) * self.size / texts) if texts else 0.5

    def weight(self, word: str) -> float:
        """Return how much a word in lower case tells about a text: 0 for stop words and for words such as "provide" and
        "also", which occur in many texts but, unlike terms, hardly ever twice in one."""
        burst = self.burst(word)
        weak = self.frequency[word] >= SEEN and burst < self.weak
        if weak or word in self.commonest or self.is_run_together(word):
            return 0.0
        rare = math.log((self.size + 2) / (self.frequency[word] + 1)) or 1.0
        return rare * (0.5 + min(max(burst, 0), 1))

    def sentence_queries(self, text: str, rng: random.Random) -> Iterator[str]:
        """Yield the sentences that read well, in random order, those of the length learnt from examples first."""
        found = list(dict.fromkeys(self.sentences(text)))
        for sentence in sorted(rng.sample(found, len(found)), key=lambda found: len(found.split()) > self.longest):
            if sentence not in self.repeated and self.reads_well(whole := self.without_heading(sentence)):
                yield whole

    def phrases(self, text: str) -> dict[tuple[str, ...], float]:
        """Return the runs of words that tell something, in the order of the text, with their weights."""
        tokens = [token for block in _blocks(text) for token in [*_TOKEN.findall(block), "."]]
        words = Counter(map(str.casefold, tokens))
        stop = frozenset() if self.size else _stop_words(words)
        telling = (word for word in words if len(word) > 1 and not word[0].isdigit() and word not in stop)
        tells = Counter({word: self.weight(word) for word in telling})
        runs, times = {}, Counter()
        for telling, run in itertools.groupby(tokens, lambda token: bool(tells[token.casefold()])):
            run = tuple(run)
            for part in ([run] if len(run) <= LONGEST_PHRASE else zip(run)) if telling else ():
                key = tuple(map(str.casefold, part))
                runs.setdefault(key, part)
                times[key] += 1
        weights = {}
        for key, run in runs.items():
            known = not self.size or all(self.frequency[word] > 1 or words[word] > 1 for word in key)
            if known and sum(map(len, run)) > 3 and not _JOINED.search(" ".join(run)):
                told = sum(tells[word] for word in key) / len(key)
                weights[run] = told * (1 + math.log(times[key])) * (1 if len(run) > 1 else 0.5)
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
        in_order = list(weights)
        best = sorted(weights, key=lambda phrase: (-weights[phrase], phrase))[: min(10, max(4, len(weights) // 2))]
        for first in sorted(best, key=lambda phrase: -(rng.random() ** (1 / max(weights[phrase], 1e-9) ** 2))):
            position = in_order.index(first)
            near = in_order[max(position - 3, 0) : position + 4]
            chosen = [first]
            for phrase in sorted(near, key=lambda phrase: -weights[phrase]):
                words = " ".join(word for part in [*chosen, phrase] for word in part).casefold().split()
                light = weights[phrase] < 0.3 * weights[first]
                if len(words) == len(set(words)) <= self.most_keywords and len(chosen) < 3 and not light:
                    chosen.append(phrase)
            if sum(map(len, chosen)) > 1:
                yield " ".join(map(self.cased, sorted(chosen, key=in_order.index)))
