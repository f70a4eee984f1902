"""The training loop: sentence-transformers' trainer, a recorder of the curve and the best weights, checkpoints."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback

from nbutils.core import UserError, progress, write_atomic
from nbutils.models.vectors import encode, out_of_memory, use_bf16
from nbutils.training.batches import GroupCollator, Shuffle, sometimes_headed, sometimes_named
from nbutils.training.loss import GroupedRankingLoss, process, processes
from nbutils.training.options import TrainingOptions
from nbutils.training.split import TrainingPairs
from nbutils.training.teacher import Teacher
from nbutils.training.weights import blended, copy_weights, pass_sparse_gradients

DEV_SCORE = "dev_ndcg@10"
RECORD = "recorder.json"  # the last file of a checkpoint to be written: without it a checkpoint does not count
STEPS_PER_LOG = 10  # each log waits for the device, unless that is the CPU
KEPT = ("rows", "base", "best", "best_step", "waited", "last_step")


class Trainer(SentenceTransformerTrainer):
    """The stock trainer with our batches and schedule, whose checkpoints hold weights only.

    The learning rate is never zero, neither in the first step nor in the last. With a GroupedRankingLoss each process
    gets the whole batch.
    """

    shuffle: Shuffle

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Leave it out: its card would quote the training texts."""

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Return a linear warm-up and decay between whole steps."""
        if self.lr_scheduler is None:
            warmup = max(1, round(self.args.get_warmup_steps(num_training_steps)))

            def share(step: int) -> float:
                return min((step + 1) / (warmup + 1), (num_training_steps - step) / max(1, num_training_steps - warmup))

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, share)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_train_dataloader(self) -> DataLoader:
        """Return the loader of our batches, shared out among processes only for losses that need it."""
        loader = DataLoader(self.train_dataset, batch_sampler=self.shuffle, collate_fn=self.data_collator)
        if isinstance(self.data_collator, GroupCollator):
            return loader
        self.accelerator.even_batches = False
        return self.accelerator.prepare(loader)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any) -> torch.Tensor:
        """Return a batch's loss after its backward pass, in smaller sub-batches where memory runs out."""
        while True:
            try:
                return super().training_step(model, inputs, *args)
            except (RuntimeError, MemoryError) as error:
                if not (out_of_memory(error) and getattr(self.loss, "use_less_memory", bool)()):
                    raise
            model.zero_grad()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights of a checkpoint."""
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            folder.mkdir(parents=True, exist_ok=True)
            (folder / RECORD).unlink(missing_ok=True)  # not whole until it is written again
            save_file(copy_weights(self.model), folder / "model.safetensors")

    def _load_from_checkpoint(self, checkpoint_path: str) -> None:
        self.model.load_state_dict(load_file(Path(checkpoint_path) / "model.safetensors"))

    def release(self) -> None:
        """Take the model out of the wrapper for several processes, and let go of the wrapper.

        Were it to outlive the process group, it would take the group with it while holding Python's lock, which
        the group's own threads may be waiting for: now and then a run would never end.
        """
        self.model = self.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        self.loss.model = self.model_wrapped = self.model
        self.accelerator.free_memory()


class Recorder(TrainerCallback):
    """Keep the curve and the best weights, write both beside each checkpoint, and say when to stop.

    Args:
        model: the model that is trained, still with the base's weights.
        options: of the training run.
        scores: returns the model's scores on the development split, in every process the same.
        fingerprint: of data, options and base; a checkpoint fits only a run with the same.
    """

    def __init__(
        self, model: SentenceTransformer, options: TrainingOptions, scores: Callable, fingerprint: str
    ) -> None:
        self.model, self.options, self.scores, self.fingerprint = model, options, scores, fingerprint
        self.base_weights = copy_weights(model)
        self.rows: list[dict[str, float]] = []
        self.base: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.best_weights: dict[str, torch.Tensor] | None = None
        self.best_step = self.waited = self.last_step = 0
        self.started = time.monotonic()
        quiet = not options.show_progress_bar or process() > 0
        self.bar = progress(desc="Fine-tuning", unit="step", disable=quiet)

    @property
    def stopped(self) -> bool:
        """Whether gains have ended."""
        return bool(self.options.patience) and self.waited >= self.options.patience

    @property
    def history(self) -> pd.DataFrame:
        """One row per step."""
        frame = pd.DataFrame(self.rows)
        return frame.groupby("step", as_index=False).last() if len(frame) else frame

    def begin(self) -> None:
        """Record the base model's scores."""
        self.base = self.best = self.scores()
        self.record(step=0, epoch=0.0, **self.base)

    def record(self, **row: float) -> None:
        """Add a row to the curve, and tell whoever listens."""
        self.rows.append({"seconds": round(time.monotonic() - self.started, 2), **row})
        if self.options.on_progress and process() == 0:
            self.options.on_progress(self.history)

    def evaluate(self, state: Any) -> None:
        """Score the model as it would be kept now, and remember it if it is the best so far."""
        if state.global_step == self.last_step:
            return
        self.last_step = state.global_step
        with blended(self.model, self.base_weights, self.options.blend):
            scores = self.scores()
            self.record(step=state.global_step, epoch=state.epoch, **scores)
            if DEV_SCORE not in scores or scores[DEV_SCORE] > self.best[DEV_SCORE]:
                self.best, self.best_step, self.waited = scores, state.global_step, 0
                self.best_weights = copy_weights(self.model)
            else:
                self.waited += 1

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.bar.reset(total=state.max_steps)
        self.every = self.options.evaluation_steps or max(1, state.max_steps // max(1, state.num_train_epochs))

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        if "loss" not in logs:
            return
        if not math.isfinite(logs["loss"]):
            raise UserError("The loss is no longer a number. Lower learning_rate; look for empty texts in the data.")
        entry = {name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs}
        self.record(step=state.global_step, epoch=state.epoch, **entry)

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.bar.update(state.global_step - self.bar.n)
        due = state.global_step % self.every == 0
        control.should_log |= due or state.global_step == state.max_steps
        if due:
            self.evaluate(state)
            control.should_training_stop |= self.stopped

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.evaluate(state)

    def on_save(self, args, state, control, **kwargs) -> None:
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.best_weights is not None:
            save_file(self.best_weights, folder / "best.safetensors")
        record = {name: getattr(self, name) for name in ("fingerprint", *KEPT)}
        write_atomic(folder / RECORD, json.dumps(record))
        whole = checkpoints(folder.parent)
        mine = [path for path in whole[: whole.index(folder) + 1] if _fingerprint(path) == self.fingerprint]
        kept = mine[-self.options.checkpoint_save_total_limit :]  # from 0 on: all
        for path in set(whole) - set(kept):
            shutil.rmtree(path, ignore_errors=True)

    def resume(self, folder: Path) -> None:
        """Take up what `on_save` wrote."""
        record = json.loads((folder / RECORD).read_text())
        for name in KEPT:
            setattr(self, name, record[name])
        if (folder / "best.safetensors").exists():
            self.best_weights = load_file(folder / "best.safetensors")
        self.started -= self.rows[-1]["seconds"]


def checkpoints(folder: Path) -> list[Path]:
    """Return the whole checkpoints in a folder, in the order of their steps."""
    whole = (record.parent for record in folder.glob(f"checkpoint-*/{RECORD}"))
    steps = {path: path.name.removeprefix("checkpoint-") for path in whole}
    return sorted((path for path, step in steps.items() if step.isdecimal()), key=lambda path: int(steps[path]))


def latest_checkpoint(folder: Path, fingerprint: str) -> Path | None:
    """Return the latest checkpoint of the run with this fingerprint; warn if there are only others."""
    found = checkpoints(folder)
    fitting = [path for path in found if _fingerprint(path) == fingerprint]
    if found and not fitting:
        warnings.warn(f"The checkpoints in {folder} are of other data or options; training starts anew.", stacklevel=3)
    return fitting[-1] if fitting else None


def _fingerprint(checkpoint: Path) -> str:
    return json.loads((checkpoint / RECORD).read_text())["fingerprint"]


def training_arguments(
    model: SentenceTransformer, options: TrainingOptions, folder: Path
) -> SentenceTransformerTrainingArguments:
    """Return the stock trainer's arguments; making them is what joins the processes, if there are several."""
    device, bf16 = model.device.type, use_bf16(model.device)
    return SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
        warmup_steps=0.1,
        optim="adamw_torch_fused" if device in ("cpu", "cuda") else "adamw_torch",
        bf16=bf16,
        fp16=device == "cuda" and not bf16,
        use_cpu=device == "cpu",
        seed=options.seed,
        logging_steps=1 if device == "cpu" else STEPS_PER_LOG,
        logging_nan_inf_filter=False,
        save_strategy="steps" if options.save_checkpoints else "no",
        save_steps=options.checkpoint_save_steps,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=device == "cuda",
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        prompts={name: text for name, text in model.prompts.items() if name in ("query", "document") and text},
    )


def make_trainer(
    model: SentenceTransformer,
    pairs: TrainingPairs,
    options: TrainingOptions,
    arguments: SentenceTransformerTrainingArguments,
    recorder: Recorder,
    teacher: SentenceTransformer,
) -> Trainer:
    """Return the trainer of a model that is prepared for training; `teacher` is the one of the soft labels."""
    grouped = options.loss is None
    examples = len(pairs.groups) if grouped else sum(map(len, pairs.groups.values()))
    takers = 1 if grouped else processes()  # of different batches, the same number each, or they would wait for ever
    batches = math.ceil(examples / options.batch_size / takers) * takers
    shuffle = Shuffle(examples, batches, options.seed)
    if grouped:
        rows = Dataset.from_dict({"chunk": list(pairs.groups), "queries": list(pairs.groups.values())})
        collator = GroupCollator(model, pairs, options, shuffle)
        loss = _grouped_loss(model, pairs, options, teacher)
    else:
        members = [(query, chunk) for chunk, queries in pairs.groups.items() for query in queries]
        documents = [
            sometimes_headed(pairs.headers[chunk], pairs.chunks[chunk], options, f"{query}:{chunk}")
            for query, chunk in members
        ]
        queries = [
            sometimes_named(pairs.names.get(chunk, ""), pairs.queries[query], options, f"{query}:{chunk}")
            for query, chunk in members
        ]
        rows = Dataset.from_dict({"query": queries, "document": documents})
        collator, loss = None, options.loss
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows,
        loss=loss,
        data_collator=collator,
        callbacks=[recorder, shuffle, *options.callbacks],
    )
    trainer.shuffle = shuffle
    trainer.remove_callback(PrinterCallback)
    if processes() == 1:
        pass_sparse_gradients(model.transformers_model.get_input_embeddings())
    return trainer


def _grouped_loss(
    model: SentenceTransformer, pairs: TrainingPairs, options: TrainingOptions, teacher: SentenceTransformer
) -> GroupedRankingLoss:
    given = {"scale": options.scale, "dimensions": options.matryoshka_dims}
    if options.soft_labels < 1:
        vectors = encode(teacher, pairs.queries, "query"), encode(teacher, pairs.passages)
        given |= {"teacher": Teacher(*vectors, pairs), "share": options.soft_labels}
    if model.device.type != "cpu":
        given |= {"tokens_per_pass": 16384, "tokens_kept": None}
    return GroupedRankingLoss(model, pairs.positives, **given)
