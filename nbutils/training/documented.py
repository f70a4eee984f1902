"""The documented engine of LlamaIndex, to compare with: the one place that imports its deprecated package."""

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from nbutils.core import UserError
from nbutils.models.names import DEFAULT_MODEL, resolve_model

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding


class DocumentedEngine:
    """The engine of `llama_index.finetuning` as documented, with the attributes of ours that a run needs.

    Args:
        dataset, model_id, model_output_path: as for ours.
        seed: of torch's random numbers.
        max_seq_length: tokens to read of a text; default is the model's own limit, as documented.
        on_progress: called with `history` when training has ended.
        options: its other arguments.

    Attributes:
        history: the columns of ours without a row: the documented engine keeps no curve.

    Raises:
        UserError: it does not import (it needs `mistralai<2`), or it has no such option.
    """

    dev_dataset = None

    def __init__(
        self,
        dataset: Any,
        model_id: str = DEFAULT_MODEL,
        model_output_path: str | Path = "exp_finetune",
        *,
        seed: int = 0,
        max_seq_length: int | None = None,
        on_progress: Callable[[pd.DataFrame], None] | None = None,
        **options: Any,
    ) -> None:
        try:
            with warnings.catch_warnings(action="ignore"):
                from llama_index.finetuning import SentenceTransformersFinetuneEngine as Documented
        except ImportError as error:
            advice = "Run `pip install llama-index-finetuning 'mistralai<2'`."
            raise UserError(f"The documented engine does not import ({error}). {advice}") from error
        torch.manual_seed(seed)
        self.history = pd.DataFrame(columns=["step", "epoch", "loss", "learning_rate"])
        self.model_output_path = Path(model_output_path)
        self.options = {name: value for name, value in options.items() if name != "val_dataset"}
        self.options |= {"seed": seed, "max_seq_length": max_seq_length, "on_progress": on_progress}
        if options.get("val_dataset") is None:
            options["evaluation_steps"] = 0  # otherwise its fit() stops: there is nothing to evaluate with
        self.on_progress, self.summary = on_progress, {}
        try:
            self.engine = Documented(
                dataset, model_id=resolve_model(model_id), model_output_path=str(model_output_path), **options
            )
        except TypeError as error:
            raise UserError(f"The documented engine lacks an option: {error}.") from error
        if max_seq_length:
            self.engine.model.max_seq_length = max_seq_length

    def finetune(self) -> None:
        """Train and write the model."""
        started = time.monotonic()
        with warnings.catch_warnings(action="ignore"):
            self.engine.finetune()
        epochs, size = self.engine.epochs, self.engine.loader.batch_size
        self.summary = {
            "kept": "fine-tuned",
            "seconds": round(time.monotonic() - started, 1),
            "max_seq_length": self.engine.model.max_seq_length,
            "recipe": {"engine": "llama-index", "epochs": epochs, "batch_size": size},
        }
        if self.on_progress:
            self.on_progress(self.history)

    def get_finetuned_model(self, **model_kwargs: Any) -> "BaseEmbedding":
        """Return the written model as a LlamaIndex embedding."""
        return self.engine.get_finetuned_model(**model_kwargs)
