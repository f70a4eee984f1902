"""Which files are meant: paths, folders, globs and URLs, found in one way for every part of the project."""

import fnmatch
import glob
import hashlib
import os
import re
import unicodedata
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nbutils import core
from nbutils.core import UserError, outputs_root, project_folder

Files = str | Path | Iterable[str | Path]

SUFFIXES = (".pdf", ".txt", ".text", ".md", ".markdown", ".html", ".htm", ".docx")
KNOWN = "PDF, TXT, MD, HTML or DOCX"


def is_url(name: str | Path) -> bool:
    """Whether a name is an http(s) address."""
    return bool(re.match(r"https?://", str(name), re.IGNORECASE))


def resolve(name: str | Path, base: str | Path | None = None) -> str:
    """Return a path or glob as given if it exists, else as seen from the project's folder; a URL as it is.

    Args:
        name: a path, a URL, or a glob (one that begins with a pattern is never looked for in the project's folder).
        base: a folder that relative names are tried in first, such as that of a plan.

    Raises:
        UserError: an empty name, or `**` inside a folder's name.
    """
    text = str(name) if os.path.lexists(name) else str(name).strip()
    if not text:
        raise UserError("A file name is empty. Name a file, folder, glob or URL.")
    if is_url(text) or "://" in text:
        return text
    for part in Path(text).parts:
        if "**" in part and part != "**":
            raise UserError(f"In {text}, '**' must stand alone between slashes, as in 'reports/**/*.pdf'.")
    path = Path(os.path.expanduser(text))
    project = [] if glob.has_magic(str(path).split(os.sep)[0]) else [project_folder()]
    for folder in (*([Path(base)] if base else []), Path(), *project):
        if next(_matches(folder / path), None):
            return str(folder / path)
    return str(path)


def _matches(path: Path) -> Iterator[Path]:
    """Yield what is there under a path or glob, in either Unicode form; brackets in a folder's name are no pattern."""
    yield from dict.fromkeys(_below(Path(path.anchor), path.parts[bool(path.anchor) :]))


def _below(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        if folder.exists():
            yield folder
        return
    first, *rest = parts
    if os.path.exists(folder / first):  # a part that is there as it is written is no pattern
        yield from _below(folder / first, rest)
    elif first == "**":
        for inner in _folders(folder):
            yield from _below(inner, rest or ["*"])
    else:
        wanted = unicodedata.normalize("NFC", first)
        for name in _names(folder):
            same = unicodedata.normalize("NFC", name)
            stem, suffix = os.path.splitext(same)
            fits = fnmatch.fnmatchcase(same, wanted) or fnmatch.fnmatchcase(stem + suffix.lower(), wanted)
            hidden = same[0] == "." != wanted[0] or _is_outputs(folder / name)
            if same == wanted or (fits and not hidden):
                yield from _below(folder / name, rest)


def find_files(files: Files, *, passed_over: list[str] | None = None) -> list[Path | str]:
    """Return the files that paths, folders, globs and URLs stand for, each once: paths, and URLs as strings.

    The files of a folder or glob come sorted by path. Folders are searched with their subfolders, linked ones too.
    Hidden files, lock files of word processors (`~$…`) and other types in them are passed over.

    Args:
        files: one or more names.
        passed_over: a list to which the names of files that were passed over are added.

    Raises:
        UserError: a path that does not exist, a folder or glob without a file that can be read, or another file type.
    """
    items = [files] if isinstance(files, str | Path) else list(files or ())
    if not items:
        raise UserError("No files were given. Name at least one file, folder, glob or URL.")
    found: dict[str, Path | str] = {}
    for item in items:
        for source in _expand(item, passed_over if passed_over is not None else []):
            found.setdefault(source if isinstance(source, str) else str(source.resolve()), source)
    return list(found.values())


def _expand(item: str | Path, passed_over: list[str]) -> list[Path | str]:
    text = resolve(item)
    if is_url(text):
        return [urllib.parse.urldefrag(text).url]
    if re.match(r"[a-z][a-z0-9+.-]+://", text, re.IGNORECASE):
        raise UserError(f"Cannot fetch {text}: only http(s):// addresses work. Download it and name the file.")
    matches = list(_matches(Path(text)))
    is_literal = os.path.exists(text) or not glob.has_magic(text)
    if is_literal and not matches:
        raise UserError(f"There is no file or folder {item}. Check the name; relative paths start at {Path.cwd()}.")
    if is_literal and matches[0].is_file():
        if matches[0].suffix.lower() not in SUFFIXES:
            raise UserError(f"{item} is of a type that cannot be read. Convert it to {KNOWN}.")
        return matches
    inside = [file for path in matches for file in (_walk(path) if path.is_dir() else [path])]
    readable = [file for file in inside if file.suffix.lower() in SUFFIXES and not file.name.startswith((".", "~$"))]
    passed_over += sorted(file.name for file in {*inside} - {*readable})
    if is_literal and not readable:
        raise UserError(f"The folder {item} holds no {KNOWN} file. Put your files there or name another folder.")
    if not readable:
        raise UserError(f"No {KNOWN} file matches {item}. Relative paths start at {Path.cwd()}.")
    return sorted(readable, key=lambda path: path.parts)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it."""
    return (place / name for place in _folders(folder) for name in _names(place) if os.path.isfile(place / name))


def _folders(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a folder and those below it, but hidden ones and that of all runs, whose files are no documents.

    A link is followed unless it leads back to a folder above it.
    """
    real = os.path.realpath(folder)
    if real not in above:
        yield folder
        for name in _names(folder):
            if not name.startswith(".") and os.path.isdir(folder / name) and not _is_outputs(folder / name):
                yield from _folders(folder / name, (*above, real))


def _is_outputs(path: Path) -> bool:
    return path.resolve() == outputs_root()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:  # no folder, or not ours to read
        return []


def readable_name(name: str) -> str:
    """Return a file name as text: composed Unicode; bytes that are no UTF-8 are read as Windows-1252."""
    try:
        return unicodedata.normalize("NFC", os.fsencode(name).decode("utf-8"))
    except UnicodeDecodeError:
        return os.fsencode(name).decode("cp1252", "replace")


def short_names(sources: Sequence[Path | str]) -> list[str]:
    """Return each file's name, with as many parent folders as it takes to tell it from the others."""
    parts = [Path(os.path.abspath(source)).parts for source in sources]
    names = [each[-1] for each in parts]
    for depth in range(2, max(map(len, parts), default=0)):
        counts = Counter(names)
        names = ["/".join(each[-depth:]) if counts[name] > 1 else name for each, name in zip(parts, names, strict=True)]
    return list(map(readable_name, names))


def local_copy(source: Path | str, folder: str | Path | None = None) -> Path | None:
    """Return the file itself, or what was downloaded from a URL before; None where nothing was."""
    if not is_url(source):
        return Path(source)
    folder = Path(folder or core.download_folder())
    names = (folder.glob(f"[!.]*-{url_hash(source)}{suffix}") for suffix in SUFFIXES)
    return next((path for paths in names for path in paths if path.is_file()), None)


def url_hash(url: str) -> str:
    """Return the digest that stands in the name of a downloaded file."""
    url = urllib.parse.urldefrag(url).url  # no server is told what follows the #
    return hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()[:10]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Check the file and its permissions.") from error


def _files_hash(value: "str | Path | Iterable[str | Path]") -> str:
    """Return a digest of the names and contents of all files behind paths, folders (but hidden and lock files), globs
    and URLs; what does not exist counts by its name."""
    digest = hashlib.sha256()
    for item in [value] if isinstance(value, str | Path) else value:
        text = resolve(item) if str(item).strip() else ""
        matches = [local_copy(text)] if is_url(text) else _matches(Path(text)) if text else []
        files = [
            (os.path.relpath(file, path) if path.is_dir() else path.name, file)
            for path in matches if path is not None for file in (_walk(path) if path.is_dir() else [path])
            if file == path or not file.name.startswith((".", "~$"))
        ]  # fmt: skip
        parts = [f"{name}={_digest(file)}" for name, file in sorted(files)] or [str(item)]
        digest.update("\n".join(parts).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def check_disjoint(train_files: Files, val_files: Files, *, download_folder: str | Path | None = None) -> None:
    """Refuse a file that is given for training and for validation, be it under two names.

    The arguments are those of `load_corpus`; there may be no `val_files`. URLs are compared by address, and by content
    where both were downloaded before.

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


def _identities(source: Path | str, folder: str | Path | None) -> list[str]:
    path = local_copy(source, folder)
    name = source if isinstance(source, str) else str(source.resolve())
    return [name] if path is None else [name, _digest(path)]
