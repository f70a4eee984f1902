"""Fine-tune an embedding model on your own documents: the functions of LlamaIndex's walkthrough, made to work.

The names below are the public ones. They load on first use, so that `import nbutils` costs nothing.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# OpenMP's threads spin 300,000 times before they sleep. Where another process needs a core, that makes PyTorch several
# times as slow; this costs a few percent of an idle machine. It counts only if set before PyTorch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

_HOME = {
    "EmbeddingQAFinetuneDataset": "dataset",
    "SentenceTransformersFinetuneEngine": "finetune",
    "UserError": "common",
    "compare_models": "evaluate",
    "evaluate": "evaluate",
    "evaluate_st": "evaluate",
    "generate_qa_embedding_pairs": "questions",
    "load_corpus": "corpus",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from nbutils.common import UserError
    from nbutils.corpus import load_corpus
    from nbutils.dataset import EmbeddingQAFinetuneDataset
    from nbutils.evaluate import compare_models, evaluate, evaluate_st
    from nbutils.finetune import SentenceTransformersFinetuneEngine
    from nbutils.questions import generate_qa_embedding_pairs


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nbutils' has no attribute {name!r}")
    module = importlib.import_module(f"nbutils.{_HOME[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
