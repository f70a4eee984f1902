"""The record of finished chunks: one JSON line each, written as it comes, so that no answer is paid for twice."""

import contextlib
import json
import os
import time
from pathlib import Path

from nbutils.core import UserError

try:
    import fcntl
except ImportError:  # Windows has no flock; two runs on one journal go unnoticed there
    fcntl = None

FSYNC_SECONDS = 1.0


class Journal:
    """An append-only file of finished work that one process at a time may write.

    A line that a kill or a full disk tore is dropped when the journal is opened again. What was written before a
    SIGKILL is kept; after a power cut at most the last `FSYNC_SECONDS` are lost.

    Args:
        path: the file; made, with its folder, where missing.

    Raises:
        UserError: another run holds the journal, the file is none, or it cannot be written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._synced = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")  # noqa: SIM115 (held until close)
        except OSError as error:
            raise UserError(
                f"Cannot write the journal {self.path}: {error.strerror}. Choose a folder you may write to."
            ) from error
        try:
            self._lock()
            self.lines = self._recover()
        except BaseException:
            self._file.close()
            raise

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"Another run is writing {self.path}. Wait until it has ended, or choose another output_path."
            ) from error
        except OSError:  # a file system without locks
            pass

    def _recover(self) -> list[dict]:
        self._file.seek(0)
        content = self._file.read()
        lines = parse_lines(content, self.path)
        if content and not content.endswith(b"\n"):
            tail = content.rpartition(b"\n")[2]
            if _parse(tail) is None:
                self._file.truncate(len(content) - len(tail))
            else:
                self._file.write(b"\n")
                self._file.flush()
        return lines

    def append(self, line: dict) -> None:
        """Add one line and hand it to the operating system before returning."""
        data = json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
        try:
            self._file.write(data)
            self._file.flush()
            if time.monotonic() - self._synced > FSYNC_SECONDS:
                os.fsync(self._file.fileno())
                self._synced = time.monotonic()
        except OSError as error:
            raise UserError(
                f"Cannot write the journal {self.path}: {error.strerror}. Free some space and run again to continue."
            ) from error
        self.lines.append(line)

    def close(self) -> None:
        """Write everything to the disk and let the next run in."""
        with contextlib.suppress(OSError, ValueError):
            os.fsync(self._file.fileno())
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def read_journal(path: str | Path) -> list[dict]:
    """Return the lines of a journal without locking it; an empty list where there is no such file."""
    path = Path(path)
    return parse_lines(path.read_bytes(), path) if path.is_file() else []


def parse_lines(content: bytes, path: str | Path = "the journal") -> list[dict]:
    """Return the whole lines of a journal; damaged ones are left out and so will be asked again.

    Raises:
        UserError: the file has lines, but none of a journal.
    """
    lines = [line for line in content.split(b"\n") if line.strip()]
    entries = [entry for line in lines if (entry := _parse(line)) is not None]
    if len(lines) > 1 and not entries:
        raise UserError(f"{path} is no question journal. Choose another journal_path or output_path.")
    return entries


def _parse(line: bytes) -> dict | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("key"), str) else None
