"""What the room keeps: its keys and every verdict, in one SQLite file. No HTTP.

A verdict is numbered when it is committed, from 1 and without a gap, and kept once however often it arrives: its id is
unique in the file. SQLite's journal sees to it that a commit is whole or not there at all, whenever the process dies.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

from sqlalchemy import JSON, Connection, Engine, Float, Integer, String, create_engine, event, func, inspect, select
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from labserver.errors import LabError
from labserver.school.room.verdict import Verdict

__all__ = ["VERDICTS_MAX", "Store"]

VERDICTS_MAX = 100_000  # verdicts of one room, 30 MB in memory: a hundred people who check all day long
LETTERS = (
    "abcdefghjkmnpqrstuvwxyz23456789"  # of the participants' key, which is read from a projector: no l, 1, i, o, 0
)
LOCK_TIMEOUT = 2.0  # seconds to wait for a file that another process holds: the room before this one may be ending
KEY_LETTERS = 10  # of 31: 49 bits


class Base(DeclarativeBase):
    """What maps the room's tables."""


class Known(Base):
    """What the room knows of itself, by name."""

    __tablename__ = "room"

    name: Mapped[str] = mapped_column(String, primary_key=True)
    value: Mapped[str] = mapped_column(String)


class Row(Base):
    """A verdict that arrived: the fields of `Verdict`, its number, and when, in seconds since 1970."""

    __tablename__ = "verdicts"

    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[float] = mapped_column(Float)
    id: Mapped[str] = mapped_column(String, unique=True)
    name: Mapped[str] = mapped_column(String)
    exercise: Mapped[str] = mapped_column(String)
    verdict: Mapped[str] = mapped_column(String)
    points: Mapped[int] = mapped_column(Integer)
    failed: Mapped[list[str]] = mapped_column(JSON)
    misconception: Mapped[str] = mapped_column(String)


class Store:
    """One file, for one process at a time; a lock that ends with the process keeps others out.

    Attributes:
        path: the file.
        epoch: names this room's life in each SSE id.
        report_key: lets a participant report.
        board_key: lets the instructor read.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it, readable by its owner alone.

        Raises:
            LabError: if it can't be written, another room holds it, or it is something else.
        """
        self.path = path
        self._turn = Lock()
        self._connection: Connection | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            self._engine = _engine(path)
            self._connection = self._engine.connect()
            known = self._open()
        except OSError as error:
            raise LabError(f"Cannot keep the room in {path} ({error.strerror}); name a file with --keep.") from None
        except DatabaseError as error:
            self.close()
            raise LabError(_why(error, path)) from None
        except LabError:
            self.close()
            raise
        self.epoch, self.report_key, self.board_key = (known[name] for name in ("epoch", "report_key", "board_key"))

    def _open(self) -> dict[str, str]:
        drawn = {
            "epoch": secrets.token_hex(4),
            "report_key": "".join(secrets.choice(LETTERS) for _ in range(KEY_LETTERS)),
            "board_key": secrets.token_urlsafe(16),
        }
        with self._transaction():
            tables = set(inspect(self._use).get_table_names())
            if tables and tables != set(Base.metadata.tables):
                raise LabError(f"{self.path} is the database of something else; name another file with --keep.")
            Base.metadata.create_all(self._use)
            for name, value in drawn.items():  # written in any case, so that a file that can't be is found out now
                self._use.execute(insert(Known).values(name=name, value=value).on_conflict_do_nothing())
            return {row.name: row.value for row in self._use.execute(select(Known.name, Known.value))}

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Everything or nothing, one thread after the other."""
        with self._turn, self._use.begin():
            yield

    @property
    def _use(self) -> Connection:
        assert self._connection is not None
        return self._connection

    def add(self, verdict: Verdict) -> tuple[int, bool]:
        """Keep a verdict; return its number, and whether it is new. When this returns, it is on the disk.

        Raises:
            DatabaseError: if it can't be written; it is then not kept.
        """
        with self._transaction():
            values = {"at": time.time(), **verdict.model_dump()}
            done = self._use.execute(insert(Row).values(values).on_conflict_do_nothing())
            number = self._use.execute(select(Row.number).where(Row.id == verdict.id)).scalar_one()
            return number, done.rowcount == 1

    def verdicts(self) -> list[tuple[int, Verdict]]:
        """Return every verdict with its number, in order."""
        columns = [getattr(Row, name) for name in Verdict.model_fields]
        with self._transaction():
            rows = self._use.execute(select(Row.number, *columns).order_by(Row.number)).all()
        return [
            (number, Verdict.model_construct(**dict(zip(Verdict.model_fields, values, strict=True))))
            for number, *values in rows
        ]

    def counts(self) -> tuple[int, int]:
        """Return how many verdicts there are, and of how many people."""
        with self._transaction():
            row = self._use.execute(select(func.count(Row.number), func.count(Row.name.distinct()))).one()
            return int(row[0]), int(row[1])

    def close(self) -> None:
        """Give the file back."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._engine.dispose()


def _engine(path: Path) -> Engine:
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": LOCK_TIMEOUT})

    @event.listens_for(engine, "connect")
    def prepare(connection: "object", _: object) -> None:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")  # type: ignore[attr-defined]  # held until it closes
        connection.execute("PRAGMA synchronous = FULL")  # type: ignore[attr-defined]  # a commit outlives a power cut

    return engine


def _why(error: DatabaseError, path: Path) -> str:
    said = str(error.orig)
    if "locked" in said:
        return f"Another room keeps its verdicts in {path}; end that one, or name another file with --keep."
    if "not a database" in said:
        return f"{path} is no file of a room; name another with --keep."
    return f"Cannot keep the room in {path} ({said}); name a file with --keep."
