"""A small shop's database for experiments: one SQLite file of items, seeded, the same rows on each run.

It is written by `sqlite3` alone; SQLAlchemy is imported by whoever reads it through `url`. The file lies in a private
temporary folder and goes with its owner: the block, the server, or this process.
"""

import atexit
import contextlib
import shutil
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Annotated, Self

from fastapi import Depends

from labserver import posix
from labserver.errors import LabError
from labserver.settings import Settings, get_settings

__all__ = ["Database", "OwnDatabase", "database"]

SEED = 7
SMALL = 2000  # items of the lab's own database: enough for several batches, made in 20 ms
COLOURS = ("amber", "blue", "coral", "dark", "green", "ivory", "red", "white")
THINGS = ("bench", "bowl", "chair", "clock", "lamp", "mirror", "shelf", "stool", "table", "vase")
FIRST_DAY = date(2020, 1, 1)
TABLE = "CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT NOT NULL, price INTEGER NOT NULL, created DATE NOT NULL)"


@dataclass(frozen=True, slots=True)
class Database:
    """A file of items; as a context manager it is removed at the end of the block.

    Attributes:
        path: the SQLite file; its table is `items`: id (from 1), name, price (cents), created (a date).
        rows: how many items it holds.
    """

    path: Path
    rows: int

    @property
    def url(self) -> str:
        """The file as SQLAlchemy's asyncio engines take it: for `Settings(database_url=...)`."""
        return f"sqlite+aiosqlite:///{self.path.as_posix()}"

    def remove(self) -> None:
        """Delete the file; again is harmless."""
        with _lock:
            for key in [key for key, made in _made.items() if made == self]:
                del _made[key]
        _folder.remove(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove()


class _Folder:
    """Where this process's databases lie: made for the first, removed with the last, or by a keeper if it is killed."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._files: set[Path] = set()
        self._count = 0

    def add(self) -> Path:
        """Return the path of a new file."""
        with _lock:
            if self._path is None:
                self._path = Path(tempfile.mkdtemp(prefix="labserver-items-"))
                self._keeper = posix.start_keeper(self._path)
            self._count += 1
            path = self._path / f"items-{self._count}.sqlite"
            self._files.add(path)
            return path

    def remove(self, path: Path) -> None:
        """Delete a file, and the folder with the last one; on Windows a file that is still open stays till the end."""
        with _lock, contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            self._files.discard(path)
            if not self._files:
                self.clear()

    def clear(self) -> None:
        """Delete everything."""
        with _lock:
            if self._keeper is not None:
                with self._keeper:
                    self._keeper.kill()
            if self._path is not None:
                shutil.rmtree(self._path, ignore_errors=True)
            self._path = self._keeper = None
            self._files.clear()


_lock = threading.RLock()
_folder = _Folder()
atexit.register(_folder.clear)
_made: dict[tuple[int, int | None, int], Database] = {}


def database(rows: int = 100_000, *, bad: int | None = None, width: int = 0) -> Database:
    """Return a database of items, made once per process for the same arguments.

    Args:
        rows: number of items; 100,000 take half a second.
        bad: id of an item whose date is none, so that reading it fails in the middle of a stream.
        width: characters that each name has at least: wide rows fill the buffers between server and client soon.

    Raises:
        LabError: `rows` is negative, or there is no item `bad`.
    """
    if rows < 0 or (bad is not None and not 1 <= bad <= rows):
        raise LabError(f"There is no database of {rows} items with item {bad} spoilt: give rows >= 0, bad from 1 on.")
    key = (rows, bad, width)
    with _lock:
        if key not in _made:
            _made[key] = new(*key)
        return _made[key]


def new(rows: int, bad: int | None = None, width: int = 0) -> Database:
    """Write a database that no other call returns."""
    made = Database(_folder.add(), rows)
    connection = sqlite3.connect(made.path, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("BEGIN")
        connection.execute(TABLE)
        connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?)", _items(rows, width))
        connection.execute("UPDATE items SET created = 'soon' WHERE id = ?", (bad,))
        connection.execute("COMMIT")
    finally:
        connection.close()
    return made


def _items(rows: int, width: int) -> Iterator[tuple[int, str, int, str]]:
    random = Random(SEED)
    days = [(FIRST_DAY + timedelta(days=day)).isoformat() for day in range(600)]
    for id in range(1, rows + 1):
        number = int(random.random() * 2**30)  # one draw a row: randrange would take most of the time
        name = f"{COLOURS[number % 8]} {THINGS[number // 8 % 10]} {id}"
        yield id, name.ljust(width, "."), 500 + number // 80 % 20_000, days[number // 1_600_000 % 600]


class OwnDatabase:
    """The database of one server whose settings name none: made when first asked for, removed with the server."""

    def __init__(self) -> None:
        self._made: Database | None = None
        self._making = threading.Lock()

    def url(self, settings: Annotated[Settings, Depends(get_settings)]) -> str:
        """Return the settings' database, else the own one; a dependency."""
        if settings.database_url is not None:
            return settings.database_url
        with self._making:
            self._made = self._made or new(SMALL)
        return self._made.url

    def remove(self) -> None:
        """Delete what was made."""
        if self._made is not None:
            self._made.remove()
            self._made = None
