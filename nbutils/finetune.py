"""Fine-tune an embedding model on (question, chunk) pairs: a drop-in for LlamaIndex's engine.

The recipe, in short: a batch is some chunks with all their questions, each chunk is encoded once, every other
chunk and every other chunk's question in the batch is a negative; a share of the chunks is held out to choose
the best epoch and to say whether fine-tuning helped at all.
"""

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.base.evaluation import BaseEvaluator
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import TrainerCallback

from nbutils.common import UserError, atomic_path, content_hash
from nbutils.encoding import encode, use_bf16
from nbutils.providers import DEFAULT_MODEL, load_model, longest_input

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.base.embeddings.base import BaseEmbedding


class GroupedRankingLoss(nn.Module):
    """In-batch ranking loss over chunks and all their questions, each text encoded once.

    For question q of chunk c the candidates are every chunk of the batch and every question of another chunk;
    for chunk c with question q they are the questions of the other chunks. A chunk that also answers q, and
    another question of the same chunk, is never a negative. The cross-entropies of both directions are averaged.
    Source: the contrastive loss of GTE, https://arxiv.org/abs/2308.03281, section 3.3, without document–document
    pairs.

    Args:
        model: the model to train.
        positives: for each question's number the numbers of all chunks that answer it.
        scale: inverse temperature that multiplies the cosine similarities.
        tokens_per_pass: texts are sorted by length and encoded in sub-batches of about this many tokens.
        tokens_kept: beyond this many tokens a batch, activations are computed again in the backward pass
            instead of kept (gradient caching, https://arxiv.org/abs/2101.06983); None keeps all.
        dimensions: sizes of Matryoshka prefixes to train besides the full vector
            (https://arxiv.org/abs/2205.13147).
    """

    def __init__(
        self,
        model: SentenceTransformer,
        positives: list[list[int]],
        *,
        scale: float = 20.0,
        tokens_per_pass: int = 4096,
        tokens_kept: int | None = 8192,
        dimensions: tuple[int, ...] = (),
        shortest: float = 1.0,
    ) -> None:
        super().__init__()
        self.model = model
        self.positives = positives
        self.scale = scale
        self.tokens_per_pass = tokens_per_pass
        self.tokens_kept = tokens_kept
        self.dimensions = dimensions
        self.shortest = shortest

    def forward(self, features: list[dict[str, torch.Tensor]], labels: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the loss.

        Args:
            features: tokens of the batch's questions, then of its chunks.
            labels: `query` and `chunk`, the numbers of both, and `own`, for each question its chunk's row.
        """
        questions = self.embed(features[0])
        if self.shortest < 1 and self.training:
            features[1] = self.shorten(features[1])
        chunks = self.embed(features[1])
        query, chunk, own = labels["query"], labels["chunk"], labels["own"]
        others = torch.zeros(len(query), len(chunk), dtype=torch.bool, device=own.device)
        rows = {number: row for row, number in enumerate(chunk.tolist())}
        for row, number in enumerate(query.tolist()):
            for positive in self.positives[number]:
                if positive in rows:
                    others[row, rows[positive]] = True
        others[torch.arange(len(own)), own] = False
        loss = 0
        for size in {*self.dimensions, chunks.shape[1]}:
            q, c = (nn.functional.normalize(x[:, :size].float(), dim=1) for x in (questions, chunks))
            to_chunk = (q @ c.T * self.scale).masked_fill(others, -torch.inf)
            to_question = (q @ q.T * self.scale).masked_fill(own[:, None] == own, -torch.inf)
            forward = nn.functional.cross_entropy(torch.cat([to_chunk, to_question], 1), own)
            same = (own[:, None] == own) | others[:, own]
            backward = (to_chunk.T[own]).masked_fill(same & ~torch.eye(len(own), dtype=torch.bool), -torch.inf)
            backward = nn.functional.cross_entropy(backward, torch.arange(len(own), device=own.device))
            loss = loss + (forward + backward) / 2
        if not torch.isfinite(loss):
            raise UserError(
                "The loss is no longer a number. Lower learning_rate, or look for empty or broken texts in the dataset."
            )
        return loss

    def shorten(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Cut each chunk to a random share of the full length, its last token kept as the end mark."""
        ids, mask = features["input_ids"], features["attention_mask"].clone()
        longest = ids.shape[1]
        limits = (longest * torch.empty(len(ids)).uniform_(self.shortest, 1)).long().to(ids.device)
        lengths = mask.sum(1)
        cut = lengths > limits
        ids = ids.clone()
        ends = ids[torch.arange(len(ids)), lengths - 1]
        ids[cut, limits[cut] - 1] = ends[cut]
        mask *= torch.arange(longest, device=mask.device) < torch.minimum(limits, lengths)[:, None]
        return features | {"input_ids": ids, "attention_mask": mask}

    def embed(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        """Encode texts shortest first, in sub-batches without needless padding; rows keep their order."""
        lengths = features["attention_mask"].sum(1)
        order = lengths.argsort()
        parts, start, kept = [], 0, 0
        while start < len(order):
            stop = start + 1
            while stop < len(order) and int(lengths[order[stop]]) * (stop + 1 - start) <= self.tokens_per_pass:
                stop += 1
            rows = order[start:stop]
            width = int(lengths[rows].max())
            part = {
                key: value[rows][:, :width] if torch.is_tensor(value) and value.ndim > 1 else value
                for key, value in features.items()
            }
            kept += width * len(rows)
            if self.tokens_kept is None or kept <= self.tokens_kept or not torch.is_grad_enabled():
                parts.append(self.model(part)["sentence_embedding"])
            else:
                parts.append(checkpoint(self._vectors, part, use_reentrant=False))
            start = stop
        return torch.cat(parts)[order.argsort()]

    def _vectors(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(dict(features))["sentence_embedding"]


class _GroupCollator:
    """Rows of the training set to the tokens and labels that GroupedRankingLoss expects."""

    def __init__(self, model: SentenceTransformer, queries: list[str], chunks: list[str]) -> None:
        self.model, self.queries, self.chunks = model, queries, chunks
        self.valid_label_columns = ["label"]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        query = [number for row in rows for number in row["queries"]]
        chunk = [row["chunk"] for row in rows]
        texts = {"query": [self.queries[n] for n in query], "document": [self.chunks[n] for n in chunk]}
        batch = {}
        for name, items in texts.items():
            tokens = self.model.preprocess(items, prompt=self.model.prompts.get(name) or None)
            batch |= {f"{name}_{key}": value for key, value in tokens.items()}
        own = [position for position, row in enumerate(rows) for _ in row["queries"]]
        batch["label"] = {
            "query": torch.tensor(query), "chunk": torch.tensor(chunk), "own": torch.tensor(own),
        }  # fmt: skip
        return batch


class DevSearch(BaseEvaluator):
    """Search chunks with held-out questions and score the ranking.

    Args:
        queries: question id -> question.
        corpus: chunk id -> text; all of it is searched.
        relevant_docs: question id -> ids of the chunks that answer it.
        name: prefix of the scores' names.
    """

    def __init__(self, queries: dict, corpus: dict, relevant_docs: dict, name: str = "dev") -> None:
        super().__init__()
        self.queries, self.corpus, self.name = queries, corpus, name
        rows = {chunk_id: row for row, chunk_id in enumerate(corpus)}
        self.relevant = [[rows[chunk_id] for chunk_id in relevant_docs[query_id]] for query_id in queries]
        self.primary_metric = f"{name}_ndcg@10"

    def __call__(self, model: SentenceTransformer, output_path=None, epoch=-1, steps=-1) -> dict[str, float]:
        """Return hit@5, MRR@10 and nDCG@10, each a mean over the questions between 0 and 1."""
        was_training = model.training
        chunks = encode(model, list(self.corpus.values()), "document")
        questions = encode(model, list(self.queries.values()), "query")
        model.train(was_training)
        scores = questions @ chunks.T
        top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        gains = np.array([np.isin(row, relevant) for row, relevant in zip(top, self.relevant, strict=True)])
        discounts = 1 / np.log2(np.arange(2, 2 + gains.shape[1]))
        ideal = np.array([discounts[: len(relevant)].sum() for relevant in self.relevant])
        first = np.where(gains.any(1), 1 / (gains.argmax(1) + 1), 0)
        return {
            f"{self.name}_hit@5": float(gains[:, :5].any(1).mean()),
            f"{self.name}_mrr@10": float(first.mean()),
            f"{self.name}_ndcg@10": float((gains @ discounts / ideal).mean()),
        }


class _Trainer(SentenceTransformerTrainer):
    """The stock trainer with a schedule that never stands still and checkpoints that are whole or absent."""

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.lr_scheduler is None:
            warmup = max(1, round(self.args.get_warmup_steps(num_training_steps)))

            def factor(step: int) -> float:
                if step < warmup:
                    return (step + 1) / (warmup + 1)
                return max(0.0, (num_training_steps - step) / max(1, num_training_steps - warmup))

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler


class _Recorder(TrainerCallback):
    """Keep the curve, the best weights and the reasons to stop."""

    def __init__(self, engine: "SentenceTransformersFinetuneEngine", evaluators: list[DevSearch]) -> None:
        self.engine, self.evaluators = engine, evaluators
        self.best_score, self.best_step, self.best_weights, self.waited = -1.0, 0, None, 0

    def measure(self, step: int, epoch: float) -> dict[str, float]:
        scores = {}
        for evaluator in self.evaluators:
            scores |= evaluator(self.engine.model)
        self.engine._record(step=step, epoch=epoch, **scores)
        return scores

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            names = ("loss", "learning_rate", "grad_norm")
            self.engine._record(
                step=state.global_step, epoch=state.epoch, **{key: float(logs[key]) for key in names if key in logs}
            )

    def on_step_end(self, args, state, control, **kwargs) -> None:
        every = self.engine.evaluation_steps
        if every and state.global_step % every == 0:
            self._decide(state, control)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if not self.engine.evaluation_steps:
            self._decide(state, control)

    def _decide(self, state, control) -> None:
        scores = self.measure(state.global_step, state.epoch)
        score = scores.get("dev_ndcg@10")
        if score is None:
            return
        if score > self.best_score:
            self.best_score, self.best_step, self.waited = score, state.global_step, 0
            self.best_weights = _weights(self.engine.model)
        else:
            self.waited += 1
            if self.engine.patience and self.waited >= self.engine.patience:
                control.should_training_stop = True


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


class SentenceTransformersFinetuneEngine:
    """Fine-tune a sentence-transformers model on a question dataset.

    The first seventeen arguments are those of `llama_index.finetuning.SentenceTransformersFinetuneEngine`.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        model_id: base model: the packaged `all-MiniLM-L6-v2`, a folder, or a hub id.
        model_output_path: folder to write the model to.
        batch_size: chunks a step, each with all its questions.
        val_dataset: only reported in `history` (val_…), never used to choose anything.
        loss: a function from the model to a sentence-transformers loss over (question, chunk) pairs, or such a
            loss; default is GroupedRankingLoss.
        epochs: passes over the training chunks at most.
        show_progress_bar: show a bar.
        evaluation_steps: steps between two looks at the development split; default is once an epoch.
        use_all_docs: train on every chunk of a question, not only on its first.
        trust_remote_code: allow code from the hub to run.
        device: "cuda", "mps" or "cpu"; default is the best one there is.
        learning_rate: peak of the schedule (10 % warm-up, linear decay).
        max_seq_length: tokens that the model reads of a text, in training and after; default is as far as the
            chunks go, up to what pays.
        seed: of the split, the order and the dropout.
        dev_fraction: share of the chunks held out, with their questions, to choose the best epoch.
        patience: evaluations without a gain before training stops; 0 never stops early.
        on_progress: called with `history` after every log entry.
    """

    def __init__(
        self,
        dataset: Any,
        model_id: str = DEFAULT_MODEL,
        model_output_path: str | Path = "exp_finetune",
        batch_size: int = 32,
        val_dataset: Any = None,
        loss: Any = None,
        epochs: int = 4,
        show_progress_bar: bool = True,
        evaluation_steps: int | None = None,
        use_all_docs: bool = False,
        trust_remote_code: bool = False,
        device: str | None = None,
        save_checkpoints: bool = False,
        resume_from_checkpoint: bool = False,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
        *,
        learning_rate: float = 5e-5,
        max_seq_length: int | None = None,
        seed: int = 0,
        dev_fraction: float = 0.1,
        patience: int = 2,
        blend: float = 1.0,
        scale: float = 20.0,
        weight_decay: float = 0.0,
        dropout: bool = False,
        shortest: float = 1.0,
        matryoshka_dims: tuple[int, ...] = (),
        callbacks: tuple[TrainerCallback, ...] = (),
        on_progress: "Callable[[pd.DataFrame], None] | None" = None,
    ) -> None:
        self.dataset = dataset
        self.model_id = str(model_id)
        self.model_output_path = Path(model_output_path)
        self.batch_size = batch_size
        self.val_dataset = val_dataset
        self.loss = loss
        self.epochs = epochs
        self.show_progress_bar = show_progress_bar
        self.evaluation_steps = evaluation_steps
        self.use_all_docs = use_all_docs
        self.learning_rate = learning_rate
        self.seed = seed
        self.dev_fraction = dev_fraction
        self.patience = patience
        self.blend = blend
        self.scale = scale
        self.weight_decay = weight_decay
        self.dropout = dropout
        self.shortest = shortest
        self.matryoshka_dims = tuple(matryoshka_dims)
        self.callbacks = tuple(callbacks)
        self.on_progress = on_progress
        self.summary: dict[str, Any] = {}
        self._rows: list[dict[str, float]] = []
        self.model = load_model(self.model_id, device=device, trust_remote_code=trust_remote_code)
        self.model.max_seq_length = self._reading_length(max_seq_length)
        torch.manual_seed(seed)

    @property
    def history(self) -> "pd.DataFrame":
        """One row a step or evaluation: step, epoch, seconds, loss, learning_rate, dev_ndcg@10, …"""
        import pandas as pd

        frame = pd.DataFrame(self._rows)
        return frame.groupby("step", as_index=False).last() if len(frame) else frame

    def _record(self, **row: float) -> None:
        self._rows.append({"seconds": time.monotonic() - self._started} | row)
        if self.on_progress:
            self.on_progress(self.history)

    def _reading_length(self, asked: int | None) -> int:
        most = longest_input(self.model)
        if asked:
            return min(asked, most)
        lengths = [len(ids) for ids in self.model.tokenizer(list(self.dataset.corpus.values()))["input_ids"]]
        return min(most, 384, math.ceil(max(lengths) / 8) * 8)

    def _split(self) -> tuple[list[str], set[str]]:
        """Return the chunk ids in order and those held out: whole chunks, chosen by the seed and their text."""
        corpus = self.dataset.corpus
        asked = dict.fromkeys(ids[0] for ids in self.dataset.relevant_docs.values())
        shuffled = sorted(asked, key=lambda chunk_id: content_hash(str(self.seed), corpus[chunk_id]))
        return list(asked), set(shuffled[: round(len(shuffled) * self.dev_fraction)])

    def finetune(self, **train_kwargs: Any) -> None:
        """Train, keep the best epoch, and write the model to `model_output_path`."""
        from datasets import Dataset

        for name, value in train_kwargs.items():
            if name not in ("epochs", "batch_size", "learning_rate", "show_progress_bar", "evaluation_steps"):
                raise UserError(f"finetune() knows no argument {name!r}. Give it to the engine's constructor.")
            setattr(self, name, value)
        self._started = time.monotonic()
        self._rows.clear()
        data = self.dataset
        chunk_ids, held_out = self._split()
        dev_queries = {q: text for q, text in data.queries.items() if data.relevant_docs[q][0] in held_out}
        query_ids = [q for q in data.queries if q not in dev_queries]
        chunk_number = {chunk_id: number for number, chunk_id in enumerate(data.corpus)}
        groups: dict[int, list[int]] = {}
        for number, query_id in enumerate(query_ids):
            for chunk_id in data.relevant_docs[query_id][: None if self.use_all_docs else 1]:
                groups.setdefault(chunk_number[chunk_id], []).append(number)
        if len(groups) < 2:
            raise UserError(f"The dataset has questions for {len(groups)} chunks to train on; it needs two or more.")
        evaluators = []
        if dev_queries:
            evaluators.append(DevSearch(dev_queries, data.corpus, data.relevant_docs, "dev"))
        if self.val_dataset is not None:
            val = self.val_dataset
            evaluators.append(DevSearch(val.queries, val.corpus, val.relevant_docs, "val"))
        rows = Dataset.from_dict({"chunk": list(groups), "queries": list(groups.values())})
        steps = math.ceil(len(rows) / min(self.batch_size, len(rows)))
        if not self.dropout:
            for module in self.model.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        base_weights = _weights(self.model)
        recorder = _Recorder(self, evaluators)
        loss = self.loss or GroupedRankingLoss(
            self.model,
            [[chunk_number[c] for c in data.relevant_docs[q]] for q in query_ids],
            scale=self.scale, dimensions=self.matryoshka_dims, shortest=self.shortest,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            workspace = self.model_output_path.parent / f".{self.model_output_path.name}.trainer"
            args = SentenceTransformerTrainingArguments(
                output_dir=str(workspace),
                num_train_epochs=self.epochs,
                per_device_train_batch_size=math.ceil(len(rows) / steps),
                learning_rate=self.learning_rate,
                weight_decay=self.weight_decay,
                warmup_steps=0.1,
                bf16=use_bf16(self.model.device),
                use_cpu=self.model.device.type == "cpu",
                seed=self.seed,
                logging_steps=1,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                optim="adamw_torch_fused",
            )
            trainer = _Trainer(
                model=self.model,
                args=args,
                train_dataset=rows,
                loss=loss,
                data_collator=_GroupCollator(
                    self.model, [data.queries[q] for q in query_ids], list(data.corpus.values())
                ),
                callbacks=[recorder, *self.callbacks],
            )
            from transformers.trainer_callback import PrinterCallback

            trainer.remove_callback(PrinterCallback)
            base = recorder.measure(0, 0.0)
            recorder.best_score = base.get("dev_ndcg@10", -1.0)
            recorder.best_weights = None
            with contextlib.suppress(KeyboardInterrupt):
                trainer.train()
            stack.callback(lambda: None)
        kept = "fine-tuned"
        if dev_queries:
            if recorder.best_weights is None:
                kept = "base"
                self.model.load_state_dict(base_weights)
            else:
                self.model.load_state_dict(recorder.best_weights)
        if kept == "fine-tuned" and self.blend < 1:
            self._blend(base_weights)
        self.save()
        self.summary = {
            "kept": kept,
            "base_dev_ndcg@10": base.get("dev_ndcg@10"),
            "best_dev_ndcg@10": recorder.best_score if dev_queries else None,
            "best_step": recorder.best_step,
            "steps": trainer.state.global_step,
            "seconds": round(time.monotonic() - self._started, 1),
            "max_seq_length": self.model.max_seq_length,
        }

    def _blend(self, base: dict[str, torch.Tensor]) -> None:
        tuned = self.model.state_dict()
        self.model.load_state_dict(
            {
                name: torch.lerp(base[name], value.cpu(), self.blend) if value.is_floating_point() else value
                for name, value in tuned.items()
            }
        )

    def save(self) -> None:
        """Write the model whole or not at all."""
        with atomic_path(self.model_output_path) as folder:
            self.model.save_pretrained(str(folder))

    def get_finetuned_model(self, **model_kwargs: Any) -> "BaseEmbedding":
        """Return the written model as a LlamaIndex embedding with the prompts it was trained with."""
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        config = json.loads((self.model_output_path / "config_sentence_transformers.json").read_text())
        prompts = config.get("prompts", {})
        options = {
            "query_instruction": prompts.get("query") or None,
            "text_instruction": prompts.get("document") or None,
        }
        return HuggingFaceEmbedding(model_name=str(self.model_output_path), **(options | model_kwargs))


class DocumentedEngine:
    """LlamaIndex's own engine behind the interface of ours; its package is deprecated and imported only here.

    Source: `llama_index.finetuning.SentenceTransformersFinetuneEngine`, whose arguments it takes.
    """

    def __init__(self, dataset: Any, model_id: str, model_output_path: str | Path, **options: Any) -> None:
        import warnings

        from nbutils.providers import resolve_model

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            from llama_index.finetuning import EmbeddingQAFinetuneDataset as Theirs
            from llama_index.finetuning import SentenceTransformersFinetuneEngine as Engine

        def theirs(ours):
            return ours and Theirs(queries=ours.queries, corpus=ours.corpus, relevant_docs=ours.relevant_docs)

        options["val_dataset"] = theirs(options.get("val_dataset"))
        self.model_output_path = Path(model_output_path)
        self.summary: dict[str, Any] = {}
        self._engine = Engine(theirs(dataset), resolve_model(model_id), str(model_output_path), **options)

    def finetune(self, **train_kwargs: Any) -> None:
        """Train as documented; the model at the end is what its `fit` leaves in the folder."""
        started = time.monotonic()
        with atomic_path(self.model_output_path) as folder:
            self._engine.model_output_path = str(folder)
            self._engine.finetune(**train_kwargs)
        self._engine.model_output_path = str(self.model_output_path)
        self.summary = {
            "kept": "fine-tuned",
            "seconds": round(time.monotonic() - started, 1),
            "max_seq_length": self._engine.model.max_seq_length,
            "engine": "llama-index",
        }

    @property
    def history(self) -> "pd.DataFrame":
        """The documented engine records nothing: an empty table of the usual columns."""
        import pandas as pd

        return pd.DataFrame(columns=["step", "epoch", "loss", "learning_rate"])

    def get_finetuned_model(self, **model_kwargs: Any) -> "BaseEmbedding":
        """Return the written model as a LlamaIndex embedding."""
        return self._engine.get_finetuned_model(**model_kwargs)


def make_engine(engine: str, dataset: Any, model_id: str, model_output_path: str | Path, **options: Any):
    """Return the engine called `engine`: "nbutils", ours, or "llama-index", the documented one.

    Args:
        options: of `SentenceTransformersFinetuneEngine`; the documented engine gets those that it knows.

    Raises:
        UserError: no such engine.
    """
    if engine == "nbutils":
        return SentenceTransformersFinetuneEngine(dataset, model_id, model_output_path, **options)
    if engine != "llama-index":
        raise UserError(f"ENGINE is {engine!r}; use 'nbutils' or 'llama-index'.")
    known = ("batch_size", "val_dataset", "epochs", "show_progress_bar", "trust_remote_code", "device")
    return DocumentedEngine(dataset, model_id, model_output_path, **{k: v for k, v in options.items() if k in known})
