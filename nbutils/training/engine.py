"""Fine-tune an embedding model on (question, chunk) pairs: a drop-in for LlamaIndex's engine.

The recipe in short: a batch is some chunks with all their questions; each chunk is encoded once; every other
chunk and every question of another chunk is a negative; a share of the chunks is held out, with their questions,
to choose the best epoch and to say whether fine-tuning helped at all.
"""

import contextlib
import json
import os
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from nbutils.core import UserError, content_hash
from nbutils.models.names import DEFAULT_MODEL, is_static, load_model, longest_input
from nbutils.models.vectors import base_and_map, model_fingerprint, out_of_memory
from nbutils.questions.dataset import passages, with_queries
from nbutils.training.folder import lineage, save_folder
from nbutils.training.loss import process, processes
from nbutils.training.options import TrainingOptions
from nbutils.training.split import TrainingPairs, development_scores, split_questions, training_pairs
from nbutils.training.trainer import DEV_SCORE, Recorder, Trainer, latest_checkpoint, make_trainer, training_arguments
from nbutils.training.weights import merge_lora, prepare_weights

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

BASE_KEPT = "Fine-tuning did not beat the base model on the development split; the base model is kept."
LENGTH_THAT_PAYS = 512  # tokens; see benchmarks/finetune_speed.py


class SentenceTransformersFinetuneEngine:
    """Fine-tune a sentence-transformers model on a question dataset, with the arguments of LlamaIndex's engine.

    Args:
        dataset: anything with `queries`, `corpus` and `relevant_docs`.
        model_id: base model: the packaged `all-MiniLM-L6-v2`, a folder, or a hub id.
        model_output_path: folder to write the model to.
        val_dataset: taken as on the page, and left alone: nothing is chosen by it, so it can judge the model later.
        batch_size, loss, epochs, options: see TrainingOptions.

    Attributes:
        options: the TrainingOptions.
        model: the SentenceTransformer that is trained.
        summary: after `finetune()`: what was kept and why, scores, steps, seconds, sizes, the recipe.

    Raises:
        UserError: no such option, one out of range, or no such model.
    """

    def __init__(
        self,
        dataset: Any,
        model_id: str | Path = DEFAULT_MODEL,
        model_output_path: str | Path = "exp_finetune",
        batch_size: int | None = None,
        val_dataset: Any = None,
        loss: Any = None,
        epochs: int = 2,
        **options: Any,
    ) -> None:
        self.dataset, self.val_dataset = dataset, val_dataset
        self.model_id, self.model_output_path = str(model_id), Path(model_output_path)
        self.options = chosen = TrainingOptions.of(batch_size=batch_size, loss=loss, epochs=epochs, **options)
        self.summary: dict[str, Any] = {}
        self._recorder: Recorder | None = None
        self._dev: list[str] = []
        device = chosen.device
        if device is None and torch.cuda.is_available() and "LOCAL_RANK" in os.environ:
            device = f"cuda:{os.environ['LOCAL_RANK']}"
        self.model = load_model(
            self.model_id, device=device, trust_remote_code=chosen.trust_remote_code, prompts=chosen.prompts
        )
        if is_static(self.model) or base_and_map(self.model)[0] is not self.model:
            raise UserError(
                f"model_id {model_id} is a static embedding, an adapter or a service, not a transformer: it cannot be "
                "fine-tuned here. An AdapterFinetuneEngine learns a map of its query vectors."
            )
        self.shipped_max_seq_length = self.model.max_seq_length
        self.model.max_seq_length = _reading_length(self.model, dataset, chosen.max_seq_length)

    @property
    def history(self) -> pd.DataFrame:
        """One row per step (per ten on a GPU): step, seconds, epoch, loss, learning_rate, grad_norm, development scores.

        Step 0 is the base model. The scores (dev_hit_rate@5, dev_mrr@10, dev_ndcg@10) are NaN where there was no
        evaluation.
        """
        return self._recorder.history if self._recorder else pd.DataFrame()

    @property
    def checkpoint_path(self) -> Path:
        """The folder of the checkpoints."""
        return self.model_output_path.with_name(f"{self.model_output_path.name}_checkpoints")

    @property
    def dev_dataset(self) -> Any:
        """The questions held out, to be searched in all training chunks; None where there are none."""
        _, dev = self._split()
        return with_queries(self.dataset, set(dev)) if dev else None

    def _split(self) -> tuple[list[str], list[str]]:
        return split_questions(self.dataset, self.options.dev_fraction, self.options.seed)

    def finetune(self) -> None:
        """Train, keep the best model seen on the development split, and write it to `model_output_path`.

        Ctrl-C stops early and keeps the best so far. If no evaluation beats the base model, as shipped or at the same
        reading length, the base is written, a warning says so, and `summary["kept"]` is "base".

        Raises:
            UserError: too few pairs, a loss that is not a number, or no memory left.
        """
        train, self._dev = self._split()
        pairs = training_pairs(self.dataset, train, self.options.use_all_docs)
        options = self.options.settled(pairs)
        teacher, read = self._teacher(), self.model.max_seq_length
        fingerprint = _fingerprint([self.model, teacher], self.dataset, options)
        prepare_weights(self.model, options)
        arguments = training_arguments(self.model, options, self.checkpoint_path)
        self._recorder = recorder = Recorder(self.model, options, self._scores, fingerprint)
        trainer = make_trainer(self.model, pairs, options, arguments, recorder, teacher)
        latest = options.resume_from_checkpoint and latest_checkpoint(self.checkpoint_path, fingerprint)
        if latest:
            recorder.resume(latest)
        else:
            recorder.begin()
        as_shipped = recorder.base if read == self.shipped_max_seq_length else self._scores(self.shipped_max_seq_length)
        stopped = self._train(trainer, latest)
        trainer.release()
        self.model = trainer.model
        if as_shipped.get(DEV_SCORE, 0) > recorder.best.get(DEV_SCORE, 0):
            recorder.best, recorder.best_step, recorder.best_weights = as_shipped, 0, None
            self.model.max_seq_length = self.shipped_max_seq_length
        self.model.load_state_dict(recorder.best_weights or recorder.base_weights)
        if options.lora_rank:
            merge_lora(self.model)
        self.summary = self._summarise(pairs, options, arguments, as_shipped, stopped)
        if process() == 0:
            save_folder(self.model, self.model_output_path, self.summary)
            with contextlib.suppress(OSError):
                self.checkpoint_path.rmdir()  # the trainer makes it even where nothing is saved
            if self.summary["kept"] == "base":
                warnings.warn(BASE_KEPT, stacklevel=2)

    def _teacher(self) -> "SentenceTransformer":
        """Return the model whose cosines give the soft labels."""
        options, model = self.options, self.model
        if options.teacher is None or options.loss is not None or options.soft_labels == 1:
            return model
        given = {"device": str(model.device), "trust_remote_code": options.trust_remote_code}
        try:
            return load_model(options.teacher, max_seq_length=model.max_seq_length, **given)
        except UserError as error:
            raise UserError(f"teacher: {error}") from error

    def _train(self, trainer: Trainer, latest: Path | None) -> str:
        """Train and return why training ended."""
        try:
            with self._recorder.bar:
                if self._recorder.stopped:  # before it was resumed
                    return "no gain"
                trainer.train(resume_from_checkpoint=str(latest) if latest else None)
        except KeyboardInterrupt:
            self._recorder.evaluate(trainer.state)
            return "interrupted"
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            size, length = trainer.args.per_device_train_batch_size, self.model.max_seq_length
            raise UserError(
                f"Out of memory with batch_size {size} at {length} tokens. Lower batch_size or max_seq_length."
            ) from error
        return "no gain" if trainer.state.global_step < trainer.state.max_steps else "done"

    def _scores(self, max_seq_length: int | None = None) -> dict[str, float]:
        """Return the model's scores on the development split, the same in every process."""
        scores: list[dict[str, float]] = [{}]
        if process() == 0:
            training, length = self.model.training, self.model.max_seq_length
            self.model.max_seq_length = max_seq_length or length
            scores = [development_scores(self.model, self.dataset, self._dev)]
            self.model.train(training)
            self.model.max_seq_length = length
        if processes() > 1:
            torch.distributed.broadcast_object_list(scores)
        return scores[0]

    def _summarise(
        self, pairs: TrainingPairs, options: TrainingOptions, arguments: Any, as_shipped: dict[str, float], stopped: str
    ) -> dict[str, Any]:
        recorder = self._recorder
        return {
            "kept": "base" if recorder.best_weights is None else "fine-tuned",
            "base_models": lineage(self.model_id),
            "stopped": stopped,
            "base_as_shipped": as_shipped,
            "base": recorder.base,
            "best": recorder.best,
            "best_step": recorder.best_step,
            "steps": recorder.last_step,
            "seconds": round(time.monotonic() - recorder.started, 1),
            "train_chunks": len(pairs.groups),
            "train_questions": len(pairs.queries),
            "dev_questions": len(self._dev),
            "max_seq_length": self.model.max_seq_length,
            "shipped_max_seq_length": self.shipped_max_seq_length,
            "device": str(self.model.device),
            "recipe": options.recipe(),
            "bf16": arguments.bf16,
            "fp16": arguments.fp16,
        }

    def get_finetuned_model(self, **model_kwargs: Any) -> "BaseEmbedding":
        """Return the written model as a LlamaIndex embedding with the prompts it was trained with.

        Args:
            model_kwargs: further arguments of LlamaIndex's HuggingFaceEmbedding.

        Raises:
            UserError: there is no model yet.
        """
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        settings = self.model_output_path / "config_sentence_transformers.json"
        if not settings.exists():
            raise UserError(f"There is no model in {self.model_output_path} yet. Run finetune() first.")
        prompts = json.loads(settings.read_text())["prompts"]
        known = {"query_instruction": prompts.get("query") or None, "text_instruction": prompts.get("document") or None}
        return HuggingFaceEmbedding(model_name=str(self.model_output_path), **(known | model_kwargs))


def _reading_length(model: "SentenceTransformer", dataset: Any, asked: int | None) -> int:
    """Return how many tokens the model is to read: as asked, or enough for the longest text, up to what pays."""
    most = longest_input(model)
    if asked:
        if asked > most:
            warnings.warn(f"max_seq_length is {asked}, but the model reads {most} tokens at most.", stacklevel=3)
        return min(asked, most)
    texts = [*passages(dataset).values(), *dataset.queries.values()]
    longest = max(map(len, model.tokenizer(texts, verbose=False)["input_ids"]), default=0)
    return max(model.max_seq_length or LENGTH_THAT_PAYS, min(most, LENGTH_THAT_PAYS, -(-longest // 8) * 8))


def _fingerprint(models: list["SentenceTransformer"], dataset: Any, options: TrainingOptions) -> str:
    """Return a digest of all that decides the weights; only checkpoints with the same one fit."""
    prompts = [model.prompts for model in models]
    contents = [dataset.queries, passages(dataset), dataset.relevant_docs, options.recipe(), prompts]
    contents += [getattr(dataset, "names", {})]
    return content_hash(json.dumps(contents, default=str), *map(model_fingerprint, models))
