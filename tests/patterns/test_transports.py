"""One feed by four transports, over real sockets: the same records, resume, gap, heartbeats, an end, and bad input."""

import asyncio
import json
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from socket import SO_LINGER, SO_RCVBUF, SOL_SOCKET
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import fresh

SETTINGS = Settings(feed_first_id=1, feed_heartbeat=0.1, feed_log_records=5)
TIMEOUT = 10.0
TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
Record = tuple[str, int, float | None]
KINDS = ("quote", "start", "gap", "heartbeat", "done")


@pytest.fixture
def pattern() -> ModuleType:
    return fresh("labserver.patterns.transports")


@pytest.fixture
def live(pattern: ModuleType) -> Iterator[LiveServer]:
    app = FastAPI()
    app.include_router(pattern.router)
    with start(app, name="tests", settings=SETTINGS) as server:
        yield server


def publish(live: LiveServer, *prices: float) -> list[int]:
    return [httpx.post(f"{live.url}/quotes", json={"price": price}, verify=TLS).json()["id"] for price in prices]


# --- a reader for each transport, written from its definition


def of_json(text: str) -> Record:
    value = json.loads(text)
    return value.get("type", "quote"), value["id"], value.get("price")


async def read_ws(live: LiveServer, query: str, headers: dict[str, str]) -> AsyncIterator[Record]:
    async with connect(f"{live.ws_url}/quotes/ws{query}", additional_headers=headers) as websocket:
        async for message in websocket:
            assert isinstance(message, str)
            yield of_json(message)


@asynccontextmanager
async def answer(live: LiveServer, path: str, headers: dict[str, str]) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(base_url=live.url, timeout=TIMEOUT, verify=TLS) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        assert response.status_code == 200
        yield response


async def read_events(live: LiveServer, query: str, headers: dict[str, str]) -> AsyncIterator[Record]:
    seen, name, data = -1, "message", ""
    async with answer(live, f"/quotes/events{query}", headers) as response:
        async for line in response.aiter_lines():
            field, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if not line and name == "message" and data:
                yield "quote", seen, json.loads(data)["price"]
            elif not line and name != "message":
                yield name, seen, None
            elif line.startswith(":"):
                yield value, seen, None
            name, data = (
                ("message", "")
                if not line
                else (value if field == "event" else name, value if field == "data" else data)
            )
            seen = int(value) if field == "id" else seen


async def read_ndjson(live: LiveServer, query: str, headers: dict[str, str]) -> AsyncIterator[Record]:
    async with answer(live, f"/quotes/ndjson{query}", headers) as response:
        async for line in response.aiter_lines():
            yield of_json(line)


async def read_bytes(live: LiveServer, query: str, headers: dict[str, str]) -> AsyncIterator[Record]:
    held = b""
    async with answer(live, f"/quotes/bytes{query}", headers) as response:
        async for piece in response.aiter_raw():
            held += piece
            while len(held) >= 2 and len(held) >= 2 + (size := int.from_bytes(held[:2])):
                kind, id, *price = struct.unpack("!BQd" if size > 9 else "!BQ", held[2 : 2 + size])
                held = held[2 + size :]
                yield KINDS[kind], id, price[0] if price else None
    assert held == b""


READERS: dict[str, Callable[[LiveServer, str, dict[str, str]], AsyncIterator[Record]]] = {
    "ws": read_ws,
    "events": read_events,
    "ndjson": read_ndjson,
    "bytes": read_bytes,
}
each_transport = pytest.mark.parametrize("transport", READERS)


@asynccontextmanager
async def reading(
    live: LiveServer, transport: str, query: str = "", headers: dict[str, str] | None = None
) -> AsyncIterator[AsyncIterator[Record]]:
    records = READERS[transport](live, query, headers or {})
    async with asyncio.timeout(TIMEOUT):
        try:
            yield records
        finally:
            await records.aclose()  # type: ignore[attr-defined]


async def whole(live: LiveServer, transport: str, query: str) -> list[Record]:
    async with reading(live, transport, query) as records:
        return [record async for record in records]


async def first(records: AsyncIterator[Record], count: int) -> list[Record]:
    """Return the next records, heartbeats left out."""
    found: list[Record] = []
    while len(found) < count:
        record = await anext(records)
        found += [record] if record[0] != "heartbeat" else []
    return found


# --- the same by each


@each_transport
async def test_a_reader_gets_what_was_where_it_goes_on_and_an_end(live: LiveServer, transport: str) -> None:
    assert publish(live, 12.5, -0.1, 1e300) == [1, 2, 3]
    assert await whole(live, transport, "?after=0&until=3") == [
        ("start", 0, None),
        ("quote", 1, 12.5),
        ("quote", 2, -0.1),
        ("quote", 3, 1e300),
        ("done", 3, None),
    ]


@each_transport
async def test_without_a_cursor_it_begins_now(live: LiveServer, transport: str) -> None:
    publish(live, 1.0)
    async with reading(live, transport) as records:
        assert await first(records, 1) == [("start", 1, None)]
        await asyncio.to_thread(publish, live, 2.0)
        assert await first(records, 1) == [("quote", 2, 2.0)]


@each_transport
async def test_silence_is_filled(live: LiveServer, transport: str) -> None:
    publish(live, 1.0)
    async with reading(live, transport) as records:
        assert [(await anext(records))[0] for _ in range(3)] == ["start", "heartbeat", "heartbeat"]


@each_transport
async def test_who_comes_back_goes_on_behind_its_last_id(live: LiveServer, transport: str) -> None:
    publish(live, 1.0, 2.0, 3.0)
    async with reading(live, transport, "?after=1", {"Last-Event-ID": "2"}) as records:  # the header is newer
        assert await first(records, 2) == [("start", 2, None), ("quote", 3, 3.0)]
    assert [record[:2] for record in await whole(live, transport, "?after=3&until=3")] == [("start", 3), ("done", 3)]


@each_transport
async def test_what_is_not_kept_is_a_gap(live: LiveServer, transport: str) -> None:
    publish(live, *range(8))  # the log keeps 4 to 8
    kept = [("quote", id) for id in (4, 5, 6, 7, 8)]
    assert [record[:2] for record in await whole(live, transport, "?after=3&until=8")] == [
        ("start", 3), *kept, ("done", 8)
    ]  # fmt: skip
    for foreign in (2, 9, 2**53 - 1):
        assert [record[:2] for record in await whole(live, transport, f"?after={foreign}&until=8")] == [
            ("start", foreign), ("gap", 3), *kept, ("done", 8)
        ]  # fmt: skip


@each_transport
async def test_everyone_hears_a_burst_in_order(live: LiveServer, pattern: ModuleType, transport: str) -> None:
    async def burst() -> None:
        for price in range(5):
            pattern.feeds["quotes"].publish(price)

    async with reading(live, transport, "?until=5") as records, reading(live, "ndjson", "?until=5") as other:
        await first(records, 1)
        await first(other, 1)
        await asyncio.wrap_future(live.submit(burst()))
        for each in (records, other):
            assert [record[1] for record in await first(each, 6)] == [1, 2, 3, 4, 5, 5]


async def status(live: LiveServer, transport: str, query: str = "", headers: dict[str, str] | None = None) -> int:
    """Return the status of an answer that is no stream."""
    if transport == "ws":
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{live.ws_url}/quotes/ws{query}", additional_headers=headers)
        return refused.value.response.status_code
    async with httpx.AsyncClient(verify=TLS) as client:
        return (await client.get(f"{live.url}/quotes/{transport}{query}", headers=headers)).status_code


@each_transport
async def test_bad_input_is_refused_before_it_begins(live: LiveServer, transport: str) -> None:
    refusal = 403 if transport == "ws" else 422
    for query in ("?after=-1", "?until=x", f"?after={2**53}"):
        assert await status(live, transport, query) == refusal
    for header in ("a-1", "9" * 5000, "", "-1"):
        assert await status(live, transport, headers={"Last-Event-ID": header}) == refusal
    assert live.errors() == []


@each_transport
async def test_a_page_from_elsewhere_is_refused(live: LiveServer, transport: str) -> None:
    assert await status(live, transport, headers={"Origin": "https://elsewhere.example"}) == 403


# --- how each is written


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        (
            "events",
            "text/event-stream; charset=utf-8",
            b'retry: 3000\nid: 0\nevent: start\ndata:\n\nid: 1\ndata: {"price":12.5}\n\nid: 1\nevent: done\ndata:\n\n',
        ),
        (
            "ndjson",
            "application/x-ndjson",
            b'{"type":"start","id":0}\n{"id":1,"price":12.5}\n{"type":"done","id":1}\n',
        ),
        (
            "bytes",
            "application/octet-stream",
            b"\0\x09\x01" + bytes(8) + b"\0\x11\0" + struct.pack("!Qd", 1, 12.5) + b"\0\x09\x04" + struct.pack("!Q", 1),
        ),
    ],
)
def test_the_bytes_of_a_body(live: LiveServer, path: str, kind: str, body: bytes) -> None:
    publish(live, 12.5)
    found = httpx.get(f"{live.url}/quotes/{path}?after=0&until=1", verify=TLS)
    assert found.content == body
    assert found.headers["content-type"] == kind
    assert found.headers["cache-control"] == "no-cache"
    assert found.headers["x-accel-buffering"] == "no"


# --- ends


@pytest.mark.parametrize("stalled", [False, True])
@each_transport
async def test_a_client_that_leaves_leaves_no_task(
    live: LiveServer, pattern: ModuleType, transport: str, stalled: bool
) -> None:
    async def tasks() -> int:
        return len(asyncio.all_tasks())

    async def flood() -> None:
        for price in range(5):
            pattern.feeds["quotes"].publish(price)

    before = await asyncio.wrap_future(live.submit(tasks()))
    reader, writer = await asyncio.open_connection(live.host, live.port, limit=1024)
    sock = writer.get_extra_info("socket")
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    writer.write(f"GET /quotes/{transport} HTTP/1.1\r\nHost: x\r\n{upgrade if transport == 'ws' else ''}\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    if stalled:  # records that no buffer holds: each stream is suspended at its send
        pattern.as_json = pattern.as_event = lambda *record: "x" * 8_000_000
        pattern.as_bytes = lambda record: b"x" * 8_000_000
        await asyncio.wrap_future(live.submit(flood()))
    sock.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    async with asyncio.timeout(TIMEOUT):
        while await asyncio.wrap_future(live.submit(tasks())) > before:
            await asyncio.sleep(0.02)
    assert live.errors() == []


def test_a_second_life_gives_no_id_again() -> None:
    ids = []
    for _ in range(2):
        with start(name="tests") as live:
            ids += publish(live, 1.0)
        time.sleep(0.002)  # ids begin at the millisecond of the start
    assert ids[0] < ids[1] < 2**53


# --- those who speak


async def test_a_websocket_publishes_and_all_hear_it(live: LiveServer) -> None:
    async with connect(f"{live.ws_url}/quotes/ws") as websocket, reading(live, "events") as events:
        await first(events, 1)
        await websocket.send('{"price": 7}')
        assert await first(events, 1) == [("quote", 1, 7.0)]
        async with asyncio.timeout(TIMEOUT):
            assert [await websocket.recv() for _ in range(2)] == ['{"type":"start","id":0}', '{"id":1,"price":7.0}']


async def closed(websocket: ClientConnection) -> tuple[int, str]:
    """Read to the end; return the close code and reason."""
    async with asyncio.timeout(TIMEOUT):
        with suppress(ConnectionClosed):
            async for _ in websocket:
                pass
    return websocket.close_code or 0, websocket.close_reason or ""


@pytest.mark.parametrize(
    ("message", "code"),
    [(b"\0", 1003), ("", 1007), ("{", 1007), ("[]", 1007), ('{"price": NaN}', 1007), ('{"price": 1e999}', 1007),
     ('{"price": "\\ud800"}', 1007), ("[" * 5000, 1007)],
)  # fmt: skip
async def test_what_is_no_quote_closes_with_a_reason(live: LiveServer, message: Any, code: int) -> None:
    async with connect(f"{live.ws_url}/quotes/ws") as websocket:
        await websocket.send(message)
        assert await closed(websocket) == (code, "text messages only" if code == 1003 else "no quote")
    assert live.errors() == []


async def test_a_websocket_that_has_all_is_closed_1000(live: LiveServer) -> None:
    publish(live, 1.0)
    async with connect(f"{live.ws_url}/quotes/ws?after=0&until=1") as websocket:
        assert await closed(websocket) == (1000, "done")
    assert live.errors() == []


def test_what_is_no_quote_is_a_4xx(live: LiveServer, pattern: ModuleType) -> None:
    for body in (b"", b"{", b"[]", b"{}", b'{"price":"x"}', b'{"price":NaN}', b'{"price":1e999}', b"[" * 900):
        assert httpx.post(f"{live.url}/quotes", content=body, verify=TLS).status_code == 422, body
    assert httpx.post(f"{live.url}/quotes", content=b" " * 1025, verify=TLS).status_code == 413
    assert publish(live, 1.0) == [1]
    assert live.errors() == []
