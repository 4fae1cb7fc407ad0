"""A TCP proxy that makes a network's faults: cuts, delay, a narrow line, a line that is dead, and ends nobody hears of.

Each connection has two lines, up to the server and down to the client. What a side sends is read into its line and
delivered at the other end when the faults allow; they can change at any time. A line holds little: behind it a writer
has to wait, as on a real one.
"""

import asyncio
import socket
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

from labserver import posix
from labserver.errors import LabError
from labserver.stage import background
from labserver.stage.proxies import base
from labserver.stage.proxies.base import Proxy, Upstream, upstream_of
from labserver.stage.streams import READ, close, prepare, reset

__all__ = ["FaultProxy", "fault_proxy"]

HELD = 1 << 20  # bytes on their way in one line: enough that a delay does not narrow it below some MB/s
FLUSH = 1.0  # seconds a client has to take its last bytes before a cut
AN_HOUR = 3600.0  # seconds: longer than a connection of the lab is idle
PULSE = 0.002  # seconds between two looks whether it has
SLICES = 50  # pieces a second in which a throttled line delivers


@dataclass(frozen=True, slots=True)
class Faults:
    """What goes wrong at present; see `fault_proxy` for each."""

    cut_after: int | None = None
    delay: float = 0.0
    throttle: float | None = None
    black_hole: bool = False
    half_open: bool = False
    idle_timeout: float | None = None

    def __post_init__(self) -> None:
        number, none = (int, float), type(None)
        for name, kinds, least, example in (
            ("cut_after", (int, none), 0, "bytes, such as 1000, or None"),
            ("delay", number, 0, "seconds, such as 0.2"),
            ("throttle", (*number, none), 1, "bytes per second, such as 10_000, or None"),
            ("idle_timeout", (*number, none), 0.001, "seconds, such as 1.0, or None"),
        ):
            value: Any = getattr(self, name)
            right = isinstance(value, kinds) and not isinstance(value, bool)
            if not right or (value is not None and not least <= value < 1e15):
                raise LabError(f"{name}={value!r} can't be: pass {example}.")
        for name in ("black_hole", "half_open"):
            if not isinstance(value := getattr(self, name), bool):
                raise LabError(f"{name}={value!r} can't be: pass True or False.")


@dataclass(frozen=True, slots=True)
class Item:
    """Bytes on their way; no bytes are the sender's end, an orderly one or a reset."""

    read_at: float
    data: bytes = b""
    was_reset: bool = False


class Line:
    """One direction of a connection: what was read and is not delivered yet."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._size = 0
        self._moved = asyncio.Condition()

    async def put(self, item: Item) -> None:
        """Add an item, after waiting until there is room."""
        async with self._moved:
            await self._moved.wait_for(lambda: self._size < HELD)
            self._items.append(item)
            self._size += len(item.data)
            self._moved.notify_all()

    async def get(self) -> Item:
        """Take the next item, after waiting until there is one."""
        async with self._moved:
            await self._moved.wait_for(lambda: bool(self._items))
            item = self._items.popleft()
            self._size -= len(item.data)
            self._moved.notify_all()
            return item


Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """One connection through the proxy. It ends when both directions have ended, or by a reset of both sides."""

    def __init__(self, proxy: "FaultProxy", client: Side, server: Side) -> None:
        self._proxy = proxy
        self._sides = (client[1], server[1])
        self._answered = 0  # bytes delivered to the client
        self._heard_at = time.monotonic()  # when a byte last came, from either side
        self._tasks = [asyncio.create_task(run) for run in (*self._line(client, server), *self._line(server, client))]
        self._up, self._down = self._tasks[1], self._tasks[3]
        for side in self._sides:
            prepare(side)

    def _line(self, source: Side, sink: Side) -> tuple[Any, Any]:
        line = Line()
        return self._take(source[0], line), self._deliver(line, sink[1], source[1])

    async def run(self) -> None:
        """Pass on until it ends."""
        watch = asyncio.create_task(self._hang_up_when_idle())
        try:
            await asyncio.wait([self._up, self._down])
        finally:
            for task in (watch, *self._tasks):
                task.cancel()
            await close(*self._sides)

    def cut(self) -> None:
        """Reset both sides now."""
        for side in self._sides:
            reset(side)
        for task in self._tasks:
            task.cancel()

    async def _hang_up_when_idle(self) -> None:
        """End both directions when nothing came for `idle_timeout` seconds, without a word, as proxies do."""
        while (left := self._proxy.faults.idle_timeout or AN_HOUR) + self._heard_at > (now := time.monotonic()):
            await self._proxy.pause(left + self._heard_at - now)
        self._up.cancel()
        self._down.cancel()

    async def _take(self, source: asyncio.StreamReader, line: Line) -> None:
        try:
            while data := await source.read(READ):
                self._heard_at = time.monotonic()
                await line.put(Item(time.monotonic(), data))
            await line.put(Item(time.monotonic()))
        except OSError:
            await line.put(Item(time.monotonic(), was_reset=True))

    async def _deliver(self, line: Line, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """Deliver one direction until it ends. `back` writes to the side that sends in it."""
        downwards = sink is self._sides[0]
        while (item := await line.get()).data:
            await self._proxy.passable(item)
            try:
                await (self._down_to(sink, item.data) if downwards else self._write(sink, item.data))
            except OSError:  # the receiver is gone: tell the sender, as TCP would
                await self._proxy.passable(Item(time.monotonic(), was_reset=True))
                reset(back)
                return
        await self._proxy.passable(item)
        if item.was_reset:
            reset(sink)
        else:
            with suppress(OSError):
                sink.write_eof()

    async def _down_to(self, client: asyncio.StreamWriter, data: bytes) -> None:
        """Deliver a part of the answer: no faster than the throttle, no further than the cut."""
        while data:
            rate, cut_after = self._proxy.faults.throttle, self._proxy.faults.cut_after
            size = len(data) if rate is None else max(int(rate / SLICES), 1)
            if cut_after is not None:
                size = min(size, max(cut_after - self._answered, 0))
            piece, data = data[:size], data[size:]
            await self._write(client, piece)
            self._answered += len(piece)
            if cut_after is not None and self._answered >= cut_after:
                await self._flushed(client)
                self.cut()
                return
            if rate is not None:
                await self._proxy.pause(len(piece) / rate)
            await self._proxy.passable(Item(0.0, piece))

    async def _write(self, sink: asyncio.StreamWriter, data: bytes) -> None:
        sink.write(data)
        await sink.drain()

    async def _flushed(self, sink: asyncio.StreamWriter) -> None:
        """Wait until the receiver's kernel has all that was written, or takes nothing: a reset throws the rest away."""
        sink.transport.set_write_buffer_limits(high=0)
        await sink.drain()
        sock = sink.get_extra_info("socket")
        until = time.monotonic() + FLUSH
        while posix.unsent(sock.fileno()) and time.monotonic() < until:  # noqa: ASYNC110 - the kernel sets no event
            await asyncio.sleep(PULSE)


class FaultProxy(Proxy):
    """A fault proxy that runs, or ran. Made by `fault_proxy`.

    Attributes:
        faults: what goes wrong at present.
    """

    kind = "fault proxy"

    def __init__(self, name: str, target: Upstream, faults: Faults) -> None:
        super().__init__(name)
        self.tls = target.tls  # what is encrypted stays so
        self.faults = faults
        self._target = target
        self._links: set[Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._changed = asyncio.Event()
        self._loop = background.loop()
        background.run(self._open())

    @property
    def alive(self) -> bool:
        return self._listener.fileno() >= 0 and self._loop.is_running()

    @property
    def connections(self) -> int:
        """How many connections are open, at either end."""
        return len(self._links) if self.alive else 0

    def cut(self) -> int:
        """Reset every open connection now, at both ends; return how many there were."""
        return background.run(self._cut()) if self.alive else 0

    def set(self, **faults: Any) -> None:
        """Change faults, for open and new connections: `set(delay=0.5)`. Those not named stay as they are.

        Raises:
            LabError: there is no such fault, or its value can't be.
        """
        known = [field.name for field in fields(Faults)]
        if wrong := [name for name in faults if name not in known]:
            raise LabError(f"There is no fault {wrong[0]!r}; the faults are {', '.join(known)}.")
        self.faults = replace(self.faults, **faults)
        if self.alive:
            background.run(self._wake())

    async def passable(self, item: Item) -> None:
        """Wait until the faults let `item` arrive."""
        while True:
            faults, changed = self.faults, self._changed
            wait = item.read_at + faults.delay - time.monotonic()
            if faults.black_hole or (faults.half_open and not item.data):
                await changed.wait()
            elif wait > 0:
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), wait)
            else:
                return

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than until the faults change."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _open(self) -> None:
        # not start_server or sock_accept: a stop leaves connections open that these are about to accept
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        with suppress(OSError):  # it has left again, or there are too many open files for now
            sock, _ = self._listener.accept()
            task = self._loop.create_task(self._connection(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: sock.close())  # a task that is cancelled before it begins does nothing

    async def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _cut(self) -> int:
        links = list(self._links)
        for link in links:
            link.cut()
        self._links.difference_update(links)
        return len(links)

    async def _close(self) -> None:
        self._loop.remove_reader(self._listener)
        await self._cut()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    def _stop(self) -> bool:
        if self.alive:
            with suppress(TimeoutError):
                background.run(self._close())
        self._listener.close()
        return True

    async def _connection(self, sock: socket.socket) -> None:
        client = await asyncio.open_connection(sock=sock, limit=READ)
        try:
            server = await asyncio.open_connection(self._target.host, self._target.port, limit=READ)
            link = Link(self, client, server)
            self._links.add(link)
            try:
                await link.run()
            finally:
                self._links.discard(link)
        except OSError:
            pass  # nobody listens there: a reset says so
        finally:
            reset(client[1])


def fault_proxy(
    upstream: Any,
    *,
    cut_after: int | None = None,
    delay: float = 0.0,
    throttle: float | None = None,
    black_hole: bool = False,
    half_open: bool = False,
    idle_timeout: float | None = None,
    name: str = "faults",
) -> FaultProxy:
    """Put a faulty network in front of a server and return at once. A proxy of the same name is stopped first.

    Args:
        upstream: a server of `start`, an open tape, another proxy, or a URL without a path.
        cut_after: bytes of the server's answers on one connection after which both sides are reset (RST).
        delay: seconds that everything is on its way, in each direction.
        throttle: bytes per second that reach the client.
        black_hole: nothing arrives any more, in either direction, and no end either: connections stay open, and what
            is sent is held, up to some MB. As after an outage, it arrives late once `set(black_hole=False)`.
        half_open: bytes arrive, ends do not. When the client leaves, orderly or by a reset, the server is not told,
            and what it sends then is held and lost; when the server ends or resets, the client keeps an open, silent
            connection. The ends arrive once `set(half_open=False)`.
        idle_timeout: seconds without a byte from either side after which it hangs up on both, as nginx does after 60.
        name: two names are two proxies side by side.

    Raises:
        LabError: the upstream does not run, or a value can't be.
    """
    target = upstream_of(upstream)
    faults = Faults(cut_after, delay, throttle, black_hole, half_open, idle_timeout)
    return base.replace(name, lambda: FaultProxy(name, target, faults))
