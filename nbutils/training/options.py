"""The options of a training run: one typed object whose errors name the option."""

from collections.abc import Callable
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, ValidationError

from nbutils.core import UserError
from nbutils.training.folder import lineage
from nbutils.training.split import TrainingPairs

NOT_IN_RECIPE = {
    "loss", "max_seq_length", "prompts", "device", "trust_remote_code", "evaluation_steps", "save_checkpoints",
    "resume_from_checkpoint", "checkpoint_save_steps", "checkpoint_save_total_limit", "show_progress_bar", "callbacks",
    "on_progress",
}  # fmt: skip
BORROWED_BLEND = 0.6
ADAPTER_DEFAULTS = {"batch_size": 32, "epochs": 40, "learning_rate": 3e-4, "weight_decay": 0.1, "patience": 5}
ADAPTER_OPTIONS = {
    *ADAPTER_DEFAULTS, "seed", "scale", "soft_labels", "use_all_docs", "dev_fraction", "trust_remote_code",
    "on_progress", "show_progress_bar",
}  # fmt: skip


class TrainingOptions(BaseModel):
    """All that can be chosen about a training run; each is a keyword argument of the engine.

    Args:
        batch_size: chunks per step, each with all its questions, or pairs per step with a `loss` of your own; by default
            as `settled` says.
        epochs: passes over the training chunks at most.
        learning_rate: peak of the schedule (10 % warm-up, linear decay).
        weight_decay: of AdamW.
        seed: of the split, the order and the draws.
        loss: a sentence-transformers loss over (query, document) pairs, or a function from the model to one;
            default is GroupedRankingLoss.
        scale, matryoshka_dims: see GroupedRankingLoss (`dimensions` for the second).
        shortest: chunks are cut to a random share, from this one to 1, of the longest in their batch.
        soft_labels: share of a question's target that its own chunk keeps; the rest goes to the batch's chunks that the
            teacher and BM25 find alike. 1 is the usual hard label.
        teacher: the model whose cosines give the soft labels, named as `model_id` is; default is the base model. Name the
            first base where training goes on from a fine-tuned model.
        cloze: how often a query that stands in its chunk word for word is taken out of it in training.
        header_dropout: how often a chunk is trained on without its header, drawn anew for each chunk and epoch.
        named_queries: how often a query comes with the name of its document before it, if the dataset has the `names` of
            three or more: people name what they ask about, queries from a chunk seldom do.
        use_all_docs: train on every chunk of a question, not only on its first.
        dropout: keep the model's dropout; training without it is much faster on a CPU.
        frozen_layers: layers to leave as they are, counted from the input, with the token embeddings.
        lora_rank: train low-rank adapters of this rank instead of all weights (needs the extra `lora`).
        blend: share of the fine-tuned weights in the model that is kept, the rest being the base model's
            (https://arxiv.org/abs/2109.01903); by default as `settled` says.
        dev_fraction: share of the chunks held out, with their questions, to choose the best epoch; 0 trains on all
            and keeps the last.
        evaluation_steps: steps between two evaluations on the development split; default is once per epoch.
        patience: evaluations without a gain before training stops; 0 never stops early.
        max_seq_length: tokens that the model reads of a text, in training and after; by default enough for the longest
            chunk, up to 512.
        prompts: `{"query": …, "document": …}` in place of those known for the model.
        device: "cuda", "mps" or "cpu"; default is the best one there is.
        trust_remote_code: allow code from the hub to run.
        save_checkpoints: save the state of training in `<model_output_path>_checkpoints`.
        checkpoint_save_steps, checkpoint_save_total_limit: steps from one to the next, and how many to keep (0: all).
        resume_from_checkpoint: continue from the latest checkpoint of the same data and options, if there is one.
        show_progress_bar: show a bar.
        callbacks: of the trainer.
        on_progress: called with `history` as it grows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: int | None = Field(None, ge=2)
    epochs: int = Field(2, ge=0)
    learning_rate: float = Field(8e-5, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    seed: int = Field(0, ge=0)
    loss: Any = None
    scale: float = Field(20.0, gt=0)
    shortest: float = Field(0.25, ge=0.01, le=1)
    matryoshka_dims: tuple[PositiveInt, ...] = ()
    soft_labels: float = Field(0.5, ge=0, le=1)
    teacher: str | None = None
    cloze: float = Field(0.9, ge=0, le=1)
    header_dropout: float = Field(0.5, ge=0, le=1)
    named_queries: float = Field(0.5, ge=0, le=1)
    use_all_docs: bool = False
    dropout: bool = False
    frozen_layers: int | None = Field(None, ge=0)
    lora_rank: int = Field(0, ge=0)
    blend: float | None = Field(None, ge=0, le=1)
    dev_fraction: float = Field(0.1, ge=0, le=0.9)
    evaluation_steps: int | None = Field(None, ge=0)
    patience: int = Field(2, ge=0)
    max_seq_length: int | None = Field(None, ge=1)
    prompts: dict[str, str] | None = None
    device: str | None = None
    trust_remote_code: bool = False
    save_checkpoints: bool = False
    resume_from_checkpoint: bool = False
    checkpoint_save_steps: int = Field(50, ge=1)
    checkpoint_save_total_limit: int = Field(1, ge=0)
    show_progress_bar: bool = True
    callbacks: tuple[Any, ...] = ()
    on_progress: Callable[[Any], Any] | None = None

    @classmethod
    def of(cls, **values: Any) -> "TrainingOptions":
        """Return the options with these values.

        Raises:
            UserError: there is no such option, or its value is out of range.
        """
        try:
            return cls(**values)
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0])
            if first["type"] == "extra_forbidden":
                known = ", ".join(cls.model_fields)
                raise UserError(f"The engine has no option {name!r}; its options are {known}.") from None
            raise UserError(f"{name} is {values[name]!r}: {first['msg']}.") from None

    def settled(self, pairs: TrainingPairs) -> "TrainingOptions":
        """Return the options with what follows from the data, where it was not given.

        `batch_size`: 32, 64 or 128, as large as leaves 16 steps a pass: larger batches hold more negatives, which taught
        more on 2,689 chunks. `blend`: BORROWED_BLEND where most of the queries are made of words of their own chunk,
        as the offline generator's are, or else 1. Such queries tell what the documents say, not how people ask.
        """
        size = next((size for size in (128, 64) if len(pairs.groups) >= 16 * size and self.loss is None), 32)
        blend = self.blend
        if blend is None:
            blend = BORROWED_BLEND if pairs.borrowed > 0.5 else 1.0
        return self.model_copy(update={"batch_size": self.batch_size or size, "blend": blend})

    def recipe(self) -> dict[str, Any]:
        """Return what decides the weights, besides the data and the base model."""
        loss = "grouped" if self.loss is None else getattr(self.loss, "__name__", type(self.loss).__name__)
        teacher = self.teacher and lineage(self.teacher)[-1]
        return self.model_dump(exclude=NOT_IN_RECIPE) | {"loss": loss, "teacher": teacher}


def adapter_options(**values: Any) -> TrainingOptions:
    """Return the options of an AdapterFinetuneEngine: those in ADAPTER_OPTIONS, with defaults of their own.

    Raises:
        UserError: the adapter has no such option, or its value is out of range.
    """
    if other := values.keys() - ADAPTER_OPTIONS:
        raise UserError(
            f"The adapter has no option {min(other)!r}; its options are {', '.join(sorted(ADAPTER_OPTIONS))}."
        )
    return TrainingOptions.of(**ADAPTER_DEFAULTS | values)
