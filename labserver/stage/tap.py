"""The tap: a TCP proxy in front of a server that keeps a copy of all that passes, with the time of each read.

It changes nothing: bytes, half-closes and aborts go through as they came, and a reader who stops is felt by the writer
at the other side, because the tap reads no more than it could write. What the bytes mean is `wire`'s business.
"""

import asyncio
import time
from contextlib import suppress
from weakref import WeakSet

from labserver.stage import background
from labserver.stage.streams import READ, close, prepare, reset
from labserver.stage.wire import Conversation, End, Read, Sender

__all__ = ["Tap", "close_all"]

_IDLE = 0.1  # seconds without a byte after which an open connection is thought to say no more

_taps: "WeakSet[Tap]" = WeakSet()


def close_all() -> int:
    """Close every open tap and its connections; return how many there were."""
    taps = [tap for tap in _taps if tap.port]
    for tap in taps:
        with suppress(TimeoutError):
            background.run(tap.close())
    return len(taps)


class Tap:
    """A recording proxy to `host:port`. All coroutines run on the background loop.

    Args:
        max_bytes: bytes kept; what passes after that is forwarded and counted in `dropped`.

    Attributes:
        first: when the first byte passed, by the monotonic clock; None before.
    """

    def __init__(self, host: str, port: int, max_bytes: int) -> None:
        self.port = 0
        self.talks: list[Conversation] = []
        self.kept = 0
        self.dropped = 0
        self.version = 0
        self._target = (host, port)
        self._max = max_bytes
        self.first: float | None = None
        self._last = 0.0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._recording = False

    async def open(self) -> None:
        """Listen on a free port of the loopback; `port` tells which."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, limit=READ, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        self._recording = True
        _taps.add(self)

    async def settle(self, deadline: float) -> bool:
        """Wait until every connection has ended or says no more; at most `deadline` seconds. Return whether so."""
        until = time.monotonic() + deadline
        while self._tasks and time.monotonic() - self._last < _IDLE:
            if time.monotonic() > until:
                return False
            await asyncio.wait(self._tasks, timeout=0.01)
        return True

    async def close(self) -> None:
        """Stop recording and listening, and end what is still connected."""
        self._recording = False
        self.port = 0
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)
        _taps.discard(self)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.port:  # accepted in the moment of the close
            reset(writer)
            return
        task = asyncio.get_running_loop().create_task(self._connection(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: reset(writer))  # what is still open then: its client reads no more

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = Conversation(len(self.talks) + 1)
        self.talks.append(talk)
        self._last = time.monotonic()
        try:
            upstream = await asyncio.open_connection(*self._target, limit=READ)
        except OSError:
            await self._refused(talk, reader, writer)
            return
        prepare(writer)
        prepare(upstream[1])
        pumps = [
            asyncio.create_task(self._pump(talk, "client", reader, upstream[1], writer)),
            asyncio.create_task(self._pump(talk, "server", upstream[0], writer, upstream[1])),
        ]
        try:
            await asyncio.wait(pumps)
        finally:
            for pump in pumps:
                pump.cancel()
            await close(writer, upstream[1])

    async def _refused(self, talk: Conversation, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """The server can't be reached: keep what the client says first, then hang up on it as abruptly."""
        with suppress(OSError, TimeoutError):
            data = await asyncio.wait_for(reader.read(READ), 0.2)
            if data:
                self._keep(talk, "client", data)
        self._ended(talk, "server", "refused")
        reset(writer)

    async def _pump(
        self,
        talk: Conversation,
        sender: Sender,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
    ) -> None:
        """Forward one direction until it ends. `back` writes to the side that `source` reads from."""
        try:
            while data := await source.read(READ):
                self._keep(talk, sender, data)
                try:
                    sink.write(data)
                    await sink.drain()
                except OSError:  # the other side is gone: tell this one, as TCP would
                    reset(back)
                    return
            self._ended(talk, sender, "eof")
            with suppress(OSError):
                sink.write_eof()
        except OSError:
            self._ended(talk, sender, "reset")
            reset(sink)

    def _keep(self, talk: Conversation, sender: Sender, data: bytes) -> None:
        self._last = now = time.monotonic()
        if not self._recording:
            return
        self.version += 1
        if self.first is None:
            self.first = now
        room = max(self._max - self.kept, 0)
        if len(data) > room or talk.full:
            talk.full = True
            self.dropped += len(data) - room
            data = data[:room]
        self.kept += len(data)
        if data:
            talk.reads.append(Read(now - self.first, sender, data))

    def _ended(self, talk: Conversation, sender: Sender, how: str) -> None:
        self._last = now = time.monotonic()
        if not self._recording or any(end.sender == sender for end in talk.ends):
            return
        self.version += 1
        at = now - self.first if self.first is not None else 0.0
        talk.ends.append(End(at, sender, how))  # type: ignore[arg-type]
