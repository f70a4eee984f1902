"""Batches: which chunks go together, and the tokens of their texts, tokenised once before the first step."""

import random
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

from nbutils.models.vectors import tokenised
from nbutils.questions.dataset import headed
from nbutils.training.options import TrainingOptions
from nbutils.training.split import TrainingPairs
from nbutils.training.teacher import cut_queries_out

AT_ONCE = 1024  # texts that the tokenizer is given together


class Shuffle(TrainerCallback):
    """Batches of row numbers in an order that depends on the seed and the epoch alone, so that a run can resume.

    Attributes:
        epoch: passes over the rows before this one; as a callback of the trainer it is told.
        step: batches before the one that was given last, in all epochs.
    """

    batch_size, drop_last = None, False  # batches differ by one row, and none is left out

    def __init__(self, rows: int, batches: int, seed: int) -> None:
        self.rows, self.batches, self.seed, self.epoch, self.step = rows, batches, seed, 0, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        for number, part in enumerate(np.array_split(order, self.batches)):
            self.step = self.epoch * self.batches + number
            yield part.tolist()

    def on_epoch_begin(self, args, state, control, train_dataloader, **kwargs) -> None:
        self.epoch = state.global_step // len(train_dataloader)  # state.epoch is a fraction on resuming


class GroupCollator:
    """Rows of (chunk, its questions) to the tokens and labels that GroupedRankingLoss takes.

    A chunk comes without some of the queries that stand in it word for word (`cloze`), with its header or without
    (`header_dropout`), and cut to a random share of the batch's longest (`shortest`). A query comes with the
    name of its chunk's document before it or without (`named_queries`). The seed decides, with the epoch and the
    chunk or the query, or with the step.
    """

    valid_label_columns = ("label",)

    def __init__(
        self, model: SentenceTransformer, pairs: TrainingPairs, options: TrainingOptions, shuffle: Shuffle
    ) -> None:
        self.pairs, self.options, self.shuffle = pairs, options, shuffle
        rows = [(*row, epoch) for epoch in range(options.epochs) for row in pairs.groups.items()]
        self.queries = Tokens(model, "query", (query for row in rows for query in self._queries(*row)))
        self.chunks = Tokens(model, "document", (self._chunk(*row) for row in rows))

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Return padded tokens and their lengths, as `query_…` and `document_…`, and the `label` in plain lists."""
        query = [number for row in rows for number in row["queries"]]
        own = [position for position, row in enumerate(rows) for _ in row["queries"]]
        drawn = [(row["chunk"], row["queries"], self.shuffle.epoch) for row in rows]
        texts = [self._chunk(*row) for row in drawn]
        queries = self.queries.batch([text for row in drawn for text in self._queries(*row)])
        batch = {f"query_{key}": value for key, value in queries.items()}
        batch |= {f"document_{key}": value for key, value in self.chunks.batch(texts, self._limits).items()}
        return batch | {"label": {"query": query, "chunk": [row["chunk"] for row in rows], "own": own}}

    def _chunk(self, chunk: int, queries: list[int], epoch: int) -> str:
        rng = random.Random(f"{self.shuffle.seed}:{epoch}:{chunk}")
        asked = [self.pairs.queries[number] for number in queries]
        text = cut_queries_out(self.pairs.chunks[chunk], asked, self.options.cloze, rng)
        return sometimes_headed(self.pairs.headers[chunk], text, self.options, f"{epoch}:{chunk}")

    def _queries(self, chunk: int, queries: list[int], epoch: int) -> list[str]:
        name, texts = self.pairs.names.get(chunk, ""), self.pairs.queries
        return [sometimes_named(name, texts[query], self.options, f"{epoch}:{query}") for query in queries]

    def _limits(self, lengths: list[int]) -> list[int]:
        """Return how many tokens each chunk may keep in this step: a random share of the longest one's."""
        drawn = torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.shuffle.step)
        shares = self.options.shortest + (1 - self.options.shortest) * torch.rand(len(lengths), generator=drawn)
        return [round_up(round(limit)) for limit in (max(lengths) * shares).tolist()]


def sometimes_headed(header: str, text: str, options: TrainingOptions, draw: str) -> str:
    """Return a chunk with its header, or without it as often as `header_dropout` says; seed and `draw` decide."""
    dropped = random.Random(f"header:{options.seed}:{draw}").random() < options.header_dropout
    return text if dropped else headed(header, text)


def sometimes_named(name: str, query: str, options: TrainingOptions, draw: str) -> str:
    """Return a query after its document's name, as often as `named_queries` says; seed and `draw` decide."""
    named = random.Random(f"name:{options.seed}:{draw}").random() < options.named_queries
    return f"{name} {query}" if name and named else query


class Tokens:
    """Texts tokenised once, with the model's prompt of that kind, and kept without their padding.

    Any text can be asked for; those named at first are tokenised at once.
    """

    def __init__(self, model: SentenceTransformer, kind: str, texts: Iterable[str]) -> None:
        self.model, self.prompt = model, model.prompts.get(kind) or None
        self.rows: dict[str, dict[str, torch.Tensor]] = {}
        self.same: dict[str, Any] = {}  # what the model is given beside tensors, the same for all texts
        self._add(texts)

    def _add(self, texts: Iterable[str]) -> None:
        new = sorted(dict.fromkeys(text for text in texts if text not in self.rows), key=len)
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            tokens = tokenised(self.model, part, self.prompt)
            mask = tokens["attention_mask"].bool()
            rows = {name: value.int() for name, value in tokens.items() if getattr(value, "shape", 0) == mask.shape}
            self.same = {name: value for name, value in tokens.items() if name not in rows}
            for number, text in enumerate(part):
                self.rows[text] = {name: value[number][mask[number]] for name, value in rows.items()}

    def batch(self, texts: list[str], limits: Any = None) -> dict[str, Any]:
        """Return the tokens of some texts, padded behind to one width, and their `lengths`.

        `limits` tells from their lengths how many tokens each may keep; what is cut keeps its end mark.
        """
        self._add(texts)
        rows = [self.rows[text] for text in texts]
        lengths = [len(row["input_ids"]) for row in rows]
        kept = [min(pair) for pair in zip(lengths, limits(lengths), strict=True)] if limits else lengths
        batch = {}
        for name in rows[0]:
            cut = [torch.cat([row[name][: n - 1], row[name][-1:]]).long() for row, n in zip(rows, kept, strict=True)]
            padding = self.model.tokenizer.pad_token_id or 0 if name == "input_ids" else 0
            batch[name] = pad_sequence(cut, batch_first=True, padding_value=padding)
        return batch | self.same | {"lengths": kept}


def round_up(length: int) -> int:
    """Return one of few lengths, so that memory and compiled kernels are used again instead of piling up."""
    step = 64 if length > 64 else 16
    return -(-length // step) * step
