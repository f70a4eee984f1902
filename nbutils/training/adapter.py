"""A linear map of the query vectors alone, over any embedding: chunks keep their vectors, nothing is indexed again."""

import json
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from llama_index.core.base.embeddings.base import BaseEmbedding
from sentence_transformers import SentenceTransformer

from nbutils.core import UserError, atomic_path
from nbutils.models.adapted import Service, save_adapter, with_map, without_map
from nbutils.models.names import DEFAULT_MODEL, as_llama_index, is_service, load_model
from nbutils.models.vectors import EmbeddingCache, Kind, model_fingerprint, sentence_transformer, unit
from nbutils.questions.dataset import with_queries
from nbutils.training.batches import Shuffle
from nbutils.training.engine import BASE_KEPT
from nbutils.training.folder import lineage
from nbutils.training.loss import GroupedRankingLoss
from nbutils.training.options import ADAPTER_OPTIONS, NOT_IN_RECIPE, adapter_options
from nbutils.training.split import TrainingPairs, development_scores, split_questions, training_pairs
from nbutils.training.teacher import Teacher
from nbutils.training.trainer import DEV_SCORE

CARD = """---
trained_from: {chain}
---

# Adapter of {base}: a linear map of its query vectors

sentence-transformers: `encode_query` and `encode_document`; chunks keep the base's vectors. numpy, beside the base:
`np.load("adapter.npy") @ query_vector`. LlamaIndex: `AdapterEmbeddingModel(base, folder)` from
`llama-index-embeddings-adapter`. Recipe, and scores on the development split:

```json
{summary}
```
"""


class AdapterFinetuneEngine:
    """Learn a linear map of the query vectors, from the identity, with the loss and the split of the other engine.

    Args:
        dataset, val_dataset: as for the other engine.
        model_id: a name as for `load_model` (`openai:…` too), or any LlamaIndex embedding. With an adapter's folder,
            training goes on from its map.
        model_output_path: folder to write the adapter to.
        cache_folder: where vectors are kept; see EmbeddingCache.
        options: see `adapter_options`.

    Attributes:
        summary: as the other engine's.

    Raises:
        UserError: no such option, one out of range, or no such embedding.
    """

    def __init__(
        self,
        dataset: Any,
        model_id: "str | Path | BaseEmbedding" = DEFAULT_MODEL,
        model_output_path: str | Path = "exp_adapter",
        *,
        val_dataset: Any = None,
        cache_folder: str | Path | bool | None = None,
        **options: Any,
    ) -> None:
        self.dataset, self.val_dataset, self.model_output_path = dataset, val_dataset, Path(model_output_path)
        self.options, self.cache_folder = adapter_options(**options), cache_folder
        if isinstance(model_id, str | Path):
            model = load_model(model_id, trust_remote_code=self.options.trust_remote_code)
            self._base_models = [str(model_id)] if is_service(str(model_id)) else lineage(str(model_id))
        else:
            model, self._base_models = model_id, [model_id.model_name]
        self.base, self._start = without_map(sentence_transformer(model) or _as_sentence_transformer(model))
        self.vectors, self.summary, self._rows = _Vectors(self.base, cache_folder), {}, []

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: step, seconds, epoch, loss and the development scores; step 0 is the base."""
        return pd.DataFrame(self._rows)

    @property
    def dev_dataset(self) -> Any:
        """The questions held out, to be searched in all training chunks; None where there are none."""
        _, dev = split_questions(self.dataset, self.options.dev_fraction, self.options.seed)
        return with_queries(self.dataset, set(dev)) if dev else None

    def finetune(self) -> None:
        """Learn the map, keep the best seen on the development split, and write it to `model_output_path`.

        Raises:
            UserError: too few pairs.
        """
        started = time.monotonic()
        train, dev = split_questions(self.dataset, self.options.dev_fraction, self.options.seed)
        pairs = training_pairs(self.dataset, train, self.options.use_all_docs)
        queries, chunks = self.vectors(pairs.queries, "query"), self.vectors(pairs.passages)
        size = chunks.shape[1]
        start = torch.zeros(size, size) if self._start is None else torch.from_numpy(self._start) - torch.eye(size)
        change = start.clone().requires_grad_()
        base = best = self._scores(change, dev)
        kept, best_epoch, self._rows = start, 0, [{"step": 0, "seconds": 0.0, "epoch": 0, **base}]
        for row in self._epochs(pairs, queries, chunks, change):
            scores = self._scores(change, dev)
            self._rows.append({"seconds": round(time.monotonic() - started, 2), **row, **scores})
            if self.options.on_progress:
                self.options.on_progress(self.history)
            if not dev or scores[DEV_SCORE] > best[DEV_SCORE]:
                best, best_epoch, kept = scores, row["epoch"], change.detach().clone()
            elif 0 < self.options.patience <= row["epoch"] - best_epoch:
                break
        last = self._rows[-1]
        self.summary = {
            "kept": "fine-tuned" if best_epoch else "base",
            "base_models": self._base_models,
            "stopped": "done" if last["epoch"] == self.options.epochs else "no gain",
            **{"base_as_shipped": base, "base": base, "best": best},
            "best_step": self._rows[best_epoch]["step"],
            "steps": last["step"],
            "seconds": round(time.monotonic() - started, 1),
            **{"train_chunks": len(pairs.groups), "train_questions": len(pairs.queries), "dev_questions": len(dev)},
            "max_seq_length": self.base.max_seq_length,
            "device": "cpu",
            "recipe": self.options.model_dump(include=ADAPTER_OPTIONS - NOT_IN_RECIPE) | {"engine": "adapter"},
        }
        if not best_epoch:
            warnings.warn(BASE_KEPT, stacklevel=2)
        self._save(_whole(kept))

    def _epochs(
        self, pairs: TrainingPairs, queries: np.ndarray, chunks: np.ndarray, change: torch.Tensor
    ) -> Iterator[dict]:
        """Train the map's difference from the identity, epoch by epoch."""
        options, rows = self.options, list(pairs.groups.items())
        teacher = _remembering(Teacher(queries, chunks, pairs)) if options.soft_labels < 1 else None
        loss_of = _VectorLoss(None, pairs.positives, scale=options.scale, teacher=teacher, share=options.soft_labels)
        shuffle = Shuffle(len(rows), -(-len(rows) // options.batch_size), options.seed)
        optimizer = torch.optim.AdamW([change], lr=options.learning_rate, weight_decay=options.weight_decay)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, max(1, options.epochs * len(shuffle)))
        for shuffle.epoch in range(options.epochs):
            losses = []
            for batch in shuffle:
                chunk, query = [rows[row][0] for row in batch], [query for row in batch for query in rows[row][1]]
                own = [place for place, row in enumerate(batch) for _ in rows[row][1]]
                asked, found = torch.from_numpy(queries[query]), torch.from_numpy(chunks[chunk])
                loss = loss_of([asked + asked @ change.T, found], {"query": query, "chunk": chunk, "own": own})
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            yield {"step": shuffle.step + 1, "epoch": shuffle.epoch + 1, "loss": float(np.mean(losses))}

    def _scores(self, change: torch.Tensor, dev: list[str]) -> dict[str, float]:
        weights = _whole(change)

        def embed(_: Any, texts: list[str], kind: Kind) -> np.ndarray:
            vectors = self.vectors(texts, kind)
            return unit(vectors @ weights.T) if kind == "query" else vectors

        return development_scores(None, self.dataset, dev, embed)

    def _save(self, weights: np.ndarray) -> None:
        chain, summary = json.dumps(self._base_models), json.dumps(self.summary, indent=2)
        card = CARD.format(chain=chain, base=self._base_models[-1], summary=summary)
        with atomic_path(self.model_output_path) as folder:
            folder.mkdir()
            save_adapter(with_map(self.base, weights), folder)
            (folder / "README.md").write_text(card, "utf-8")

    def get_finetuned_model(self) -> BaseEmbedding:
        """Return the base with the written adapter as a LlamaIndex embedding that keeps the base's vectors on disk.

        Raises:
            UserError: there is no adapter yet.
        """
        file = self.model_output_path / "adapter.npy"
        if not file.exists():
            raise UserError(f"There is no adapter in {self.model_output_path} yet. Run finetune() first.")
        return as_llama_index(with_map(self.base, np.load(file)), str(self.model_output_path), self.vectors.cache)


def _as_sentence_transformer(service: BaseEmbedding) -> SentenceTransformer:
    name = f"openai:{service.model_name}" if service.class_name() == "OpenAIEmbedding" else service.model_name
    return SentenceTransformer(modules=[Service(name, service)], device="cpu")


def _whole(change: torch.Tensor) -> np.ndarray:
    """Return the matrix that differs from the identity by `change`."""
    return np.eye(len(change), dtype=np.float32) + change.detach().numpy()


def _remembering(teacher: Teacher) -> Callable[[list[int], list[int]], np.ndarray]:
    """Return the teacher with all its scores at hand, where they take less than half a gigabyte."""
    queries, chunks = len(teacher.queries), len(teacher.chunks)
    if queries * chunks > 1e8:
        return teacher
    scores = teacher(range(queries), range(chunks))
    return lambda queries, chunks: scores[np.ix_(queries, chunks)]


class _VectorLoss(GroupedRankingLoss):
    """The other engine's loss on vectors in place of tokens."""

    embed = staticmethod(lambda vectors: vectors)


class _Vectors:
    """Texts to vectors of length 1, each asked for once."""

    def __init__(self, model: SentenceTransformer, cache_folder: str | Path | bool | None) -> None:
        self.model, self.cache, self.fingerprint = model, EmbeddingCache(cache_folder), model_fingerprint(model)
        self.known: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, texts: list[str], kind: Kind = "document") -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if (kind, text) not in self.known]:
            vectors = self.cache.embed(self.model, new, kind, fingerprint=self.fingerprint)
            self.known |= {(kind, text): vector for text, vector in zip(new, vectors, strict=True)}
        return np.stack([self.known[kind, text] for text in texts])
