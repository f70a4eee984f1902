"""The model to deploy: one that has learned all documents that will be searched."""

from pathlib import Path
from typing import Any

from nbutils.questions.dataset import merged
from nbutils.training.adapter import AdapterFinetuneEngine
from nbutils.training.documented import DocumentedEngine
from nbutils.training.options import ADAPTER_OPTIONS


def continue_on_all(engine: Any, *datasets: Any, output_path: str | Path, epochs: int = 1) -> Any:
    """Train on from an engine's model, on the pairs of all datasets together, and return the new engine.

    Nothing is held out, so there is no early stopping. All other options are those of the first engine, whose base
    model stays the teacher of the soft labels.

    Args:
        engine: one whose `finetune()` is done, ours, an AdapterFinetuneEngine or a DocumentedEngine.
        datasets: the pairs, of training and validation documents.
        output_path: folder to write the model to.
        epochs: passes over all pairs.

    Raises:
        UserError: as `finetune()`.
    """
    options = dict(engine.options)
    if isinstance(engine, AdapterFinetuneEngine):
        options = {name: options[name] for name in ADAPTER_OPTIONS}
        options |= {"dev_fraction": 0, "cache_folder": engine.cache_folder}
    elif not isinstance(engine, DocumentedEngine):
        options |= {"dev_fraction": 0, "teacher": options["teacher"] or engine.model_id}
        options |= {"max_seq_length": engine.model.max_seq_length}
    options |= {"model_id": engine.model_output_path, "model_output_path": output_path, "epochs": epochs}
    deployed = type(engine)(merged(*datasets), **options)
    deployed.finetune()
    return deployed
