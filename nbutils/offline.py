"""Questions about a text without an LLM: phrases and clauses of the text, reworded as people ask."""

import functools
import hashlib
import json
import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import resources
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from pydantic import PrivateAttr

VERSION = "offline-1"
_WORD = re.compile(r"[^\W\d_]+(?:[-&'’./][^\W\d_]+)*|\d[\d,.]*\d%?|\d%?|[^\w\s]")
_SENTENCE = re.compile(r"(?<=[a-z0-9)\]”’\"%][.!?;])\s*(?=[A-Z“\"(•☒☐])|[•●▪■◦]|\n\s*\n|(?<=[.!?])\s+(?=\S)")
_YEAR = re.compile(r"\b(?:19[89]\d|20[0-4]\d)\b")
_NAME = re.compile(r"\b([A-Z][\w&’'-]+(?: [A-Z][\w&’'-]+){0,2}),? (?:Inc\b|Corp(?:oration)?\b|Ltd|plc|PLC|AG\b|SE\b|LLC)")
_ROW = re.compile(r"([A-Z][A-Za-z’',&() /-]{5,70}?)[\s.:]*(?:\(\d\))?\$?\s*\(?\d[\d,]*(?:\.\d+)?\)?\s*%?\s*\$?\s*[(\d—-][\d,]*(?:\.\d+)?")


@functools.cache
def _lexicon() -> dict[str, Any]:
    """Return the word lists of lexicon.json in the form that the writer looks them up."""
    raw = json.loads(resources.files("nbutils").joinpath("lexicon.json").read_text(encoding="utf-8"))
    forms: dict[str, tuple[str, str]] = {}
    irregular = {entry.split(":")[0]: entry.split(":")[1:] for entry in raw["irregular"].split()}
    for verb in [*raw["verbs"].split(), *irregular]:
        forms.setdefault(verb, (verb, "base"))
        third = re.sub(r"([^aeiou])y$", r"\1ie", verb)
        third += "es" if re.search(r"(s|x|z|ch|sh|o)$", third) else "s"
        forms.setdefault(third, (verb, "third"))
        if verb in irregular:
            past, participle = irregular[verb]
            forms.setdefault(past, (verb, "past"))
            forms.setdefault(participle, (verb, "participle"))
        else:
            stem = re.sub(r"([^aeiou])y$", r"\1i", verb).removesuffix("e")
            double = stem + stem[-1]
            forms.setdefault(stem + "ed", (verb, "past"))
            if re.search(r"[^aeiou][aeiou][bdgmnprt]$", verb):
                forms.setdefault(double + "ed", (verb, "past"))
        forms.setdefault(verb.removesuffix("e") + "ing", (verb, "ing"))
    synonyms: dict[str, list[str]] = {}
    for line in raw["synonyms"]:
        head, *others = line.split("|")
        synonyms.setdefault(head.replace("’", "'").lower(), []).extend(others)
    longest_first = sorted(synonyms, key=len, reverse=True)
    return {
        "stop": {language: frozenset(words.split()) for language, words in raw["stop"].items()},
        "forms": forms,
        "nounish": frozenset(raw["nounish"].split()),
        "plain": frozenset(raw["adjectives"].split()),
        "synonyms": synonyms,
        "synonym_pattern": re.compile(r"\b(" + "|".join(map(re.escape, longest_first)) + r")(?![\w-])", re.I),
        "topics": [([re.compile(cue, re.I) for cue in cues], asks) for cues, asks in raw["topics"]],
        "frames": raw["frames"],
    }


class OfflineQuestionWriter(CustomLLM):
    """A LlamaIndex LLM that writes questions about a text with no network and no model.

    It answers any prompt that holds a text between two dashed lines (or another delimiter) and asks for a number
    of questions, with that many questions, one a line. The same seed, corpus and prompt give the same answer,
    in whatever order or thread they are asked.

    Args:
        seed: another seed, other questions.
    """

    seed: int = 0
    synonym_rate: float = 0.45
    _frequency: Counter = PrivateAttr(default_factory=Counter)
    _texts: int = PrivateAttr(default=0)
    _company: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def metadata(self) -> LLMMetadata:
        name = VERSION if self.seed == 0 else f"{VERSION}-seed{self.seed}"
        return LLMMetadata(model_name=name, context_window=1_000_000, num_output=4096, is_chat_model=False)

    @classmethod
    def class_name(cls) -> str:
        return "OfflineQuestionWriter"

    @classmethod
    def for_corpus(cls, nodes: Iterable, **options) -> "OfflineQuestionWriter":
        """Return a writer that knows the words of the corpus that `nodes` (or their texts) make up."""
        return cls(**options).fit(n if isinstance(n, str) else n.get_content() for n in nodes)

    def fit(self, texts: Iterable[str]) -> "OfflineQuestionWriter":
        """Learn how common each word is in `texts` (in order), and whose documents they are; return the writer."""
        texts = list(texts)
        frequency = Counter(word for text in texts for word in set(_words(text)))
        named = [_NAME.findall(text) for text in texts]
        overall = Counter(name for names in named for name in names).most_common(1)
        company = {}
        for i, text in enumerate(texts):
            near = Counter(name for names in named[max(0, i - 15) : i + 16] for name in names)
            best = near.most_common(1) or overall
            if best and best[0][1] > 1:
                company[_key(text)] = best[0][0]
        self._frequency, self._texts, self._company = frequency, len(texts), company
        return self

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        text, number = read_prompt(prompt)
        return CompletionResponse(text="\n".join(self.questions(text, number)))

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        answer = self.complete(prompt).text

        def tokens() -> CompletionResponseGen:
            said = ""
            for piece in re.findall(r"\S+\s*", answer):
                said += piece
                yield CompletionResponse(text=said, delta=piece)

        return tokens()

    def questions(self, text: str, number: int = 2) -> list[str]:
        """Return up to `number` different questions about `text` (fewer only where the text holds too few words)."""
        return _Draft(self, text).write(number)


def read_prompt(prompt: str) -> tuple[str, int]:
    """Return the text that a prompt holds and the number of questions it asks for (2 where it does not say)."""
    text, rest = prompt, ""
    fences = list(re.finditer(r"^[ \t]*([-=_*~#`\"'<>])\1{2,}\w*[ \t]*$", prompt, re.M))
    tag = re.search(r"<(\w+)>(.*)</\1>", prompt, re.S)
    if len(fences) >= 2:
        mark = fences[0].group(1)
        last = [f for f in fences if f.group(1) == mark][-1]
        last = last if last is not fences[0] else fences[-1]
        text, rest = prompt[fences[0].end() : last.start()], prompt[: fences[0].start()] + prompt[last.end() :]
    elif tag:
        text, rest = tag.group(2), prompt[: tag.start()] + prompt[tag.end() :]
    else:
        blocks = re.split(r"\n\s*\n", prompt)
        text = max(blocks, key=len)
        rest = "\n".join(block for block in blocks if block is not text)
    found = re.search(r"\b(\d{1,3})\b(?=(?:\W+\w+){0,6}\W+(?:questions?|queries|Fragen)\b)", rest, re.I)
    found = found or re.search(r"(?<![\w.])(\d{1,2})(?![\w.%])", rest)
    return text.strip(), min(max(int(found.group(1)), 1), 100) if found else 2


def _key(text: str) -> str:
    return hashlib.sha256(" ".join(text.split()).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+(?:[-'’][^\W\d_]+)*", text.lower())


def guess_language(words: Sequence[str]) -> str:
    """Return the code of the language whose stop words fill most of `words`, or "" where none does."""
    counts = Counter(words)
    total = sum(counts.values())
    shares = {
        language: sum(counts[word] for word in stop) / max(total, 1) for language, stop in _lexicon()["stop"].items()
    }
    best = max(shares, key=shares.get)
    return best if shares[best] > 0.12 else ("en" if shares["en"] > 0.05 else "")


class _Draft:
    """The questions about one text."""

    def __init__(self, writer: OfflineQuestionWriter, text: str):
        self.writer, self.lexicon = writer, _lexicon()
        self.random = random.Random(f"{writer.seed}:{_key(text)}")
        self.text = " ".join(self._unjoin(text).split())
        self.words = _words(self.text)
        self.language = guess_language(self.words)
        self.stop = self.lexicon["stop"].get(self.language, frozenset())
        self.count = Counter(self.words)
        company = writer._company.get(_key(text)) or next(iter(_NAME.findall(self.text)), "")
        self.company = company.strip("’'")
        years = Counter(_YEAR.findall(self.text))
        self.years = sorted(y for y, n in years.items() if n > 1 or len(years) < 3)[::-1]

    def _unjoin(self, text: str) -> str:
        """Split what a PDF reader has run together, where the corpus knows both parts."""
        text = re.sub(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z]{3})|(?<=[a-z][.;:])(?=[A-Z])", " ", text)
        frequency = self.writer._frequency
        if not frequency:
            return text

        def split(match: re.Match) -> str:
            word = match.group()
            low = word.lower()
            if frequency[low] > 2:
                return word
            best, cut = 2, 0
            for i in range(2, len(word) - 1):
                score = min(frequency[low[:i]], frequency[low[i:]])
                if score > best and (min(i, len(word) - i) > 3 or score > 8):
                    best, cut = score, i
            return f"{word[:cut]} {word[cut:]}" if cut else word

        return re.sub(r"[^\W\d_]{6,}", split, text)

    # what there is to ask about

    def weight(self, word: str) -> float:
        known, n = self.writer._frequency, self.writer._texts
        if word in self.stop or len(word) < 3:
            return 0.0
        if not n:
            return min(1.0, len(word) / 8)
        return math.log((n + 1) / (known[word] + 0.5)) / math.log(n + 1) * (0.5 if known[word] < 2 else 1.0)

    @functools.cached_property
    def sentences(self) -> list[list[str]]:
        """Tokens of each sentence or row."""
        return [tokens for part in _SENTENCE.split(self.text) if part and len(tokens := _WORD.findall(part)) > 2]

    @functools.cached_property
    def phrases(self) -> list[tuple[float, str, int]]:
        """(weight, phrase, sentence it stands in), best first, no word in two of them."""
        english = self.language == "en"
        best: dict[str, tuple[float, str, int]] = {}
        for i, tokens in enumerate(self.sentences):
            run: list[str] = []
            for token in [*tokens, "."]:
                low = token.lower()
                form = self.lexicon["forms"].get(low, ("", ""))[1] if english else ""
                ends = (
                    low in self.stop
                    or not token[0].isalpha()
                    or form in ("third", "past", "participle", "ing") and low not in self.lexicon["nounish"]
                    or english and (low.endswith("ly") or low in self.lexicon["plain"] and not run)
                )
                if not ends:
                    run.append(token)
                    continue
                while english and run and run[-1].lower() in self.lexicon["plain"]:
                    run.pop()
                if low == "of" and run and english:
                    run.append("of")
                    continue
                self._add(best, run, i)
                run = []
        ranked = sorted(best.values(), key=lambda p: (-p[0], p[1]))
        used: set[str] = set()
        kept = []
        for weight, phrase, i in ranked:
            words = set(phrase.lower().split())
            if not words & used:
                used |= words
                kept.append((weight, phrase, i))
        return kept[:24]

    def _add(self, best: dict, run: list[str], i: int) -> None:
        while run and run[-1].lower() in self.stop:
            run.pop()
        while len(run) > 4:
            run = run[1:]
        while run and run[0].lower() in self.stop:
            run = run[1:]
        if not run or self.company and " ".join(run).lower() in self.company.lower():
            return
        low = [word.lower() for word in run]
        weight = sum(self.weight(word) * (1 + math.log(self.count[word] or 1)) for word in low) / len(run) ** 0.5
        if weight <= 0 or len(run) == 1 and len(run[0]) < 4:
            return
        phrase = " ".join(w if w.isupper() or self.language == "de" or any(c.isupper() for c in w[1:]) else w.lower()
                          for w in run)  # fmt: skip
        key = " ".join(low)
        if key not in best:
            best[key] = (weight, phrase, i)

    @functools.cached_property
    def rows(self) -> list[str]:
        """Labels of table rows: words before two figures."""
        labels = []
        for match in _ROW.finditer(self.text):
            label = re.sub(r"\s+", " ", match.group(1)).strip(" ,-(/")
            label = re.sub(r"^(.*\b(thousands|millions|data|share amounts)\)?)", "", label).strip(" ,-()")
            words = label.split()
            lowered = [w if w.isupper() else w.lower() for w in words]
            if 1 <= len(words) <= 9 and not re.search(r"\b(december|june|march|september|ended|note|page|table|item)\b", label, re.I):
                if lowered[0] in self.stop or lowered[-1] in self.stop:
                    continue
                labels.append(" ".join(lowered))
        return list(dict.fromkeys(labels))

    @functools.cached_property
    def clauses(self) -> list[tuple[str, str, str, str]]:
        """(subject, auxiliary, predicate, what was cut off) of sentences plain enough to turn into a question."""
        found = []
        for tokens in self.sentences:
            clause = self._clause(tokens)
            if clause:
                found.append(clause)
        return found

    def _clause(self, tokens: list[str]) -> tuple[str, str, str, str] | None:
        forms, nounish = self.lexicon["forms"], self.lexicon["nounish"]
        start = 0
        if "," in tokens[1:14] and tokens[0].lower() in _OPENERS:
            start = tokens.index(",", 1) + 1
        subject: list[str] = []
        for i in range(start, min(start + 11, len(tokens) - 2)):
            low = tokens[i].lower()
            if not (low[0].isalpha() or low in "’'"):
                return None
            if low in _AUX and subject:
                return self._finish(subject, low, tokens[i + 1 :])
            if low in _BREAK:
                return None
            lemma, form = forms.get(low, ("", ""))
            pronoun = [w.lower() for w in subject] in _SELF or bool(subject) and subject[-1] == self.company
            if subject and (
                form and pronoun and form in ("base", "third", "past")
                or form == "third" and low not in nounish and tokens[i + 1].lower() not in (",", "of", "and")
                or form == "past" and low in ("increased", "decreased", "grew", "declined", "rose", "fell")
            ):
                return self._finish(subject, "did" if form == "past" else "do", [lemma, *tokens[i + 1 :]])
            if low.endswith("ly") and pronoun:
                continue
            subject.append(tokens[i])
        return None

    def _finish(self, subject: list[str], aux: str, rest: list[str]) -> tuple[str, str, str, str] | None:
        low = [w.lower() for w in subject]
        if low[-1] in self.stop and low not in _SELF or low[0] in ("this", "these", "such", "those", "it", "they", "there", "that", "he", "she", "you", "i", "who", "what", "which", "any", "each"):
            return None
        predicate, cut = [], ""
        for j, token in enumerate(rest):
            t = token.lower()
            if len(predicate) >= 2 and (not (t[0].isalnum() or t in "’'$%") or t in _CUTS) or len(predicate) >= 14:
                cut = " ".join(rest[j : j + 4]).lower()
                break
            if not (t[0].isalnum() or t in "’'"):
                return None
            predicate.append(token)
        while predicate and (predicate[-1].lower() in self.stop or predicate[-1].lower().endswith("ly") or predicate[-1].lower() in ("other", "such")):
            predicate.pop()
        if len(predicate) < 2 or len(predicate) + len(subject) < 4:
            return None
        plural = low[-1].endswith("s") and not low[-1].endswith("ss") or "and" in low
        if aux == "do" and (not plural or low in _SELF):
            aux = "does"
        if low in _SELF and aux in ("are", "were", "have"):
            aux = {"are": "is", "were": "was", "have": "has"}[aux]
        return self._neutral(subject), aux, self._neutral(predicate), cut

    def _neutral(self, words: list[str]) -> str:
        """Words as someone outside the company would say them."""
        text = " ".join(words).replace(" ’ ", "’").replace(" ' ", "'")
        text = re.sub(r"\b(?:We|we|us|the Company|The Company|the Registrant)\b(?!['’])", "{co}", text)
        text = re.sub(r"\b(?:Our|our|[Tt]he Company['’]s)\b", "{co_s}", text)
        text = re.sub(r"\bourselves\b", "itself", text)
        first = text.split(" ", 1)[0]
        if first.istitle() and first != self.company and first.lower() in self.words and len(first) > 1 and not self._proper(first):
            text = first.lower() + text[len(first) :]
        return text

    def _proper(self, word: str) -> bool:
        return self.writer._frequency[word.lower()] == 0 and word.lower() not in self.stop

    # the questions

    def write(self, number: int) -> list[str]:
        asked: dict[str, str] = {}
        kinds = _KINDS if self.language == "en" else {"one": 1, "two": 2, "three": 1, "keys": 1}
        for attempt in range(number * 12):
            if len(asked) >= number:
                break
            kind = self._pick_kind(kinds, attempt, number)
            question = getattr(self, f"_{kind}")() if hasattr(self, f"_{kind}") else self._frame(kind)
            question = self._polish(question) if question else ""
            key = " ".join(sorted(_words(question)))
            if len(key) > 7 and key not in asked and not self._copies(question):
                asked[key] = question
        for _, phrase, _ in self.phrases:
            if len(asked) >= number:
                break
            asked.setdefault(phrase.lower(), phrase)
        return list(asked.values())[:number]

    def _pick_kind(self, kinds: dict[str, float], attempt: int, number: int) -> str:
        return self.random.choices(list(kinds), list(kinds.values()))[0]

    def _topic(self) -> str:
        asks = [ask for cues, asks in self.lexicon["topics"] if all(cue.search(self.text) for cue in cues) for ask in asks]
        return self.random.choice(asks) if asks else ""

    def _row(self) -> str:
        if len(self.rows) < 2:
            return ""
        a, b = self.random.sample(self.rows, 2)
        frame = self.random.choice(self.lexicon["frames"]["en"]["row"])
        return frame.replace("{a}", self._vary(a)).replace("{b}", self._vary(b))

    def _ask(self) -> str:
        if not self.clauses:
            return ""
        subject, aux, predicate, cut = self.random.choice(self.clauses)
        subject, predicate = self._vary(subject), self._vary(predicate)
        core = f"{aux} {subject} {predicate}?"
        r = self.random.random()
        if aux in ("could", "may", "might", "can", "would"):
            aux = self.random.choice(("could", "might", "can"))
            core = f"{aux} {subject} {predicate}?"
            asked = self.random.choice((f"How {core}", f"Why {core}", f"In what circumstances {core}", f"What happens if {subject} {aux} {predicate}?"))
        elif re.match(r"(when|if|upon|unless|until|once)\b", cut):
            asked = self.random.choice((f"When {core}", f"Under what conditions {core}"))
        elif re.match(r"(because|due|as a result|since)\b", cut):
            asked = self.random.choice((f"Why {core}", f"For what reasons {core}"))
        elif re.match(r"(including|such as|including)\b", cut):
            asked = f"In which ways {core}"
        elif aux in ("is", "are", "was", "were") and r < 0.3:
            asked = core[0].upper() + core[1:]
        elif aux == "did":
            asked = self.random.choice((f"Why {core}", f"How {core}", core[0].upper() + core[1:]))
        else:
            asked = self.random.choice((f"How {core}", f"Why {core}", core[0].upper() + core[1:], f"In what way {core}"))
        return asked

    def _long(self) -> str:
        """Two clauses: something asked about a sentence, then about a phrase from elsewhere."""
        first = self._ask()
        picked = self._choose(1)
        if not first or not picked:
            return ""
        second = self.random.choice((
            " What role does {a} play?", " How is {a} dealt with?", " What is said about {a}?",
            " Discuss the significance of {a}.", " How does {a} come into it?", "",
        )) + self.random.choice(("", "", *self.lexicon["frames"]["en"]["tail"]))  # fmt: skip
        return first + second.replace("{a}", self._vary(picked[0]))

    def _choose(self, n: int) -> list[str]:
        pool = self.phrases[:14]
        if len(pool) < n:
            return []
        picked: list[tuple[float, str, int]] = []
        while len(picked) < n:
            rest = [p for p in pool if p not in picked]
            near = [p[0] * (2.0 if picked and abs(p[2] - picked[0][2]) <= 1 else 1.0) for p in rest]
            picked.append(self.random.choices(rest, near)[0])
        return [p[1] for p in picked]

    def _frame(self, kind: str) -> str:
        frames = self.lexicon["frames"].get(self.language, {"keys": ["{a} {b}", "{a} {b} {c}"]})
        frame = self.random.choice(frames.get(kind) or frames["keys"])
        slots = re.findall(r"\{([abc])\}", frame)
        picked = self._choose(len(set(slots)))
        if not picked:
            return ""
        for slot, phrase in zip("abc", picked, strict=False):
            frame = frame.replace(f"{{{slot}}}", self._vary(phrase))
        return frame

    def _vary(self, phrase: str) -> str:
        """Put other words for some of the phrase's."""
        if self.language != "en":
            return phrase

        def other(match: re.Match) -> str:
            if self.random.random() > self.writer.synonym_rate:
                return match.group()
            return self.random.choice(self.lexicon["synonyms"][match.group().lower().replace("’", "'")])

        return self.lexicon["synonym_pattern"].sub(other, phrase)

    def _polish(self, question: str) -> str:
        years, r = self.years, self.random.random()
        year = years[0] if years and r < 0.8 else (years[-1] if years else "")
        before = str(int(year) - 1) if year else ""
        style = self.random.choice(("FY{}", "{}", "fiscal {}", "FY {}"))
        fy, fy0 = (style.format(year), style.format(before)) if year else ("the year", "the year before")
        per = self.random.choice((f"in {fy}", f"as of {fy}", f"for {fy}", "")) if year else ""
        co = self.company if self.company and self.random.random() < 0.6 else "the company"
        co_s = f"{co}'s" if not co.endswith("s") else f"{co}'"
        for slot, value in (("{co_s}", co_s), ("{co}", co), ("{per}", per), ("{fy0}", fy0), ("{fy}", fy)):
            question = question.replace(slot, value)
        question = re.sub(r"\s+", " ", question).replace(" ?", "?" if self.language != "fr" else " ?").replace(" ,", ",").replace(" .", ".").strip()
        return question[:1].upper() + question[1:] if question.endswith(("?", ".")) else question

    def _copies(self, question: str) -> bool:
        """Whether the question repeats more than nine words of the text in a row."""
        words = _words(question)
        text = " " + " ".join(self.words) + " "
        return any(" " + " ".join(words[i : i + 10]) + " " in text for i in range(len(words) - 9))


_KINDS = {"topic": 1.2, "row": 1.0, "ask": 1.5, "long": 2.0, "two": 1.5, "three": 1.0, "one": 0.7, "keys": 0.8}
_AUX = frozenset("is are was were has have had may might could can would will should must".split())
_SELF = [["we"], ["the", "company"], ["they"], ["the", "plan"], ["the", "agreement"]]
_OPENERS = frozenset(
    "in as for during on at by from since after before however moreover further furthermore additionally accordingly "
    "therefore thus although while if when under with to historically currently generally finally also similarly".split()
)
_BREAK = frozenset("that which who whom whose if when because unless although while whether where than to not".split())
_CUTS = frozenset(
    "which who that when if because unless although while including such as upon until once whether where but so due "
    "through using based whereby except rather".split()
)
