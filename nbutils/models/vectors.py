"""Texts to vectors, as fast as the machine allows, and kept on disk so that none is embedded twice by the same weights."""

import contextlib
import copy
import functools
import hashlib
import json
import re
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nbutils.core import UserError, cache_folder, database_path, lock, progress

if TYPE_CHECKING:
    import torch
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

Kind = Literal["query", "document"]
BLOCK = 32  # batches whose vectors a GPU keeps before they are copied back


def unit(vectors: np.ndarray) -> np.ndarray:
    """Return vectors, shape (n, dimensions), scaled to length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


@functools.cache
def _cpu_has_bf16() -> bool:
    file = Path("/proc/cpuinfo")
    return bool(file.exists() and re.search("amx_bf16|avx512_bf16", file.read_text()))


def use_bf16(device: "str | torch.device") -> bool:
    """Whether bfloat16 is faster than float32 on `device`: a CPU (AMX, AVX-512 BF16) or a CUDA device that has it.

    Older CUDA devices (T4, V100) only emulate it, which is slow.
    """
    import torch

    kind = torch.device(device).type
    if kind == "cpu":
        return _cpu_has_bf16()
    return kind == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on whatever device."""
    words = "out of memory|(can't allocate|not enough) memory|ALLOC_FAILED"
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(re.search(words, str(error))))


def sentence_transformer(model) -> "SentenceTransformer | None":
    """Return the SentenceTransformer in `model` (itself, or inside a LlamaIndex HuggingFaceEmbedding), or None."""
    from sentence_transformers import SentenceTransformer

    inner = getattr(model, "_model", model)
    return inner if isinstance(inner, SentenceTransformer) else None


def base_and_map(model) -> "tuple[SentenceTransformer | BaseEmbedding, np.ndarray | None]":
    """Return what embeds the chunks of `model`, and the matrix that its queries' vectors go through.

    Returns:
        An adapter's base and its matrix; the model itself and None otherwise. A service comes as LlamaIndex's embedding.
    """
    from nbutils.models.adapted import without_map

    base, weights = without_map(model)
    inner = sentence_transformer(base)
    return getattr(inner and inner[0], "service", base), weights


def _prompt(model, inner: "SentenceTransformer", kind: Kind) -> str | None:
    # LlamaIndex calls the prompt of documents "text"
    return inner.prompts.get("text" if kind == "document" and inner is not model else kind)


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
        batch_size: texts per forward pass; by default as many as stay in a CPU's cache (some 2,000 tokens), or 128.
            Where memory runs out, the texts still to do go in smaller batches.
        bf16: compute in bfloat16; False computes in float32, whatever the model was saved in; None is where it pays.
        normalize: scale each vector to length 1; otherwise it is what the model gives.
        show_progress: show a bar.

    Returns:
        float32 array of shape (n, dimensions); of no texts (0, dimensions), where the model says how many those are.

    Raises:
        UserError: memory does not suffice for a single text.
    """
    model, weights = base_and_map(model)
    texts, inner = list(texts), sentence_transformer(model)
    if not texts:
        size = inner.get_embedding_dimension() if inner is not None else getattr(model, "dimensions", None)
        return np.zeros((0, size or 0), np.float32)
    if inner is not None:
        fast = use_bf16(inner.device) if bf16 is None else bf16
        computing, context = _in_precision(inner, fast)
        with context:
            size, prompt = batch_size or _batch_size(inner, texts), _prompt(model, inner, kind)
            if _away(inner) and type(inner[0]).__name__ == "Transformer":
                vectors = _on_device(computing, texts, size, prompt, show_progress)
            else:
                options = {"show_progress_bar": show_progress, "normalize_embeddings": normalize}
                vectors, _ = _as_memory_allows(
                    lambda size: computing.encode(texts, prompt=prompt, batch_size=size, **options), size
                )
    elif kind == "query":
        with ThreadPoolExecutor(getattr(model, "num_workers", None) or 1) as pool:  # a service takes them one by one
            vectors = list(pool.map(model.get_query_embedding, texts))
    else:
        vectors = model.get_text_embedding_batch(texts, show_progress=show_progress)
    vectors = np.asarray(vectors, dtype=np.float32)
    if weights is not None and kind == "query":
        vectors = vectors @ weights.T
    return unit(vectors) if normalize else vectors


def _away(model: "SentenceTransformer") -> bool:
    """Whether the model computes on a device of its own, not on the CPU."""
    return model.device.type != "cpu"


def _batch_size(model: "SentenceTransformer", texts: Sequence[str]) -> int:
    if _away(model):
        return 128
    longest = model.max_seq_length or 512
    tokens = sum(min(len(text) / 4, longest) for text in texts) / max(len(texts), 1)
    return int(min(max(2048 / max(tokens, 1), 4), 32))


def tokenised(model: "SentenceTransformer", texts: list[str], prompt: str | None) -> dict[str, Any]:
    """Return what `model.preprocess` returns; its own way from lists to tensors takes ten times as long."""
    import torch

    tokens = model.preprocess(texts, prompt=prompt, processing_kwargs={"common": {"return_tensors": None}})
    return {
        name: torch.from_numpy(np.array(value)) if isinstance(value, list) else value for name, value in tokens.items()
    }


def _on_device(
    model: "SentenceTransformer", texts: list[str], batch_size: int, prompt: str | None, show_progress: bool
) -> np.ndarray:
    """Embed texts on a device that computes while the next batch is tokenised: it is waited for once in `BLOCK` batches.

    The longest texts come first, so that memory runs out at once or never.
    """
    import torch
    from sentence_transformers.util import batch_to_device

    def compute(block: np.ndarray, size: int) -> np.ndarray:
        batches = ([texts[n] for n in block[start : start + size]] for start in range(0, len(block), size))
        found = [
            model(batch_to_device(tokenised(model, batch, prompt), model.device))["sentence_embedding"]
            for batch in batches
        ]
        return torch.cat(found)[:, : model.truncate_dim].float().cpu().numpy()

    model.eval()
    order, parts = np.argsort([-len(text) for text in texts], kind="stable"), []
    bar = progress(total=len(texts), desc="Embedding", unit="text", disable=not show_progress)
    with bar, torch.inference_mode():
        for block in np.array_split(order, -(-len(order) // (BLOCK * batch_size))):
            vectors, batch_size = _as_memory_allows(functools.partial(compute, block), batch_size)
            parts.append(vectors)
            bar.update(len(block))
    return np.concatenate(parts)[np.argsort(order)]


def _as_memory_allows(work: Callable[[int], np.ndarray], batch_size: int) -> tuple[np.ndarray, int]:
    """Return what `work` returns, and the size of batches that memory sufficed for: `batch_size`, its half, …"""
    import torch

    while True:
        try:
            return work(batch_size), batch_size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if batch_size == 1:
                raise UserError(
                    "Out of memory: a single text is too much to embed. "
                    "End other programs that use memory, lower max_seq_length, or name a smaller model."
                ) from error
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _in_precision(model: "SentenceTransformer", bf16: bool):
    """Return the model to compute with, itself or a copy, and the context to do it in."""
    import torch
    from sentence_transformers import SentenceTransformer

    tokenizer = {id(model.tokenizer): model.tokenizer}  # not copied
    if not bf16:
        full = all(weight.dtype == torch.float32 for weight in model.parameters() if weight.is_floating_point())
        return model if full else copy.deepcopy(model, tokenizer).float(), contextlib.nullcontext()
    first, *rest = model
    if model.device.type != "cpu" or type(first).__name__ != "Transformer":
        return model, torch.autocast(model.device.type, dtype=torch.bfloat16)
    # a copy in bfloat16 up to the pooling is faster than autocast, which casts the weights at each step
    first = copy.deepcopy(first, tokenizer).to(torch.bfloat16)
    first.register_forward_hook(lambda module, inputs, out: out | {"token_embeddings": out["token_embeddings"].float()})
    half = SentenceTransformer(modules=[first, *rest], device="cpu", truncate_dim=model.truncate_dim)
    return half, contextlib.nullcontext()


def model_fingerprint(model) -> str | None:
    """Return a digest of all that decides a model's vectors: weights, modules, tokenizer, input length.

    That of an adapter is its base's, since a map of the queries changes no vector that is kept.

    Args:
        model: a SentenceTransformer or a LlamaIndex embedding.

    Returns:
        None for a LlamaIndex embedding whose weights cannot be seen. OpenAI's model names are versions, so that name
        and server stand for the weights.
    """
    model, _ = base_and_map(model)
    inner = sentence_transformer(model)
    if inner is None:
        if model.class_name() == "OpenAIEmbedding":
            return f"openai:{model.api_base}:{model.model_name}:{getattr(model, 'dimensions', None)}"
        return None
    import torch

    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in inner.state_dict().items():
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        tensor = tensor.detach().cpu().contiguous()
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    digest.update(f"{inner} {inner.max_seq_length} {inner.truncate_dim}".encode())
    backend = getattr(inner.tokenizer, "backend_tokenizer", None)
    if backend:
        state = json.loads(backend.to_str())
        state |= {"truncation": None, "padding": None}  # these change with every call
        digest.update(json.dumps(state, sort_keys=True).encode())
    else:
        digest.update(repr(inner.tokenizer).encode())
    return digest.hexdigest()


class EmbeddingCache:
    """Vectors on disk by model weights, prompt, input length, precision and text.

    Args:
        folder: where the database lies (one per machine on a network file system); None is `cache_folder()`, False
            keeps nothing.

    The attribute `embedded` counts the texts that were not there and had to be embedded.
    """

    def __init__(self, folder: str | Path | bool | None = None):
        self.embedded = 0
        self.file = None if folder is False else database_path(folder or cache_folder(), "embeddings.sqlite")

    def embed(
        self,
        model,
        texts: Sequence[str],
        kind: Kind = "document",
        *,
        bf16: bool | None = None,
        normalize: bool = True,
        show_progress: bool = False,
        fingerprint: str | None = None,
    ) -> np.ndarray:
        """Embed texts as `encode` does, taking from the cache what it holds. Equal texts are embedded once.

        Args:
            fingerprint: saves computing `model_fingerprint(model)` again; the others are those of `encode`.

        Returns:
            float32 array of shape (n, dimensions).
        """
        unique = list(dict.fromkeys(texts))
        model, weights = base_and_map(model)

        def make(missing: list[str]) -> np.ndarray:
            self.embedded += len(missing)
            return encode(model, missing, kind, bf16=bf16, normalize=False, show_progress=show_progress)

        keys = self._keys(model, unique, kind, bf16, fingerprint) if self.file and unique else None
        vectors = self._kept(self.file, keys, unique, make) if keys else make(unique)
        row = {text: i for i, text in enumerate(unique)}
        vectors = vectors[[row[text] for text in texts]]
        if weights is not None and kind == "query":
            vectors = vectors @ weights.T
        return unit(vectors) if normalize else vectors

    def _kept(self, file: Path, keys: list[bytes], texts: list[str], make: Callable) -> np.ndarray:
        known = self._read(keys)
        if len(known) < len(keys):
            wanted = hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()
            with lock(file.parent / f".texts-{wanted[:4]}.lock", optional=True):
                known |= self._read(keys)  # another process may have embedded them while this one waited
                missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
                if missing:
                    fresh = dict(zip(missing, make(list(missing.values())), strict=True))
                    self._write(fresh)
                    known |= fresh
        return np.stack([known[key] for key in keys])

    def _keys(self, model, texts: list[str], kind: Kind, bf16, fingerprint: str | None) -> list[bytes] | None:
        fingerprint = fingerprint or model_fingerprint(model)
        if fingerprint is None:
            return None
        inner, prompt, precision = sentence_transformer(model), kind, "api"
        if inner is not None:
            prompt = repr(_prompt(model, inner, kind) or "")
            precision = "bf16" if (use_bf16(inner.device) if bf16 is None else bf16) else "fp32"
        head = f"1|{fingerprint}|{prompt}|{precision}|"
        written = ((head + text).encode("utf-8", "surrogatepass") for text in texts)
        return [hashlib.blake2b(text, digest_size=16).digest() for text in written]

    def _try(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """Do something with the database; where it is broken, locked or full, say so and go on without it."""
        if not self.file:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.file, timeout=60)) as connection, connection:
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID"
                )
                work(connection)
        except (sqlite3.Error, OSError) as error:
            warnings.warn(
                f"The embedding cache {self.file} cannot be used ({error}); texts are embedded anew. "
                "Free some space, or delete the file if it is broken.",
                stacklevel=5,
            )
            self.file = None

    def _read(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        found: dict[bytes, bytes] = {}

        def select(connection: sqlite3.Connection) -> None:
            for key in sorted(keys):  # neighbours lie on one page
                found.update(connection.execute("SELECT key, vector FROM embeddings WHERE key = ?", (key,)))

        self._try(select)
        return {key: np.frombuffer(vector, dtype=np.float32) for key, vector in found.items()}

    def _write(self, vectors: dict[bytes, np.ndarray]) -> None:
        rows = [(key, np.asarray(vector, np.float32).tobytes()) for key, vector in vectors.items()]
        self._try(lambda database: database.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows))
