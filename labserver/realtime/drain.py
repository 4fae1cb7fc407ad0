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
        self._before: dict[int, Any] = {}  # who heard each signal
        self._passed = False
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
        self._loop, self._passed = asyncio.get_running_loop(), False
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        self._before = {number: handler for number, handler in handlers.items() if callable(handler)}
        for number in self._before:
            signal.signal(number, self._take)
        try:
            yield
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.begun:
            self._loop.call_soon_threadsafe(self.hurry)
            self._pass_on(number, frame)
        else:
            self.begun = True
            self._loop.call_soon_threadsafe(self._begin, number)

    def _begin(self, number: int) -> None:
        self._task = self._loop.create_task(self.run())
        self._task.add_done_callback(lambda _: self._pass_on(number, None))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        """Call the handler before ours, once: to uvicorn twice is one who can't wait for the lifespan's shutdown."""
        passed, self._passed = self._passed, True
        if not passed:
            self._before[number](number, frame)
