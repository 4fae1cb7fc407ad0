"""A world that moves when it is told to: a loop without real time, transports that stall, clients that believe nothing.

Each client parses what its wire got and holds it against the numbers that were published. Between two numbers nothing
may be missing unless a `gap` said so, and a `gap` needs a reason: trimmed history, or dropped bursts.
"""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import h11
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from labserver.realtime.channels import Channels, Subscription
from labserver.realtime.connection import Connection, Plain, Slow
from labserver.realtime.direct import Direct
from labserver.realtime.engines.memory import PER_MESSAGE, MemoryEngine
from labserver.realtime.limits import Limits
from labserver.realtime.message import Forms, Kind

DEFLATED = 12  # a window's bits
DIRECT: list[Kind] = ["ws", "sse", DEFLATED]
PLAIN: list[Kind] = ["text", "event"]
OPENINGS = ("start", "resume", "gap")

Said = dict[str, Any]


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class SteppedLoop(asyncio.SelectorEventLoop):
    """A loop by whose clock no time passes but what a test adds."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        super().__init__()

    def time(self) -> float:
        return self.clock.now


async def turns(number: int) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


# ---- what came over a wire


class Frames:
    """Reads WebSocket frames with the parser of `websockets`."""

    def __init__(self, deflated: bool = False) -> None:
        self.protocol = ClientProtocol(parse_uri("ws://test/"), state=State.OPEN, max_size=None)
        if deflated:
            self.protocol.extensions = [PerMessageDeflate(True, True, DEFLATED, 15)]

    def feed(self, data: bytes) -> Iterator[Said]:
        self.protocol.receive_data(data)
        assert self.protocol.parser_exc is None, self.protocol.parser_exc
        for frame in self.protocol.events_received():
            assert isinstance(frame, Frame)
            assert (frame.opcode, frame.fin) == (Opcode.TEXT, True)
            yield json.loads(frame.data)


class Events:
    """Reads an event stream as WHATWG HTML 9.2.6 says."""

    def __init__(self) -> None:
        self.rest, self.last_id = b"", ""
        self.data: list[str] = []
        self.event = ""
        self.retry: int | None = None

    def feed(self, data: bytes) -> Iterator[Said]:
        *lines, self.rest = (self.rest + data).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if line:
                self._field(line.decode())
            elif self.data:
                yield self._dispatched()
            else:
                self.event = ""

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match name:
            case "data":
                self.data.append(value)
            case "event":
                self.event = value
            case "id" if "\0" not in value:
                self.last_id = value
            case "retry" if value.isdigit():
                self.retry = int(value)

    def _dispatched(self) -> Said:
        event, data = self.event or "message", "\n".join(self.data)
        self.data, self.event = [], ""
        said = json.loads(data)
        if event in OPENINGS:
            assert said["id"] == self.last_id
            return {"type": event, **said}
        return {"id": self.last_id, "event": event, "data": said}


class Chunked(Events):
    """Reads an event stream out of a chunked body, with the parser of `h11`."""

    def __init__(self) -> None:
        super().__init__()
        self.http = h11.Connection(h11.CLIENT)
        self.http.send(h11.Request(method="GET", target="/", headers=[("host", "test")]))
        self.http.send(h11.EndOfMessage())
        self.http.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        assert isinstance(self.http.next_event(), h11.Response)

    def feed(self, data: bytes) -> Iterator[Said]:
        if data:
            self.http.receive_data(data)
        while isinstance(event := self.http.next_event(), h11.Data):
            yield from super().feed(bytes(event.data))
        assert event is h11.NEED_DATA


class Texts:
    def feed(self, text: str) -> Iterator[Said]:
        yield json.loads(text)


def reader(kind: Kind) -> Any:
    return (
        {"ws": Frames, "sse": Chunked, "text": Texts, "event": Events}[kind]()
        if isinstance(kind, str)
        else Frames(True)
    )


# ---- wires


class Pipe:
    """A transport as asyncio's: it pauses its protocol within `write`, and resumes it when the peer has read.

    Args:
        high: bytes in its buffer beyond which it pauses; it resumes at a quarter of them.
        got: is called with what the peer reads.
    """

    def __init__(self, high: int, got: Callable[[bytes], None]) -> None:
        self.high, self.got = high, got
        self.protocol: Any = None
        self.buffer = bytearray()
        self.stalled = self.paused = self.closing = False

    def write(self, data: bytes) -> None:
        if self.closing:
            return
        self.buffer += data
        if not self.stalled:
            self.read(len(self.buffer))
        elif len(self.buffer) > self.high and not self.paused:
            self.paused = True
            self.protocol.pause_writing()

    def read(self, size: int) -> None:
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        self.got(data)
        if self.paused and len(self.buffer) <= self.high // 4:
            self.paused = False
            self.protocol.resume_writing()

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            self.buffer.clear()
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


class Endpoint:
    """What a protocol of uvicorn does when its transport calls."""

    writable: asyncio.Event
    gone: asyncio.Event
    connections: set[object]

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections.discard(self)
        self.writable.set()
        self.gone.set()


class Recorded(Connection):
    """Notes each `gap` that is told, and whether history was trimmed when it was."""

    trimmed: Callable[[], int]
    told: deque[tuple[str, int]]
    broken = False

    def tell(self, *said: Forms, cursor: str = "") -> None:
        for text, _ in said:
            if '"type":"gap"' in text:
                self.told.append((json.loads(text)["id"], self.trimmed()))
        super().tell(*said, cursor=cursor)


class DirectLine(Recorded, Direct, Endpoint):
    """A direct connection on a pipe."""

    def __init__(self, kind: Kind, limits: Limits, pipe: Pipe) -> None:
        self.kind, self.limits, self.transport = kind, limits, pipe  # type: ignore[assignment]
        self.loop = asyncio.get_running_loop()
        self.writable, self.gone = asyncio.Event(), asyncio.Event()
        self.writable.set()
        self.connections = {self}
        pipe.protocol = self

    async def drained(self) -> None:
        await self.writable.wait()

    def close(self, goodbye: Any) -> None:
        self.flush()
        self.leave()
        self.gone.set()

    def stall(self, stalled: bool) -> None:
        self.transport.stalled = stalled  # type: ignore[attr-defined]
        if not stalled and not self.transport.is_closing():
            self.read(self.transport.get_write_buffer_size())

    def read(self, size: int) -> None:
        self.transport.read(size)  # type: ignore[attr-defined]

    def break_off(self, noticed: bool = True) -> None:
        self.transport.abort()

    async def serve(self, inside: Callable[[], Awaitable[None]]) -> None:
        await inside()


class PlainLine(Recorded, Plain):
    """A plain connection whose `send` waits while its reader stalls."""

    def __init__(self, kind: Kind, limits: Limits, got: Callable[[Any], None]) -> None:
        super().__init__(self.send, kind, self.farewell, limits)
        self.got = got
        self.flowing, self.gone = asyncio.Event(), asyncio.Event()
        self.flowing.set()
        self.stalled = False
        self.bade = 0

    async def send(self, piece: Any) -> None:
        await self.flowing.wait()
        if self.broken:
            raise ConnectionResetError
        if self.stalled:
            self.flowing.clear()
        self.got(piece)

    async def farewell(self, goodbye: Any) -> None:
        self.bade += 1

    def stall(self, stalled: bool) -> None:
        self.stalled = stalled
        self.flowing.clear() if stalled else self.flowing.set()

    def read(self, size: int) -> None:
        """Take one piece."""
        self.flowing.set()

    def break_off(self, noticed: bool = True) -> None:
        """Leave; it is noticed by `receive`, or else by the next `send`."""
        self.broken = True
        self.flowing.set()
        if noticed:
            self.cut()

    async def serve(self, inside: Callable[[], Awaitable[None]]) -> None:
        async with self.running():
            await inside()


# ---- who is connected


class Client:
    """One reader over all of its connections; `feed` judges what each of them gets."""

    def __init__(self, world: "World", name: str, channel: str, kind: Kind, slow: Slow, high: int) -> None:
        self.world, self.name, self.channel = world, name, channel
        self.kind, self.slow, self.high = kind, slow, high
        self.cursor: str | None = None
        self.session: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        return self.session is not None and not self.session.done()

    def connect(self) -> None:
        """Come, or come back with the last id seen. Called on the loop."""
        self.after, self.opened = self.cursor, False
        self.entered = self.left = False
        self.parser = reader(self.kind)
        feed, limits = self.feed_of(object()), self.world.limits
        self.line: Any = (
            PlainLine(self.kind, limits, feed)
            if self.kind in PLAIN
            else DirectLine(self.kind, limits, Pipe(self.high, feed))
        )
        self.line.slow, self.line.told = self.slow, deque()
        self.line.trimmed = lambda: self.world.trimmed(self.channel)
        self.session = asyncio.create_task(self.line.serve(self._inside))

    def feed_of(self, session: object) -> Callable[[Any], None]:
        """Return what takes the bytes of this connection; what an older one still sends is not read."""
        self.current = session

        def feed(data: Any) -> None:
            if self.current is not session:
                return
            try:
                for said in self.parser.feed(data):
                    self.judge(said)
            except Exception as error:  # whoever wrote it would take this for a broken connection
                self.world.errors.append(error)

        return feed

    async def _inside(self) -> None:
        async with self.world.channels.subscribe(self.channel, self.name) as subscription:
            await self._enter(subscription)
            await self.line.gone.wait()

    async def _enter(self, subscription: Subscription) -> None:
        await subscription.enter(self.line, self.after)
        self.entered = True

    def judge(self, said: Said) -> None:
        if said.get("type") == "ping":
            return
        if not self.opened:
            self.judge_opening(said)
        elif "event" in said:
            self.judge_message(said)
        else:
            assert said["type"] == "gap", said
            self.judge_gap(said["id"])
        self.cursor = said["id"]

    def judge_opening(self, said: Said) -> None:
        self.opened = True
        kind, id = said["type"], said["id"]
        if self.after is None:
            assert kind == "start" or (kind == "gap" and self.line.dropped)
        elif kind == "resume":
            assert id == self.after, "it goes on from where it was"
        else:
            assert kind == "gap"
            self.judge_gap(id)

    def judge_message(self, said: Said) -> None:
        epoch, number = self.world.split(said["id"])
        assert self.cursor is not None
        before, last = self.world.split(self.cursor)
        assert epoch == before == self.world.epoch
        assert number == last + 1, f"{self.name} saw {self.cursor} and then {said['id']}"
        assert said["data"] == self.world.published[self.channel][number - 1]

    def judge_gap(self, id: str) -> None:
        told, (epoch, number) = self.line.told, self.world.split(id)
        assert epoch == self.world.epoch
        before, last = self.world.split(self.cursor) if self.cursor else ("", -1)
        if told and told[0][0] == id:
            _, trimmed = told.popleft()
            assert before != epoch or trimmed > last, "a gap where nothing was trimmed"
        else:
            assert self.line.dropped, "a gap where nothing was dropped"
        assert before != epoch or number > last, "a gap goes forward"


class World:
    """Channels on a memory engine, and all clients; it keeps its own account of what was published and trimmed."""

    def __init__(self, limits: Limits, clock: Clock) -> None:
        self.limits, self.clock = limits, clock
        self.loop = SteppedLoop(clock)
        self.clients: list[Client] = []
        self.errors: list[BaseException] = []
        self.loop.set_exception_handler(
            lambda _, context: self.errors.append(context.get("exception") or Exception(str(context)))
        )
        self.lives = 0
        self.run(self.begin())

    async def begin(self) -> None:
        """Start an engine that knows nothing of the one before."""
        self.lives += 1
        self.epoch = f"e{self.lives}"
        self.published: dict[str, list[Any]] = {}
        self.kept: dict[str, deque[tuple[int, float, int]]] = {}
        self.keys: dict[tuple[str, str], str] = {}
        self.engine = MemoryEngine(self.limits, epoch=self.epoch)
        self.channels = Channels(self.engine, self.limits)
        await self.engine.start(self.channels.hub)

    def run(self, coro: Any) -> Any:
        result = self.loop.run_until_complete(coro)
        for error in self.errors:
            raise error
        return result

    @staticmethod
    def split(id: str) -> tuple[str, int]:
        epoch, number = id.split("-")
        return epoch, int(number)

    def last(self, channel: str) -> str:
        return f"{self.epoch}-{len(self.published.get(channel, []))}"

    def trimmed(self, channel: str) -> int:
        """Return the number of the newest message that is no longer kept, by an account of our own."""
        kept = self.kept.setdefault(channel, deque())
        while kept and (
            len(kept) > self.limits.history_messages
            or sum(size for _, _, size in kept) > self.limits.history_bytes
            or kept[0][1] < self.clock.now - self.limits.history_seconds
        ):
            kept.popleft()
        return kept[0][0] - 1 if kept else len(self.published.get(channel, []))

    async def publish(self, channel: str, value: Any, key: str | None = None) -> None:
        self.trimmed(channel)
        values = self.published.setdefault(channel, [])
        before = self.keys.get((channel, key)) if key else None
        kept = before is not None and any(number == self.split(before)[1] for number, _, _ in self.kept[channel])
        if kept:
            assert await self.channels.publish(channel, value, key=key) == before, "the same key, the same message"
            return
        values.append(value)
        size = len(json.dumps(value)) + PER_MESSAGE
        self.kept[channel].append((len(values), self.clock.now, size))
        if key:
            self.keys[channel, key] = self.last(channel)
        assert await self.channels.publish(channel, value, key=key) == self.last(channel)

    def gone(self) -> bool:
        """Return whether nothing is left of any client."""
        hub = self.channels.hub
        kept = [hub.channels(), hub._held, self.channels.open, self.channels._users]
        return not any(kept) and not self.engine._attached and not self.engine._members

    def close(self) -> None:
        self.loop.run_until_complete(self.end())
        self.loop.close()

    async def end(self) -> None:
        tasks = [client.session for client in self.clients if client.session is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await turns(5)
