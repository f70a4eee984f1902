"""The folder of a fine-tuned model: written whole, readable by all, pushed to a hub, opened as a LlamaIndex embedding."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sentence_transformers import SentenceTransformer

from nbutils.core import UserError, atomic_path

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding


def save_folder(model: SentenceTransformer, folder: Path, card: str) -> None:
    """Write a model with its card, whole or not at all."""
    with atomic_path(folder) as staged:
        model.save_pretrained(str(staged), create_model_card=False)
        _in_the_older_form(staged, model.max_seq_length)
        (staged / "README.md").write_text(card, encoding="utf-8")


def _in_the_older_form(folder: Path, max_seq_length: int) -> None:
    """Rewrite what sentence-transformers 6 writes in a new form as earlier versions and embedding servers read it."""
    path = folder / "modules.json"
    modules = json.loads(path.read_text())
    names = [module["type"].rpartition(".")[2] for module in modules]
    if names[:2] != ["Transformer", "Pooling"] or not {*names[2:]} <= {"Normalize", "Dense"}:
        return
    for module, name in zip(modules, names, strict=True):
        module["type"] = f"sentence_transformers.models.{name}"
    path.write_text(json.dumps(modules, indent=2))
    path = folder / modules[1]["path"] / "config.json"
    pooling = json.loads(path.read_text())
    chosen = [pooling["pooling_mode"]] if isinstance(pooling["pooling_mode"], str) else pooling["pooling_mode"]
    flags = {
        "cls": "cls_token", "mean": "mean_tokens", "max": "max_tokens", "weightedmean": "weightedmean_tokens",
        "mean_sqrt_len_tokens": "mean_sqrt_len_tokens", "lasttoken": "lasttoken",
    }  # fmt: skip
    older = {"word_embedding_dimension": pooling["embedding_dimension"]}
    older |= {f"pooling_mode_{flag}": mode in chosen for mode, flag in flags.items()}
    path.write_text(json.dumps(older | {"include_prompt": pooling.get("include_prompt", True)}, indent=2))
    settings = {"max_seq_length": max_seq_length, "do_lower_case": False}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings, indent=2))


def open_embedding(folder: Path, **options: Any) -> "BaseEmbedding":
    """Return the model in a folder as a LlamaIndex embedding with the prompts it was trained with."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    need_model(folder)
    prompts = json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]
    known = {"query_instruction": prompts.get("query") or None, "text_instruction": prompts.get("document") or None}
    return HuggingFaceEmbedding(model_name=str(folder), **(known | options))


def need_model(folder: Path) -> None:
    """Raise a UserError where a folder holds no model."""
    if not (folder / "config_sentence_transformers.json").exists():
        raise UserError(f"There is no model in {folder} yet. Run finetune() first.")
