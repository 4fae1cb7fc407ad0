"""What the lesson on backpressure teaches about the way to a slow client: each test fails when it is untrue."""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from labserver.settings import Settings
from labserver.stage import LiveServer, nginx, rescue, start, usage

MB = 1_000_000
CHUNK = 1 << 16
MOST = 100 * MB  # where a flood is stopped, when nothing else stops it
DEADLINE = 10.0


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    rescue()


class Flood:
    """Sources without an end but `MOST`, and how many bytes were taken from the one that ran last."""

    def __init__(self) -> None:
        self.taken = 0
        self.app = FastAPI()
        self.app.get("/generator")(self.generator)
        self.app.websocket("/ws")(self.socket)

    async def generator(self) -> StreamingResponse:
        async def send() -> AsyncIterator[bytes]:
            while self.taken < MOST:
                yield bytes(CHUNK)
                self.taken += CHUNK
                await asyncio.sleep(0)

        self.taken = 0
        return StreamingResponse(send())

    async def socket(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.taken = 0
        while self.taken < MOST:
            await websocket.send_bytes(bytes(CHUNK))
            self.taken += CHUNK
            await asyncio.sleep(0)


@pytest.fixture
def flood() -> Flood:
    return Flood()


@asynccontextmanager
async def silent(port: int, path: str, upgrade: bool = False) -> AsyncIterator[asyncio.StreamWriter]:
    """Ask for `path` and read nothing; leave at the end."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.pause_reading()
    more = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    asked = f"{more}{'x' * 22}==\r\n" if upgrade else ""
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n{asked}\r\n".encode())
    try:
        yield writer
    finally:
        writer.transport.abort()


async def rest(look: Callable[[], Any], seconds: float = 0.4) -> Any:
    """Return what `look` sees once it has not changed for so long, and is not nothing."""
    last, since = look(), time.monotonic()
    async with asyncio.timeout(DEADLINE):
        while not last or time.monotonic() - since < seconds:
            await asyncio.sleep(0.02)
            if (now := look()) != last:
                last, since = now, time.monotonic()
    return last


@pytest.mark.parametrize("kind", ["a generator", "a WebSocket"])
async def test_a_source_pauses_after_some_megabytes_for_a_reader_that_stops(
    flood: Flood, kind: str, measured: Callable[[str], None]
) -> None:
    live = start(flood.app, name="flood")
    async with silent(live.port, "/ws" if kind == "a WebSocket" else "/generator", kind == "a WebSocket"):
        taken = await rest(lambda: flood.taken)
    measured(f"{kind} gave {taken / MB:.1f} MB for a reader that reads nothing, and then waited")
    assert CHUNK < taken < 20 * MB  # it holds, but not at the first byte


async def test_with_small_buffers_of_the_system_it_pauses_much_earlier(
    flood: Flood, measured: Callable[[str], None]
) -> None:
    live = start(flood.app, name="flood", socket_options=[(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)])
    async with silent(live.port, "/generator"):
        taken = await rest(lambda: flood.taken)
    measured(f"with SO_SNDBUF=16384 a generator gave {taken / MB:.1f} MB for a reader that reads nothing")
    assert taken < 2 * MB


@pytest.mark.parametrize("loop", ["asyncio", "auto"])
async def test_the_loop_itself_holds_sixty_four_kib_before_it_pauses_a_writer(flood: Flood, loop: str) -> None:
    live = start(flood.app, name="flood", loop=loop)
    async with silent(live.port, "/generator"):
        await rest(lambda: flood.taken)

        async def limits() -> tuple[tuple[int, int], int]:
            (connection,) = live._runner._engine._server.server_state.connections  # type: ignore[attr-defined]
            return connection.transport.get_write_buffer_limits(), connection.transport.get_write_buffer_size()

        (_, high), held = live.submit(limits()).result(DEADLINE)
    assert high == 1 << 16
    assert high - 32 <= held <= high + CHUNK + 32  # the one chunk that went over it, and how chunks are framed


PUMPS = "/stream/lines?count=2000&size=32768"  # 66 MB in all


async def pumped(live: LiveServer, base: str, expected: int = 0) -> tuple[int, int]:
    """Let a client that reads nothing ask for the pump's lines; return bytes made, and what memory grew by.

    It is looked at when so many lines are made, or when it stands still.
    """
    async with httpx.AsyncClient(base_url=f"{live.url}{base}", timeout=DEADLINE) as client:
        (await client.get("/stream/lines?count=10")).raise_for_status()
        before = usage(live).memory
        async with silent(live.port, f"{base}{PUMPS}"):
            made, since = 0, time.monotonic()
            async with asyncio.timeout(DEADLINE):
                while made != expected if expected else time.monotonic() - since < 0.4 or not made:
                    for pump in (await client.get("/pumps")).json():
                        if pump["made"] != made:
                            made, since = pump["made"], time.monotonic()
                    await asyncio.sleep(0.02)
            return made * 32768, usage(live).memory - before


async def test_an_unlimited_queue_keeps_what_nobody_reads_and_sixteen_lines_do_not(
    measured: Callable[[str], None],
) -> None:
    live = start(name="pumps", process=True, settings=Settings(pump_lines=16))
    made, grown = await pumped(live, "")
    endless, kept = await pumped(live, "/broken/buffer_ahead_of_yield", 2000)
    measured(f"a queue of 16: {made / MB:.0f} MB made, memory +{grown / MB:.1f} MB")
    measured(f"a queue without a limit: {endless / MB:.0f} MB made, memory +{kept / MB:.0f} MB")
    assert made < 25 * MB
    assert grown < 12 * MB
    assert 40 * MB < kept < 100 * MB


async def test_what_nginx_buffers_lies_in_a_file_without_a_name_and_not_in_its_memory(
    require: Callable[[str], None], flood: Flood, measured: Callable[[str], None]
) -> None:
    require("nginx")
    live = start(flood.app, name="flood")
    with nginx(live) as front:
        before = usage(front)
        async with silent(front.port, "/generator"):
            async with asyncio.timeout(DEADLINE):
                while flood.taken < MOST or usage(front).files < MOST - 20 * MB:
                    await asyncio.sleep(0.02)
                    if flood.taken >= MOST and not sys.platform.startswith("linux"):
                        break
            after = usage(front)
    measured(f"of {flood.taken / MB:.0f} MB nginx held {after.files / MB:.0f} MB in files")
    assert flood.taken >= MOST
    assert after.memory - before.memory < 10 * MB
