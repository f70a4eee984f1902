"""Fine-tune an embedding model on (question, chunk) pairs: a drop-in for LlamaIndex's engine.

The recipe in short: a batch is some chunks with all their questions; each chunk is encoded once; every other
chunk and every question of another chunk is a negative; a share of the chunks is held out, with their questions,
to choose the best epoch and to say whether fine-tuning helped at all.
"""

import argparse
import contextlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from nbutils.core import UserError, atomic_path, content_hash, progress
from nbutils.models.encoding import encode, use_bf16
from nbutils.models.names import DEFAULT_MODEL, load_model, longest_input
from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
from nbutils.training.card import in_the_older_form, model_card
from nbutils.training.loss import GroupCollator, GroupedRankingLoss, Shuffle, process, processes

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.base.embeddings.base import BaseEmbedding

DEV_SCORE = "dev_ndcg@10"
LENGTH_THAT_PAYS = 512  # tokens; see benchmarks/finetune_speed.py
DEV_DISTRACTORS = 200  # chunks besides the right ones that development questions are searched in at most


def search_scores(model: SentenceTransformer, dataset: Any, queries: list[str] | None = None) -> dict[str, float]:
    """Search a dataset's chunks with its questions.

    Args:
        model: the model that embeds both.
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        queries: ids of the questions to ask; default is all. With these, at most 200 chunks are searched besides theirs.

    Returns:
        hit@5, mrr@10 and ndcg@10, each a mean over the questions between 0 and 1.
    """
    asked = list(dataset.queries if queries is None else queries)
    needed = {chunk_id for query_id in asked for chunk_id in dataset.relevant_docs[query_id]}
    others = [chunk_id for chunk_id in dataset.corpus if chunk_id not in needed]
    if queries is not None:
        others = others[:: max(1, math.ceil(len(others) / DEV_DISTRACTORS))]
    chunk_ids = [*needed, *others]
    row = {chunk_id: number for number, chunk_id in enumerate(chunk_ids)}
    relevant = [[row[chunk_id] for chunk_id in dataset.relevant_docs[query_id]] for query_id in asked]
    chunks = encode(model, [dataset.corpus[chunk_id] for chunk_id in chunk_ids], "document")
    questions = encode(model, [dataset.queries[query_id] for query_id in asked], "query")
    top = np.argsort(-(questions @ chunks.T), axis=1, kind="stable")[:, :10]
    gains = np.array([np.isin(found, right) for found, right in zip(top, relevant, strict=True)])
    discounts = 1 / np.log2(np.arange(2, 2 + gains.shape[1]))
    ideal = np.array([discounts[: len(right)].sum() for right in relevant])
    first = np.where(gains.any(1), 1 / (gains.argmax(1) + 1), 0)
    return {
        "hit@5": float(gains[:, :5].any(1).mean()),
        "mrr@10": float(first.mean()),
        "ndcg@10": float((gains @ discounts / ideal).mean()),
    }


class _Trainer(SentenceTransformerTrainer):
    """The stock trainer, its learning rate never zero, its checkpoints whole or absent, no texts in a model card."""

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        pass

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        if self.lr_scheduler is None:
            warmup = max(1, round(self.args.get_warmup_steps(num_training_steps)))

            def share(step: int) -> float:
                return min((step + 1) / (warmup + 1), (num_training_steps - step) / max(1, num_training_steps - warmup))

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        if isinstance(self.data_collator, GroupCollator):
            return torch.utils.data.DataLoader(
                self.train_dataset, batch_sampler=self.shuffle, collate_fn=self.data_collator
            )
        return super().get_train_dataloader()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file(_weights(self.model), folder / "model.safetensors")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.model.load_state_dict(load_file(Path(resume_from_checkpoint) / "model.safetensors"))

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        if not self.is_world_process_zero():
            return
        folder, step = Path(self.args.output_dir), self.state.global_step
        with atomic_path(folder / f"checkpoint-{step}") as staged:
            self.args.output_dir = str(staged.parent)
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.args.output_dir = str(folder)
            self.recorder.save(staged)
        limit = self.checkpoint_limit
        for _, old in _checkpoints(folder)[:-limit] if limit else ():
            shutil.rmtree(old, ignore_errors=True)


class _Recorder(TrainerCallback):
    """Keep the curve and the best weights, and say when to stop."""

    def __init__(self, engine: "SentenceTransformersFinetuneEngine", bar: Any) -> None:
        self.engine, self.bar = engine, bar
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.best_step = self.waited = 0
        self.last_step = -1

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        if isinstance(self.engine.loss_module, GroupedRankingLoss):
            self.engine.loss_module.step = state.global_step

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        self.engine.shuffle.epoch = round(state.epoch or 0)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if logs and "loss" in logs:
            entry = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
            self.engine._record(step=state.global_step, epoch=state.epoch, **entry)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update(state.global_step - self.bar.n)
        if self.engine.evaluation_steps and state.global_step % self.engine.evaluation_steps == 0:
            self.evaluate(state, control)

    def on_epoch_end(self, args, state, control, **kwargs) -> None:
        if not self.engine.evaluation_steps:
            self.evaluate(state, control)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.evaluate(state, control)

    def evaluate(self, state, control) -> None:
        """Score the model as it would be kept now, remember it if it is the best, stop when gains have ended."""
        if state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        with self.engine._blended():
            scores = self.engine._measure()
            self.engine._record(step=state.global_step, epoch=state.epoch, **scores)
            if DEV_SCORE not in scores or scores[DEV_SCORE] > self.best.get(DEV_SCORE, -1):
                self.best, self.best_step, self.waited = scores, state.global_step, 0
                self.best_weights = _weights(self.engine.model)
                return
        self.waited += 1
        if self.engine.patience and self.waited >= self.engine.patience:
            control.should_training_stop = True

    def save(self, folder: Path) -> None:
        """Write what a later process needs to go on."""
        state = {
            name: getattr(self, name) for name in ("best", "best_step", "waited", "last_step")
        } | {"rows": self.engine._rows, "fingerprint": self.engine.fingerprint}  # fmt: skip
        (folder / "recorder.json").write_text(json.dumps(state))
        if self.best_weights is not None:
            save_file(self.best_weights, folder / "best.safetensors")

    def load(self, folder: Path) -> None:
        """Take up what `save` wrote."""
        state = json.loads((folder / "recorder.json").read_text())
        self.best, self.best_step = state["best"], state["best_step"]
        self.waited, self.last_step = state["waited"], state["last_step"]
        self.engine._rows[:] = state["rows"]
        if (folder / "best.safetensors").exists():
            self.best_weights = load_file(folder / "best.safetensors")


class SentenceTransformersFinetuneEngine:
    """Fine-tune a sentence-transformers model on a question dataset.

    The arguments up to `checkpoint_save_total_limit` are those of LlamaIndex's engine of the same name.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        model_id: base model: the packaged `all-MiniLM-L6-v2`, a folder, or a hub id.
        model_output_path: folder to write the model to.
        batch_size: chunks a step, each with all its questions; pairs a step with a `loss` of your own.
        val_dataset: only reported in `history` (val_…), never used to choose anything, and only if `report_val`.
        loss: a sentence-transformers loss over (query, document) pairs, or a function from the model to one;
            default is GroupedRankingLoss.
        epochs: passes over the training chunks at most.
        show_progress_bar: show a bar.
        evaluation_steps: steps between two looks at the development split; default is once an epoch.
        use_all_docs: train on every chunk of a question, not only on its first.
        trust_remote_code: allow code from the hub to run.
        device: "cuda", "mps" or "cpu"; default is the best one there is.
        save_checkpoints: save the state of training in `<model_output_path>_checkpoints`.
        resume_from_checkpoint: continue from the latest checkpoint of the same data and options, if there is one.
        checkpoint_save_steps: steps between two checkpoints.
        checkpoint_save_total_limit: checkpoints to keep; 0 keeps all.
        learning_rate: peak of the schedule (10 % warm-up, linear decay).
        max_seq_length: tokens the model reads of a text, in training and after; default is as far as the chunks go,
            up to what pays.
        seed: of the split, the order and the draws.
        dev_fraction: share of the chunks held out, with their questions, to choose the best epoch; 0 trains on all
            and keeps the last.
        patience: evaluations without a gain before training stops; 0 never stops early.
        blend: share of the fine-tuned weights in the kept model, the rest being the base model's
            (https://arxiv.org/abs/2109.01903).
        scale, shortest, matryoshka_dims: see GroupedRankingLoss (`dimensions` for the last).
        weight_decay: of AdamW.
        dropout: keep the model's dropout; off it is faster by far on a CPU.
        frozen_layers: layers to leave as they are, counted from the input, the token embeddings with them.
        lora_rank: train low-rank adapters of this rank instead of all weights (needs the extra `lora`).
        prompts: `{"query": …, "document": …}` in place of those known for the model.
        callbacks: callbacks for the trainer.
        on_progress: called with `history` as it grows, at most once a second.
        report_val: also score `val_dataset` at each evaluation.

    Raises:
        UserError: the dataset has too few pairs, or an option is out of range.
    """

    def __init__(
        self,
        dataset: Any,
        model_id: str = DEFAULT_MODEL,
        model_output_path: str | Path = "exp_finetune",
        batch_size: int = 32,
        val_dataset: Any = None,
        loss: Any = None,
        epochs: int = 3,
        show_progress_bar: bool = True,
        evaluation_steps: int | None = None,
        use_all_docs: bool = False,
        trust_remote_code: bool = False,
        device: str | None = None,
        save_checkpoints: bool = False,
        resume_from_checkpoint: bool = False,
        checkpoint_save_steps: int = 50,
        checkpoint_save_total_limit: int = 1,
        *,
        learning_rate: float = 8e-5,
        max_seq_length: int | None = None,
        seed: int = 0,
        dev_fraction: float = 0.1,
        patience: int = 2,
        blend: float = 1.0,
        scale: float = 20.0,
        shortest: float = 0.25,
        matryoshka_dims: tuple[int, ...] = (),
        weight_decay: float = 0.0,
        dropout: bool = False,
        frozen_layers: int | None = None,
        lora_rank: int = 0,
        prompts: dict[str, str] | None = None,
        callbacks: tuple[TrainerCallback, ...] = (),
        on_progress: "Callable[[pd.DataFrame], None] | None" = None,
        report_val: bool = False,
    ) -> None:
        self.dataset, self.val_dataset = dataset, val_dataset
        self.model_id, self.model_output_path = str(model_id), Path(model_output_path)
        self.batch_size, self.epochs, self.learning_rate = batch_size, epochs, learning_rate
        self.loss, self.scale, self.shortest = loss, scale, shortest
        self.show_progress_bar, self.evaluation_steps = show_progress_bar, evaluation_steps
        self.use_all_docs, self.report_val = use_all_docs, report_val
        self.save_checkpoints, self.resume_from_checkpoint = save_checkpoints, resume_from_checkpoint
        self.checkpoint_save_steps = checkpoint_save_steps
        self.checkpoint_save_total_limit = checkpoint_save_total_limit
        self.seed, self.dev_fraction, self.patience, self.blend = seed, dev_fraction, patience, blend
        self.matryoshka_dims = tuple(sorted(matryoshka_dims))
        self.weight_decay, self.dropout = weight_decay, dropout
        self.frozen_layers, self.lora_rank = frozen_layers, lora_rank
        self.callbacks, self.on_progress = tuple(callbacks), on_progress
        self._check_options()
        self.summary: dict[str, Any] = {}
        self._rows: list[dict[str, float]] = []
        self._told = 0.0
        if device is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        self.model = load_model(self.model_id, device=device, trust_remote_code=trust_remote_code, prompts=prompts)
        self.shipped_max_seq_length = self.model.max_seq_length
        self.model.max_seq_length = self._reading_length(max_seq_length)

    def _check_options(self) -> None:
        limits = {
            "batch_size": (2, math.inf), "epochs": (0, math.inf), "learning_rate": (1e-12, 1), "blend": (0, 1),
            "dev_fraction": (0, 0.9), "shortest": (0.01, 1), "scale": (1e-6, math.inf), "lora_rank": (0, 4096),
            "patience": (0, math.inf), "checkpoint_save_steps": (1, math.inf),
        }  # fmt: skip
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} is {getattr(self, name)}; use a number from {low} to {high}.")

    @property
    def history(self) -> "pd.DataFrame":
        """One row a step: step, seconds, epoch, loss, learning_rate, grad_norm, dev_hit@5, dev_mrr@10, dev_ndcg@10.

        Step 0 is the base model. Development scores stand where the model was evaluated, NaN elsewhere.
        """
        import pandas as pd

        frame = pd.DataFrame(self._rows)
        return frame.groupby("step", as_index=False).last() if len(frame) else frame

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.model_output_path.with_name(self.model_output_path.name + "_checkpoints")

    def _record(self, **row: float) -> None:
        now = time.monotonic()
        self._rows.append({"seconds": round(now - self._started, 2), **row})
        if self.on_progress and process() == 0 and ("loss" not in row or now - self._told > 1):
            self.on_progress(self.history)
            self._told = time.monotonic()

    def _reading_length(self, asked: int | None) -> int:
        most, shipped = longest_input(self.model), self.shipped_max_seq_length or LENGTH_THAT_PAYS
        if asked:
            if asked > most:
                warnings.warn(
                    f"max_seq_length is {asked}, but {self.model_id} reads {most} tokens at most.", stacklevel=3
                )
            return min(asked, most)
        texts = [*self.dataset.corpus.values(), *self.dataset.queries.values()]
        longest = max(map(len, self.model.tokenizer(texts, verbose=False)["input_ids"]), default=0)
        return max(shipped, min(most, LENGTH_THAT_PAYS, math.ceil(longest / 8) * 8))

    def _split(self) -> tuple[list[str], list[str]]:
        """Return the ids of the questions to train on and of those held out; chunks are held out whole."""
        queries, corpus, relevant = self.dataset.queries, self.dataset.corpus, self.dataset.relevant_docs
        for query_id in queries:
            if not relevant.get(query_id) or any(chunk_id not in corpus for chunk_id in relevant[query_id]):
                raise UserError(f"Question {query_id} points to no chunk of the corpus. Remove it or add its chunk.")
        texts = dict.fromkeys(corpus[chunk_id] for query_id in queries for chunk_id in relevant[query_id])
        drawn = sorted(texts, key=lambda text: content_hash(str(self.seed), text))
        count = round(len(drawn) * self.dev_fraction)
        held_out = set(drawn[:count] if len(drawn) - count >= 2 else [])
        dev = [q for q in queries if any(corpus[chunk_id] in held_out for chunk_id in relevant[q])]
        chosen = set(dev)
        return [q for q in queries if q not in chosen], dev

    @property
    def dev_dataset(self) -> EmbeddingQAFinetuneDataset | None:
        """The questions held out, to be searched in all training chunks; None where there are none."""
        data = self.dataset
        _, dev = self._split()
        return EmbeddingQAFinetuneDataset(
            queries={q: data.queries[q] for q in dev},
            corpus=dict(data.corpus),
            relevant_docs={q: list(data.relevant_docs[q]) for q in dev},
        ) if dev else None  # fmt: skip

    def _groups(self, query_ids: list[str]) -> tuple[dict[int, list[int]], list[list[int]], list[str]]:
        """Return chunk number -> question numbers, question number -> chunk numbers, and the chunks' distinct texts."""
        corpus, relevant = self.dataset.corpus, self.dataset.relevant_docs
        number = {text: position for position, text in enumerate(dict.fromkeys(corpus.values()))}
        positives = [list(dict.fromkeys(number[corpus[c]] for c in relevant[q])) for q in query_ids]
        groups: dict[int, list[int]] = {}
        for query, chunks in enumerate(positives):
            for chunk in chunks if self.use_all_docs else chunks[:1]:
                groups.setdefault(chunk, []).append(query)
        if len(groups) < 2:
            raise UserError(
                f"The dataset has questions for {len(groups)} chunk(s) to train on, and training needs two at least. "
                "Add documents or write more questions."
            )
        return groups, positives, list(number)

    def finetune(self, **train_kwargs: Any) -> None:
        """Train, keep the best model seen on the development split, and write it to `model_output_path`.

        Ctrl-C stops early and keeps the best so far. If no evaluation beats the base model reading as far, the base is
        written and `summary["kept"]` says so; a warning tells if only the base as shipped, reading less, did better.

        Args:
            train_kwargs: epochs, batch_size, learning_rate, evaluation_steps, show_progress_bar, save_checkpoints,
                resume_from_checkpoint, checkpoint_save_steps or checkpoint_save_total_limit, in place of the
                constructor's.

        Raises:
            UserError: an argument it does not know, too few pairs, a loss that is not a number, or no memory left.
        """
        known = (
            "epochs", "batch_size", "learning_rate", "evaluation_steps", "show_progress_bar", "save_checkpoints",
            "resume_from_checkpoint", "checkpoint_save_steps", "checkpoint_save_total_limit",
        )  # fmt: skip
        for name, value in train_kwargs.items():
            if name not in known:
                raise UserError(
                    f"finetune() takes no {name!r}; give it to the engine, or use one of {', '.join(known)}."
                )
            setattr(self, name, value)
        self._check_options()
        self._started = time.monotonic()
        self._rows.clear()
        train, self._dev = self._split()
        self.fingerprint = self._fingerprint()
        trainer, rows = self._trainer(train)
        recorder = trainer.recorder
        latest = self._latest_checkpoint()
        if latest:
            recorder.load(latest)
            self._started -= self._rows[-1]["seconds"]
            base = {name: value for name, value in self._rows[0].items() if name.startswith(("dev_", "val_"))}
        else:
            base = recorder.best = self._measure()
            self._record(step=0, epoch=0.0, **base)
        same_length = self.model.max_seq_length == self.shipped_max_seq_length
        as_shipped = base if same_length else self._measure_as_shipped()
        stopped = ""
        try:
            with recorder.bar:
                trainer.train(resume_from_checkpoint=str(latest) if latest else None)
        except KeyboardInterrupt:
            stopped = "interrupted"
            recorder.evaluate(trainer.state, trainer.control)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            raise UserError(
                f"Out of memory with batch_size {self.batch_size} at {self.model.max_seq_length} tokens. "
                "Lower batch_size or max_seq_length."
            ) from error
        if not stopped and trainer.state.global_step < trainer.state.max_steps:
            stopped = "no gain"
        self._unwrap(trainer)
        kept = "fine-tuned" if recorder.best_weights is not None else "base"
        self.model.load_state_dict(recorder.best_weights or self._base_weights)
        shipped_is_best = as_shipped.get(DEV_SCORE, 0) > recorder.best.get(DEV_SCORE, 0)
        if kept == "base" and shipped_is_best:
            recorder.best, self.model.max_seq_length = as_shipped, self.shipped_max_seq_length
        if self.lora_rank:
            self._merge_lora()
        if trainer.is_world_process_zero():
            restored = recorder.best_step != trainer.state.global_step
            final = self._measure_here() if restored else recorder.best
            if abs(final.get(DEV_SCORE, 0) - recorder.best.get(DEV_SCORE, 0)) > 0.01:
                raise RuntimeError(f"The restored model scores {final} where the best one scored {recorder.best}.")
        self.summary = {
            "kept": kept,
            "stopped": stopped or "done",
            "base_as_shipped": as_shipped,
            "base": base,
            "best": recorder.best,
            "best_step": recorder.best_step,
            "steps": trainer.state.global_step,
            "seconds": round(time.monotonic() - self._started, 1),
            "train_chunks": rows,
            "train_questions": len(train),
            "dev_questions": len(self._dev),
            "max_seq_length": self.model.max_seq_length,
            "shipped_max_seq_length": self.shipped_max_seq_length,
            "device": str(self.model.device),
            "bf16": bool(trainer.args.bf16),
            "recipe": self._recipe(),
        }
        if trainer.is_world_process_zero():
            self.save()
            with contextlib.suppress(OSError):
                self.checkpoint_path.rmdir()  # the trainer makes it even where nothing is saved
            if kept == "base":
                warnings.warn(
                    "Fine-tuning did not beat the base model on the development split; the base model is kept.",
                    stacklevel=2,
                )
            elif shipped_is_best:
                warnings.warn(
                    f"On the development split the base model as shipped, reading {self.shipped_max_seq_length} tokens, "
                    f"did better ({as_shipped[DEV_SCORE]:.3f}) than the fine-tuned one "
                    f"({recorder.best[DEV_SCORE]:.3f}). Compare both in notebook 4 before you use it.",
                    stacklevel=2,
                )

    def _trainer(self, train: list[str]) -> tuple[_Trainer, int]:
        from datasets import Dataset
        from datasets.utils.logging import disable_progress_bar

        disable_progress_bar()
        data = self.dataset
        groups, positives, texts = self._groups(train)
        if self.loss is None:
            rows = Dataset.from_dict({"chunk": list(groups), "queries": list(groups.values())})
            collator = GroupCollator(self.model, [data.queries[q] for q in train], texts)
            loss = GroupedRankingLoss(
                self.model, positives, scale=self.scale, shortest=self.shortest, dimensions=self.matryoshka_dims,
                seed=self.seed,
                **({} if self.model.device.type == "cpu" else {"tokens_per_pass": 16384, "tokens_kept": None}),
            )  # fmt: skip
        else:
            pairs = [(data.queries[train[q]], texts[chunk]) for chunk, members in groups.items() for q in members]
            rows = Dataset.from_dict({"query": [q for q, _ in pairs], "document": [text for _, text in pairs]})
            collator, loss = None, self.loss
        batches = math.ceil(len(rows) / self.batch_size)
        self.shuffle = Shuffle(len(rows), batches, self.seed)
        self._prepare_weights()
        args = SentenceTransformerTrainingArguments(
            output_dir=str(self.checkpoint_path),
            num_train_epochs=self.epochs,
            per_device_train_batch_size=math.ceil(len(rows) / batches),
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=0.1,
            optim="adamw_torch_fused" if self.model.device.type in ("cpu", "cuda") else "adamw_torch",
            bf16=use_bf16(self.model.device),
            fp16=self.model.device.type == "cuda" and not use_bf16(self.model.device),
            use_cpu=self.model.device.type == "cpu",
            seed=self.seed,
            logging_steps=1,
            logging_nan_inf_filter=False,
            save_strategy="steps" if self.save_checkpoints else "no",
            save_steps=self.checkpoint_save_steps,
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=self.model.device.type == "cuda",
            ddp_find_unused_parameters=False,
            ddp_broadcast_buffers=False,
            prompts={name: text for name, text in self.model.prompts.items() if name in ("query", "document") and text},
        )
        bar = progress(
            total=math.ceil(batches * self.epochs), desc="Fine-tuning", unit="step",
            disable=not self.show_progress_bar or process() > 0,
        )  # fmt: skip
        recorder = _Recorder(self, bar)
        trainer = _Trainer(
            model=self.model, args=args, train_dataset=rows, loss=loss, data_collator=collator,
            callbacks=[recorder, *self.callbacks],
        )  # fmt: skip
        trainer.remove_callback(PrinterCallback)
        trainer.recorder, trainer.shuffle = recorder, self.shuffle
        trainer.checkpoint_limit = self.checkpoint_save_total_limit
        self.loss_module = trainer.loss
        if processes() == 1:
            pass_sparse_gradients(self.model.transformers_model.get_input_embeddings())
        return trainer, len(groups)

    def _prepare_weights(self) -> None:
        """Switch off dropout and the weights that are not to be trained, and remember the base's."""
        transformer = self.model.transformers_model
        if self.lora_rank:
            transformer = self._add_lora(transformer)
        for name, module in self.model.named_modules():
            if isinstance(module, nn.Dropout) and not self.dropout and "lora" not in name:
                module.p = 0.0
        for name, parameter in self.model.named_parameters():
            if "pooler." in name:
                parameter.requires_grad = False  # no part of the vector
        if self.frozen_layers is not None:
            layers = next((m for m in transformer.modules() if isinstance(m, nn.ModuleList)), [])
            for module in [transformer.get_input_embeddings(), *layers[: self.frozen_layers]]:
                module.requires_grad_(False)
        self._base_weights = _weights(self.model)

    def _add_lora(self, transformer: nn.Module) -> nn.Module:
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError as error:
            raise UserError("lora_rank needs an extra package: run `pip install -e '.[lora]'`.") from error
        config = LoraConfig(r=self.lora_rank, lora_alpha=2 * self.lora_rank, target_modules="all-linear")
        adapted = get_peft_model(transformer, config)
        _replace(self.model, transformer, adapted)
        return adapted

    def _merge_lora(self) -> None:
        adapted = next(module for module in self.model.modules() if hasattr(module, "merge_and_unload"))
        _replace(self.model, adapted, adapted.merge_and_unload())

    def _unwrap(self, trainer: _Trainer) -> None:
        """Take the model out of the trainer's wrapper, and let go of the wrapper.

        Were it to outlive the process group, it would take the group with it while holding Python's lock, which
        the group's own threads may be waiting for: now and then a run would never end.
        """
        self.model = trainer.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.loss_module.model = trainer.model_wrapped = self.model
        trainer.accelerator.free_memory()

    def _measure(self) -> dict[str, float]:
        """Return the scores of the model on the development split, the same in every process."""
        scores = [self._measure_here() if process() == 0 else None]
        if processes() > 1:
            torch.distributed.broadcast_object_list(scores)
        return scores[0]

    def _measure_as_shipped(self) -> dict[str, float]:
        """Return the base's scores at the length it was shipped with, which shows what length alone gives."""
        length = self.model.max_seq_length
        self.model.max_seq_length = self.shipped_max_seq_length
        try:
            return self._measure()
        finally:
            self.model.max_seq_length = length

    def _measure_here(self) -> dict[str, float]:
        scores, training = {}, self.model.training
        if self._dev:
            scores |= {f"dev_{k}": v for k, v in search_scores(self.model, self.dataset, self._dev).items()}
        if self.report_val and self.val_dataset is not None:
            scores |= {f"val_{k}": v for k, v in search_scores(self.model, self.val_dataset).items()}
        self.model.train(training)
        return scores

    @contextlib.contextmanager
    def _blended(self) -> Iterator[None]:
        """Inside, the model has the blended weights."""
        if self.blend == 1:
            yield
            return
        tuned = _weights(self.model)
        self.model.load_state_dict(
            {
                name: torch.lerp(self._base_weights[name], value, self.blend) if value.is_floating_point() else value
                for name, value in tuned.items()
            }
        )
        try:
            yield
        finally:
            self.model.load_state_dict(tuned)

    def _recipe(self) -> dict[str, Any]:
        names = (
            "batch_size", "epochs", "learning_rate", "scale", "shortest", "blend", "weight_decay", "dropout", "seed",
            "dev_fraction", "patience", "matryoshka_dims", "frozen_layers", "lora_rank", "use_all_docs",
        )  # fmt: skip
        recipe = {name: getattr(self, name) for name in names}
        return recipe | {
            "loss": "grouped" if self.loss is None else getattr(self.loss, "__name__", type(self.loss).__name__)
        }

    def _fingerprint(self) -> str:
        data = self.dataset
        return content_hash(
            json.dumps([data.queries, data.corpus, data.relevant_docs, self._recipe()], default=str),
            self.model_id, str(self.model.max_seq_length),
        )  # fmt: skip

    def _latest_checkpoint(self) -> Path | None:
        if not self.resume_from_checkpoint:
            return None
        for _, folder in reversed(_checkpoints(self.checkpoint_path)):
            state = folder / "recorder.json"
            if state.exists() and json.loads(state.read_text())["fingerprint"] == self.fingerprint:
                return folder
        if _checkpoints(self.checkpoint_path):
            warnings.warn(
                f"The checkpoints in {self.checkpoint_path} are of other data or options; training starts anew.",
                stacklevel=3,
            )
        return None

    def save(self) -> None:
        """Write the model with its card to `model_output_path`, whole or not at all."""
        with atomic_path(self.model_output_path) as folder:
            self.model.save_pretrained(str(folder), create_model_card=False)
            in_the_older_form(folder, self.model.max_seq_length)
            (folder / "README.md").write_text(self._model_card(), encoding="utf-8")

    def _model_card(self) -> str:
        return model_card(self)

    def push_to_hub(self, repo_id: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload the written folder to a Hugging Face hub and return its address.

        Args:
            repo_id: "owner/name".
            private: make a repository that only its owner sees.
            token: access token; default is the one that `hf auth login` stored.

        Raises:
            UserError: there is no model yet, or the hub refuses it or cannot be reached.
        """
        from huggingface_hub import HfApi

        if not (self.model_output_path / "modules.json").exists():
            raise UserError(f"There is no model in {self.model_output_path} yet. Run finetune() first.")
        api = HfApi(token=token)
        try:
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=self.model_output_path))
        except (OSError, ValueError) as error:
            raise UserError(f"Cannot push to {repo_id}: {error}. Check the name, the network and the token.") from error

    def get_finetuned_model(self, **model_kwargs: Any) -> "BaseEmbedding":
        """Return the written model as a LlamaIndex embedding with the prompts it was trained with.

        Args:
            model_kwargs: further arguments of LlamaIndex's HuggingFaceEmbedding.

        Raises:
            UserError: there is no model yet.
        """
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        config = self.model_output_path / "config_sentence_transformers.json"
        if not config.exists():
            raise UserError(f"There is no model in {self.model_output_path} yet. Run finetune() first.")
        saved = json.loads(config.read_text())["prompts"]
        options = {"query_instruction": saved.get("query") or None, "text_instruction": saved.get("document") or None}
        return HuggingFaceEmbedding(model_name=str(self.model_output_path), **(options | model_kwargs))


def make_engine(engine: str, *args: Any, **options: Any) -> Any:
    """Return an engine by name, ready for `finetune()`.

    Args:
        engine: "nbutils", or "llama-index" for the documented one.
        args, options: of `SentenceTransformersFinetuneEngine` or `DocumentedEngine`.

    Raises:
        UserError: another name, or an option that the engine does not have.
    """
    if engine == "nbutils":
        return SentenceTransformersFinetuneEngine(*args, **options)
    if engine == "llama-index":
        from nbutils.training.documented import DocumentedEngine

        return DocumentedEngine(*args, **options)
    raise UserError(f"ENGINE is {engine!r}; use 'nbutils' or 'llama-index'.")


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in model.state_dict().items()}


def pass_sparse_gradients(embedding: nn.Embedding) -> None:
    """Let each sub-batch add only the rows it used to the gradient of a large table.

    The gradient itself stays dense, as the optimizer wants it.
    """

    def densify(weight: nn.Parameter) -> None:
        if weight.grad.is_sparse:
            weight.grad = weight.grad.to_dense()

    if embedding.weight.requires_grad:
        embedding.sparse = True
        embedding.weight.register_post_accumulate_grad_hook(densify)


def _replace(root: nn.Module, old: nn.Module, new: nn.Module) -> None:
    for parent in list(root.modules()):
        for name, child in parent.named_children():
            if child is old:
                setattr(parent, name, new)


def _checkpoints(folder: Path) -> list[tuple[int, Path]]:
    return sorted((int(path.name.rpartition("-")[2]), path) for path in folder.glob("checkpoint-*"))


def main(arguments: list[str] | None = None) -> None:
    """Fine-tune from the command line: `torchrun --nproc-per-node 2 -m nbutils.training.engine train_dataset.json`."""
    parser = argparse.ArgumentParser(prog="nbutils.training.engine", description="Fine-tune an embedding model.")
    parser.add_argument("dataset", help="question dataset, a JSON file")
    parser.add_argument("--model-id", default=DEFAULT_MODEL, help="base model")
    parser.add_argument("--output", default="exp_finetune", help="folder to write the model to")
    parser.add_argument("--save-checkpoints", action="store_true", help="save the state of training as it goes")
    parser.add_argument("--resume", action="store_true", help="continue from the latest checkpoint")
    parser.add_argument("--hub-model-id", help="push the model to this hub repository at the end")
    for name, kind in {
        "epochs": int, "batch-size": int, "learning-rate": float, "max-seq-length": int, "seed": int, "device": str,
        "dev-fraction": float, "checkpoint-save-steps": int, "lora-rank": int,
    }.items():  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS)
    options = vars(parser.parse_args(arguments))
    dataset = EmbeddingQAFinetuneDataset.from_json(options.pop("dataset"))
    hub_model_id, resume = options.pop("hub_model_id"), options.pop("resume")
    engine = SentenceTransformersFinetuneEngine(
        dataset, options.pop("model_id"), options.pop("output"), resume_from_checkpoint=resume, **options
    )
    engine.finetune()
    if process() == 0:
        print(json.dumps(engine.summary, indent=2))
        if hub_model_id:
            engine.push_to_hub(hub_model_id)
    if processes() > 1:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
