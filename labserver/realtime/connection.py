"""One reader's end: the small interface through which the hub writes, and the kind that works under any ASGI server.

A connection is *ready* (bytes go straight to its transport) or *behind* (they wait in its bounded outbox). The direct
kind, `direct.py`, is ready until its transport says otherwise; the plain kind is always behind, and one task of its own
writes what waits. Nothing here knows of channels, engines or users.
"""

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal

from .codes import RESTART
from .limits import Limits
from .message import Burst, Forms, Kind, control, framed, opening

if TYPE_CHECKING:
    from .hub import Fan

__all__ = ["Connection", "Goodbye", "Outbox", "Plain", "Slow", "restart"]

Slow = Literal["close", "drop_oldest"]
"""What happens to who reads too slowly: sent away, to resume later; or messages are dropped, and a `gap` says so."""

Goodbye = tuple[int, str, float]
"""A close code, its reason, and the seconds after which the client should come back."""


def restart(limits: Limits) -> Goodbye:
    """Return the goodbye of a server that ends: each reader comes back at a time of its own, so that none comes as one.

    That is between once and twice `sse_retry` from now.
    """
    retry = limits.sse_retry * random.uniform(1, 2)
    return RESTART, f"retry={retry * 1000:.0f}", retry


class Outbox:
    """Bursts that wait for one reader, bounded in bytes."""

    __slots__ = ("bursts", "lost", "size")

    def __init__(self) -> None:
        self.bursts: deque[tuple[Burst, int, str]] = deque()
        self.size = 0
        self.lost: str | None = None  # cursor of the newest message dropped since the last `take`

    def put(self, burst: Burst, size: int, cursor: str) -> None:
        """Add a burst of `size` bytes, `cursor` the id of its last message."""
        self.bursts.append((burst, size, cursor))
        self.size += size

    def full(self, limit: int) -> bool:
        """Return whether more than `limit` bytes wait. One burst may: who reads, has to get the largest message."""
        return self.size > limit and len(self.bursts) > 1

    def drop(self, limit: int) -> int:
        """Drop the oldest bursts until `limit` bytes are left, or one burst; return how many bursts went."""
        dropped = 0
        while self.full(limit):
            _, size, cursor = self.bursts.popleft()
            self.lost = cursor or self.lost  # an answer has none: it must not hide the messages before it
            self.size -= size
            dropped += 1
        return dropped

    def take(self) -> tuple[str | None, list[Burst]]:
        """Return the cursor up to which messages were dropped, if any were, and all that waits."""
        lost, bursts = self.lost, [burst for burst, _, _ in self.bursts]
        self.bursts.clear()
        self.size, self.lost = 0, None
        return lost, bursts


class Connection:
    """What the hub and a subscription see of a reader. Not for other threads than the event loop's.

    Attributes:
        kind: the form in which it takes messages.
        slow: what happens when its outbox is full.
        fans: where the hub keeps it.
        dropped: number of bursts dropped for it so far.
        too_slow: whether it was cut off because its reader was.
    """

    kind: Kind
    limits: Limits = Limits()
    slow: Slow = "close"
    fans: "tuple[Fan, ...]" = ()
    behind = False
    outbox: Outbox | None = None
    dropped = 0
    too_slow = False

    # ---- the two kinds do these

    def write(self, burst: bytes) -> None:
        """Write now; called while it is not behind."""
        raise NotImplementedError

    def cut(self) -> None:
        """End at once, without a word."""
        raise NotImplementedError

    def close(self, goodbye: Goodbye) -> None:
        """Say goodbye and end; what was delivered before goes out before."""
        raise NotImplementedError

    async def drained(self) -> None:
        """Wait until it is not behind, or gone: the backpressure of a replay."""
        raise NotImplementedError

    # ---- its place in the hub

    def enter(self, fan: "Fan") -> None:
        """Get what `fan` is given from now on."""
        self.fans += (fan,)
        fan.place(self, self.behind)

    def leave(self, *fans: "Fan") -> None:
        """Leave these fans, or all."""
        for fan in fans or self.fans:
            fan.forget(self)
        self.fans = tuple(fan for fan in self.fans if fans and fan not in fans)

    def place(self, behind: bool) -> None:
        """Be ready or behind everywhere."""
        self.behind = behind
        for fan in self.fans:
            fan.place(self, behind)

    def flush(self) -> None:
        """Write what was delivered before."""
        for fan in self.fans:
            fan.flush_to(self)

    # ---- what is written to it

    def give_up(self) -> None:
        """Cut off a reader who is too slow; it may come back and resume."""
        self.too_slow = True
        self.cut()

    def late(self, burst: Burst, size: int, cursor: str = "") -> None:
        """Keep a burst until the reader is ready; `slow` says what happens when too many wait."""
        outbox = self.outbox = self.outbox or Outbox()
        outbox.put(burst, size, cursor)
        if outbox.full(self.limits.outbox_bytes):
            if self.slow == "close":
                self.give_up()
            else:
                self.dropped += outbox.drop(self.limits.outbox_bytes)

    def tell(self, *said: Forms, cursor: str = "") -> None:
        """Say something to this reader alone, after what was delivered before; `cursor` where it moves the reader's."""
        self.flush()
        burst = framed(self.kind, said)
        if self.behind or not isinstance(burst, bytes):
            self.late(burst, sum(len(text) for text, _ in said), cursor)
        else:
            self.write(burst)

    def waiting(self) -> list[Burst]:
        """Take what waits in the outbox, with a `gap` in front when something was dropped."""
        if self.outbox is None:
            return []
        lost, bursts = self.outbox.take()
        return [self.gap_said(lost), *bursts] if lost else bursts

    def gap_said(self, cursor: str) -> Burst:
        """Return a `gap` in this connection's form."""
        return framed(self.kind, [(control("gap", id=cursor), opening("gap", cursor, self.limits.sse_retry))])


class Plain(Connection):
    """A connection under any ASGI server: an outbox and one writer task, which `running` owns.

    ASGI has no abort. Who is too slow has the task that serves it ended instead, and the server closes the connection.

    Args:
        send: writes one text frame ("text") or one piece of a body ("event"); raises or blocks when the peer is gone.
        kind: "text" or "event".
        farewell: says the last word; not waited for longer than `goodbye_timeout`.
    """

    behind = True

    def __init__(
        self,
        send: Callable[[Any], Awaitable[None]],
        kind: Kind,
        farewell: Callable[[Goodbye], Awaitable[None]],
        limits: Limits,
    ) -> None:
        self.kind, self.limits = kind, limits
        self._send, self._farewell = send, farewell
        self._changed, self._empty = asyncio.Event(), asyncio.Event()
        self._empty.set()
        self._goodbye: Goodbye | None = None
        self._moved = 0.0  # loop time of the last write that ended, while something waits
        self._scope: asyncio.Timeout | None = None

    def late(self, burst: Burst, size: int, cursor: str = "") -> None:
        now = asyncio.get_running_loop().time()
        if self._empty.is_set():
            self._empty.clear()
            self._moved = now
        self._changed.set()
        super().late(burst, size, cursor)
        if now - self._moved > self.limits.write_deadline:
            self.give_up()

    def cut(self) -> None:
        self.leave()
        if self._scope is not None and not self._scope.expired():
            self._scope.reschedule(0)

    def close(self, goodbye: Goodbye) -> None:
        self.flush()
        self.leave()
        self._goodbye = self._goodbye or goodbye
        self._changed.set()
        asyncio.get_running_loop().call_later(self.limits.goodbye_timeout, self.cut)

    async def drained(self) -> None:
        await self._empty.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write while inside. What is inside ends early, without an error, when the connection does."""
        scope = asyncio.timeout(None)
        try:
            async with scope as self._scope, self._writing():
                yield
        except TimeoutError:
            if not scope.expired():
                raise

    @asynccontextmanager
    async def _writing(self) -> AsyncIterator[None]:
        writer = asyncio.create_task(self._run())
        writer.add_done_callback(lambda _: self.cut())
        try:
            yield
        finally:
            self._scope = None
            self.leave()
            if self._goodbye is not None:
                await asyncio.wait([writer], timeout=self.limits.goodbye_timeout)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _run(self) -> None:
        while self._goodbye is None or (self.outbox is not None and self.outbox.size):
            await self._changed.wait()
            self._changed.clear()
            for burst in self.waiting():
                for piece in burst if isinstance(burst, list) else [burst]:
                    await self._send(piece)
                self._moved = asyncio.get_running_loop().time()
            if self.outbox is None or not self.outbox.size:
                self._empty.set()
        async with asyncio.timeout(self.limits.goodbye_timeout):
            await self._farewell(self._goodbye)
