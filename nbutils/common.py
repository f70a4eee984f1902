"""What every module needs: the user's error, whole-or-nothing files, content hashes, progress bars."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None


class UserError(ValueError):
    """Something the user can put right; the message names the file or parameter and says what to do."""


def content_hash(*parts: str, length: int = 16) -> str:
    """Return a hexadecimal digest of the parts, the same on every machine and run."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()[:length]


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that becomes `path` when the block ends without an error.

    The block may write a file or make a folder there. After an error nothing is left behind and whatever stood
    at `path` before still does.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        workspace = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror}. Free some space or choose a folder you may write to."
        ) from error
    temporary = workspace / path.name
    try:
        yield temporary
        if path.is_dir() and not path.is_symlink():
            path.replace(workspace / "replaced")
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(
            f"Cannot write {path}: {error.strerror or error}. Free some space or choose a folder you may write to."
        ) from error
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


def write_atomic(path: str | Path, data: str | bytes) -> Path:
    """Write `data` to `path` whole or not at all and return the path.

    Raises:
        UserError: the folder cannot be written, or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)
    return Path(path)


def remember(folder: str | Path | None, key: str, make: Callable[[], Any]) -> Any:
    """Return what `make` returned for this key before, in any process; call it once and keep its JSON otherwise.

    Processes that want the same key at the same time wait for the one that makes it. An error keeps nothing. A folder
    that cannot be written to is not used.

    Args:
        folder: where files are kept; None calls `make`.
        key: letters, digits and `-`; must follow from all that the value depends on.
        make: returns a value that JSON can hold.
    """
    if folder is None:
        return make()
    file = Path(folder) / f"{key}.json"
    with one_at_a_time(folder, key):
        with contextlib.suppress(OSError, ValueError):
            return json.loads(file.read_text(encoding="utf-8"))
        value = make()
        with contextlib.suppress(UserError):
            write_atomic(file, json.dumps(value, ensure_ascii=False))
        return value


@contextlib.contextmanager
def one_at_a_time(folder: str | Path, key: str) -> Iterator[None]:
    """Let one process at a time into the block for this key; a folder that cannot be written to holds no one up."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lock = open(Path(folder) / f".{key[:10]}.lock", "w")  # noqa: SIM115
    except OSError:
        yield
        return
    with lock:
        if fcntl:
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def progress(
    iterable=None, *, total: int | None = None, desc: str = "", unit: str = "it", disable: bool = False, **options
):
    """Return a tqdm bar: a widget in a notebook, a line in a terminal, nothing where output goes to a file.

    In a notebook that `nbutils run` executes, the bar goes to the file named by $NBUTILS_PROGRESS, from which the
    terminal shows it.
    """
    from tqdm import tqdm as plain
    from tqdm.auto import tqdm

    if target := os.environ.get("NBUTILS_PROGRESS"):
        handle = open(target, "a", encoding="utf-8")  # noqa: SIM115 (the bar's, for as long as it lives)
        return plain(iterable, total=total, desc=desc, unit=unit, disable=disable, file=handle, ncols=90, **options)
    quiet = disable or not (in_notebook() or os.isatty(2))
    return tqdm(iterable, total=total, desc=desc, unit=unit, disable=quiet, leave=False, **options)


def in_notebook() -> bool:
    """Whether this process is a Jupyter kernel."""
    import sys

    return "ipykernel" in sys.modules and "IPython" in sys.modules and sys.modules["IPython"].get_ipython() is not None
