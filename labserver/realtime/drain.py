"""A goodbye to every stream before the server ends: spread over seconds, so that readers don't come back as one.

On SIGTERM or SIGINT streams are told first, then uvicorn's own handler is called; a second signal goes straight to it.
A signal can be taken in the main thread alone: elsewhere whoever stops the server awaits `run`.
"""

import asyncio
import contextlib
import random
import signal
import threading
from collections.abc import Collection, Iterator
from types import FrameType
from typing import Any, Protocol

from .connection import Connection, restart
from .limits import Limits

__all__ = ["Drain"]

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LATEST = 0.2  # seconds for those told last to leave


class Counted(Protocol):
    drained: int


class Drain:
    """Says goodbye to `connections`, over `limits.drain_seconds`.

    Attributes:
        begun: whether it has: `/readyz` is then false, and new streams are told to come again.
    """

    def __init__(self, connections: Collection[Connection], limits: Limits, counts: Counted) -> None:
        self._connections, self._limits, self._counts = connections, limits, counts
        self._empty = asyncio.Event()
        self.begun = False

    async def run(self, seconds: float | None = None) -> None:
        """Say goodbye to everyone within `seconds` (None: `drain_seconds`), and wait until they are gone, or for that.

        Each reader is told to come back after a time of its own, between once and twice `sse_retry`.
        """
        self.begun = True
        self.look()
        within = self._limits.drain_seconds if seconds is None else seconds
        loop = asyncio.get_running_loop()
        for connection in list(self._connections):
            loop.call_later(random.uniform(0, within), self._goodbye, connection)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within + LATEST):
                await self._empty.wait()

    def hurry(self) -> None:
        """Say goodbye now to everyone who is still here."""
        for connection in list(self._connections):
            self._goodbye(connection)

    def look(self) -> None:
        """See whether all are gone; called by whoever takes a connection out."""
        if self.begun and not self._connections:
            self._empty.set()

    def greet(self, connection: Connection) -> None:
        """Say goodbye at once to who comes while the server drains."""
        if self.begun:
            self._goodbye(connection)

    def _goodbye(self, connection: Connection) -> None:
        if connection in self._connections:
            connection.close(restart(self._limits))
            self._counts.drained += 1

    @contextlib.contextmanager
    def on_signals(self) -> Iterator[None]:
        """While inside, drain before the handlers that uvicorn installed are called; in the main thread alone.

        A drain before, of a server that has ended, is forgotten.
        """
        self.begun, self._empty = False, asyncio.Event()
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}

        def take(number: int, frame: FrameType | None) -> None:
            if self.begun:
                passed.append(number)
                loop.call_soon_threadsafe(self.hurry)
                _call(before[number], number, frame)
            else:
                self.begun = True
                loop.call_soon_threadsafe(begin, number)

        def begin(number: int) -> None:
            task = loop.create_task(self.run())
            tasks.add(task)
            task.add_done_callback(lambda _: None if passed else _call(before[number], number, None))

        tasks: set[asyncio.Task[None]] = set()
        passed: list[int] = []  # twice would be a third one to uvicorn, which then skips the lifespan's shutdown
        ours = [number for number, handler in before.items() if callable(handler)]
        for number in ours:
            signal.signal(number, take)
        try:
            yield
        finally:
            for number in ours:
                signal.signal(number, before[number])


def _call(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
