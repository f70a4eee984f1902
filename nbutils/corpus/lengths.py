"""How long chunks are, and what a model does not see of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.corpus.chunks import source_id

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.schema import TextNode


def chunk_lengths(nodes: "Sequence[TextNode]", tokenizer) -> "pd.Series":
    """Return the tokens of each chunk's text, without special tokens, as a Series indexed by chunk id.

    The tokenizer is one of Hugging Face, or a model name as for `nbutils.models.names.load_tokenizer`.
    """
    import pandas as pd

    texts, tokenizer = [node.text for node in nodes], _tokenizer(tokenizer)
    tokens = tokenizer(texts, add_special_tokens=False, truncation=False, verbose=False)["input_ids"] if texts else []
    return pd.Series([len(ids) for ids in tokens], index=[node.id_ for node in nodes], name="tokens", dtype="int64")


def corpus_summary(nodes: "Sequence[TextNode]", tokenizer, max_seq_length: int) -> "pd.DataFrame":
    """Count what is in a corpus, and what a model that reads `max_seq_length` tokens will not see of it.

    The tokenizer is as for `chunk_lengths`; special tokens count in `max_seq_length`.

    Returns:
        One row per file and a last row "all": `pages`, `chunks`, `words`, `tokens`, `longest_chunk` (tokens),
        `chunks_cut`, `tokens_unseen`, and `share_unseen` (0 to 1).
    """
    import pandas as pd

    tokenizer = _tokenizer(tokenizer)
    room = max_seq_length - tokenizer.num_special_tokens_to_add()
    tokens = chunk_lengths(nodes, tokenizer).to_numpy()
    table = pd.DataFrame(
        {
            "file": [node.metadata.get("file_name", "") for node in nodes],
            "page": [source_id(node.metadata) for node in nodes],
            "words": [len(node.text.split()) for node in nodes],
            "tokens": tokens,
            "unseen": (tokens - room).clip(min=0),
        }
    )
    counts = pd.concat([table, table.assign(file="all")]).groupby("file", sort=False).agg(
        pages=("page", "nunique"), chunks=("page", "size"), words=("words", "sum"), tokens=("tokens", "sum"),
        longest_chunk=("tokens", "max"), chunks_cut=("unseen", lambda unseen: (unseen > 0).sum()),
        tokens_unseen=("unseen", "sum"),
    )  # fmt: skip
    counts = counts.reindex([*counts.index.drop("all", errors="ignore"), "all"], fill_value=0).rename_axis("file")
    return counts.assign(share_unseen=(counts["tokens_unseen"] / counts["tokens"]).fillna(0.0))


def _tokenizer(tokenizer):
    from nbutils.models.names import load_tokenizer

    return load_tokenizer(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer
