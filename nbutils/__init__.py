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
    "EmbeddingQAFinetuneDataset": "questions.dataset",
    "SentenceTransformersFinetuneEngine": "training.engine",
    "UserError": "core",
    "compare_models": "evaluation.compare",
    "evaluate": "evaluation.walkthrough",
    "evaluate_st": "evaluation.walkthrough",
    "generate_qa_embedding_pairs": "questions.generate",
    "load_corpus": "corpus.chunks",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from nbutils.core import UserError
    from nbutils.corpus.chunks import load_corpus
    from nbutils.evaluation.compare import compare_models
    from nbutils.evaluation.walkthrough import evaluate, evaluate_st
    from nbutils.questions.dataset import EmbeddingQAFinetuneDataset
    from nbutils.questions.generate import generate_qa_embedding_pairs
    from nbutils.training.engine import SentenceTransformersFinetuneEngine


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'nbutils' has no attribute {name!r}")
    module = importlib.import_module(f"nbutils.{_HOME[name]}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return __all__
