"""What every package needs: UserError, whole-or-nothing files, locks, hashes, folders, progress bars."""

import contextlib
import functools
import hashlib
import json
import os
import platform
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """Something the user can put right; the message names the file or parameter and says what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return str(error).strip().split("\n")[0].strip() or type(error).__name__


def slug(text: str) -> str:
    """Return `text` as a file name of lower-case letters, digits, `.`, `-` and `_`."""
    return re.sub(r"[^a-z0-9._-]+", "_", text.lower()).strip("_") or "x"


def asked(question_set: str) -> str:
    """Return a question set's name as part of a sentence: "gold questions (all documents)"."""
    name, _, detail = question_set.partition(", ")
    return f"{name} questions" + (f" ({detail})" if detail else "")


def content_hash(*parts: str, length: int = 16) -> str:
    """Return a hexadecimal digest of the parts, the same on every machine and run."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()[:length]


_FULL = re.compile("no space left|disk is full|disk full|quota exceeded|file too large", re.IGNORECASE)


def cannot_write(path: str | Path, error: BaseException) -> UserError:
    """Return the UserError that says why a path cannot be written, and what to do."""
    reason = getattr(error, "strerror", None) or first_line(error)
    advice = "Name a place that you may write to."
    for link in (each for each in (Path(path), *Path(path).parents) if each.is_symlink() and not os.path.exists(each)):
        advice = f"{link} is a link to {os.readlink(link)}, which is not there: make that, or remove the link."
    if _FULL.search(str(error)):
        advice = "Free some space, or name a folder on another disk."
    return UserError(f"Cannot write {path}: {reason}. {advice}")


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without an error.

    The block may write a file or make a folder there. After an error whatever stood at `path` before still does. A link
    stays a link: what it points to is replaced. Errors of the block itself pass through, unless the disk is full. A
    UserError says why nothing can be written, or that the block made nothing.
    """
    path, workspace = Path(path), ""
    try:
        target = path.resolve() if path.is_symlink() else path
        target.parent.mkdir(parents=True, exist_ok=True)
        options = {"prefix": f".{target.name}.", "dir": target.parent, "ignore_cleanup_errors": True}
        with tempfile.TemporaryDirectory(**options) as workspace:
            yield Path(workspace) / target.name
            _put(Path(workspace), target, path)
    except Exception as error:
        names = f"{getattr(error, 'filename', '')} {getattr(error, 'filename2', '')}"
        ours = workspace in names  # or there is none yet; else it is the block's own trouble
        full = _FULL.search(str(error))  # libraries tell that in many ways
        if isinstance(error, UserError) or not (ours or full):
            raise
        raise cannot_write(path, error) from error


def _put(workspace: Path, target: Path, path: Path) -> None:
    """Move what was made in the workspace to its place; what stood there stays where that fails."""
    made, replaced = workspace / target.name, workspace / "replaced"
    if not made.exists():
        raise UserError(f"Nothing was written for {path}; what stood there is kept.")
    if target.is_dir():
        if made.is_file():
            raise UserError(f"Cannot write {path}: it is a folder. Name a file in it.")
        target.replace(replaced)
    try:
        made.replace(target)
    except OSError:
        if replaced.exists():
            replaced.replace(target)
        raise


def write_atomic(path: str | Path, data: str | bytes) -> Path:
    """Write `data` to `path` whole or not at all and return the path; a UserError says why it cannot be written.

    Text that is no Unicode (a file name in another encoding) is written as an escape, which JSON reads back.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8", "backslashreplace") if isinstance(data, str) else data)
    return Path(path)


@contextlib.contextmanager
def lock(path: str | Path, *, wait: float = -1, busy: str = "", optional: bool = False) -> Iterator[None]:
    """Let one process at a time into the block.

    Args:
        path: the lock file; it stays.
        wait: seconds to wait for whoever holds it; -1 waits for ever.
        busy: what to say when the wait is over.
        optional: go on without the lock where it cannot be taken (a read-only folder, another user's file).

    Raises:
        UserError: somebody else holds the lock, or the file cannot be opened. Where the file system has no locks, a
            warning says so and the block runs without one.
    """
    from filelock import FileLock, Timeout

    path = Path(path)
    with contextlib.ExitStack() as held:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(FileLock(path, timeout=wait, mode=0o666))
        except Timeout as error:
            raise UserError(busy or f"{path} is held by another process. Wait for it to end.") from error
        except (OSError, NotImplementedError) as error:
            kinds = PermissionError | IsADirectoryError | NotADirectoryError | FileExistsError
            if not optional and (isinstance(error, kinds) or _FULL.search(str(error))):
                raise cannot_write(path, error) from error
            if not optional:
                missing = f"{path.parent} has no file locks ({first_line(error)})"
                warnings.warn(f"{missing}: do not run two processes on it at once.", stacklevel=3)
        yield


def remember(folder: str | Path | None, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returned for this key before, in any process; call it once and keep its JSON otherwise.

    Processes that want the same key at the same time wait for the one that makes it. An error keeps nothing. A folder
    that cannot be written to, or None, is not used. The key must follow from all that the value depends on.
    """
    if folder is None:
        return make()
    file = Path(folder) / f"{key}.json"
    with lock(Path(folder) / f".{key[:10]}.lock", optional=True):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(file.read_text(encoding="utf-8"))
        value = make()
        with contextlib.suppress(UserError):
            write_atomic(file, json.dumps(value, ensure_ascii=True))
        return value


@functools.cache
def project_folder() -> Path:
    """Return the folder that holds notebooks/ and data/: the checkout, or what an installed wheel brought along."""
    above = Path(__file__).resolve().parents[1:]
    installed = [folder / "share" / "nbutils" for folder in above]  # --prefix, --user, --target, a venv
    return next((folder for folder in (above[0], *installed) if (folder / "notebooks").is_dir()), above[0])


def is_checkout() -> bool:
    """Whether nbutils runs from its source tree."""
    return (project_folder() / "pyproject.toml").is_file()


def outputs_root() -> Path:
    """Return the folder that holds all runs: $NBUTILS_OUTPUTS, the checkout's outputs/, or outputs/ here."""
    here = project_folder() if is_checkout() else Path.cwd()
    return Path(os.environ.get("NBUTILS_OUTPUTS") or here / "outputs").expanduser().resolve()


def cache_folder() -> Path:
    """Return the folder of what all runs share (parsed files, embeddings, answers): $NBUTILS_CACHE, or outputs/.cache."""
    return Path(os.environ.get("NBUTILS_CACHE") or outputs_root() / ".cache").expanduser().resolve()


def database_path(folder: str | Path, name: str) -> Path:
    """Return where an SQLite database of this name lies; on a network file system, each machine has its own."""
    import psutil

    folder, kind = Path(folder).resolve(), ""
    for part in sorted(psutil.disk_partitions(all=True), key=lambda part: len(part.mountpoint)):
        kind = part.fstype if folder.is_relative_to(part.mountpoint) else kind
    if re.match(r"nfs|cifs|smb|afs|lustre|gpfs|ceph|glusterfs|beegfs|fuse\.(sshfs|s3fs|gcsfuse)", kind):
        name = f"{Path(name).stem}-{slug(platform.node())}{Path(name).suffix}"
    return folder / name


def download_folder() -> Path:
    """Return the folder of downloaded files, the same whatever the working directory."""
    return project_folder() / "data" / "downloads" if is_checkout() else cache_folder() / "downloads"


def progress(iterable=None, *, disable: bool = False, **options):
    """Return a tqdm bar: a widget in a notebook, a line in a terminal, nothing where output goes to a file.

    In a notebook that `nbutils run` executes, the bar goes to the terminal named by $NBUTILS_PROGRESS.
    """
    from tqdm import tqdm as plain
    from tqdm.auto import tqdm

    if target := os.environ.get("NBUTILS_PROGRESS"):
        file = {"file": _terminal(target), "disable": disable or target == os.devnull}
        return plain(iterable, leave=False, **file, **options)
    return tqdm(iterable, leave=False, disable=disable or not (in_notebook() or os.isatty(2)), **options)


@functools.cache
def _terminal(name: str):
    return open(name, "w", encoding="utf-8")


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
