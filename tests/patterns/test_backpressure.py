"""The bounded pump over real sockets: the source waits for a slow client, ends with it, and says how it ended."""

import asyncio
import gc
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request, Response
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import fresh

ROOM = 4  # lines that may wait in a pump here
SIZE = 1 << 14
SMALL = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)]  # what the system holds for a client: by default megabytes
ON_THE_WAY = 1 << 20  # bytes that the system, the loop and the client hold at most, with such buffers
DEADLINE = 10.0


@pytest.fixture
def pattern() -> ModuleType:
    return fresh("labserver.patterns.backpressure")


@pytest.fixture
def app(pattern: ModuleType) -> FastAPI:
    app = FastAPI()
    app.include_router(pattern.router)
    return app


@pytest.fixture
def live(app: FastAPI) -> Iterator[LiveServer]:
    with start(app, name="tests", settings=Settings(pump_lines=ROOM), socket_options=SMALL) as server:
        yield server


@asynccontextmanager
async def stalled(live: LiveServer, path: str) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Ask for `path` and read nothing of the answer; leave at the end."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((live.host, live.port))
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.transport.pause_reading()
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


async def waiting(pattern: ModuleType) -> Any:
    """Return the only pump, as soon as its source waits for room."""
    await until(lambda: bool(pattern.pumps) and pattern.pumps[0].queue.full() and bool(pattern.pumps[0].queue._putters))
    return pattern.pumps[0]


def tasks(live: LiveServer) -> Counter[str]:
    """Count the server's tasks by what they run."""

    async def names() -> Counter[str]:
        return Counter(getattr(task.get_coro(), "__qualname__", "?") for task in asyncio.all_tasks())

    return live.submit(names()).result(DEADLINE)


def read(live: LiveServer, **params: int) -> list[dict[str, Any]]:
    answer = httpx.get(f"{live.url}/stream/lines", params=params)
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["cache-control"] == "no-store"
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_all_lines_come_in_order_and_the_last_one_says_so(live: LiveServer, pattern: ModuleType) -> None:
    lines = await asyncio.to_thread(read, live, count=50, size=200)
    assert lines == [{"n": n} for n in range(1, 51)] + [{"done": True, "lines": 50}]
    assert await asyncio.to_thread(read, live, count=0) == [{"done": True, "lines": 0}]
    await until(lambda: pattern.pumps == [])


def test_a_line_has_the_size_that_was_asked_for(live: LiveServer) -> None:
    body = httpx.get(f"{live.url}/stream/lines?count=3&size=1000").content
    assert [len(line) for line in body.splitlines(keepends=True)][:3] == [1000] * 3


async def test_a_source_that_fails_is_told_in_the_last_line(live: LiveServer, pattern: ModuleType) -> None:
    lines = await asyncio.to_thread(read, live, count=10, fail_after=3)
    assert lines[3:] == [{"error": "the source failed", "lines": 3}]
    assert live.errors() == ["ConnectionError: the source went away"]
    await until(lambda: pattern.pumps == [])


async def test_the_source_waits_for_a_client_that_does_not_read_and_goes_on_with_it(
    live: LiveServer, pattern: ModuleType
) -> None:
    async with stalled(live, f"/stream/lines?count=1000&size={SIZE}") as (reader, writer):
        pump = await waiting(pattern)
        assert pump.sent * SIZE <= ON_THE_WAY
        assert pump.made - pump.sent == ROOM + 1  # one more is in the task's hand
        async with httpx.AsyncClient() as client:
            (seen,) = (await client.get(f"{live.url}/pumps")).json()
        assert seen == {"made": pump.made, "sent": pump.sent, "running": True}
        writer.transport.resume_reading()
        async with asyncio.timeout(DEADLINE):
            body = (await reader.read()).partition(b"\r\n\r\n")[2]
    assert b'{"done": true, "lines": 1000}' in body
    assert body.count(b'{"n": ') == 1000


async def test_a_slow_client_holds_up_nobody_else(live: LiveServer, pattern: ModuleType) -> None:
    async with stalled(live, f"/stream/lines?count=1000&size={SIZE}"):
        await waiting(pattern)
        lines = await asyncio.to_thread(read, live, count=200, size=SIZE)
    assert lines[-1] == {"done": True, "lines": 200}


@pytest.mark.parametrize("wrapped", ["plain", "under BaseHTTPMiddleware"])
async def test_the_task_and_its_source_end_with_the_client_without_the_collector(
    app: FastAPI, pattern: ModuleType, wrapped: str
) -> None:
    if wrapped != "plain":

        @app.middleware("http")
        async def nothing(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
            return await call_next(request)

    with start(app, name="tests", settings=Settings(pump_lines=ROOM), socket_options=SMALL) as live:
        gc.disable()
        try:
            async with stalled(live, f"/stream/lines?count=1000&size={SIZE}"):
                pump = await waiting(pattern)
            await until(lambda: pattern.pumps == [] and not pump.running and pump.source.ag_frame is None)
        finally:
            gc.enable()
        assert tasks(live)["Pump.fill"] == 0
        assert live.errors() == []


async def test_a_client_that_leaves_while_it_reads_ends_it_too(live: LiveServer, pattern: ModuleType) -> None:
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", f"{live.url}/stream/lines?count=4000") as response,
    ):
        await anext(response.aiter_raw())
    await until(lambda: pattern.pumps == [] and tasks(live)["Pump.fill"] == 0)
    assert live.errors() == []


@pytest.mark.parametrize(
    "query",
    ["count=-1", "count=4001", "count=many", "size=63", "size=65537", "fail_after=-1", "count=1&size="],
)
def test_what_cannot_be_asked_for_is_a_422_and_starts_nothing(
    live: LiveServer, pattern: ModuleType, query: str
) -> None:
    assert httpx.get(f"{live.url}/stream/lines?{query}").status_code == 422
    assert pattern.pumps == []
    assert tasks(live)["Pump.fill"] == 0


async def test_a_client_of_the_meter_that_keeps_up_misses_nothing(live: LiveServer, pattern: ModuleType) -> None:
    async with connect(f"{live.ws_url}/ws/meter/readings?every=0.01") as websocket:
        said = [json.loads(await asyncio.wait_for(websocket.recv(), DEADLINE)) for _ in range(20)]
    assert said == [{"value": pattern.measured(n), "missed": 0} for n in range(20)]


async def test_a_client_that_reads_too_slowly_is_told_how_many_it_missed(live: LiveServer, pattern: ModuleType) -> None:
    path = f"{live.ws_url}/ws/meter/readings?every=0.001&size=65536"
    said: list[dict[str, int]] = []
    async with asyncio.timeout(DEADLINE), connect(path, compression=None, max_queue=1) as websocket:
        while sum(reading["missed"] for reading in said) < 20 or len(said) < 50:
            said.append(json.loads(await websocket.recv()))
            await asyncio.sleep(0.005)
        websocket.transport.abort()
    number = -1
    for reading in said:
        number += reading["missed"] + 1
        assert reading["value"] == pattern.measured(number)


async def test_the_meter_ends_with_its_client_however_that_leaves(live: LiveServer) -> None:
    path = f"{live.ws_url}/ws/meter/readings?every=0.001&size=65536"
    async with connect(path, max_size=None) as websocket:
        await websocket.send("nothing to say")
        await websocket.send(b"nothing to say")
        await websocket.recv()
    async with connect(path, compression=None, max_queue=1, max_size=None) as websocket:
        websocket.transport.pause_reading()
        await asyncio.sleep(0.2)
        websocket.transport.abort()
    await until(lambda: not any(name.startswith("readings") for name in tasks(live)))
    assert live.errors() == []


@pytest.mark.parametrize("query", ["every=0", "every=nan", "every=11", "size=63"])
async def test_a_meter_that_cannot_be_is_refused(live: LiveServer, query: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{live.ws_url}/ws/meter/readings?{query}")
    assert refused.value.response.status_code == 403
