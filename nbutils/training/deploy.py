"""The model to deploy: one that has learned all documents that will be searched."""

from pathlib import Path
from typing import Any

from nbutils.questions.dataset import merged
from nbutils.training.documented import DocumentedEngine


def continue_on_all(engine: Any, *datasets: Any, output_path: str | Path, epochs: int = 1) -> Any:
    """Train on from an engine's model, on the pairs of all datasets together, and return the new engine.

    Nothing is held out, so there is no early stopping. All other options are those of the first engine, whose base
    model stays the teacher of the soft labels.

    Args:
        engine: one whose `finetune()` is done, ours or a DocumentedEngine.
        datasets: the pairs, of training and validation documents.
        output_path: folder to write the model to.
        epochs: passes over all pairs.

    Raises:
        UserError: as `finetune()`.
    """
    options = dict(engine.options)
    if not isinstance(engine, DocumentedEngine):
        options |= {"dev_fraction": 0, "teacher": options["teacher"] or engine.model_id}
        options |= {"max_seq_length": engine.model.max_seq_length}
    options |= {"model_id": engine.model_output_path, "model_output_path": output_path, "epochs": epochs}
    deployed = type(engine)(merged(*datasets), **options)
    deployed.finetune()
    return deployed
