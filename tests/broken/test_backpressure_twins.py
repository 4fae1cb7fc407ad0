"""Each twin of the bounded pump fails in the way that it says, where a real client or a real proxy can see it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import connect

from labserver.patterns.backpressure import measured
from labserver.settings import Settings
from labserver.stage import LiveServer, nginx, start

SIZE = 1 << 15
COUNT = 1000  # lines, 33 MB in all
SMALL = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)]
DEADLINE = 10.0


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests", settings=Settings(pump_lines=4), socket_options=SMALL) as live:
        yield live


@asynccontextmanager
async def stalled(port: int, path: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Ask for `path` and read nothing of the answer; leave at the end."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.pause_reading()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    try:
        yield writer
    finally:
        writer.transport.abort()


async def pumps(lab: LiveServer, base: str) -> list[dict[str, int]]:
    return await asyncio.to_thread(lambda: httpx.get(f"{lab.url}{base}/pumps").json())


async def at_rest(lab: LiveServer, base: str, made: int | None = None) -> dict[str, int]:
    """Return what the only pump says of itself: once it has made so much, or once it stands still."""
    before: list[dict[str, int]] = []
    async with asyncio.timeout(DEADLINE):
        while not (now := await pumps(lab, base)) or (now[0]["made"] != made and (made or now != before)):
            before = now
            await asyncio.sleep(0.2)
    return now[0]


async def test_buffer_ahead_of_yield(lab: LiveServer) -> None:
    made = []
    for base in ("/broken/buffer_ahead_of_yield", ""):
        async with stalled(lab.port, f"{base}/stream/lines?count={COUNT}&size={SIZE}"):
            seen = await at_rest(lab, base, COUNT if base else None)
            made.append(seen["made"])
            assert seen["sent"] < COUNT / 3  # the response waits in both
    assert made[0] == COUNT
    assert made[1] < COUNT / 3


async def test_an_unlimited_queue_still_delivers_everything_in_order(lab: LiveServer) -> None:
    base = f"{lab.url}/broken/buffer_ahead_of_yield/stream/lines?count=200&size=1000"
    assert await asyncio.to_thread(lambda: httpx.get(base).text.count('"n"')) == 200


async def test_proxy_buffers_everything(lab: LiveServer, require: Callable[[str], None]) -> None:
    require("nginx")
    twin = "/broken/proxy_buffers_everything"
    with nginx(lab) as front:
        async with stalled(front.port, f"{twin}/stream/lines?count={COUNT}&size={SIZE}"), asyncio.timeout(DEADLINE):
            while not any(f"{twin}/stream/lines" in line for line in lab.logs()):
                await asyncio.sleep(0.02)
            while await pumps(lab, twin):  # to the end: nginx takes all of it, for a client that reads nothing
                await asyncio.sleep(0.02)
        async with stalled(front.port, f"/stream/lines?count={COUNT}&size={SIZE}"):
            assert (await at_rest(lab, ""))["made"] < COUNT * 2 / 3


def test_the_header_is_all_that_differs(lab: LiveServer) -> None:
    said = [httpx.get(f"{lab.url}{base}/stream/lines?count=9") for base in ("/broken/proxy_buffers_everything", "")]
    assert said[0].content == said[1].content
    assert ["x-accel-buffering" in answer.headers for answer in said] == [False, True]


async def test_pump_left_running(lab: LiveServer) -> None:
    left = []
    for base in ("/broken/pump_left_running", ""):
        async with stalled(lab.port, f"{base}/stream/lines?count={COUNT}&size={SIZE}"):
            before = await at_rest(lab, base)
        async with asyncio.timeout(DEADLINE):
            while (now := await pumps(lab, base)) and not base:
                await asyncio.sleep(0.02)
        left.append(now)
    assert left == [[before | left[0][0]], []]
    assert left[0][0]["running"]
    await asyncio.sleep(0.3)
    assert await pumps(lab, "/broken/pump_left_running") == left[0]  # and there it stays


async def test_drops_in_silence(lab: LiveServer) -> None:
    told = {}
    for base in ("/broken/drops_in_silence", ""):
        path = f"{lab.ws_url}{base}/ws/meter/readings?every=0.001&size=65536"
        said: list[dict[str, int]] = []
        async with asyncio.timeout(DEADLINE), connect(path, compression=None, max_queue=1) as websocket:
            while [reading["value"] for reading in said] == [measured(n) for n in range(len(said))]:
                said.append(json.loads(await websocket.recv()))
                await asyncio.sleep(0.008)
            websocket.transport.abort()
        told[base] = sum(reading.get("missed", 0) for reading in said)
    assert told["/broken/drops_in_silence"] == 0
    assert told[""] > 0
