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
from pathlib import Path, PurePosixPath

from nbutils.core import UserError, outputs_root, project_folder
from nbutils.corpus.download import is_url, local_copy
from nbutils.corpus.read import KNOWN, SUFFIXES

Files = str | Path | Iterable[str | Path]


def resolve(name: str | Path, base: str | Path | None = None) -> str:
    """Return a path or glob as given if it exists, else as seen from the project's folder; a URL as it is.

    Relative names are tried in the folder `base` first. A glob that begins with a pattern is never looked for in the
    project's folder. A UserError tells of an empty name, or of `**` inside a folder's name.
    """
    text = str(name) if os.path.lexists(name) else str(name).strip()
    if not text:
        raise UserError("A file name is empty. Name a file, folder, glob or URL.")
    if "://" in text:
        return text
    for part in Path(text).parts:
        if "**" in part and part != "**":
            raise UserError(f"In {text}, '**' must stand alone between slashes, as in 'reports/**/*.pdf'.")
    path = Path(os.path.expanduser(text))
    project = [] if glob.has_magic(str(path).split(os.sep)[0]) else [project_folder()]
    for folder in (Path(base or ""), Path(), *project):
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

    The files of a folder or glob come sorted by path, those of subfolders and linked folders too. Hidden files, lock files
    of word processors (`~$…`), links to nothing and other types are passed over; their names are added to `passed_over`.

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
    if "://" in text:
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
    known = (file for file in inside if file.suffix.lower() in SUFFIXES and not file.name.startswith((".", "~$")))
    readable = [file for file in known if file.is_file()]
    passed_over += sorted(file.name for file in {*inside} - {*readable})
    if not readable:
        what = f"The folder {item} holds no {KNOWN} file" if is_literal else f"No {KNOWN} file matches {item}"
        raise UserError(f"{what}. Put your files there or name others; relative paths start at {Path.cwd()}.")
    return sorted(readable, key=lambda path: path.parts)


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below it, and links to what is not there."""
    paths = (place / name for place in _folders(folder) for name in _names(place))
    return (path for path in paths if path.is_file() or (path.is_symlink() and not path.exists()))


def _folders(folder: Path, above: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a folder and those below it, but hidden ones, that of all runs, and links to a folder above."""
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


def document_name(file_name: str) -> str:
    """Return what people may call a document: its file's name without the ending, with spaces for underscores."""
    return re.sub(r"[\s_]+", " ", str(PurePosixPath(file_name).with_suffix("")))


def short_names(sources: Sequence[Path | str]) -> list[str]:
    """Return each file's name, with as many parent folders as it takes to tell it from the others."""
    parts = [Path(os.path.abspath(source)).parts for source in sources]
    names = [each[-1] for each in parts]
    for depth in range(2, max(map(len, parts), default=0)):
        counts = Counter(names)
        names = ["/".join(each[-depth:]) if counts[name] > 1 else name for each, name in zip(parts, names, strict=True)]
    return list(map(readable_name, names))


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
            if file == path or (file.exists() and not file.name.startswith((".", "~$")))
        ]  # fmt: skip
        parts = [f"{name}={_digest(file)}" for name, file in sorted(files)] or [str(item)]
        digest.update("\n".join(parts).encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


def check_disjoint(train_files: Files, val_files: Files, *, download_folder: str | Path | None = None) -> None:
    """Refuse, by a UserError, a file that is given for training and for validation, be it under two names.

    The arguments are those of `load_corpus`; there may be no `val_files`. URLs are compared by address, and by content
    where both were downloaded before.
    """
    known = {key: source for source in find_files(train_files) for key in _identities(source, download_folder)}
    for source in find_files(val_files) if val_files else ():
        if same := [known[key] for key in _identities(source, download_folder) if key in known]:
            names = " and ".join(dict.fromkeys(map(str, [same[0], source])))
            advice = "Name different files, or split one document with split_corpus."
            raise UserError(f"The same file is given for training and for validation: {names}. {advice}")


def _identities(source: Path | str, folder: str | Path | None) -> list[str]:
    path = local_copy(source, folder)
    name = source if isinstance(source, str) else str(source.resolve())
    return [name] if path is None else [name, _digest(path)]
