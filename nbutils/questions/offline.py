"""Queries for a text without a language model: its own sentences, and its rarest phrases as keywords."""

import hashlib
import itertools
import random
import re
from collections.abc import Iterable
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from pydantic import PrivateAttr

from nbutils.questions.wording import Wording

VERSION = "offline-6"
_FENCED = re.compile(r"^[ \t]*([-=_*~#`\"'])\1{2,}[ \t]*\n(.*)^[ \t]*\1{3,}[ \t]*$", re.DOTALL | re.MULTILINE)


class OfflineQuestionWriter(CustomLLM):
    """A LlamaIndex LLM that writes search queries for a text with no network and no model.

    It answers a prompt that holds a text between two dashed lines and asks for a number of questions with that many
    queries, one per line, or with NONE where the text holds no words. The same seed, corpus and text give the same
    queries, in whatever order they are asked for.

    Args:
        seed: another seed, other queries.
        kinds: what the first, second, … query of a text is, over and over: "sentence" (one of the text's own, of at
            most 24 words) or "keywords" (two or three phrases, those of rare words more often).
        examples: real questions; the share of keywords among them, and how long each kind is, is that of what is written.
    """

    seed: int = 0
    kinds: tuple[str, ...] = ("sentence", "keywords")
    examples: tuple[str, ...] = ()
    _wording: Wording = PrivateAttr(default_factory=Wording)

    @property
    def metadata(self) -> LLMMetadata:
        name = VERSION if self.seed == 0 else f"{VERSION}-seed{self.seed}"
        return LLMMetadata(model_name=name, context_window=1_000_000, num_output=4096, is_chat_model=False)

    @classmethod
    def for_corpus(cls, nodes: Iterable, **options) -> "OfflineQuestionWriter":
        """Return a writer fitted to `nodes`, LlamaIndex nodes or plain texts."""
        return cls(**options).fit(node if isinstance(node, str) else node.get_content() for node in nodes)

    def fit(self, texts: Iterable[str]) -> "OfflineQuestionWriter":
        """Learn from all texts of a corpus how common each word and each sentence is; return the writer."""
        self._wording = Wording(list(texts))
        if self.examples:
            self._wording.learn_style(self.examples)
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
        writers = {"sentence": self._wording.sentence_queries, "keywords": self._wording.keyword_queries}
        pools = {kind: writers[kind](text, random.Random(f"{self.seed}:{kind}:{key}")) for kind in writers}
        written: dict[str, str] = {}
        for position in range(number):
            kind = self.kinds[position % len(self.kinds)]
            if self.examples:
                by_chance = random.Random(f"{self.seed}:{position}:{key}").random() < self._wording.keyword_share
                kind = "keywords" if by_chance else "sentence"
            candidates = itertools.chain(pools[kind], *pools.values())
            if query := next((query for query in candidates if query.casefold() not in written), ""):
                written[query.casefold()] = query
        return list(written.values())


def read_prompt(prompt: str) -> tuple[str, int]:
    """Return the text that a prompt holds and the number of questions it asks for (2 where it does not say)."""
    found = _FENCED.search(prompt) or re.search(r"<(\w+)>(.*)</\1>", prompt, re.DOTALL)
    text = found[2] if found else max(re.split(r"\n\s*\n", prompt), key=len)
    rest = prompt.replace(found[0] if found else text, "\n", 1)
    number = re.search(r"\b(\d{1,3})\b(?=(?:\W+\w+){0,6}\W+(?:questions?|queries|Fragen)\b)", rest, re.IGNORECASE)
    number = number or re.search(r"(?<![\w.])(\d{1,2})(?![\w.%])", rest)
    return text.strip(), min(max(int(number[1]), 1), 100) if number else 2
