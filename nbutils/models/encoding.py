"""Texts to unit vectors, as fast as the machine allows."""

import contextlib
import copy
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    import torch
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

Kind = Literal["query", "document"]


@functools.cache
def _cpu_has_bf16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def use_bf16(device: "str | torch.device") -> bool:
    """Whether bfloat16 is faster than float32 on `device`: a CPU (AMX, AVX-512 BF16) or a CUDA device that has it."""
    import torch

    kind = torch.device(device).type
    return _cpu_has_bf16() if kind == "cpu" else kind == "cuda" and torch.cuda.is_bf16_supported()


def autocast(device: "str | torch.device", bf16: bool | None = None):
    """Return a context in which `device` computes in bfloat16 where that pays (or as `bf16` says)."""
    import torch

    if use_bf16(device) if bf16 is None else bf16:
        return torch.autocast(torch.device(device).type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def _batch_size(model: "SentenceTransformer", texts: Sequence[str]) -> int:
    if model.device.type != "cpu":
        return 128
    longest = model.max_seq_length or 512
    tokens = sum(min(len(text) / 4, longest) for text in texts) / max(len(texts), 1)
    return int(min(max(2048 / max(tokens, 1), 4), 32))


def _half(model: "SentenceTransformer") -> "SentenceTransformer | None":
    """Return a copy that computes in bfloat16 up to the pooling: faster than autocast, which casts at each step.

    None for models on other devices or of another build.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    first, *rest = model
    if model.device.type != "cpu" or type(first).__name__ != "Transformer":
        return None
    first = copy.deepcopy(first, {id(model.tokenizer): model.tokenizer}).to(torch.bfloat16)
    first.register_forward_hook(lambda module, inputs, out: out | {"token_embeddings": out["token_embeddings"].float()})
    return SentenceTransformer(modules=[first, *rest], device="cpu", truncate_dim=model.truncate_dim)


def encode(
    model: "SentenceTransformer | BaseEmbedding",
    texts: Sequence[str],
    kind: Kind = "document",
    *,
    batch_size: int | None = None,
    bf16: bool | None = None,
    normalize: bool = True,
    show_progress: bool = False,
) -> np.ndarray:
    """Embed texts as queries or documents.

    Args:
        model: a SentenceTransformer, or any LlamaIndex embedding.
        texts: n texts.
        kind: which of the model's prompts to use.
        batch_size: texts a forward pass; by default as many as stay in a CPU's cache (some 2,000 tokens), or 128.
        bf16: compute in bfloat16; default is where it pays.
        normalize: scale each vector to length 1; otherwise it is what the model gives.
        show_progress: show a bar.

    Returns:
        float32 array of shape (n, dimensions).
    """
    from sentence_transformers import SentenceTransformer

    texts = list(texts)
    inner = getattr(model, "_model", None)
    if isinstance(inner, SentenceTransformer):
        model, names = inner, {"query": "query", "document": "text"}
    else:
        names = {"query": "query", "document": "document"}
    if isinstance(model, SentenceTransformer):
        prompt, batch_size = model.prompts.get(names[kind]), batch_size or _batch_size(model, texts)
        half = _half(model) if bf16 or (bf16 is None and use_bf16(model.device)) else None
        with contextlib.nullcontext() if half else autocast(model.device, bf16):
            vectors = (half or model).encode(
                texts, prompt=prompt, batch_size=batch_size, show_progress_bar=show_progress,
                normalize_embeddings=normalize,
            )  # fmt: skip
    elif kind == "query":
        with ThreadPoolExecutor(getattr(model, "num_workers", None) or 1) as pool:  # a service takes them one by one
            vectors = list(pool.map(model.get_query_embedding, texts))
    else:
        vectors = model.get_text_embedding_batch(texts, show_progress=show_progress)
    vectors = np.asarray(vectors, dtype=np.float32).reshape(len(texts), -1)
    if not normalize:
        return vectors
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
