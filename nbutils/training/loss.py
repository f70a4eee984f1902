"""The ranking loss over chunks with all their questions, and the batches it takes."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from nbutils.core import UserError
from nbutils.training.teacher import TEMPERATURE, without

NEVER = -1e4  # the logit of what is no candidate: its share is 0, and 0 times its logarithm is no NaN


class GroupedRankingLoss(nn.Module):
    """In-batch ranking loss over chunks with all their questions, each text encoded once.

    For question q of chunk c the candidates are the batch's chunks and the questions of the other chunks; for chunk
    c with question q they are the batch's questions. A chunk that also answers q, and another question of the same
    chunk, is never a negative. The cross-entropies of both directions are averaged. Under `torchrun` each process
    encodes its share of the batch and the loss is that of the whole batch.
    Source: the contrastive loss of GTE (https://arxiv.org/abs/2308.03281, section 3.3) without its chunk–chunk pairs.

    Args:
        model: the model to train.
        positives: for each question's number the numbers of all chunks that answer it.
        scale: inverse temperature: the cosine similarities are multiplied by it.
        shortest: chunks are cut to a random share of the reading length between this and 1, anew at each step.
        dimensions: sizes of the Matryoshka prefixes to train besides the full vector
            (https://arxiv.org/abs/2205.13147).
        seed: of the random lengths.
        teacher: scores of chunks for questions by their numbers, for soft labels.
        share: of a question's target that its own chunk keeps where there is a teacher.
        tokens_per_pass: texts are sorted by length and encoded in sub-batches of about this many tokens.
        tokens_kept: beyond this many tokens a batch, activations are computed again in the backward pass instead
            of kept (https://arxiv.org/abs/2101.06983); None keeps all.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        positives: list[list[int]],
        *,
        scale: float = 20.0,
        shortest: float = 1.0,
        dimensions: tuple[int, ...] = (),
        seed: int = 0,
        teacher: Callable[[list[int], list[int]], np.ndarray] | None = None,
        share: float = 1.0,
        tokens_per_pass: int = 1536,
        tokens_kept: int | None = 2048,
    ) -> None:
        super().__init__()
        self.model, self.positives, self.scale, self.shortest = model, positives, scale, shortest
        self.dimensions, self.seed, self.step = dimensions, seed, 0
        self.tokens_per_pass, self.tokens_kept = tokens_per_pass, tokens_kept
        self.teacher, self.share = teacher, share

    def forward(self, features: list[dict[str, torch.Tensor]], labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss, a scalar.

        Args:
            features: tokens of the batch's questions, then of its chunks.
            labels: `query` and `chunk`, the numbers of both, and `own`, the row of each question's chunk.

        Raises:
            UserError: the loss is not a finite number.
        """
        questions, chunks = self.embed(features[0]), self.embed(self.shorten(features[1]))
        own = labels["own"]
        answers = self._answers(labels).to(own.device)
        scores = self.teacher and self.teacher(labels["query"].tolist(), labels["chunk"].tolist())
        targets = chunk_targets(own, answers, scores, self.share)
        losses = [
            direction
            for size in {*self.dimensions, chunks.shape[1]}
            for direction in self._cross_entropies(questions[:, :size], chunks[:, :size], own, answers, targets)
        ]
        loss = torch.stack(losses).mean()
        if not torch.isfinite(loss):
            raise UserError(
                "The loss is no longer a number. Lower learning_rate, and look for empty or broken texts in the data."
            )
        return loss + (processes() - 1) * (loss - loss.detach())  # the trainer averages gradients over processes

    def _answers(self, labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return which of the batch's chunks answer which of its questions, shape (questions, chunks)."""
        row_of = {number: row for row, number in enumerate(labels["chunk"].tolist())}
        answers = torch.zeros(len(labels["query"]), len(row_of), dtype=torch.bool)
        for row, number in enumerate(labels["query"].tolist()):
            answers[row, [row_of[chunk] for chunk in self.positives[number] if chunk in row_of]] = True
        return answers

    def _cross_entropies(self, questions, chunks, own, answers, targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the losses of finding a question's chunk and of finding a chunk's question."""
        q, c = (nn.functional.normalize(vectors.float(), dim=1) for vectors in (questions, chunks))
        siblings = own[:, None] == own
        itself = torch.eye(len(own), dtype=torch.bool, device=own.device)
        other_answers = answers.scatter(1, own[:, None], False)
        to_chunks = (q @ c.T * self.scale).masked_fill(other_answers, NEVER)
        to_questions = (q @ q.T * self.scale).masked_fill(siblings, NEVER)
        from_chunk = (c[own] @ q.T * self.scale).masked_fill((siblings | answers[:, own].T) & ~itself, NEVER)
        targets = nn.functional.pad(targets, (0, len(q)))
        return (
            nn.functional.cross_entropy(torch.cat([to_chunks, to_questions], 1), targets),
            nn.functional.cross_entropy(from_chunk, torch.arange(len(own), device=own.device)),
        )

    def shorten(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the chunks' tokens cut to random lengths, each with its end mark."""
        if self.shortest >= 1:
            return features
        ids, mask = features["input_ids"].clone(), features["attention_mask"].clone()
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        shares = self.shortest + (1 - self.shortest) * torch.rand(len(ids), generator=random)
        limits = torch.tensor(
            [_round_up(round(limit)) for limit in (ids.shape[1] * shares).tolist()], device=ids.device
        )
        lengths = mask.sum(1)
        cut = (lengths > limits).nonzero()[:, 0]
        ids[cut, limits[cut] - 1] = ids[cut, lengths[cut] - 1]
        mask[torch.arange(ids.shape[1], device=ids.device) >= limits[:, None]] = 0
        return features | {"input_ids": ids, "attention_mask": mask}

    def embed(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the vectors of tokenized texts, shape (texts, dimensions), encoded in order of length."""
        lengths = features["attention_mask"].sum(1)
        order = lengths.argsort(descending=True, stable=True)
        mine = order[process() :: processes()]
        parts, start, kept = [], 0, 0
        while start < len(mine):
            width = min(_round_up(int(lengths[mine[start]])), features["input_ids"].shape[1])
            rows = mine[start : start + max(1, self.tokens_per_pass // width)]
            part = {
                key: value[rows][:, :width] if torch.is_tensor(value) and value.ndim > 1 else value
                for key, value in features.items()
            }
            kept += width * len(rows)
            if self.tokens_kept is None or kept <= self.tokens_kept or not torch.is_grad_enabled():
                parts.append(self._vectors(self.model, part))
            else:
                bare = self.model.module if hasattr(self.model, "module") else self.model
                parts.append(checkpoint(self._vectors, bare, part, use_reentrant=False))
            start += len(rows)
        vectors = torch.cat(parts)
        if processes() > 1:
            everyone = torch.zeros(len(order), vectors.shape[1], dtype=vectors.dtype, device=vectors.device)
            everyone[mine] = vectors.detach()
            torch.distributed.all_reduce(everyone)
            return everyone.index_put((mine,), vectors)
        return vectors[mine.argsort()]

    @staticmethod
    def _vectors(model: nn.Module, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return model(dict(features))["sentence_embedding"]


def chunk_targets(
    own: torch.Tensor, answers: torch.Tensor, scores: np.ndarray | None = None, share: float = 1.0
) -> torch.Tensor:
    """Return the share of each question that each chunk of the batch should get.

    Args:
        own: the row of each question's chunk, shape (questions,).
        answers: which chunks answer which questions, shape (questions, chunks).
        scores: the teacher's, of the same shape; None gives all to the own chunk.
        share: what the own chunk keeps; the rest is a softmax of the scores over the batch's chunks.

    Returns:
        Shape (questions, chunks), each row adding up to 1; 0 for any other chunk that answers the question too.
    """
    hard = nn.functional.one_hot(own, answers.shape[1]).float()
    if scores is None or share >= 1:
        return hard
    others = answers.scatter(1, own[:, None], False)
    soft = (torch.as_tensor(scores, device=own.device).float() / TEMPERATURE).masked_fill(others, NEVER).softmax(1)
    return share * hard + (1 - share) * soft


class GroupCollator:
    """Rows of (chunk, its questions) to the tokens and labels that GroupedRankingLoss takes.

    Args:
        model: whose tokenizer and prompts are used.
        queries, chunks: all texts, by number.
        cloze: how often a query that stands in its chunk word for word is taken out of it.
        shuffle: the batches, whose seed and epoch decide which are taken out.
    """

    valid_label_columns = ("label",)

    def __init__(
        self, model: SentenceTransformer, queries: list[str], chunks: list[str], cloze: float, shuffle: "Shuffle"
    ) -> None:
        self.model, self.queries, self.chunks, self.cloze, self.shuffle = model, queries, chunks, cloze, shuffle

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        query = [number for row in rows for number in row["queries"]]
        chunk = [row["chunk"] for row in rows]
        batch: dict[str, Any] = {}
        for name, texts in (
            ("query", [self.queries[number] for number in query]),
            ("document", [self._chunk(**row) for row in rows]),
        ):
            tokens = padded_right(self.model.preprocess(texts, prompt=self.model.prompts.get(name) or None))
            batch |= {f"{name}_{key}": value for key, value in tokens.items()}
        own = [position for position, row in enumerate(rows) for _ in row["queries"]]
        labels = {"query": query, "chunk": chunk, "own": own}
        return batch | {"label": {name: torch.tensor(numbers) for name, numbers in labels.items()}}

    def _chunk(self, chunk: int, queries: list[int]) -> str:
        rng = random.Random(f"{self.shuffle.seed}:{self.shuffle.epoch}:{chunk}")
        return without(self.chunks[chunk], [self.queries[number] for number in queries], self.cloze, rng)


def padded_right(tokens: dict[str, Any]) -> dict[str, Any]:
    """Return tokenized texts with their padding behind them, where a tokenizer had put it in front."""
    mask = tokens["attention_mask"]
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {
        key: value.gather(1, order) if torch.is_tensor(value) and value.shape == mask.shape else value
        for key, value in tokens.items()
    }


class Shuffle:
    """Batches of row numbers in an order that depends on the seed and the epoch alone, so that a run can resume."""

    batch_size, drop_last = None, False  # batches differ by one row, and none is left out

    def __init__(self, rows: int, batches: int, seed: int) -> None:
        self.rows, self.batches, self.seed, self.epoch = rows, batches, seed, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.rows)
        yield from (part.tolist() for part in np.array_split(order, self.batches))


def processes() -> int:
    """Return how many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process() -> int:
    """Return which of them this one is, counted from 0."""
    return torch.distributed.get_rank() if processes() > 1 else 0


def _round_up(length: int) -> int:
    """Return one of few lengths, so that memory and compiled kernels are used again instead of piling up."""
    step = 64 if length > 64 else 16
    return -(-length // step) * step
