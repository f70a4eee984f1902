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
from pydantic import PrivateAttr

from nbutils.core import UserError, atomic_path
from nbutils.models.names import DEFAULT_MODEL, resolve_embed_model
from nbutils.models.vectors import EmbeddingCache, Kind, model_fingerprint, unit
from nbutils.training.batches import Shuffle
from nbutils.training.card import lineage
from nbutils.training.engine import BASE_KEPT
from nbutils.training.loss import GroupedRankingLoss
from nbutils.training.options import NOT_IN_RECIPE, TrainingOptions
from nbutils.training.split import questions_about, search_scores, split_questions, training_pairs
from nbutils.training.teacher import Teacher
from nbutils.training.trainer import DEV_SCORE

DEFAULTS = {"epochs": 40, "learning_rate": 3e-4, "weight_decay": 0.1, "patience": 5}
USED = {
    *DEFAULTS, "batch_size", "seed", "scale", "soft_labels", "use_all_docs", "dev_fraction", "trust_remote_code",
    "on_progress", "show_progress_bar",
}  # fmt: skip
CARD = """# Adapter of {base}: a linear map of its query vectors

numpy: `np.load("adapter.npy") @ query_vector`; chunks keep their vectors. LlamaIndex: `AdapterEmbeddingModel(embedding, folder)`
from `llama-index-embeddings-adapter`. Recipe, and scores on the development split:

```json
{summary}
```
"""


class AdapterFinetuneEngine:
    """Learn a linear map of the query vectors, from the identity, with the loss and the split of the other engine.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        model_id: a name as for `resolve_embed_model` (`openai:…` too), or any LlamaIndex embedding.
        model_output_path: folder to write the adapter to.
        val_dataset: taken as on the page, and left alone.
        cache_folder: where vectors are kept, so that none is asked for twice; see EmbeddingCache.
        options: of TrainingOptions those in USED. The decay pulls the map towards the identity.

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
        if other := options.keys() - USED:
            raise UserError(f"The adapter has no option {min(other)!r}; its options are {', '.join(sorted(USED))}.")
        self.dataset, self.val_dataset, self.model_output_path = dataset, val_dataset, Path(model_output_path)
        self.options = TrainingOptions.of(**DEFAULTS | options)
        self.base = resolve_embed_model(model_id, trust_remote_code=self.options.trust_remote_code)
        name = model_id if isinstance(model_id, str | Path) else self.base.model_name
        self.vectors, self.summary, self._rows = _Vectors(self.base, cache_folder), {}, []
        try:
            self._base_models = lineage(str(name))
        except UserError:  # a service's
            self._base_models = [Path(name).name]

    @property
    def history(self) -> pd.DataFrame:
        """One row per epoch: step, seconds, epoch, loss and the development scores; step 0 is the base."""
        return pd.DataFrame(self._rows)

    @property
    def dev_dataset(self) -> Any:
        """The questions held out, to be searched in all training chunks; None where there are none."""
        _, dev = split_questions(self.dataset, self.options.dev_fraction, self.options.seed)
        return questions_about(self.dataset, dev) if dev else None

    def finetune(self) -> None:
        """Learn the map, keep the best seen on the development split, and write it to `model_output_path`.

        Raises:
            UserError: too few pairs.
        """
        started = time.monotonic()
        train, dev = split_questions(self.dataset, self.options.dev_fraction, self.options.seed)
        pairs = training_pairs(self.dataset, train, self.options.use_all_docs)
        queries, chunks = self.vectors(pairs.queries, "query"), self.vectors(pairs.passages)
        change = torch.zeros(queries.shape[1], chunks.shape[1], requires_grad=True)
        base = best = self._scores(change, dev)
        kept, best_epoch, self._rows = change.detach().clone(), 0, [{"step": 0, "seconds": 0.0, "epoch": 0, **base}]
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
            "device": "cpu",
            "recipe": self.options.model_dump(include={*USED} - NOT_IN_RECIPE) | {"engine": "adapter"},
        }
        if not best_epoch:
            warnings.warn(BASE_KEPT, stacklevel=2)
        self._save((torch.eye(len(kept)) + kept).numpy())

    def _epochs(self, pairs: Any, queries: np.ndarray, chunks: np.ndarray, change: torch.Tensor) -> Iterator[dict]:
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
        weights = np.eye(len(change), dtype=np.float32) + change.detach().numpy()

        def embed(_: Any, texts: list[str], kind: Kind) -> np.ndarray:
            vectors = self.vectors(texts, kind)
            return unit(vectors @ weights.T) if kind == "query" else vectors

        found = search_scores(None, self.dataset, dev, embed) if dev else {}
        return {f"dev_{name}": value for name, value in found.items()}

    def _save(self, weights: np.ndarray) -> None:
        with atomic_path(self.model_output_path) as folder:
            folder.mkdir()
            np.save(folder / "adapter.npy", weights)
            torch.save({"linear.weight": torch.from_numpy(weights)}, folder / "pytorch_model.bin")
            config = {"in_features": weights.shape[1], "out_features": weights.shape[0], "bias": False}
            (folder / "config.json").write_text(json.dumps(config))
            summary = json.dumps(self.summary, indent=2)
            (folder / "README.md").write_text(CARD.format(base=self._base_models[-1], summary=summary), "utf-8")

    def get_finetuned_model(self) -> "AdaptedEmbedding":
        """Return the base with the written adapter as a LlamaIndex embedding that keeps the base's vectors on disk.

        Raises:
            UserError: there is no adapter yet.
        """
        file = self.model_output_path / "adapter.npy"
        if not file.exists():
            raise UserError(f"There is no adapter in {self.model_output_path} yet. Run finetune() first.")
        return AdaptedEmbedding(self.vectors, np.load(file), f"{self._base_models[-1]} with an adapter")


def _remembering(teacher: Teacher) -> Callable[[list[int], list[int]], np.ndarray]:
    """Return the teacher with all its scores at hand, where they take less than half a gigabyte."""
    size = len(teacher.queries), len(teacher.chunks)
    if size[0] * size[1] > 1e8:
        return teacher
    scores = teacher(range(size[0]), range(size[1]))
    return lambda queries, chunks: scores[np.ix_(queries, chunks)]


class _VectorLoss(GroupedRankingLoss):
    """The other engine's loss on vectors in place of tokens."""

    embed = staticmethod(lambda vectors: vectors)


class _Vectors:
    """Texts to vectors of length 1, each asked for once."""

    def __init__(self, model: BaseEmbedding, cache_folder: str | Path | bool | None) -> None:
        self.model, self.cache, self.fingerprint = model, EmbeddingCache(cache_folder), model_fingerprint(model)
        self.known: dict[tuple[str, str], np.ndarray] = {}

    def __call__(self, texts: list[str], kind: Kind = "document") -> np.ndarray:
        if new := [text for text in dict.fromkeys(texts) if (kind, text) not in self.known]:
            vectors = self.cache.embed(self.model, new, kind, fingerprint=self.fingerprint)
            self.known |= {(kind, text): vector for text, vector in zip(new, vectors, strict=True)}
        return np.stack([self.known[kind, text] for text in texts])


class AdaptedEmbedding(BaseEmbedding):
    """A LlamaIndex embedding whose queries go through a linear map; chunks are the base's own."""

    _vectors: _Vectors = PrivateAttr()
    _weights: np.ndarray = PrivateAttr()

    def __init__(self, vectors: _Vectors, weights: np.ndarray, name: str) -> None:
        super().__init__(model_name=name)
        self._vectors, self._weights = vectors, weights

    def _get_query_embedding(self, query: str) -> list[float]:
        return unit(self._vectors([query], "query") @ self._weights.T)[0].tolist()

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return self._vectors(texts).tolist()
