"""The answers of an LLM in one SQLite table, so that nothing is asked, or paid for, twice."""

import contextlib
import os
import socket
import sqlite3
import uuid
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import psutil
from tenacity import retry, retry_if_exception_message, stop_after_delay, wait_random

from nbutils.core import UserError, database_path


@dataclass
class Answer:
    """What came of one request.

    Attributes:
        reply: what the LLM wrote.
        error: why there is no reply; asked again by the next run.
        dropped: why there will be none (a provider's content filter); never asked again.
        truncated: the reply was cut off.
        calls, tokens_in, tokens_out: what it has cost, all tries included.
        estimated: the server did not count its tokens.
        seconds: how long the last call took.
    """

    key: str
    model: str = ""
    reply: str = ""
    error: str = ""
    dropped: str = ""
    truncated: bool = False
    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    estimated: bool = False
    seconds: float = 0.0


_COLUMNS = [field.name for field in fields(Answer)]
_SUMMED = ("calls", "tokens_in", "tokens_out")
_UPDATES = [f"{name} = {f'{name} +' if name in _SUMMED else ''} excluded.{name}" for name in _COLUMNS[1:]]
_ADD = (
    f"INSERT INTO answers ({', '.join(_COLUMNS)}) VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) "
    f"ON CONFLICT (key) DO UPDATE SET {', '.join(_UPDATES)}"
)


class AnswerStore(contextlib.AbstractContextManager):
    """A table of answers by the key of their request, written one by one; any number of processes may use it at once.

    What was written before a SIGKILL is kept. Over a network file system only one machine at a time may write it.

    Args:
        path: the file; made, with its folder, where missing. ":memory:" keeps nothing.
        optional: an error is one warning, and from then on nothing is kept; else it is raised.

    Raises:
        UserError: the file cannot be used.
    """

    def __init__(self, path: str | Path, *, optional: bool = False):
        self.path, self.optional = path, optional
        self._connection: sqlite3.Connection | None = None
        self._owner = f"{_process(os.getpid())}/{uuid.uuid4().hex}"
        file = Path(path)
        with self._errors():
            file.parent.mkdir(parents=True, exist_ok=True)
            local = path == ":memory:" or database_path(file.parent, file.name).name == file.name
            if not local and not optional:
                warnings.warn(f"{path} is on a network file system: let one machine at a time use it.", stacklevel=2)
            self._connection = self._open("WAL" if local else "DELETE")

    @retry(
        retry=retry_if_exception_message(match=".*locked"),  # two processes that make the file at the same time
        stop=stop_after_delay(30),
        wait=wait_random(0.01, 0.1),
        reraise=True,
    )
    def _open(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute(f"PRAGMA journal_mode = {mode}")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"CREATE TABLE IF NOT EXISTS answers ({', '.join(_COLUMNS)}, PRIMARY KEY (key))")
        connection.execute("CREATE TABLE IF NOT EXISTS claims (key PRIMARY KEY, owner)")
        return connection

    @classmethod
    def shared(cls, folder: str | Path) -> "AnswerStore":
        """Open the answers that the runs of this machine share; each machine has a file of its own."""
        return cls(Path(folder) / f"answers.{socket.gethostname()}.sqlite", optional=True)

    def read(self, keys: Iterable[str]) -> dict[str, Answer]:
        """Return the answers there are, failed ones included."""
        keys, found = list(keys), {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            for row in self._execute(f"SELECT * FROM answers WHERE key IN ({','.join('?' * len(part))})", part):
                found[row["key"]] = Answer(**row)
        return found

    def add(self, answer: Answer) -> None:
        """Keep an answer before returning; what earlier tries of the same request cost is added to what it cost."""
        text = answer.reply.encode("utf-8", "replace").decode()  # without lone surrogates
        self._execute(_ADD, vars(answer) | {"reply": text})

    @contextlib.contextmanager
    def claim(self, keys: Iterable[str]) -> Iterator[set[str]]:
        """Yield those of `keys` that nobody else is asking; they are the caller's until the block ends, or the process."""
        keys = list(keys)
        self._execute("BEGIN IMMEDIATE")
        for row in self._execute("SELECT DISTINCT owner FROM claims"):
            if row["owner"].rpartition("/")[0] != _process(row["owner"].split("/")[1]):
                self._execute("DELETE FROM claims WHERE owner = ?", row)
        for key in keys:
            self._execute("INSERT OR IGNORE INTO claims VALUES (?, ?)", (key, self._owner))
        mine = {row["key"] for row in self._execute("SELECT key FROM claims WHERE owner = ?", (self._owner,))}
        self._execute("COMMIT")
        try:
            yield mine if self._connection else set(keys)
        finally:
            self._execute("DELETE FROM claims WHERE owner = ?", (self._owner,))

    def __exit__(self, *_) -> None:
        if self._connection is not None:
            self._connection.close()

    def _execute(self, statement: str, values=()) -> list[sqlite3.Row]:
        with self._errors():
            if self._connection is not None:
                return self._connection.execute(statement, values).fetchall()
        return []

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            if not self.optional:
                raise UserError(
                    f"Cannot use {self.path} as a store of answers: {error}. "
                    "Choose another output_path or store, or free some space, and run again."
                ) from error
            warnings.warn(f"Answers are not shared with other runs: {self.path}: {error}.", stacklevel=4)
            self._connection = None


def read_answers(path: str | Path) -> dict[str, Answer]:
    """Return all answers of a store by key; none where there is no such file."""
    if not Path(path).is_file():
        return {}
    with AnswerStore(path) as store:
        return store.read([row["key"] for row in store._execute("SELECT key FROM answers ORDER BY rowid")])


def _process(number: int | str) -> str:
    """Return the name of a process on this machine that no other ever has; of one that has ended, a name of nobody."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(number))
        if process.status() != psutil.STATUS_ZOMBIE:
            return f"{socket.gethostname()}/{number}/{process.create_time()}"
    return "nobody"
