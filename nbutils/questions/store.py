"""Answers that all runs share: a question that one run has asked, or is asking, is not asked by another."""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

from nbutils.core import UserError

try:
    import fcntl
except ImportError:  # Windows: two runs that ask the same at the same time both ask
    fcntl = None


class SharedAnswers:
    """Answers by the key of their question, kept in `answers.sqlite`.

    A process claims the questions that it is about to ask. A claim is a lock on the byte of `answers.lock` whose
    offset is the question's key, so the operating system ends it with the process, however that ends.

    Args:
        folder: where both files lie; made where missing.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path):
        self.file = Path(folder) / "answers.sqlite"
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self._locks = os.open(self.file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o666)
            with closing(self._connect()) as connection, connection:
                connection.execute("CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, answer TEXT)")
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"Cannot use the shared answers {self.file} ({error}). Delete that file.") from error

    def read(self, keys: Iterable[str]) -> dict[str, dict]:
        """Return the answers there are."""
        keys, found = list(keys), {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                rows = connection.execute(f"SELECT key, answer FROM answers WHERE key IN ({marks})", part)
                found |= {key: json.loads(answer) for key, answer in rows}
        return found

    def write(self, key: str, answer: dict) -> None:
        """Keep an answer; one that cannot be kept is only not shared."""
        with contextlib.suppress(sqlite3.Error), closing(self._connect()) as connection, connection:
            connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    @contextlib.contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[set[str]]:
        """Yield those of `keys` that no other process has claimed; they are this process's until the block ends."""
        mine = {key for key in keys if self._lock(key)}
        try:
            yield mine
        finally:
            for key in mine:
                if fcntl:
                    fcntl.lockf(self._locks, fcntl.LOCK_UN, 1, _offset(key))

    def close(self) -> None:
        """Let go of the lock file, and with it of all claims."""
        os.close(self._locks)

    def _lock(self, key: str) -> bool:
        try:
            if fcntl:
                fcntl.lockf(self._locks, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _offset(key))
        except (BlockingIOError, PermissionError):
            return False
        except OSError:  # a file system without locks
            return True
        return True

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.file, timeout=60)
        connection.execute("PRAGMA synchronous = OFF")  # each run's own journal is what survives a power cut
        return connection


def _offset(key: str) -> int:
    return int(key[:15], 16)
