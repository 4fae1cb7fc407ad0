"""What the lessons teach about nginx: each test fails when a new version makes it untrue."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from mmap import PAGESIZE

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.stage import nginx, rescue, start
from labserver.stage.proxies.nginx import Nginx
from labserver.stage.server import LiveServer

LIMIT = 0.6  # seconds of nginx's patience here: its default of 60 in small
HELD = 0.2  # seconds without a byte after which an event is thought to be held: it takes one some milliseconds
DEADLINE = 5.0  # seconds that something which must come may take
BUFFER = PAGESIZE  # bytes of one of nginx's buffers (`proxy_buffer_size`, `proxy_buffers`)
OPEN = {"X-Accel-Buffering": "no"}


@pytest.fixture(autouse=True)
def stopped(require: Callable[[str], None]) -> Iterator[None]:
    require("nginx")
    yield
    rescue()


class Upstream:
    """Streams that nginx may dislike.

    Attributes:
        wanted: the number of the event up to which `/events` sends; behind it the stream waits.
        taken: how many bytes of `/flood` were taken.
    """

    def __init__(self) -> None:
        self.wanted = 1
        self.taken = 0
        self.app = FastAPI()
        self.app.get("/events")(self.events)
        self.app.get("/flood")(self.flood)
        self.app.websocket("/ws")(self.quiet)

    async def events(self, size: int, unbuffered: bool = False, every: float = 0.0) -> StreamingResponse:
        """Three events, each with its number at its end; with `every`, comments between them."""

        async def send() -> AsyncIterator[bytes]:
            for number in (1, 2, 3):
                last = time.monotonic()
                while number > self.wanted:
                    await asyncio.sleep(0.005)
                    if every and time.monotonic() - last >= every:
                        last = time.monotonic()
                        yield b":\n\n"
                yield b"data: " + (b"end%d" % number).rjust(size - 8, b".") + b"\n\n"

        return StreamingResponse(send(), media_type="text/event-stream", headers=OPEN if unbuffered else {})

    async def flood(self, unbuffered: bool = False) -> StreamingResponse:
        async def send() -> AsyncIterator[bytes]:
            while True:
                yield bytes(1 << 16)
                self.taken += 1 << 16
                await asyncio.sleep(0)

        return StreamingResponse(send(), media_type="text/event-stream", headers=OPEN if unbuffered else {})

    async def quiet(self, websocket: WebSocket, every: float = 0.0) -> None:
        await websocket.accept()
        while every:
            await asyncio.sleep(every)
            await websocket.send_text("keepalive")
        await asyncio.Event().wait()


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
def live(upstream: Upstream) -> LiveServer:
    return start(upstream.app, name="upstream", ws_ping_interval=None)


class Watcher:
    """A client that notes every byte of an answer as it comes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.seen = b""
        self._reader = reader

    async def saw(self, mark: bytes, seconds: float = DEADLINE) -> bool:
        """Whether `mark` is there within so many seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while mark not in self.seen and (data := await self._reader.read(1 << 16)):
                    self.seen += data
        return mark in self.seen

    @property
    def body(self) -> bytes:
        """What came behind the head."""
        return self.seen.partition(b"\r\n\r\n")[2]


@asynccontextmanager
async def watching(front: Nginx, path: str, accept: str = "identity") -> AsyncIterator[Watcher]:
    """Ask for `path` and yield a watcher of the answer; leave at the end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: {accept}\r\n\r\n".encode())
    try:
        yield Watcher(reader)
    finally:
        writer.close()


async def test_nginx_cuts_a_quiet_event_stream_at_its_read_timeout(live: LiveServer) -> None:
    with nginx(live, read_timeout=LIMIT) as front:
        async with httpx.AsyncClient() as client, client.stream("GET", f"{front.url}/events?size=20") as answer:
            began = time.monotonic()
            with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
                await answer.aread()
        assert LIMIT * 0.8 <= time.monotonic() - began < LIMIT + 2
        assert front.logs()[-1].startswith("[error] upstream timed out")


async def test_a_comment_now_and_then_holds_an_event_stream_open(live: LiveServer) -> None:
    with nginx(live, read_timeout=LIMIT) as front:
        async with watching(front, f"/events?size=20&every={LIMIT / 3}") as client:
            assert await client.saw(b"end1")
            assert not await client.saw(b"0\r\n\r\n", LIMIT * 2)
            assert client.seen.count(b":\n\n") >= 3
        assert front.logs() == []


async def test_nginx_cuts_a_quiet_websocket_at_its_read_timeout_and_a_keepalive_below_it_holds_it(
    live: LiveServer,
) -> None:
    with nginx(live, read_timeout=LIMIT) as front:
        began = time.monotonic()
        async with connect(f"{front.ws_url}/ws", ping_interval=None) as websocket:
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(websocket.recv(), 5)
        assert websocket.close_code == 1006
        assert LIMIT <= time.monotonic() - began < LIMIT + 2
        async with connect(f"{front.ws_url}/ws?every={LIMIT / 2}", ping_interval=None) as websocket:
            for _ in range(4):
                assert await asyncio.wait_for(websocket.recv(), 5) == "keepalive"


async def test_a_ping_of_the_client_holds_a_websocket_open_as_well(live: LiveServer) -> None:
    with nginx(live, read_timeout=LIMIT) as front:
        async with connect(f"{front.ws_url}/ws", ping_interval=LIMIT / 3) as websocket:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(websocket.recv(), LIMIT * 2)


async def test_without_the_upgrade_headers_there_are_no_websockets(live: LiveServer) -> None:
    with nginx(live, upgrade=False) as front:
        async with watching(front, "/events?size=20") as client:
            assert await client.saw(b"end1")
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{front.ws_url}/ws")
        assert refused.value.response.status_code == 404


@pytest.mark.parametrize("size", [20, 1500, 3000])
async def test_small_events_arrive_at_once_in_spite_of_buffering(
    live: LiveServer, upstream: Upstream, size: int
) -> None:
    with nginx(live) as front:
        async with watching(front, f"/events?size={size}") as client:
            for number in (1, 2):
                upstream.wanted = number
                assert await client.saw(b"end%d\n\n" % number)


@pytest.mark.parametrize("size", [BUFFER + 1000, 4 * BUFFER + 1000])
async def test_the_end_of_an_event_larger_than_a_buffer_comes_with_the_next_one(
    live: LiveServer, upstream: Upstream, size: int
) -> None:
    with nginx(live) as front:
        async with watching(front, f"/events?size={size}") as client:
            assert await client.saw(b"data: ...")  # its begin comes
            for number in (1, 2):
                assert not await client.saw(b"end%d" % number, HELD)
                upstream.wanted = number + 1
                assert await client.saw(b"end%d" % number)
            assert await client.saw(b"end3")  # the last one with the end of the stream


@pytest.mark.parametrize("how", ["by the header", "by the setting"])
async def test_without_buffering_a_large_event_arrives_whole(live: LiveServer, upstream: Upstream, how: str) -> None:
    with nginx(live, buffering=how == "by the header") as front:
        path = f"/events?size={4 * BUFFER + 1000}&unbuffered={str(how == 'by the header').lower()}"
        async with watching(front, path) as client:
            for number in (1, 2):
                upstream.wanted = number
                assert await client.saw(b"end%d\n\n" % number)


async def test_gzip_holds_an_event_stream_to_its_end(live: LiveServer, upstream: Upstream) -> None:
    with nginx(live, gzip=True) as front:
        async with watching(front, "/events?size=20", "gzip") as client:
            assert not await client.saw(b"never", HELD)
            upstream.wanted = 2
            assert not await client.saw(b"never", HELD)
            assert client.body == b""
            upstream.wanted = 3
            assert await client.saw(b"0\r\n\r\n")
            assert b"Content-Encoding: gzip" in client.seen
        upstream.wanted = 1
        async with watching(front, "/events?size=20") as client:  # who does not ask for gzip gets it at once
            assert await client.saw(b"end1")


async def test_gzip_holds_nothing_of_a_stream_that_is_not_buffered(live: LiveServer, upstream: Upstream) -> None:
    with nginx(live, gzip=True) as front:
        async with watching(front, "/events?size=20&unbuffered=true", "gzip") as client:
            seen = 0
            for number in (1, 2):
                upstream.wanted = number
                assert await client.saw(b"\r\n\r\n")
                async with asyncio.timeout(DEADLINE):
                    while len(client.body) == seen:
                        assert not await client.saw(b"never", 0.05)
                assert b"Content-Encoding: gzip" in client.seen
                seen = len(client.body)


async def test_buffering_swallows_what_nobody_reads_and_without_it_the_server_has_to_wait(
    live: LiveServer, upstream: Upstream, measured: Callable[[str], None]
) -> None:
    swallowed = []
    with nginx(live) as front:
        for unbuffered in ("false", "true"):
            upstream.taken = 0
            _, writer = await asyncio.open_connection("127.0.0.1", front.port)
            writer.transport.pause_reading()
            writer.write(f"GET /flood?unbuffered={unbuffered} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await settled(upstream, most=100_000_000)
            swallowed.append(upstream.taken)
            writer.transport.abort()
            await asyncio.sleep(0.1)
    buffered, held = (taken / 1e6 for taken in swallowed)
    measured(f"nginx took {buffered:.0f} MB for a client that reads nothing; without buffering {held:.0f} MB")
    assert buffered > 50
    assert held < 30


async def settled(upstream: Upstream, most: float) -> None:
    """Wait until the flood has stood still for 0.3 s, or is over `most` bytes, or the deadline has passed."""
    last, since = -1, time.monotonic()
    end = since + DEADLINE
    while upstream.taken < most and time.monotonic() - since < 0.3 and time.monotonic() < end:
        if upstream.taken != last or not last:
            last, since = upstream.taken, time.monotonic()
        await asyncio.sleep(0.02)
