"""What every client of `client` does: come back, wait, keep its cursor and its token, and hand on what it heard.

Nothing here speaks HTTP or WebSocket. A client is a context manager with a task that reads, at most `AHEAD` items
ahead; the end of the `with` block ends the task and with it the connection, whoever iterates, without a collector.
"""

import asyncio
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field
from time import monotonic
from typing import Any, Generic, Self, TypeVar

import httpx

from .codes import NORMAL, UNAUTHENTICATED, may_reconnect
from .engines.base import since

__all__ = ["Again", "Client", "Ended", "Event", "Gap", "Retry", "StreamFailed", "over", "stream_error"]

LATER = {401, 408, 425, 429, UNAUTHENTICATED}  # not for good, like 5xx; unauthenticated if there is a fresh token
AHEAD = 64  # items that are read ahead of the caller; more of them while an answer is waited for
DAY = 86_400.0  # seconds: who asks for a longer wait gets this
END: Any = object()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """A message. `done`, where there is one, is the last. An event stream does not say its `channel`: it is ""."""

    id: str
    channel: str
    event: str
    data: Any


class Gap(Event):
    """No message: some before `id` that you have not seen may be missing. Ask for the whole, and read on."""


class StreamFailed(Exception):
    """The stream did not end well; `code` is an HTTP status or a close code, `least` the seconds asked to wait."""

    def __init__(self, reason: str, code: int | None = None, least: float = 0.0) -> None:
        super().__init__(reason if code is None else f"{reason} ({code})")
        self.reason, self.code, self.least = reason, code, least


class Ended(StreamFailed):
    """To come back is of no use, or no longer allowed: refused for good, not understood, or failed too often."""


class Again(StreamFailed):
    """This connection has failed; the next one may not."""


@dataclass(frozen=True)
class Retry:
    """When to come back: after a random part of a ceiling that doubles (full jitter), beyond what the server asks for.

    Attributes:
        base: the first ceiling, seconds; again after a message, and after a connection that held longer than `cap`.
        cap: the highest ceiling, seconds.
        attempts: how often to come back in a row; None: without end. `asyncio.timeout` sets a deadline for all.
        jitter: returns the part, 0 to 1.
        sleep: waits.
    """

    base: float = 1.0
    cap: float = 30.0
    attempts: int | None = None
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        if not 0 < self.base <= self.cap:
            raise ValueError(f"base={self.base}, cap={self.cap}: pass seconds, 0 < base <= cap")


@dataclass(eq=False)
class Client(Generic[T]):
    """What outlives a connection, and the loop over connections.

    Attributes:
        after: cursor of the last message seen; None: from now on.
        token: sent as a bearer; a function is asked for the first, and for a fresh one after a 401 or 4401.
        silence: seconds without a sign of life after which a connection is dead: two heartbeats of the server, or more.
        limit: the most characters of an event, bytes of a message or record.
    """

    url: str
    _: KW_ONLY
    after: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | Callable[[], Awaitable[str]] | None = None
    retry: Retry = Retry()
    silence: float = 45.0
    limit: int = 1 << 20

    def __post_init__(self) -> None:
        self._bearer, self._asked = "", False  # asked for a fresh token, and not let in since
        self._failures, self._floor, self._opened = 0, 0.0, float("inf")
        self._heard, self._stirred = asyncio.Queue[Any](), asyncio.Event()
        self._asking: dict[str | None, tuple[str, asyncio.Future[Any]]] = {}  # key -> what was said, and its answer
        self._end: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._finish)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item: T = await self._heard.get()
        self._stirred.set()
        if item is not END:
            return item
        self._heard.put_nowait(END)  # it stays the end
        raise StopAsyncIteration if getattr(self._end, "code", None) == NORMAL else self._end or AssertionError

    async def _read(self) -> None:
        """Hear one connection after the other, until one says that it is done."""
        while True:
            headers = await self._authorized()
            try:
                return await self._connection(headers)
            except Again as failed:
                await self._pause(failed)
            except Ended as end:
                if end.code == NORMAL:
                    return None
                raise
            except (ValueError, LookupError, TypeError) as error:
                raise Ended(f"not understood: {error!r:.200}") from error

    async def _connection(self, headers: dict[str, str]) -> None:
        """Give what one connection says; return when it said that it is done."""
        raise NotImplementedError

    async def _give(self, item: Any) -> None:
        """Hand an item to who iterates; wait where many lie already, and no answer comes behind them."""
        self._heard.put_nowait(item)
        while self._heard.qsize() >= AHEAD and not self._asking:
            self._stirred.clear()
            await self._stirred.wait()

    def _finish(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self._end = error or Ended("it is done, or was left", NORMAL)
        self._heard.put_nowait(END)
        for key in self._asking:
            self._answer(key, self._end)

    def _answer(self, key: str | None, value: Any) -> None:
        """Hand an answer to who asked, if anybody still waits for it."""
        _, answer = self._asking.get(key, (None, None))
        if answer is not None and not answer.done():
            answer.set_exception(value) if isinstance(value, BaseException) else answer.set_result(value)

    async def _authorized(self) -> dict[str, str]:
        if not self._bearer and self.token is not None:
            self._bearer = self.token if isinstance(self.token, str) else await self.token()
        return {**self.headers, **({"Authorization": f"Bearer {self._bearer}"} if self._bearer else {})}

    async def _pause(self, failed: Again) -> None:
        """Wait before the next connection, but not for a first fresh token; Ended if there shall be none."""
        row = 0 if monotonic() - self._opened > self.retry.cap else self._failures
        self._failures, self._opened = row + 1, float("inf")
        if failed.code in (401, UNAUTHENTICATED):
            if self._asked or not callable(self.token):
                raise Ended(failed.reason, failed.code) from failed
            self._asked, self._bearer = True, ""
            if not row:
                return
        if self.retry.attempts is not None and row >= self.retry.attempts:
            raise Ended(failed.reason, failed.code) from failed
        ceiling = min(self.retry.cap, self.retry.base * 2.0 ** min(row, 60))
        await self.retry.sleep(min(max(self._floor, failed.least), DAY) + self.retry.jitter() * ceiling)

    def _let_in(self) -> None:
        self._asked, self._opened = False, monotonic()

    async def _begin(self, kind: str, id: str) -> None:
        """Go on where the server says. A `start` where a `resume` was asked for is a gap as well."""
        self._let_in()
        lost = kind == "gap" or (kind == "start" and self.after not in (None, "", id))
        self.after = self.after if kind == "resume" else id
        if lost:
            await self._give(Gap(id, "", "gap", None))

    def _pass(self, id: str) -> None:
        """Take a message's id as the cursor."""
        with suppress(ValueError):  # ids of another form have no order
            if self.after and not since(self.after, id):
                raise StreamFailed(f"the server broke its promise: {id} came after {self.after}")
        self.after, self._failures = id, 0

    def _resuming(self) -> str:
        return str(httpx.URL(self.url).copy_merge_params({"after": self.after} if self.after else {}))


def over(code: int, reason: str, wait: str, unit: float) -> StreamFailed:
    """Return what an HTTP status or close code means; `wait` may end in how long to stay away, in `unit` seconds."""
    again = code in LATER or (may_reconnect(code) if code >= NORMAL else code >= 500)
    least = re.search("(?:^|retry=)([0-9]+)$", wait)
    return (Again if again else Ended)(reason, code, float(least[1]) * unit if least else 0.0)


def stream_error(data: Any) -> StreamFailed:
    """Return what an `error` in the stream means: with a code it is about the connection, else about the stream."""
    match data:
        case {"code": int(code), "reason": str(reason)}:
            return over(code, reason, reason, 0.001)
        case {"reason": reason}:
            return StreamFailed(str(reason))
    return StreamFailed(f"the stream failed: {data!r:.200}")
