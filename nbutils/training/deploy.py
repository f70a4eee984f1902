"""The model to deploy: one that has learned all documents that will be searched, and people's own questions too."""

import json
import random
from pathlib import Path
from typing import Any

from nbutils.core import UserError, write_atomic
from nbutils.questions.dataset import merged, with_queries
from nbutils.training.adapter import AdapterFinetuneEngine
from nbutils.training.documented import DocumentedEngine
from nbutils.training.options import ADAPTER_OPTIONS

OWN_QUESTIONS_EPOCHS = 3


def continue_on_all(engine: Any, *datasets: Any, output_path: str | Path, epochs: int = 1) -> Any:
    """Train on from an engine's model, on the pairs of all datasets together, and return the new engine.

    Nothing is held out, so there is no early stopping. All other options are those of the first engine, whose base
    model stays the teacher.

    Args:
        engine: any of the three, whose `finetune()` is done.
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


def learn_questions(deployed: Any, questions: Any, folder: str | Path, *, folds: int = 5, seed: int = 0) -> Any:
    """Train the model to deploy on people's own questions, and make the models that judge what that brings.

    For each fold of the questions a model learns all the others (cross-validation). `compare_models(by_folds=…)` searches
    each question with the model that has learned neither it nor any other question about its chunks.

    Args:
        deployed: the engine of the model to deploy, whose folder is written anew with a model that has learned all.
        questions: the dataset of people's questions; None, where none were found, is an error.
        folder: for the folds: a model in each of `0`, `1`, …, and `folds.json`, chunk id -> fold.
        folds: how many; fewer where there are not as many groups of questions.
        seed: of the parting.

    Returns:
        The engine of the model that has learned all questions.

    Raises:
        UserError: there are no questions, or all are about one or two chunks.
    """
    if questions is None:
        raise UserError("TRAIN_ON_GOLD: there are no gold questions beside the documents. Name a table of questions.")
    parts = question_folds(questions, folds, seed)
    if len(parts) < 3:
        raise UserError("TRAIN_ON_GOLD: these questions are about one or two chunks. Add questions about others.")
    folder, epochs = Path(folder), OWN_QUESTIONS_EPOCHS
    chunks = {}
    for number, held_out in enumerate(parts):
        rest = with_queries(questions, set(questions.queries) - held_out)
        continue_on_all(deployed, rest, output_path=folder / str(number), epochs=epochs)
        chunks |= {chunk: number for query in sorted(held_out) for chunk in questions.relevant_docs[query]}
    write_atomic(folder / "folds.json", json.dumps(chunks, indent=1))
    return continue_on_all(deployed, questions, output_path=deployed.model_output_path, epochs=epochs)


def question_folds(questions: Any, folds: int, seed: int = 0) -> list[set[str]]:
    """Return the query ids of each fold, of about the same size; queries that share a relevant chunk are in one fold."""
    parent: dict[str, str] = {}

    def root(chunk: str) -> str:
        while parent.setdefault(chunk, chunk) != chunk:
            chunk = parent[chunk]
        return chunk

    for first, *others in map(list, questions.relevant_docs.values()):
        for other in others:
            parent[root(other)] = root(first)
    groups: dict[str, set[str]] = {}
    for query in questions.queries:
        groups.setdefault(root(next(iter(questions.relevant_docs[query]))), set()).add(query)
    shuffled = random.Random(seed).sample(list(groups.values()), len(groups))
    parts: list[set[str]] = [set() for _ in range(min(folds, len(groups)))]
    for group in sorted(shuffled, key=len, reverse=True):
        min(parts, key=len).update(group)
    return parts
