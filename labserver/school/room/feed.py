"""The room's log of verdicts and who reads along. Every page has its place in the one log, and no queue of its own.

As in `labserver.patterns.sse_resume`: an id is `epoch-number`, a stream says first where it goes on, and who comes back
is sent what they have not seen. Here the log is whole, so nothing is ever too old; and since it is, a page that
reads slowly costs nothing: it is just further behind.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Iterable
from itertools import islice
from typing import Any

from labserver.patterns.production import comeback
from labserver.patterns.sse_resume import encode
from labserver.school.room.verdict import Verdict
from labserver.settings import Settings

__all__ = ["PAGES_MAX", "Feed"]

PAGES_MAX = 32  # boards that are open at the same time: the instructors' screens
BATCH = 200  # events in one write, some 50 kB: the loop has a turn, and a slow reader is waited for, after each


class Feed:
    """Every verdict in the wire's form, numbered from 1, and how readers hear that there are more.

    Attributes:
        pages: how many streams are open.
    """

    def __init__(self, epoch: str, verdicts: Iterable[tuple[int, Verdict]]) -> None:
        self.epoch = epoch
        self.pages = 0
        self._log: list[str] = []
        self._news = asyncio.Event()
        self._ended = False
        for number, verdict in verdicts:
            self._append(number, verdict)

    def __len__(self) -> int:
        return len(self._log)

    def publish(self, number: int, verdict: Verdict) -> None:
        """Append the verdict of that number, the next one, and wake up everybody."""
        self._append(number, verdict)
        self._wake()

    async def end(self) -> None:
        """Have every stream say goodbye and end: the server is about to."""
        self._ended = True
        self._wake()

    def begin(self, cursor: str | None) -> tuple[str, int]:
        """Return how a stream begins (`start`, `resume` or `gap`) and the number after which it goes on.

        Args:
            cursor: id of the last event that was seen; `gap` when it is none of ours.
        """
        epoch, _, digits = (cursor or "").rpartition("-")
        if cursor is None:
            return "start", 0
        if epoch == self.epoch and digits.isdecimal() and len(digits) < 19 and int(digits) <= len(self):
            return "resume", int(digits)
        return "gap", 0

    async def after(self, seen: int, opening: Any, settings: Settings) -> AsyncGenerator[str]:
        """Yield how the stream begins, the verdicts behind `seen`, each new one, and a comment in a long silence.

        Args:
            seen: number of the last verdict that the reader has.
            opening: JSON data of the first event, `room`.
            settings: `sse_keepalive` and `sse_retry` count.
        """
        yield encode(json.dumps(opening), id=f"{self.epoch}-{seen}", event="room", retry=settings.sse_retry)
        while True:
            news = self._news  # before we look: what is published from here on sets it
            while events := list(islice(self._log, seen, seen + BATCH)):
                yield "".join(events)
                seen += len(events)
            if self._ended:
                yield encode("the room ends", id=f"{self.epoch}-{seen}", event="drain", retry=comeback(settings))
                return
            try:
                await asyncio.wait_for(news.wait(), settings.sse_keepalive)
            except TimeoutError:
                yield ": keepalive\n\n"

    def _append(self, number: int, verdict: Verdict) -> None:
        assert number == len(self._log) + 1
        data = verdict.model_dump(exclude={"id"})
        self._log.append(encode(json.dumps(data), id=f"{self.epoch}-{number}"))

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
