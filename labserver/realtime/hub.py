"""Channel -> connections, in this process: a message is framed once for each kind of wire and written to everyone.

`deliver` is synchronous and waits for nobody. Messages of a burst are joined, so each connection gets one write. What
went through the hub is in the order of delivery on each channel; engines, history and users are not known here.
"""

import asyncio
from collections import deque
from collections.abc import Callable

from .codes import CODES, NORMAL
from .connection import Connection, Goodbye
from .limits import Limits
from .message import LAST, Forms, Kind, Message, comment, control, forms, framed, opening

__all__ = ["OVER", "Fan", "Held", "Hub"]

JOIN_BYTES = 1 << 16  # a burst is joined up to about this size: more would wait for longer than its writes take
SLICE = 1000  # connections written to in one turn of the loop, 3 ms of it; a burst to 10,000 would hold it for 35

OVER: Goodbye = (NORMAL, CODES[NORMAL].reason, 0.0)  # behind a channel's last message

Writes = list[tuple[Connection, Callable[[bytes], None]]]


class Fan:
    """The connections of one channel that get the same bytes.

    Attributes:
        ready: connection -> its write. Connections keep their own place here, so that a flush asks nobody.
        behind: connections whose reader is slow.
    """

    def __init__(self, kind: Kind, limits: Limits) -> None:
        self.kind = kind
        self.ready: dict[Connection, Callable[[bytes], None]] = {}
        self.behind: set[Connection] = set()
        self._pending: list[Forms] = []
        self._cursor, self._size = "", 0
        self._burst, self._rest = b"", Writes()
        self._loop = asyncio.get_running_loop()
        events = kind in ("sse", "event")
        self._interval = limits.sse_keepalive if events else limits.ws_heartbeat
        self._written = self._loop.time()
        self._heart = self._loop.call_later(self._interval, self._beat)

    def __len__(self) -> int:
        return len(self.ready) + len(self.behind)

    def place(self, connection: Connection, behind: bool) -> None:
        """Keep a connection among those that are ready, or behind."""
        if behind:
            self.ready.pop(connection, None)
            self.behind.add(connection)
        else:
            self.behind.discard(connection)
            self.ready[connection] = connection.write

    def forget(self, connection: Connection) -> None:
        """Keep a connection no longer."""
        self.ready.pop(connection, None)
        self.behind.discard(connection)

    def stop(self) -> None:
        """End the heartbeat."""
        self._heart.cancel()

    def end(self) -> None:
        """Let everyone go: nothing comes after what was delivered."""
        for connection in [*self.ready, *self.behind]:
            connection.close(OVER)

    def deliver(self, said: Forms, cursor: str = "") -> None:
        """Have something said by a flush three turns of the loop from now.

        Three, because what has arrived already is read in the first turn and wakes its task in the second, which
        publishes: a burst becomes one write. Idle turns take microseconds and there is no timer, so a lone message
        hardly waits, and a loop that is late has more to join.
        """
        if not self._pending:
            self._loop.call_soon(self._loop.call_soon, self._loop.call_soon, self.flush)
        self._pending.append(said)
        self._cursor = cursor or self._cursor
        self._size += len(said[0])
        if self._size > JOIN_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write what is pending to everyone, the first `SLICE` of them in this turn."""
        self.flush_to(None)

    def flush_to(self, first: Connection | None) -> None:
        """Write what is pending to everyone, to `first` in this turn: it leaves, or is told something behind it."""
        self._finish()
        if not self._pending:
            return
        burst = framed(self.kind, self._pending)
        size = len(burst) if isinstance(burst, bytes) else sum(map(len, burst))
        self._pending, self._size = [], 0
        self._written = self._loop.time()
        behind = list(self.behind)  # taken first: a write may call pause_writing
        if isinstance(burst, bytes):
            items = list(self.ready.items())
            if first in self.ready:
                items.sort(key=lambda item: item[0] is not first)
            self._burst, self._rest = burst, items[SLICE:]
            self._write(items[:SLICE], burst)
            if self._rest:
                self._loop.call_soon(self._more)
        for connection in behind:
            connection.late(burst, size, self._cursor)

    def _write(self, items: Writes, burst: bytes) -> None:
        for connection, write in items:
            try:
                write(burst)
            except Exception:  # one broken socket is not the others' affair
                connection.cut()

    def _more(self) -> None:
        self._slice()
        if self._rest:
            self._loop.call_soon(self._more)

    def _slice(self) -> None:
        part, self._rest = self._rest[:SLICE], self._rest[SLICE:]
        self._write([item for item in part if item[0] in self.ready or item[0] in self.behind], self._burst)

    def _finish(self) -> None:
        """Write the rest of the burst before: the next one, a leave, a write of one's own come after it."""
        while self._rest:
            self._slice()

    def _beat(self) -> None:
        """Say something when nothing was said for an interval."""
        quiet = self._loop.time() - self._written
        if quiet >= self._interval * 0.99:
            self.deliver((control("ping"), comment()))
            quiet = 0.0
        self._heart = self._loop.call_later(self._interval - quiet, self._beat)


class Held:
    """Messages of a channel that are kept back while a subscriber's history replays, bounded in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self.messages: deque[Message] = deque()
        self.overflowed = False

    def add(self, message: Message) -> None:
        """Keep a message, until it is too much: then nothing is kept, and history has to be asked again."""
        self._size += len(message.data)
        self.messages.append(message)
        if self.overflowed or self._size > self._limit:
            self.overflow()

    def overflow(self) -> None:
        """Keep nothing: history has to be asked again."""
        self.overflowed = True
        self.messages.clear()


class Hub:
    """The connections of this process, by channel. The engine hands messages to `deliver`."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._fans: dict[str, dict[Kind, Fan]] = {}
        self._held: dict[str, set[Held]] = {}
        self.delivered = 0

    def connections(self, channel: str) -> int:
        """Return how many connections a channel has here."""
        return sum(map(len, self._fans.get(channel, {}).values()))

    def channels(self) -> list[str]:
        """Return the channels that have a connection here."""
        return list(self._fans)

    def deliver(self, message: Message) -> None:
        """Hand a message to everyone on its channel, waiting for nobody."""
        for held in self._held.get(message.channel, ()):
            held.add(message)
        fans = self._fans.get(message.channel)
        if fans:
            said = forms(message)
            for fan in list(fans.values()):  # whoever is let go leaves at once
                self.delivered += len(fan)
                fan.deliver(said, message.id)
                if message.event in LAST:
                    fan.end()

    def gap(self, channel: str, cursor: str) -> None:
        """Tell everyone on a channel that messages before `cursor` may be missing."""
        for held in self._held.get(channel, ()):
            held.overflow()  # what was kept back may lack some, too
        for fan in self._fans.get(channel, {}).values():
            fan.deliver((control("gap", id=cursor), opening("gap", cursor, self.limits.sse_retry)), cursor)

    def enter(self, connection: Connection, channel: str) -> None:
        """Give a connection what is delivered from now on."""
        kinds = self._fans.setdefault(channel, {})
        fan = kinds.get(connection.kind) or kinds.setdefault(connection.kind, Fan(connection.kind, self.limits))
        fan.flush()  # delivered earlier: not for this one
        connection.enter(fan)

    def leave(self, connection: Connection, channel: str) -> None:
        """Give a connection nothing more; what was delivered earlier goes out first. Again is harmless."""
        kinds = self._fans.get(channel, {})
        fan = kinds.get(connection.kind)
        if fan is None:
            return
        if connection in fan.ready or connection in fan.behind:
            fan.flush_to(connection)
        connection.leave(fan)
        self._tidy(channel, kinds, fan)

    def _tidy(self, channel: str, kinds: dict[Kind, Fan], fan: Fan) -> None:
        if not fan:
            fan.stop()
            del kinds[fan.kind]
        if not kinds:
            self._fans.pop(channel, None)

    def hold(self, channel: str) -> Held:
        """Keep back copies of what is delivered from now on."""
        held = Held(self.limits.outbox_bytes)
        self._held.setdefault(channel, set()).add(held)
        return held

    def release(self, channel: str, held: Held) -> None:
        """Keep back nothing more. Again is harmless."""
        waiting = self._held.get(channel, set())
        waiting.discard(held)
        if not waiting:
            self._held.pop(channel, None)
