"""From files to chunks: read PDFs and texts, split them, and keep training and validation apart."""

import functools
import glob
import hashlib
import importlib.metadata
import itertools
import json
import re
import time
import urllib.parse
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from nbutils.core import UserError, content_hash, progress, remember, write_atomic

if TYPE_CHECKING:
    import pandas as pd
    from llama_index.core.schema import Document, TextNode

Files = str | Path | Iterable[str | Path]

SUFFIXES = (".pdf", ".txt", ".text", ".md", ".markdown", ".html", ".htm", ".docx")
DOWNLOADS = "data/downloads"
_KNOWN = "PDF, TXT, MD, HTML or DOCX"


def load_corpus(
    files: Files,
    verbose: bool = False,
    *,
    chunk_size: int = 1024,
    chunk_overlap: int | None = None,
    download_folder: str | Path = DOWNLOADS,
    max_megabytes: float = 200,
    cache: str | Path | None = None,
    **splitter_options,
) -> "list[TextNode]":
    """Read files and split them into chunks.

    Drop-in for the function of the same name in LlamaIndex's "Finetune Embeddings" walkthrough.

    Args:
        files: one or more paths, folders (searched with their subfolders), globs, or http(s) URLs of PDF, TXT, MD,
            HTML or DOCX files.
        verbose: print what was loaded and parsed.
        chunk_size: most tokens of a chunk's text, counted by LlamaIndex's tokenizer (gpt-3.5-turbo's). Unlike in
            the walkthrough the metadata does not count: it is not embedded.
        chunk_overlap: most tokens that a chunk repeats of the one before it on the page; default is a fifth of
            `chunk_size`, at most 200.
        download_folder: where files from URLs are kept.
        max_megabytes: refuse larger downloads.
        cache: a folder that keeps what was read and split, by content and settings, for other runs; default is none.
        splitter_options: further arguments of `llama_index.core.node_parser.SentenceSplitter`.

    Returns:
        Chunks in reading order; a chunk never spans two pages of a PDF. `id_` derives from the text, so it is the same
        on every run and machine. `metadata` holds `file_name` and, for PDFs, `page` (counted from 1) and `page_label`.

    Raises:
        UserError: there is nothing to read, a file cannot be read, or a parameter is out of range.
    """
    splitter = _splitter(chunk_size, chunk_overlap, splitter_options)
    files = [files] if isinstance(files, str | Path) else list(files)
    if verbose:
        print(f"Loading files {_shown(files)}")
    documents = load_documents(files, download_folder=download_folder, max_megabytes=max_megabytes, cache=cache)
    if verbose:
        empty = sum(not document.text for document in documents)
        print(f"Loaded {len(documents)} docs" + (f" ({empty} without text)" if empty else ""))
    settings = json.dumps([chunk_size, chunk_overlap, splitter_options], sort_keys=True, default=str)
    chunks = []
    for _, file in itertools.groupby(documents, lambda document: document.metadata["file_name"]):
        pages = list(file)
        key = content_hash(_code_version(), settings, *(page.text for page in pages), length=32)
        split = remember(cache, f"chunks-{key}", lambda pages=pages: [splitter.split_text(page.text) for page in pages])
        chunks += [(chunk, page.metadata) for page, texts in zip(pages, split, strict=True) for chunk in texts]
    nodes = _nodes(chunks)
    if verbose:
        print(f"Parsed {len(nodes)} nodes")
    return nodes


def load_documents(
    files: Files,
    *,
    download_folder: str | Path = DOWNLOADS,
    max_megabytes: float = 200,
    cache: str | Path | None = None,
) -> "list[Document]":
    """Read files into one document a page (PDF) or a file (everything else).

    Drop-in for `SimpleDirectoryReader(input_files=files).load_data()`.

    Args:
        files, download_folder, max_megabytes, cache: as for `load_corpus`.

    Returns:
        Documents in order; a PDF page without text is a document with the text "".

    Raises:
        UserError: there is nothing to read, or a file cannot be read.
    """
    from llama_index.core.schema import Document

    paths = [
        download(source, download_folder, max_megabytes=max_megabytes) if isinstance(source, str) else source
        for source in find_files(files)
    ]
    documents = []
    for path, name in progress(list(zip(paths, _short_names(paths), strict=True)), desc="Reading", unit="file"):
        for text, metadata in _pages(path, cache):
            metadata = {"file_name": name} | metadata
            documents.append(
                Document(
                    id_=_source_id(metadata), text=text, metadata=metadata,
                    excluded_embed_metadata_keys=list(metadata), excluded_llm_metadata_keys=["page"],
                )
            )  # fmt: skip
    return documents


def find_files(files: Files) -> list[Path | str]:
    """Return the files that paths, folders, globs and URLs stand for, each once: paths, and URLs as strings.

    The files of a folder or glob come sorted by path.

    Raises:
        UserError: a path that does not exist, a folder or glob without a file that can be read, or another file type.
    """
    items = [files] if isinstance(files, str | Path) else list(files)
    if not items:
        raise UserError("No files were given. Name at least one file, folder, glob or URL.")
    found: dict[str, Path | str] = {}
    for item in items:
        for source in _expand(item):
            found.setdefault(source if isinstance(source, str) else str(source.resolve()), source)
    return list(found.values())


def _expand(item: str | Path) -> list[Path | str]:
    text = str(item).strip()
    if re.match(r"https?://", text, re.IGNORECASE):
        return [text]
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise UserError(
            f"Cannot fetch {text}: only http:// and https:// addresses work. Download it and name the file."
        )
    path = Path(text).expanduser()
    if not text:
        raise UserError("A file name is empty. Name a file, folder, glob or URL.")
    if path.is_dir():
        inside = _supported(path.rglob("*"), path)
        if not inside:
            raise UserError(f"The folder {text} holds no {_KNOWN} file. Put your files there or name another folder.")
        return inside
    if path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            raise UserError(f"{text} is of a type that cannot be read. Convert it to {_KNOWN}.")
        return [path]
    if glob.has_magic(text):
        matches = _supported(map(Path, glob.glob(str(path), recursive=True)))
        if not matches:
            raise UserError(f"No {_KNOWN} file matches {text}. Relative paths start at {Path.cwd()}.")
        return matches
    raise UserError(f"There is no file or folder {text}. Check the name; relative paths start at {Path.cwd()}.")


def _supported(paths: Iterable[Path], root: Path = Path()) -> list[Path]:
    def wanted(path: Path) -> bool:
        parts = path.relative_to(root).parts if path.is_relative_to(root) else path.parts[-1:]
        return path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in parts) and path.is_file()

    return sorted(filter(wanted, paths), key=lambda path: path.parts)


def _shown(files: list[str | Path]) -> list[str]:
    """Return what was given without a folder outside the current one, so that no home path is printed."""
    return [Path(file).name if Path(file).is_absolute() else str(file) for file in files]


def _short_names(paths: Sequence[Path]) -> list[str]:
    """Return each file's name, with as many parent folders as it takes to tell it from the others."""
    resolved = [path.resolve() for path in paths]
    names = [path.name for path in paths]
    for depth in range(2, max((len(path.parts) for path in resolved), default=0)):
        counts = Counter(names)
        if len(counts) == len(names):
            break
        names = [
            "/".join(path.parts[-depth:]) if counts[name] > 1 else name
            for path, name in zip(resolved, names, strict=True)
        ]
    return names


# Reading one file


def _pages(path: Path, cache: str | Path | None) -> list[tuple[str, dict]]:
    """Return what `_read` yields, from the cache where this very file was read before."""
    if cache is None or not path.is_file():
        return list(_read(path))
    key = content_hash(_code_version(), path.suffix.lower(), hashlib.sha256(path.read_bytes()).hexdigest(), length=32)
    return remember(cache, f"pages-{key}", lambda: list(_read(path)))


@functools.cache
def _code_version() -> str:
    """Return what, with a file's content, decides its pages and chunks: this module and the packages behind it."""
    versions = [importlib.metadata.version(package) for package in ("pypdfium2", "llama-index-core")]
    return content_hash(Path(__file__).read_text(encoding="utf-8"), *versions)


def _read(path: Path) -> Iterator[tuple[str, dict]]:
    """Yield the text and metadata of each page of a PDF, or of the whole file for other types."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Check the file and its permissions.") from error
    if not data:
        raise UserError(f"{path} is empty (0 bytes). Download or copy it again.")
    suffix = path.suffix.lower()
    if suffix == ".pdf" or data.startswith(b"%PDF-"):
        yield from _read_pdf(path, data)
        return
    if suffix == ".docx":
        text = _docx_text(path)
    elif suffix in (".html", ".htm"):
        text = _html_text(data)
    else:
        text = _decode(path, data)
    text = _clean(text)
    if not text:
        raise UserError(f"{path} holds no text. Remove it from the files or replace it.")
    yield text, {}


def _read_pdf(path: Path, data: bytes) -> Iterator[tuple[str, dict]]:
    import pypdfium2 as pdfium

    if b"%PDF-" not in data[:1024]:
        kind = "a web page" if _is_html(data) else "something else"
        raise UserError(f"{path} is not a PDF but {kind} with that name. Download the PDF itself or rename the file.")
    if _is_cut_off(data):
        raise UserError(f"{path} is cut off: the end of the PDF is missing. Download or copy it again.")
    try:
        pdf = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        if error.err_code in (pdfium.raw.FPDF_ERR_PASSWORD, pdfium.raw.FPDF_ERR_SECURITY):
            raise UserError(f"{path} is encrypted. Save a copy without its password and use that.") from error
        raise UserError(f"{path} is damaged: no page can be read. Download or copy it again.") from error
    with pdf:
        texts, labels = [], []
        for number in range(len(pdf)):
            texts.append(_page_text(pdf, number))
            labels.append(pdf.get_page_label(number) or str(number + 1))
    if all(text is None for text in texts):
        raise UserError(f"{path} is damaged: no page can be read. Download or copy it again.")
    texts = _join_hyphens([text or "" for text in texts])
    texts = [_clean(text) for text in texts]
    if not any(texts):
        raise UserError(
            f"{path} has no text on its {len(texts)} page(s), only images. Run OCR on it first, "
            "for example `ocrmypdf IN.pdf OUT.pdf`."
        )
    for number, (text, label) in enumerate(zip(texts, labels, strict=True), 1):
        yield text, {"page_label": label, "page": number}


def _page_text(pdf, number: int) -> str | None:
    """Return the text of one page, or None where the page is damaged."""
    import pypdfium2 as pdfium

    def extract() -> str:
        page = pdf[number]
        text_page = page.get_textpage()
        text = text_page.get_text_range()
        text_page.close()
        if text.count("\n") * 12 > len(text):  # far more lines than text has
            page.set_mediabox(0, 0, 1, 1)
            page.set_cropbox(0, 0, 1, 1)
        page.close()
        return text

    try:
        text = extract()
        if text.count("\n") * 12 > len(text):
            # pdfium takes some sparse tables for vertical writing and puts every letter on its own line. It judges by
            # what lies inside the page's box, so with a box of one point it reads lines from left to right.
            text = min(text, extract(), key=lambda version: version.count("\n"))
    except pdfium.PdfiumError:
        return None
    return text


def _is_cut_off(data: bytes) -> bool:
    """Whether a PDF is shorter than it says, has no end mark, or goes on with objects after the last one."""
    length = re.search(rb"/Linearized\b.{0,200}?/L\s+(\d+)", data[:2048], re.DOTALL)
    if length and int(length[1]) > len(data):
        return True
    end = data.rfind(b"%%EOF")
    if end < 0:
        return not re.search(rb"startxref\s+\d+\s*%{0,2}\w{0,3}\s*$", data[-64:])
    return bool(re.search(rb"\d \d+ obj\b", data[end:]))


_HYPHEN = "\ufffe"  # pdfium's mark for a hyphen at the end of a line, which it joins with the next


def _join_hyphens(texts: list[str]) -> list[str]:
    """Put back the hyphens that end a line, except inside words that the document writes only without one elsewhere."""
    if not any(_HYPHEN in text for text in texts):
        return texts
    everything = "\n".join(texts).lower()
    words = set(re.findall(r"\w+", everything))
    hyphenated = set(re.findall(r"([^\W\d_]+)-(?=([^\W\d_]+))", everything))

    def joint(before: str, after: str) -> str:
        before = re.search(r"[^\W\d_]*$", before[-40:].lower())[0]
        after = re.match(r"[^\W\d_]*", after[:40].lower())[0]
        known = before + after in words and (before, after) not in hyphenated
        return "" if known and min(len(before), len(after)) > 1 else "-"

    joined = []
    for text in texts:
        parts = text.split(_HYPHEN)
        joined.append("".join(part + joint(part, after) for part, after in itertools.pairwise(parts)) + parts[-1])
    return joined


# What becomes of characters that are no text.
_ODD = dict.fromkeys([*map(chr, range(32)), *map(chr, range(0xD800, 0xE000)), *"\x7f\xad\u200b\ufeff\uffff"], "")
_ODD |= {"\x0b": "\n", "\x0c": "\n", "\xa0": " ", _HYPHEN: "-"}
for _kept in "\n\t":
    del _ODD[_kept]


def _clean(text: str) -> str:
    """Return `text` with plain line ends and spaces, without control characters; the words stay as they are."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    for character in _ODD.keys() & set(text):
        text = text.replace(character, _ODD[character])
    return text.replace(" \n", "\n").strip()


def _decode(path: Path, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    if b"\0" in data:
        raise UserError(f"{path} is not a text file. Convert it to {_KNOWN}.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


_HTML_BLOCKS = re.compile(
    "(address|article|aside|blockquote|body|br|caption|dd|details|div|dl|dt|figcaption|figure|footer|form|h[1-6]|header|hr"
    "|li|main|nav|ol|p|pre|section|summary|table|td|th|title|tr|ul)$"
)


def _html_text(data: bytes) -> str:
    """Return the visible text of a web page, one line a block element or table cell."""
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(data.replace(b"\0", b""), "html.parser")
    for tag in soup(["script", "style", "noscript", "template"]):
        tag.decompose()
    for tag in soup(_HTML_BLOCKS):
        tag.insert_before("\0")
        tag.insert_after("\0")
    lines = (" ".join(line.split()) for line in soup.get_text().split("\0"))
    return "\n".join(filter(None, lines))


def _docx_text(path: Path) -> str:
    import docx2txt

    try:
        return re.sub(r"\n{3,}", "\n\n", docx2txt.process(str(path)))
    except (zipfile.BadZipFile, KeyError, ParseError) as error:
        raise UserError(
            f"{path} is not a Word document (.docx). Open it in a word processor and save it anew."
        ) from error


def _is_html(data: bytes) -> bool:
    return bool(
        re.match(
            rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)",
            data[:4096].removeprefix(b"\xef\xbb\xbf"),
            re.I | re.S,
        )
    )


# Chunks


def _splitter(chunk_size: int, chunk_overlap: int | None, options: dict):
    from llama_index.core.node_parser import SentenceSplitter

    if chunk_size < 16:
        raise UserError(f"chunk_size is {chunk_size}; it must be at least 16 tokens.")
    if chunk_overlap is None:
        chunk_overlap = min(200, chunk_size // 5)
    if not 0 <= chunk_overlap < chunk_size:
        raise UserError(f"chunk_overlap is {chunk_overlap}; it must be at least 0 and below chunk_size ({chunk_size}).")
    return SentenceSplitter(chunk_size=chunk_size, chunk_overlap=chunk_overlap, **options)


def _source_id(metadata: dict) -> str:
    page = metadata.get("page")
    return f"{metadata.get('file_name', '')}#page={page}" if page else metadata.get("file_name", "")


def _nodes(chunks: Iterable[tuple[str, dict]]) -> "list[TextNode]":
    """Make linked nodes from texts and metadata, each with an id that its text and nothing else decides."""
    seen: Counter[str] = Counter()
    nodes = []
    for text, metadata in chunks:
        if not text.strip():
            continue
        number = seen[text]
        seen[text] += 1
        nodes.append(_node(content_hash(text, *([str(number)] if number else [])), text, metadata))
    return _link(nodes)


def _node(node_id: str, text: str, metadata: dict) -> "TextNode":
    from llama_index.core.schema import TextNode

    return TextNode(
        id_=node_id, text=text, metadata=dict(metadata),
        excluded_embed_metadata_keys=list(metadata), excluded_llm_metadata_keys=["page"],
    )  # fmt: skip


def _link(nodes: "list[TextNode]") -> "list[TextNode]":
    """Set each node's source and its neighbours on the same page."""
    from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo

    before = None
    for node in nodes:
        source = _source_id(node.metadata)
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(
            node_id=source, node_type=ObjectType.DOCUMENT, metadata=node.metadata
        )
        if before is not None and before.ref_doc_id == source:
            before.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=node.id_, node_type=ObjectType.TEXT)
            node.relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(
                node_id=before.id_, node_type=ObjectType.TEXT
            )
        before = node
    return nodes


def save_corpus(nodes: "Sequence[TextNode]", path: str | Path) -> Path:
    """Write chunks to a JSON file, whole or not at all: a list of `{"id", "text", "metadata"}`.

    The same chunks give the same bytes.

    Raises:
        UserError: the file cannot be written.
    """
    rows = [{"id": node.id_, "text": node.text, "metadata": node.metadata} for node in nodes]
    return write_atomic(path, json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def check_size(nodes: "Sequence[TextNode]", parameter: str) -> None:
    """Make sure that there is something to search.

    Raises:
        UserError: fewer than 2 chunks; the message names `parameter`.
    """
    if len(nodes) < 2:
        raise UserError(
            f"{parameter} gives {len(nodes)} chunk(s); searching needs 2 or more. Add longer documents or lower CHUNK_SIZE."
        )


def read_corpus(path: str | Path) -> "list[TextNode]":
    """Read the chunks that `save_corpus` wrote.

    Raises:
        UserError: there is no such file, or it is not a saved corpus.
    """
    try:
        rows = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(rows, list):
            raise TypeError("a saved corpus is a list")
        return _link([_node(str(row["id"]), row["text"], row["metadata"]) for row in rows])
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Run 01_build_corpus first.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is not a saved corpus. Run 01_build_corpus again.") from error


# Training and validation apart


def check_disjoint(train_files: Files, val_files: Files, *, download_folder: str | Path = DOWNLOADS) -> None:
    """Refuse a file that is given for training and for validation, be it under two names.

    Args:
        train_files, val_files: as for `load_corpus`; there may be no `val_files`. URLs are compared by address, and by
            content where both were downloaded before.
        download_folder: where files from URLs are kept.

    Raises:
        UserError: the same file stands in both, naming it as given in each.
    """
    known = {key: source for source in find_files(train_files) for key in _identities(source, download_folder)}
    for source in find_files(val_files) if val_files else ():
        for key in _identities(source, download_folder):
            if key in known:
                same = f"{known[key]}" if known[key] == source else f"{known[key]} and {source}"
                raise UserError(
                    f"The same file is given for training and for validation: {same}. "
                    "Name different files, or split one document with split_corpus."
                )


def _identities(source: Path | str, folder: str | Path) -> list[str]:
    keys = [source] if isinstance(source, str) else [str(source.resolve())]
    path = _downloaded(source, Path(folder)) if isinstance(source, str) else source
    if path is not None:
        try:
            keys.append(hashlib.sha256(path.read_bytes()).hexdigest())
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror}. Check the file and its permissions.") from error
    return keys


def split_corpus(
    nodes: "Sequence[TextNode]", validation_share: float = 0.3, *, seed: int = 0, blocks: int = 20
) -> "tuple[list[TextNode], list[TextNode]]":
    """Split one corpus into a training and a validation part that share no page and no text.

    The corpus is cut into blocks of neighbouring pages (of neighbouring chunks where there are no pages, or only one),
    and whole blocks go to one part. A training chunk that repeats text of a validation chunk is left out: the overlap of
    neighbours, or the same text elsewhere.

    Args:
        nodes: chunks in reading order, as `load_corpus` returns them.
        validation_share: share of the chunks for validation, between 0 and 1; met to within half a block, 2 at least.
        seed: decides which blocks.
        blocks: how many blocks to cut; fewer where there are fewer pages.

    Returns:
        The training and the validation chunks, each in reading order.

    Raises:
        UserError: a share out of range, or too few pages or chunks to split.
    """
    import random

    if not 0 < validation_share < 1:
        raise UserError(f"validation_share is {validation_share}; it must lie between 0 and 1, for example 0.3.")
    units = _units(nodes)
    if len(units) == 1:
        units = [[node] for node in nodes]
    if len(units) < 2:
        raise UserError(
            f"The documents hold {len(nodes)} chunk(s) of text, too few to set some aside for validation. "
            "Add a longer document, or name others to validate on."
        )
    if any(_source_id(one[-1].metadata) == _source_id(two[0].metadata) for one, two in itertools.pairwise(units)):
        blocks = min(blocks, len(units) // 4)  # blocks lose their edges, which overlap
    cut = _cut(units, max(2, blocks))
    order = list(range(len(cut)))
    random.Random(seed).shuffle(order)
    wanted = max(2, validation_share * len(nodes))
    chosen: set[int] = set()
    count = 0
    for index in order:
        size = len(cut[index])
        if len(chosen) < len(cut) - 1 and abs(count + size - wanted) <= abs(count - wanted):
            chosen.add(index)
            count += size
    chosen = chosen or {min(order, key=lambda index: len(cut[index]))}
    part = [index in chosen for index, block in enumerate(cut) for _ in block]
    flat = [node for block in cut for node in block]
    validation = [node for node, is_validation in zip(flat, part, strict=True) if is_validation]
    leaking = _leaking(flat, part)
    train = [node for i, node in enumerate(flat) if not part[i] and i not in leaking]
    if not train:
        raise UserError("No training chunk is left that shares no text with validation. Add a longer document.")
    return train, validation


def _units(nodes: "Sequence[TextNode]") -> "list[list[TextNode]]":
    """Group neighbouring chunks of the same page; a chunk of a document without pages stands alone."""
    units: list[list[TextNode]] = []
    last = None
    for node in nodes:
        page = node.metadata.get("page") and (node.metadata.get("file_name"), node.metadata["page"])
        if page and page == last:
            units[-1].append(node)
        else:
            units.append([node])
        last = page
    return units


def _cut(units: "list[list[TextNode]]", blocks: int) -> "list[list[TextNode]]":
    """Cut units into at most `blocks` runs of about as many chunks each."""
    total = sum(map(len, units))
    cut: list[list[TextNode]] = []
    done, last = 0, -1
    for unit in units:
        index = min(blocks - 1, int((done + len(unit) / 2) * blocks / total))
        if index != last:
            cut.append([])
        cut[-1].extend(unit)
        done += len(unit)
        last = index
    return cut if len(cut) > 1 else units


def _leaking(nodes: "list[TextNode]", is_validation: list[bool]) -> set[int]:
    """Return the positions of training chunks that repeat text of a validation chunk."""
    held = {" ".join(node.text.split()) for node, val in zip(nodes, is_validation, strict=True) if val}
    leaking = {i for i, node in enumerate(nodes) if not is_validation[i] and " ".join(node.text.split()) in held}
    for i in range(1, len(nodes)):
        if is_validation[i] == is_validation[i - 1] or _source_id(nodes[i].metadata) != _source_id(
            nodes[i - 1].metadata
        ):
            continue
        step = 1 if is_validation[i - 1] else -1
        edge, position = (i - 1, i) if step == 1 else (i, i - 1)
        while 0 <= position < len(nodes) and not is_validation[position]:
            first, second = (edge, position) if step == 1 else (position, edge)
            if _overlap(nodes[first].text, nodes[second].text) < 20:
                break
            leaking.add(position)
            position += step
    return leaking


def _overlap(first: str, second: str) -> int:
    """Return how many characters at the end of `first` also begin `second`."""
    return next((k for k in range(min(len(first), len(second)), 0, -1) if first.endswith(second[:k])), 0)


# What the model will see


def chunk_lengths(nodes: "Sequence[TextNode]", tokenizer) -> "pd.Series":
    """Return the tokens of each chunk's text, without special tokens, as a Series indexed by chunk id.

    Args:
        nodes: n chunks.
        tokenizer: a Hugging Face tokenizer, or a model name as for `nbutils.models.names.load_tokenizer`.
    """
    import pandas as pd

    tokenizer = _tokenizer(tokenizer)
    tokens = tokenizer(
        [node.text for node in nodes], add_special_tokens=False, truncation=False, padding=False, verbose=False,
        return_attention_mask=False, return_token_type_ids=False,
    )["input_ids"] if nodes else []  # fmt: skip
    return pd.Series([len(ids) for ids in tokens], index=[node.id_ for node in nodes], name="tokens", dtype="int64")


def corpus_summary(nodes: "Sequence[TextNode]", tokenizer, max_seq_length: int) -> "pd.DataFrame":
    """Count what is in a corpus, and what a model that reads `max_seq_length` tokens will not see of it.

    Args:
        nodes: the chunks.
        tokenizer: a Hugging Face tokenizer, or a model name as for `nbutils.models.names.load_tokenizer`.
        max_seq_length: tokens the model reads of a text, its special tokens among them.

    Returns:
        One row a file and a last row "all": `pages`, `chunks`, `words`, `tokens`, `longest_chunk` (tokens),
        `chunks_cut`, `tokens_unseen`, and `share_unseen` (0 to 1).
    """
    import pandas as pd

    tokenizer = _tokenizer(tokenizer)
    room = max_seq_length - tokenizer.num_special_tokens_to_add()
    table = pd.DataFrame(
        {
            "file": [node.metadata.get("file_name", "") for node in nodes],
            "page": [_source_id(node.metadata) for node in nodes],
            "words": [len(node.text.split()) for node in nodes],
            "tokens": chunk_lengths(nodes, tokenizer).to_numpy(),
        }
    )
    table["unseen"] = (table["tokens"] - room).clip(lower=0)
    rows = {file: _count(part) for file, part in table.groupby("file", sort=False)}
    return pd.DataFrame.from_dict(rows | {"all": _count(table)}, orient="index").rename_axis("file")


def _count(table: "pd.DataFrame") -> dict:
    tokens, unseen = int(table["tokens"].sum()), int(table["unseen"].sum())
    return {
        "pages": table["page"].nunique(),
        "chunks": len(table),
        "words": int(table["words"].sum()),
        "tokens": tokens,
        "longest_chunk": int(table["tokens"].max()) if len(table) else 0,
        "chunks_cut": int((table["unseen"] > 0).sum()),
        "tokens_unseen": unseen,
        "share_unseen": unseen / tokens if tokens else 0.0,
    }


def _tokenizer(tokenizer):
    if not isinstance(tokenizer, str | Path):
        return tokenizer
    from nbutils.models.names import load_tokenizer

    return load_tokenizer(tokenizer)


# Downloads


class _Transient(Exception):
    """A failure that may pass."""

    def __init__(self, reason: str, wait: float = 0.0):
        super().__init__(reason)
        self.wait = wait


def download(
    url: str,
    folder: str | Path = DOWNLOADS,
    *,
    max_megabytes: float = 200,
    timeout: float = 30,
    retries: int = 3,
    backoff: float = 1.0,
) -> Path:
    """Fetch a document once; a later call returns the same file without the network.

    Args:
        url: an http(s) address of a PDF, TXT, MD, HTML or DOCX file.
        folder: where to keep it, under a name made of the address and its hash.
        max_megabytes: refuse larger files.
        timeout: seconds to wait for a connection, and for each piece of data.
        retries: further tries after a failure that may pass (no connection, status 408, 429 or 5xx).
        backoff: seconds before the second try; doubles with each.

    Raises:
        UserError: it cannot be fetched, is too large, is not what the address says, or cannot be written.
    """
    folder = Path(folder)
    known = _downloaded(url, folder)
    if known:
        return known
    for attempt in range(retries + 1):
        try:
            data, content_type = _fetch(url, max_megabytes, timeout)
            break
        except _Transient as error:
            if attempt == retries:
                raise UserError(
                    f"Cannot download {url}: {error}. Check the address and the network, "
                    "or download it by hand and name the file."
                ) from error
            time.sleep(min(60.0, max(error.wait, backoff * 2**attempt)))
    suffix = _content_suffix(url, data, content_type)
    stem = re.sub(r"[^\w.-]+", "_", Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).stem)[:60].strip("._")
    return write_atomic(folder / f"{stem or urllib.parse.urlsplit(url).hostname}-{_url_hash(url)}{suffix}", data)


def _url_hash(url: str) -> str:
    return content_hash(url, length=10)


def _downloaded(url: str, folder: Path) -> Path | None:
    names = (folder.glob(f"[!.]*-{_url_hash(url)}{suffix}") for suffix in SUFFIXES)
    return next((path for paths in names for path in paths if path.is_file()), None)


def _fetch(url: str, max_megabytes: float, timeout: float) -> tuple[bytes, str]:
    import requests

    limit = int(max_megabytes * 1e6)
    too_large = UserError(f"{url} is larger than {max_megabytes:g} MB. Raise max_megabytes, or name a smaller file.")
    try:
        with requests.get(url, stream=True, timeout=timeout, headers={"User-Agent": "nbutils"}) as response:
            status = response.status_code
            if status in (408, 425, 429) or status >= 500:
                wait = response.headers.get("Retry-After", "")
                raise _Transient(
                    f"the server answers {status} {response.reason}", float(wait) if wait.isdigit() else 0.0
                )
            if status != 200:
                raise UserError(
                    f"Cannot download {url}: the server answers {status} {response.reason}. Check the address."
                )
            size = int(response.headers.get("Content-Length") or 0)
            if size > limit:
                raise too_large
            data = bytearray()
            with progress(total=size or None, desc="Downloading", unit="B") as bar:
                for block in response.iter_content(1 << 16):
                    data += block
                    bar.update(len(block))
                    if len(data) > limit:
                        raise too_large
            return bytes(data), response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    except (
        requests.exceptions.InvalidURL,
        requests.exceptions.TooManyRedirects,
        requests.exceptions.MissingSchema,
    ) as error:
        raise UserError(f"Cannot download {url}: {type(error).__name__}. Check the address.") from error
    except requests.Timeout as error:
        raise _Transient(f"no answer within {timeout:g} seconds") from error
    except requests.RequestException as error:
        raise _Transient("the connection failed") from error


_CONTENT_TYPES = {
    "application/pdf": ".pdf",
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}


def _content_suffix(url: str, data: bytes, content_type: str) -> str:
    """Return the suffix for what came, after making sure that it is what the address or the server says it is."""
    named = Path(urllib.parse.urlsplit(url).path).suffix.lower()
    expected = named if named in SUFFIXES else _CONTENT_TYPES.get(content_type)
    if not data:
        raise UserError(f"{url} sent an empty file. Check the address.")
    if b"%PDF-" in data[:1024]:
        found = ".pdf"
    elif data.startswith(b"PK\x03\x04"):
        found = ".docx" if expected == ".docx" else None
    elif _is_html(data):
        found = ".html"
    else:
        found = expected if expected not in (".pdf", ".docx") else None
    page = (".html", ".htm")
    if found is None or (expected and found != expected and not (found in page and expected in page)):
        what = "a web page" if found == ".html" else "something else"
        raise UserError(
            f"{url} sent {what}, not a {(expected or _KNOWN).lstrip('.').upper()} file. "
            "Open it in a browser, download the file by hand and name that."
        )
    return expected or found
