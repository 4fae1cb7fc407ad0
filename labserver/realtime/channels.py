"""Where to begin: `Channels` owns an engine, the hub and the drain, and lets readers in so that they miss nothing.

    channels = Channels(MemoryEngine())
    app = FastAPI(lifespan=channels.lifespan)

A subscriber's history is asked up to exactly what the hub was handed; what is delivered meanwhile is held, and goes out
behind it in the turn of the loop in which the connection enters the hub.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Self

from .connection import Connection
from .drain import Drain
from .engines.base import Engine, since
from .engines.memory import MemoryEngine
from .hub import JOIN_BYTES, OVER, Hub
from .limits import Limits
from .message import DEFAULT_EVENT, LAST, Message, check_event, compact, control, dumps, forms, opening, position

__all__ = ["Channels", "Counts", "Subscription", "TooMany"]

PAGE = 100  # messages of history asked for at a time: a page is held in memory for each reader who comes back
KEY_MAX = 128  # characters of an idempotency key; kept as long as its message


class TooMany(Exception):
    """A user has as many connections as one may have."""


@dataclass(slots=True)
class Counts:
    """What happened so far, in numbers of messages, readers or connections."""

    published: int = 0
    replayed: int = 0
    resumed: int = 0
    gaps: int = 0
    cut: int = 0
    dropped: int = 0
    drained: int = 0


class Channels:
    """Publish and subscribe for one process.

    Attributes:
        engine: where messages are kept.
        hub: who is connected here.
        limits: all limits.
        drain: says goodbye to everyone; `await channels.drain.run()`.
        counts: what happened so far; `metrics` shows them.
        open: the connections that are subscribed.
    """

    def __init__(self, engine: Engine | None = None, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.engine: Engine = engine or MemoryEngine(self.limits)
        self.hub = Hub(self.limits)
        self.counts = Counts()
        self.open: set[Connection] = set()
        self.drain = Drain(self.open, self.limits, self.counts)
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def lifespan(self, app: Any = None) -> AsyncIterator[dict[str, Any]]:
        """Run while an app runs: `FastAPI(lifespan=channels.lifespan)`, or entered in a lifespan of your own."""
        await self.engine.start(self.hub)
        try:
            with self.drain.on_signals():
                yield {"drain": partial(self.drain.run, 0)}  # for who stops a server without a signal
        finally:
            await self.engine.stop()

    async def publish(self, channel: str, data: Any, event: str = DEFAULT_EVENT, key: str | None = None) -> str:
        """Publish a value; return its id once it is stored (where the engine is resumable).

        Raises:
            ValueError: `data` can't be written as JSON, or `event` or `key` is not one.
            EngineDown: it may not be stored: publish again, with the same `key`.
        """
        return await self.publish_json(channel, compact(data), event, key)

    async def publish_json(self, channel: str, data: str, event: str = DEFAULT_EVENT, key: str | None = None) -> str:
        """Publish JSON text, as `message.json_text` returns it; otherwise as `publish`."""
        if key is not None and not 0 < len(key) <= KEY_MAX:
            raise ValueError(f"an idempotency key has 1 to {KEY_MAX} characters")
        return await self._publish(channel, check_event(event), data, key)

    async def end(self, channel: str, data: Any, event: Literal["done", "error"] = "done") -> str:
        """Publish a channel's last message: its readers are let go after it. Again (EngineDown) is harmless."""
        return await self._publish(channel, event, dumps(data), "end")

    async def _publish(self, channel: str, event: str, data: str, key: str | None) -> str:
        id = await self.engine.publish(channel, event, data, key)
        self.counts.published += 1
        return id

    def subscribe(self, channel: str, user: str | None = None) -> "Subscription":
        """Return a place on a channel, taken by `async with` before anything is written.

        Args:
            channel: its name.
            user: who is shown as present, and whose connections are counted; None for nobody.
        """
        return Subscription(self, channel, user)

    def seat(self, user: str) -> None:
        """Count one more connection of a user.

        Raises:
            TooMany: `user` has `connections_per_user` here.
        """
        if self._users[user] >= self.limits.connections_per_user:
            raise TooMany(f"{user} has {self.limits.connections_per_user} connections: close one of them first")
        self._users[user] += 1

    def unseat(self, user: str) -> None:
        """Count one connection of a user less."""
        self._users[user] -= 1
        if not self._users[user]:
            del self._users[user]


class Subscription:
    """A place on a channel for one connection, from `Channels.subscribe`: an async context manager.

    Clean-up is `close`, which waits for nothing, so it can be called wherever a connection ends.
    """

    __slots__ = ("_channels", "_connection", "_last", "_member", "_taken", "_user", "channel")

    def __init__(self, channels: Channels, channel: str, user: str | None) -> None:
        self._channels, self.channel, self._user = channels, channel, user
        self._member = secrets.token_hex(8) if user is not None else ""
        self._connection: Connection | None = None
        self._last = ""  # event of the last message replayed
        self._taken = False

    async def __aenter__(self) -> Self:
        await self.take()
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()

    async def take(self) -> None:
        """Take the place; then somebody has to `close` it.

        Raises:
            TooMany: the user has `connections_per_user` here.
            EngineDown: the engine can't be asked now.
        """
        if self._user is not None:
            self._channels.seat(self._user)
        try:
            await self._channels.engine.attach(self.channel)
        except BaseException:
            if self._user is not None:
                self._channels.unseat(self._user)
            raise
        self._taken = True
        if self._user is not None:
            self._channels.engine.join(self.channel, self._member, self._user)

    def close(self) -> None:
        """Leave the place, whatever state it is in. Again is harmless."""
        if not self._taken:
            return
        self._taken = False
        if self._connection is not None:
            self._left(self._connection)
        if self._user is not None:
            self._channels.engine.leave(self.channel, self._member)
            self._channels.unseat(self._user)
        self._channels.engine.detach(self.channel)

    def _left(self, connection: Connection) -> None:
        channels, self._connection = self._channels, None
        channels.hub.leave(connection, self.channel)
        channels.counts.dropped += connection.dropped
        channels.counts.cut += connection.too_slow
        channels.open.discard(connection)
        channels.drain.look()

    async def enter(self, connection: Connection, after: str | None = None) -> None:
        """Write how the stream begins, replay what came after the cursor `after`, and let the connection in.

        Nothing between `after` and the first live message is lost, doubled or swapped; what is no longer kept is told
        as a `gap`. Waits for a slow reader during the replay, and not afterwards.

        Raises:
            ValueError: `after` is not the form of a cursor.
            EngineDown: history can't be asked now.
        """
        self._connection = connection
        hub, held = self._channels.hub, self._channels.hub.hold(self.channel)
        try:
            cursor = await self._begin(connection, after)
            while held.overflowed:
                hub.release(self.channel, held)
                held = hub.hold(self.channel)
                cursor = await self._replay(connection, cursor)
            if not self._taken:  # it ended meanwhile
                return
            _tell(connection, [each for each in held.messages if since(cursor, each.id)])
            hub.enter(connection, self.channel)
            self._channels.open.add(connection)
            self._channels.drain.greet(connection)
            if LAST & {self._last, *(each.event for each in held.messages)}:
                connection.close(OVER)
        finally:
            hub.release(self.channel, held)

    async def _begin(self, connection: Connection, after: str | None) -> str:
        if after is None:
            cursor = self._channels.engine.position(self.channel)
            self._say_opening(connection, "start", cursor)
            return cursor
        position(after)
        self._channels.counts.resumed += 1
        return await self._replay(connection, after, opened=False)

    async def _replay(self, connection: Connection, cursor: str, *, opened: bool = True) -> str:
        """Write what is kept after `cursor` and was handed to the hub by now; return where that ends."""
        engine = self._channels.engine
        until = engine.position(self.channel)
        while self._taken and (not opened or cursor != until):
            page = await engine.history(self.channel, cursor, until, PAGE)
            if page.gap or not opened:
                self._say_opening(connection, "gap" if page.gap else "resume", page.start)
                self._channels.counts.gaps += page.gap
                await connection.drained()
            for burst in _bursts(page.messages):
                _tell(connection, burst)
                await connection.drained()
            self._last = page.messages[-1].event if page.messages else self._last
            self._channels.counts.replayed += len(page.messages)
            if opened and page.cursor == cursor:
                break
            opened, cursor = True, page.cursor
        return cursor

    def _say_opening(self, connection: Connection, kind: str, cursor: str) -> None:
        said = control(kind, id=cursor), opening(kind, cursor, self._channels.limits.sse_retry)
        connection.tell(said, cursor=cursor)


def _tell(connection: Connection, messages: list[Message]) -> None:
    if messages:
        connection.tell(*map(forms, messages), cursor=messages[-1].id)


def _bursts(messages: Iterable[Message]) -> Iterable[list[Message]]:
    """Yield messages in pieces of about `JOIN_BYTES`."""
    burst: list[Message] = []
    size = 0
    for message in messages:
        burst.append(message)
        size += len(message.data)
        if size > JOIN_BYTES:
            yield burst
            burst, size = [], 0
    if burst:
        yield burst
