"""The model to deploy: one that has learned all documents that will be searched."""

from pathlib import Path
from typing import Any

from nbutils.questions.dataset import merged
from nbutils.training.engine import SentenceTransformersFinetuneEngine

KEEP = ("batch_size", "learning_rate", "seed", "soft_labels", "cloze", "max_seq_length", "trust_remote_code", "device")


def continue_on_all(engine: Any, *datasets: Any, output_path: str | Path, epochs: int = 1) -> Any:
    """Train on from an engine's model, on the pairs of all datasets together, and return the new engine.

    Nothing is held out, so there is no early stopping: the recipe is that of the first engine, whose base model stays
    the teacher of the soft labels.

    Args:
        engine: an engine whose `finetune()` is done.
        datasets: the pairs, of training and validation documents.
        output_path: folder to write the model to.
        epochs: passes over all pairs.

    Raises:
        UserError: as `finetune()`.
    """
    options = {"model_id": engine.model_output_path, "model_output_path": output_path, "epochs": epochs}
    if isinstance(engine, SentenceTransformersFinetuneEngine):
        options |= {name: getattr(engine.options, name) for name in KEEP}
        options |= {"dev_fraction": 0, "teacher": engine.options.teacher or engine.model_id}
        options |= {"max_seq_length": engine.model.max_seq_length, "on_progress": engine.options.on_progress}
    deployed = type(engine)(merged(*datasets), **options)
    deployed.finetune()
    return deployed
