"""From files to chunks, and chunks on disk."""

import functools
import importlib.metadata
import itertools
import json
import os
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nbutils.core import UserError, content_hash, progress, remember, write_atomic
from nbutils.corpus.download import download
from nbutils.corpus.files import Files, document_name, find_files, readable_name, short_names
from nbutils.corpus.outline import section_at
from nbutils.corpus.read import read_pages

if TYPE_CHECKING:
    from llama_index.core.schema import Document, TextNode


def load_corpus(
    files: Files,
    verbose: bool = False,
    *,
    chunk_size: int = 1024,
    chunk_overlap: int | None = None,
    on_unreadable: str = "skip",
    left_out: list[str] | None = None,
    passed_over: list[str] | None = None,
    download_folder: str | Path | None = None,
    cache: str | Path | None = None,
    header: str | Sequence[str] = (),
    **splitter_options,
) -> "list[TextNode]":
    """Read files and split them into chunks.

    Drop-in for the function of the same name in LlamaIndex's "Finetune Embeddings" walkthrough.

    Args:
        files: one or more paths, folders, globs, or http(s) URLs of PDF, TXT, MD, HTML or DOCX files.
        verbose: print what was loaded and parsed.
        chunk_size: most tokens of a chunk's text, counted by LlamaIndex's tokenizer (gpt-3.5-turbo's). Unlike in
            the walkthrough the metadata does not count: it is not embedded.
        chunk_overlap: most tokens that a chunk repeats of the one before it on the page; default is a fifth of
            `chunk_size`, at most 200.
        on_unreadable: of several files, "skip" reads the others and warns; "fail" reads none and names every bad one.
        left_out: a list to which is added why files and pages were left out, without their folders.
        passed_over: a list to which the names of hidden files, lock files and files of other types in folders are added.
        download_folder: where files from URLs are kept; default is `core.download_folder()`.
        cache: a folder that keeps what was read and split for other runs; default is none.
        header: what stands before a chunk where it is embedded: "file", "title", "section", or several of them in order.
        splitter_options: further arguments of `llama_index.core.node_parser.SentenceSplitter`.

    Returns:
        Chunks in reading order; a chunk never spans two pages of a PDF. `id_` derives from the text alone. `metadata`
        holds `file_name` and, for PDFs, `page` (counted from 1) and `page_label`; `title` and `section` where they are
        known; and `header` where one was asked for, such as "10-K 2022 acme · Liquidity". The header is no part of the
        text: `get_content(MetadataMode.EMBED)` returns it with the text below.

    Raises:
        UserError: there is nothing to read, no file can be read, or a parameter is out of range.
    """
    splitter, parts = _splitter(chunk_size, chunk_overlap, splitter_options), check_header(header)
    files = [files] if isinstance(files, str | Path) else list(files or ())
    if verbose:
        shown = [Path(file).name if Path(file).is_absolute() else str(file) for file in files]  # no home path
        print(f"Loading files {list(map(readable_name, shown))}")
    pages = _read_files(files, on_unreadable, left_out, passed_over, download_folder, cache)
    if verbose:
        empty = sum(not text for text, _, _ in pages)
        print(f"Loaded {len(pages)} docs" + (f" ({empty} without text)" if empty else ""))
    code, version = Path(__file__).read_text(encoding="utf-8"), importlib.metadata.version("llama-index-core")
    settings = json.dumps([chunk_size, chunk_overlap, splitter_options], sort_keys=True, default=str)
    chunks = []
    for _, file in itertools.groupby(pages, lambda page: page[1]["file_name"]):
        texts, metadata, sections = zip(*file, strict=True)
        key = content_hash(code, version, settings, *texts, length=32)
        split = remember(cache, f"chunks-{key}", lambda texts=texts: list(map(splitter.split_text, texts)))
        for page in zip(texts, metadata, sections, split, strict=True):
            chunks += _with_sections(*page, parts)
    nodes = _nodes(chunks)
    if verbose:
        print(f"Parsed {len(nodes)} nodes")
    return nodes


def load_documents(files: Files, **reading) -> "list[Document]":
    """Read files into one document per page (PDF) or per file (everything else).

    Drop-in for `SimpleDirectoryReader(input_files=files).load_data()`. Arguments and errors are those of `load_corpus`,
    but for those about splitting. A PDF page without text is a document with the text "".
    """
    from llama_index.core.schema import Document

    documents = []
    for text, metadata, _ in _read_files(files, **reading):
        hidden = {"excluded_embed_metadata_keys": list(metadata), "excluded_llm_metadata_keys": ["page"]}
        documents.append(Document(id_=source_id(metadata), text=text, metadata=metadata, **hidden))
    return documents


def _read_files(
    files, on_unreadable="skip", left_out=None, passed_over=None, download_folder=None, cache=None
) -> list[tuple[str, dict, list]]:
    """Return text, metadata and sections of each page; the arguments are those of `load_corpus`."""
    if on_unreadable not in ("skip", "fail"):
        raise UserError(f"on_unreadable is {on_unreadable!r}; use 'skip' or 'fail'.")
    sources = find_files(files, passed_over=passed_over)
    found, bad, damaged = [], [], []
    for source, name in progress(list(zip(sources, short_names(sources), strict=True)), desc="Reading", unit="file"):
        try:
            path = download(source, download_folder) if isinstance(source, str) else source
            pages = read_pages(path, cache)
        except UserError as error:
            bad.append(str(error) if isinstance(source, str) else str(error).replace(str(source), name))
            continue
        found.append((path, pages))
        if lost := [str(metadata["page"]) for text, metadata, _ in pages if text is None]:
            damaged.append(f"{name} is damaged on page {', '.join(lost)} of {len(pages)}.")
    if bad and (on_unreadable == "fail" or not found):
        raise UserError(bad[0] if len(bad) == 1 else f"{len(bad)} files cannot be read. " + " ".join(bad))
    if bad:
        warnings.warn(f"{len(bad)} of {len(sources)} files were left out: {' '.join(bad)}", stacklevel=3)
    if damaged:
        warnings.warn(f"Some pages were left out: {' '.join(damaged)}", stacklevel=3)
    if left_out is not None:
        left_out += bad + damaged
    names = short_names([path for path, _ in found])
    return [
        (text or "", {"file_name": name} | metadata, sections)
        for name, (_, pages) in zip(names, found, strict=True)
        for text, metadata, sections in pages
    ]


def _with_sections(
    text: str, metadata: dict, sections: list, chunks: Sequence[str], parts: Sequence[str]
) -> Iterator[tuple[str, dict]]:
    """Yield each chunk of a page with its metadata: the section that holds its middle, and the header of these parts."""
    position = -1
    name = document_name(metadata["file_name"])
    for chunk in chunks:
        position = max(text.find(chunk, position + 1), position)
        section = section_at(sections, max(position, 0) + len(chunk) // 2)
        known = metadata | ({"section": section} if section else {})
        header = " · ".join(dict.fromkeys(filter(None, map((known | {"file": name}).get, parts))))
        yield chunk, known | ({"header": header} if header else {})


def _splitter(chunk_size: int, chunk_overlap: int | None, options: dict):
    from llama_index.core.node_parser import SentenceSplitter
    from llama_index.core.node_parser.text.utils import split_by_sentence_tokenizer_internal
    from nltk.tokenize import PunktSentenceTokenizer

    if chunk_size < 16:
        raise UserError(f"chunk_size is {chunk_size}; it must be at least 16 tokens.")
    chunk_overlap = min(200, chunk_size // 5) if chunk_overlap is None else chunk_overlap
    if not 0 <= chunk_overlap < chunk_size:
        raise UserError(f"chunk_overlap is {chunk_overlap}; it must be at least 0 and below chunk_size ({chunk_size}).")
    # LlamaIndex's own two defaults, without what they look for on the disk or the network: NLTK's data, which the
    # tokenizer of sentences does not use, and tiktoken's file, of which llama-index-core holds a copy.
    sentences = functools.partial(split_by_sentence_tokenizer_internal, tokenizer=PunktSentenceTokenizer())
    defaults = {"tokenizer": _tokens(), "chunking_tokenizer_fn": sentences}
    return SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap, **defaults | options)


_ENVIRONMENT = threading.Lock()  # else one of two threads may keep the other's value as the user's


@functools.cache
def _tokens() -> Callable[[str], list[int]]:
    """Return LlamaIndex's default tokenizer, gpt-3.5-turbo's, from the file that llama-index-core brings."""
    import llama_index.core
    import tiktoken

    packaged = Path(llama_index.core.__file__).parent / "_static" / "tiktoken_cache"
    with _ENVIRONMENT:
        before = os.environ.get("TIKTOKEN_CACHE_DIR")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(packaged)
        try:
            encoding = tiktoken.encoding_for_model("gpt-3.5-turbo")
        finally:
            os.environ.pop("TIKTOKEN_CACHE_DIR", None)
            if before is not None:
                os.environ["TIKTOKEN_CACHE_DIR"] = before
    return functools.partial(encoding.encode, allowed_special="all")


def check_header(header: str | Sequence[str]) -> list[str]:
    """Return the parts of a chunk's header in a list; a UserError names CHUNK_HEADER where there is no such part."""
    parts = [part for part in ([header] if isinstance(header, str) else header) if part not in ("", "none")]
    if unknown := [part for part in parts if part not in ("file", "title", "section")]:
        raise UserError(
            f"CHUNK_HEADER holds {unknown[0]!r}; use 'none', 'file', 'title', 'section' or a list of these."
        )
    return parts


def source_id(metadata: dict) -> str:
    page = metadata.get("page")
    return f"{metadata.get('file_name', '')}#page={page}" if page else metadata.get("file_name", "")


def _nodes(chunks: Iterable[tuple[str, dict]]) -> "list[TextNode]":
    """Make linked nodes from texts and metadata, each with an id that its text and nothing else decides."""
    seen: Counter[str] = Counter()
    rows = []
    for text, metadata in chunks:
        if text.strip():
            number = [str(seen[text])] if seen[text] else []
            rows.append((content_hash(text, *number), text, metadata))
            seen[text] += 1
    return _linked(rows)


def _linked(rows: Iterable[tuple[str, str, dict]]) -> "list[TextNode]":
    """Return the nodes of ids, texts and metadata; each knows its source and its neighbours on the same page."""
    from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode

    link = functools.partial(RelatedNodeInfo, node_type=ObjectType.TEXT)
    nodes: list[TextNode] = []
    for node_id, text, metadata in rows:
        templates = {"metadata_template": "{value}", "text_template": "{metadata_str}\n{content}"}
        node = TextNode(
            id_=node_id, text=text, metadata=dict(metadata), **(templates if "header" in metadata else {}),
            excluded_embed_metadata_keys=[key for key in metadata if key != "header"],
            excluded_llm_metadata_keys=["page", "header"],
        )  # fmt: skip
        source = RelatedNodeInfo(node_id=source_id(metadata), node_type=ObjectType.DOCUMENT, metadata=node.metadata)
        node.relationships[NodeRelationship.SOURCE] = source
        if nodes and nodes[-1].ref_doc_id == source.node_id:
            nodes[-1].relationships[NodeRelationship.NEXT] = link(node_id=node_id)
            node.relationships[NodeRelationship.PREVIOUS] = link(node_id=nodes[-1].id_)
        nodes.append(node)
    return nodes


def save_corpus(nodes: "Sequence[TextNode]", path: str | Path) -> Path:
    """Write chunks to a JSON file, a list of `{"id", "text", "metadata"}`."""
    rows = [{"id": node.id_, "text": node.text, "metadata": node.metadata} for node in nodes]
    return write_atomic(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def check_size(nodes: "Sequence[TextNode]", parameter: str) -> None:
    """Raise a UserError that names `parameter` where there are fewer than 2 chunks, too few to search."""
    if len(nodes) < 2:
        advice = "Add longer documents or lower CHUNK_SIZE."
        raise UserError(f"{parameter} gives {len(nodes)} chunk(s); searching needs 2 or more. {advice}")


def read_corpus(path: str | Path) -> "list[TextNode]":
    """Read the chunks that `save_corpus` wrote; UserError where there is no such file, or it is something else."""
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError("a saved corpus is a list")
        return _linked((str(row["id"]), row["text"], row["metadata"]) for row in rows)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Run 01_build_corpus first.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a saved corpus. Run 01_build_corpus again.") from error
