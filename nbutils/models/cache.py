"""Embeddings kept on disk, so that no text is embedded twice by the same weights."""

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nbutils.core import cache_folder, lock
from nbutils.models.encoding import Kind, encode, use_bf16

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


def model_fingerprint(model) -> str | None:
    """Return a digest of all that decides a model's vectors: weights, modules, tokenizer, input length.

    Args:
        model: a SentenceTransformer or a LlamaIndex embedding.

    Returns:
        None for a LlamaIndex embedding whose weights cannot be seen (but OpenAI's, whose names are versions).
    """
    inner = sentence_transformer(model)
    if inner is None:
        if model.class_name() == "OpenAIEmbedding":
            return f"openai:{model.model_name}:{getattr(model, 'dimensions', None)}"
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


def sentence_transformer(model) -> "SentenceTransformer | None":
    """Return the SentenceTransformer in `model` (itself, or inside a LlamaIndex HuggingFaceEmbedding), or None."""
    from sentence_transformers import SentenceTransformer

    inner = getattr(model, "_model", model)
    return inner if isinstance(inner, SentenceTransformer) else None


class EmbeddingCache:
    """Vectors on disk by model weights, prompt, input length, precision and text.

    Args:
        folder: where `embeddings.sqlite` lies; None is `cache_folder()`, False keeps nothing.

    The attribute `embedded` counts the texts that were not there and had to be embedded.
    """

    def __init__(self, folder: str | Path | bool | None = None):
        self.embedded = 0
        self.file = None
        if folder is not False:
            self.file = Path(folder or cache_folder()) / "embeddings.sqlite"

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
        """Embed texts as `nbutils.models.encoding.encode` does, taking from the cache what it holds.

        Equal texts are embedded once. `fingerprint` saves computing `model_fingerprint(model)` again.

        Returns:
            float32 array of shape (n, dimensions).
        """
        unique = list(dict.fromkeys(texts))
        keys = self._keys(model, unique, kind, bf16, fingerprint)
        known = self._read(keys) if keys else {}
        if keys and any(key not in known for key in keys):
            wanted = hashlib.blake2b(b"".join(keys), digest_size=8).hexdigest()
            with lock(self.file.parent / f".texts-{wanted[:4]}.lock", optional=True) if self.file else nullcontext():
                known |= self._read([key for key in keys if key not in known])
                missing = [i for i, key in enumerate(keys) if key not in known]
                fresh = self._encode(model, [unique[i] for i in missing], kind, bf16, show_progress)
                known |= {keys[i]: vector for i, vector in zip(missing, fresh, strict=True)}
                self._write({keys[i]: known[keys[i]] for i in missing})
        elif not keys and unique:
            vectors = self._encode(model, unique, kind, bf16, show_progress)
        if keys or not unique:
            vectors = np.stack([known[key] for key in keys]) if keys else np.zeros((0, 0), np.float32)
        if normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        row = {text: i for i, text in enumerate(unique)}
        return vectors[[row[text] for text in texts]]

    def _encode(self, model, texts: list[str], kind: Kind, bf16, show_progress: bool) -> np.ndarray:
        self.embedded += len(texts)
        if not texts:
            return np.zeros((0, 0), np.float32)
        return encode(model, texts, kind, bf16=bf16, normalize=False, show_progress=show_progress)

    def _keys(self, model, texts: list[str], kind: Kind, bf16, fingerprint: str | None) -> list[bytes] | None:
        if not self.file or not texts:
            return None
        fingerprint = fingerprint or model_fingerprint(model)
        if fingerprint is None:
            return None
        inner = sentence_transformer(model)
        prompt, precision = kind, "api"
        if inner is not None:
            name = "text" if inner is not model and kind == "document" else kind
            prompt = repr(inner.prompts.get(name) or "")
            precision = "bf16" if (use_bf16(inner.device) if bf16 is None else bf16) else "fp32"
        head = hashlib.blake2b(f"1|{fingerprint}|{prompt}|{precision}|".encode(), digest_size=16)
        keys = []
        for text in texts:
            digest = head.copy()
            digest.update(text.encode("utf-8", "surrogatepass"))
            keys.append(digest.digest())
        return keys

    def _connect(self) -> sqlite3.Connection:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.file, timeout=60)
        connection.execute("CREATE TABLE IF NOT EXISTS embeddings (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
        return connection

    def _read(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        if not self.file or not self.file.exists():
            return {}
        found = {}
        try:
            with closing(self._connect()) as connection:
                for start in range(0, len(keys), 500):
                    part = keys[start : start + 500]
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(f"SELECT key, vector FROM embeddings WHERE key IN ({marks})", part)
                    found |= {key: np.frombuffer(vector, dtype=np.float32) for key, vector in rows}
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)
            return {}
        return found

    def _write(self, vectors: dict[bytes, np.ndarray]) -> None:
        if not self.file:
            return
        rows = [(key, np.asarray(vector, np.float32).tobytes()) for key, vector in vectors.items()]
        try:
            with closing(self._connect()) as connection, connection:
                connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?)", rows)
        except (sqlite3.Error, OSError) as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        warnings.warn(
            f"The embedding cache {self.file} cannot be used ({error}); texts are embedded anew. Delete the file.",
            stacklevel=4,
        )
        self.file = None
