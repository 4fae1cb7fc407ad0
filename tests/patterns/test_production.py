"""Production over real sockets: one stream for all channels, heartbeats, the drain in a thread and by real signals."""

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, start

DRAINED = re.compile(r"event: drain\nretry: (\d+)\ndata: the server restarts\n\n\Z")
POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests", settings=Settings(sse_keepalive=0.1)) as live:
        yield live


@asynccontextmanager
async def client(lab: LiveServer) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=lab.url, timeout=20) as made:
        yield made


class Reader:
    """A client of the feed that keeps what it reads."""

    def __init__(self, lab: LiveServer, channels: str, path: str = "/feed") -> None:
        self.text = ""
        self.ended_well = False
        self.task = asyncio.create_task(self.read(f"{lab.url}{path}", channels))

    async def read(self, url: str, channels: str) -> None:
        async with httpx.AsyncClient(timeout=20) as made, made.stream("GET", url, params={"channels": channels}) as got:
            async for piece in got.aiter_text():
                self.text += piece
            self.ended_well = True


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def value(lab: LiveServer, name: str) -> float:
    """Return one number of /metrics."""
    async with client(lab) as made:
        lines = (await made.get("/metrics")).text.splitlines()
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + " ")), 0.0)


async def test_all_channels_come_over_one_stream_and_no_other(lab: LiveServer) -> None:
    reader = Reader(lab, "news,sport")
    await until(lambda: "ready" in reader.text)
    async with client(lab) as made:
        for channel, listeners in (("news", 1), ("weather", 0), ("sport", 1)):
            answer = await made.post(f"/feed/{channel}", json={"text": f"a\nb {channel}"})
            assert (answer.status_code, answer.json()) == (202, {"listeners": listeners})
    await until(lambda: "b sport" in reader.text)
    assert reader.text.startswith("event: ready\nretry: 3000\ndata: news,sport\n\n")
    assert 'event: news\ndata: "a\\nb news"\n\n' in reader.text
    assert "weather" not in reader.text
    await until(lambda: ": heartbeat\n\n" in reader.text)
    reader.task.cancel()
    async with asyncio.timeout(5):
        while await value(lab, 'feed_open_streams{kind="http"}'):
            await asyncio.sleep(0.01)
    assert await value(lab, 'feed_sent_total{what="event"}') == 3  # ready, and two
    assert lab.errors() == []


async def test_headers_survive_caches_and_proxies_and_an_allowed_page_may_read() -> None:
    with start(name="tests", settings=Settings(origins=("https://app.example",))) as lab:
        async with client(lab) as made:
            for origin, status in ((None, 200), ("https://app.example", 200), ("https://other.example", 403)):
                headers = {"Origin": origin} if origin else {}
                async with made.stream("GET", "/feed?channels=a", headers=headers) as got:
                    assert got.status_code == status
                    assert got.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
                    if status == 200:
                        names = ("content-type", "cache-control", "x-accel-buffering", "vary")
                        assert [got.headers[name] for name in names] == [
                            "text/event-stream; charset=utf-8",
                            "no-cache",
                            "no",
                            "Origin",
                        ]


async def test_a_websocket_gets_the_same_and_what_it_says_is_nothing_or_1003(lab: LiveServer) -> None:
    async with connect(f"{lab.ws_url}/feed/ws?channels=a,b") as websocket, client(lab) as made:
        await websocket.send("anything")
        await made.post("/feed/b", content=r'{"text": "\ud800"}', headers={"Content-Type": "application/json"})
        assert json.loads(await websocket.recv()) == {"channel": "b", "text": "\ud800"}
        await websocket.send(b"bytes")
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 1003
    with pytest.raises(InvalidStatus):
        await connect(f"{lab.ws_url}/feed/ws?channels=a", additional_headers={"Origin": "https://other.example"})
    assert lab.errors() == []


@pytest.mark.parametrize("channels", ["", "A", "a,,b", "a b", "x" * 21, ",".join(["a"] * 21)])
async def test_names_that_are_none_are_refused(lab: LiveServer, channels: str) -> None:
    async with client(lab) as made:
        assert (await made.get("/feed", params={"channels": channels})).status_code == 422
        assert (await made.get("/feed/page", params={"channels": channels})).status_code == 422
    with pytest.raises(InvalidStatus):
        await connect(f"{lab.ws_url}/feed/ws?channels={channels.replace(' ', '%20')}")


async def test_a_text_that_is_too_long_is_refused(lab: LiveServer) -> None:
    async with client(lab) as made:
        assert (await made.post("/feed/a", json={"text": "x" * (17 << 10)})).status_code == 413
        assert (await made.post("/feed/a", json={"text": 5})).status_code == 422


async def test_who_reads_too_slowly_gets_a_goodbye() -> None:
    with start(name="tests", settings=Settings(sse_outbox_events=3)) as lab:
        async with client(lab) as made, made.stream("GET", "/feed?channels=a") as slow:
            for _ in range(3000):  # more than the system holds for a client that does not read
                if not (await made.post("/feed/a", json={"text": "x" * 15_000})).json()["listeners"]:
                    break
            text = "".join([piece async for piece in slow.aiter_text()])
        assert text.endswith("data: you read too slowly\n\n")


async def test_a_stop_in_a_thread_says_goodbye_to_all_at_once() -> None:
    lab = start(name="tests", settings=Settings(drain_seconds=60))
    readers = [Reader(lab, "a") for _ in range(3)]
    await until(lambda: all("ready" in reader.text for reader in readers))
    async with connect(f"{lab.ws_url}/feed/ws?channels=a") as websocket:
        assert await asyncio.to_thread(lab.stop)
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 1012
        assert re.fullmatch(r"the server restarts: come back in \d\.\d s", websocket.close_reason or "")
    for reader in readers:
        await reader.task
        assert DRAINED.search(reader.text)
        assert reader.ended_well
    assert lab.errors() == []


async def test_one_server_drained_is_followed_by_a_fresh_one() -> None:
    for _ in range(2):
        with start(name="tests") as lab:
            async with client(lab) as made:
                assert (await made.get("/readyz")).status_code == 200
            reader = Reader(lab, "a")
            await until(lambda reader=reader: "ready" in reader.text)
        await reader.task
        assert DRAINED.search(reader.text)


@POSIX
async def test_sigterm_tells_one_after_the_other_and_the_second_signal_ends_it_at_once() -> None:
    settings = Settings(drain_seconds=600, sse_retry=4)
    lab = await asyncio.to_thread(lambda: start(name="tests", process=True, settings=settings))
    try:
        readers = [Reader(lab, "a") for _ in range(5)]
        await until(lambda: all("ready" in reader.text for reader in readers))
        assert lab.pid is not None
        os.kill(lab.pid, signal.SIGTERM)
        await until(lambda: any("drain" in reader.text for reader in readers))
        async with client(lab) as made:
            answers = [(await made.get(path)).status_code for path in ("/readyz", "/healthz")]
            late = await made.get("/feed?channels=b")
        assert answers == [503, 200]
        assert DRAINED.search(late.text)
        assert await value(lab, "feed_drains_total") == 1
        assert sum("drain" in reader.text for reader in readers) == 1
        os.kill(lab.pid, signal.SIGTERM)
        await until(lambda: not lab.alive)
        for reader in readers:
            await reader.task
        retries = [int(found[1]) for reader in readers if (found := DRAINED.search(reader.text))]
        assert len(retries) == 5
        assert all(2000 <= retry <= 6000 for retry in retries)
        assert len(set(retries)) > 1
        assert lab.logs()[-1].endswith("with exit code -15.")  # what the signal does, once uvicorn has ended
    finally:
        lab.stop()


@POSIX
async def test_one_that_does_not_read_holds_up_nobody_where_uvicorn_has_a_limit() -> None:
    settings = Settings(drain_seconds=0.2, goodbye_timeout=0.3)
    small = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)]
    options: dict[str, Any] = {"timeout_graceful_shutdown": 0.5, "socket_options": small}
    lab = await asyncio.to_thread(lambda: start(name="tests", process=True, settings=settings, **options))
    try:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect((lab.host, lab.port))
            deaf.sendall(b"GET /feed?channels=a HTTP/1.1\r\nHost: a\r\n\r\n")
            async with client(lab) as made:
                while await value(lab, 'feed_open_streams{kind="http"}') < 1:
                    await asyncio.sleep(0.01)
                for _ in range(40):  # its buffers are full, so that the goodbye waits behind them
                    await made.post("/feed/a", json={"text": "x" * 15_000})
            reader = Reader(lab, "a")
            await until(lambda: "ready" in reader.text)
            assert lab.pid is not None
            os.kill(lab.pid, signal.SIGTERM)
            await until(lambda: not lab.alive)
            await reader.task
        assert DRAINED.search(reader.text)
        assert any(line.startswith("Cancel 1 running task") for line in lab.logs())
    finally:
        lab.stop()
