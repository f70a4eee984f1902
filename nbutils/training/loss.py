"""The ranking loss over chunks with all their questions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import nn
from torch.utils.checkpoint import checkpoint

from nbutils.training.batches import round_up
from nbutils.training.teacher import TEMPERATURE

FEWEST_TOKENS = 64  # in a sub-batch, unless a single text is longer
NEVER = -1e4  # the logit of what is no candidate: its share is 0, and 0 times its logarithm is no NaN


class GroupedRankingLoss(nn.Module):
    """In-batch ranking loss over chunks with all their questions, each text encoded once.

    For question q of chunk c the candidates are the batch's chunks and the questions of the other chunks; for chunk
    c with question q they are the batch's questions. A chunk that also answers q, and another question of the same
    chunk, is never a negative. The cross-entropies of both directions are averaged. Of several processes each encodes
    its share of the batch, and the loss is that of the whole batch.
    Source: the contrastive loss of GTE (https://arxiv.org/abs/2308.03281, section 3.3) without its chunk–chunk pairs.

    Args:
        model: the model to train.
        positives: for each question's number the numbers of all chunks that answer it.
        scale: inverse temperature: the cosine similarities are multiplied by it.
        dimensions: Matryoshka prefixes to train besides the full vector (https://arxiv.org/abs/2205.13147).
        teacher: scores of chunks for questions by their numbers, for soft labels.
        share: see `chunk_targets`.
        tokens_per_pass: texts are sorted by length and encoded in sub-batches of about this many tokens.
        tokens_kept: beyond this many tokens a batch, activations are computed again in the backward pass
            (https://arxiv.org/abs/2101.06983); None keeps all.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        positives: list[list[int]],
        *,
        scale: float = 20.0,
        dimensions: tuple[int, ...] = (),
        teacher: Callable[[list[int], list[int]], np.ndarray] | None = None,
        share: float = 1.0,
        tokens_per_pass: int = 1536,
        tokens_kept: int | None = 2048,
    ) -> None:
        super().__init__()
        self.model, self.positives, self.scale, self.dimensions = model, positives, scale, dimensions
        self.teacher, self.share = teacher, share
        self.tokens_per_pass, self.tokens_kept = tokens_per_pass, tokens_kept

    def forward(self, features: list[dict[str, Any]], labels: dict[str, list[int]]) -> torch.Tensor:
        """Return the loss, a scalar. Nothing here waits for the device.

        Args:
            features: tokens of the batch's questions, then of its chunks, each with their `lengths`.
            labels: `query` and `chunk`, the numbers of both, and `own`, the row of each question's chunk.
        """
        own, answers = torch.tensor(labels["own"]), self._answers(labels)
        scores = self.teacher and self.teacher(labels["query"], labels["chunk"])
        targets = chunk_targets(own, answers, scores, self.share)
        questions, chunks = map(self.embed, features)
        own, answers, targets = (each.to(chunks.device, non_blocking=True) for each in (own, answers, targets))
        losses = [
            direction
            for size in {*self.dimensions, chunks.shape[1]}
            for direction in self._cross_entropies(questions[:, :size], chunks[:, :size], own, answers, targets)
        ]
        loss = torch.stack(losses).mean()
        return loss + (processes() - 1) * (loss - loss.detach())  # the trainer averages gradients over processes

    def use_less_memory(self) -> bool:
        """Encode in sub-batches of half the size from now on; return whether that can be done."""
        if self.tokens_per_pass < 2 * FEWEST_TOKENS or processes() > 1:
            return False
        self.tokens_per_pass //= 2
        self.tokens_kept = min(self.tokens_per_pass, self.tokens_kept or self.tokens_per_pass)
        return True

    def _answers(self, labels: dict[str, list[int]]) -> torch.Tensor:
        """Return which of the batch's chunks answer which of its questions, shape (questions, chunks)."""
        row_of = {number: row for row, number in enumerate(labels["chunk"])}
        answers = torch.zeros(len(labels["query"]), len(row_of), dtype=torch.bool)
        for row, number in enumerate(labels["query"]):
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

    def embed(self, features: dict[str, Any]) -> torch.Tensor:
        """Return the vectors of tokenized texts, shape (texts, dimensions), encoded in order of length."""
        lengths, device = features["lengths"], features["input_ids"].device
        mine = sorted(range(len(lengths)), key=lambda text: -lengths[text])[process() :: processes()]
        rows = torch.tensor(mine).to(device, non_blocking=True)
        same = {key: value for key, value in features.items() if not torch.is_tensor(value) and key != "lengths"}
        tokens = {key: value[rows] for key, value in features.items() if torch.is_tensor(value)}
        parts, start, kept = [], 0, 0
        while start < len(mine):
            width = min(round_up(lengths[mine[start]]), features["input_ids"].shape[1])
            end = min(len(mine), start + max(1, self.tokens_per_pass // width))
            part = same | {key: value[start:end, :width] for key, value in tokens.items()}
            kept += width * (end - start)
            if self.tokens_kept is None or kept <= self.tokens_kept or not torch.is_grad_enabled():
                parts.append(self._vectors(self.model, part))
            else:
                bare = getattr(self.model, "module", self.model)
                parts.append(checkpoint(self._vectors, bare, part, use_reentrant=False))
            start = end
        vectors = torch.cat(parts)
        if processes() > 1:
            everyone = torch.zeros(len(lengths), vectors.shape[1], dtype=vectors.dtype, device=device)
            everyone[rows] = vectors.detach()
            torch.distributed.all_reduce(everyone)
            return everyone.index_put((rows,), vectors)
        return vectors[rows.argsort()]

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
        Shape (questions, chunks), rows of sum 1; 0 for any other chunk that answers the question too.
    """
    hard = nn.functional.one_hot(own, answers.shape[1]).float()
    if scores is None:
        return hard
    others = answers.scatter(1, own[:, None], False)
    soft = (torch.as_tensor(scores, device=own.device).float() / TEMPERATURE).masked_fill(others, NEVER).softmax(1)
    return share * hard + (1 - share) * soft


def processes() -> int:
    """Return how many processes train together."""
    distributed = torch.distributed
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def process() -> int:
    """Return which of them this one is, counted from 0."""
    return torch.distributed.get_rank() if processes() > 1 else 0
