"""An adapter as a sentence-transformers model: a base whose queries' vectors go through a matrix. The base may be a service."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import InputModule, Router
from sentence_transformers.sentence_transformer.modules import Dense, Normalize

from nbutils.models.names import resolve_embed_model
from nbutils.models.vectors import encode, sentence_transformer

SETTINGS = "config_sentence_transformers.json"


class Service(InputModule):
    """A service's embedding model as the first module of a SentenceTransformer. Its name is saved, it has no weights.

    Args:
        name: as for `resolve_embed_model`, such as `openai:text-embedding-3-small`.
        service: a LlamaIndex embedding; default is the one of that name.
    """

    config_file_name, config_keys, forward_kwargs = "service.json", ["name"], {"task"}

    def __init__(self, name: str, service: Any = None) -> None:
        super().__init__()
        self.name, self.service = name, service or resolve_embed_model(name)

    def preprocess(self, inputs: list[str], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Return the texts as they are."""
        return {"texts": inputs}

    def forward(self, features: dict[str, Any], task: str | None = None) -> dict[str, Any]:
        """Ask for the vectors: of queries where `task` is "query", else of documents."""
        vectors = encode(self.service, features["texts"], "query" if task == "query" else "document", normalize=False)
        return features | {"sentence_embedding": torch.from_numpy(vectors)}

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """Write the name."""
        self.save_config(output_path)


def with_map(base: SentenceTransformer, weights: np.ndarray) -> SentenceTransformer:
    """Return a model whose queries have the vectors of `base` times a matrix, and whose chunks those of `base`.

    Its `encode_query` and `encode_document` tell which is which; plain `encode` raises ValueError.

    Args:
        base: the base model.
        weights: float32, shape (dimensions, dimensions).
    """
    size = len(weights)
    dense = Dense(size, size, bias=False, activation_function=None, init_weight=torch.from_numpy(weights))
    router = Router({"query": [dense, Normalize()], "document": [Normalize()]}, allow_empty_key=False)
    return SentenceTransformer(modules=[*base, router], device=str(base.device), prompts=base.prompts)


def without_map(model: Any) -> tuple[Any, np.ndarray | None]:
    """Return the base of a model that `with_map` made and its matrix; any other model and None."""
    inner = sentence_transformer(model)
    *modules, last = inner or [None]
    query = last.sub_modules["query"] if modules and isinstance(last, Router) and "query" in last.sub_modules else ()
    if not query or not isinstance(query[0], Dense):
        return model, None
    base = SentenceTransformer(
        modules=modules, device=str(inner.device), prompts=inner.prompts, truncate_dim=inner.truncate_dim
    )
    return base, query[0].linear.weight.detach().cpu().numpy()


def save_adapter(model: SentenceTransformer, folder: Path) -> None:
    """Write a model that `with_map` made to an empty folder, its base in `base/` there.

    sentence-transformers loads the folder. So do `llama-index-embeddings-adapter` (config.json, pytorch_model.bin) and
    numpy (adapter.npy), which need the base beside it.
    """
    base, weights = without_map(model)
    base.save_pretrained(str(folder / "base"), create_model_card=False)
    (folder / "queries").mkdir()
    model[-1].save(str(folder / "queries"))
    (folder / SETTINGS).write_bytes((folder / "base" / SETTINGS).read_bytes())
    modules = json.loads((folder / "base" / "modules.json").read_text())
    modules = [module | {"path": f"base/{module['path']}"} for module in modules]
    kind = f"{Router.__module__}.{Router.__name__}"
    modules.append({"idx": len(modules), "name": str(len(modules)), "path": "queries", "type": kind})
    (folder / "modules.json").write_text(json.dumps(modules, indent=2))
    config = {"in_features": len(weights), "out_features": len(weights), "bias": False}
    (folder / "config.json").write_text(json.dumps(config))
    torch.save({"linear.weight": torch.from_numpy(weights)}, folder / "pytorch_model.bin")
    np.save(folder / "adapter.npy", weights)
