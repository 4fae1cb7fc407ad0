"""The feed that survives, over real sockets: keepalive, resume, gap, slow readers, and the feed that ends for good."""

import asyncio
import gc
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from random import Random
from socket import SO_LINGER, SOL_SOCKET
from struct import pack
from types import ModuleType

import httpx
import pytest
from fastapi import FastAPI

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import fresh

SETTINGS = Settings(
    sse_epoch="a", sse_keepalive=0.05, sse_log_events=5, sse_outbox_events=3, sse_retry=0.5, sse_interval=0.01
)
TIMEOUT = 10.0
TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
Event = dict[str, str]


@pytest.fixture
def pattern() -> ModuleType:
    return fresh("labserver.patterns.sse_resume")


@pytest.fixture
def live(pattern: ModuleType) -> Iterator[LiveServer]:
    app = FastAPI()
    app.include_router(pattern.router)
    with start(app, name="tests", settings=SETTINGS) as server:
        yield server


async def blocks(response: httpx.Response) -> AsyncIterator[Event]:
    """Yield each block of a stream as its fields; a comment has the field ""."""
    block: Event = {}
    async for line in response.aiter_lines():
        if line:
            name, _, value = line.partition(": " if not line.startswith(":") else ":")
            block[name] = value.strip()
        elif block:
            yield block
            block = {}


@asynccontextmanager
async def listening(
    live: LiveServer, cursor: str | None = None, *, after: str | None = None
) -> AsyncIterator[AsyncIterator[Event]]:
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    params = {} if after is None else {"after": after}
    async with (
        asyncio.timeout(TIMEOUT),
        httpx.AsyncClient(base_url=live.url, timeout=TIMEOUT, verify=TLS) as client,
        client.stream("GET", "/events/prices", headers=headers, params=params) as response,
    ):
        assert response.status_code == 200
        yield blocks(response)


async def events(stream: AsyncIterator[Event], count: int) -> list[Event]:
    """Return the next events of a stream, comments left out."""
    found: list[Event] = []
    while len(found) < count:
        block = await anext(stream)
        found += [block] if "data" in block else []
    return found


async def ids(live: LiveServer, cursor: str | None, count: int) -> list[str]:
    """Return how a stream begins: its opening, then the ids that follow."""
    async with listening(live, cursor) as stream:
        opening, *rest = await events(stream, count)
    return [f"{opening['event']} {opening['id']}", *(event["id"] for event in rest)]


def publish(live: LiveServer, *prices: float) -> list[str]:
    return [httpx.post(f"{live.url}/events/prices", json={"price": price}, verify=TLS).json()["id"] for price in prices]


async def until(live: LiveServer, pattern: ModuleType, listeners: int) -> None:
    async with asyncio.timeout(TIMEOUT):
        while len(pattern.feed.listeners) != listeners:
            await asyncio.sleep(0.01)


# --- live


async def test_a_new_client_learns_at_once_where_it_is_and_hears_what_is_published(live: LiveServer) -> None:
    publish(live, 1.0)
    async with listening(live) as stream:
        assert await events(stream, 1) == [{"retry": "500", "id": "a-1", "event": "start", "data": "start"}]
        assert await asyncio.to_thread(publish, live, 2.5, 3.0) == ["a-2", "a-3"]
        assert await events(stream, 2) == [
            {"id": "a-2", "data": '{"price":2.5}'},
            {"id": "a-3", "data": '{"price":3.0}'},
        ]


async def test_the_headers_keep_it_out_of_caches_and_buffers(live: LiveServer) -> None:
    async with (
        httpx.AsyncClient(verify=TLS) as client,
        client.stream("GET", f"{live.url}/events/prices") as response,
    ):
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"


async def test_silence_is_filled_with_comments(live: LiveServer) -> None:
    async with listening(live) as stream:
        await events(stream, 1)
        assert [await anext(stream) for _ in range(3)] == [{"": "keepalive"}] * 3


async def test_every_client_hears_everything(live: LiveServer, pattern: ModuleType) -> None:
    async with listening(live) as one, listening(live) as other:
        await until(live, pattern, 2)
        await asyncio.to_thread(publish, live, 1.0, 2.0)
        for stream in (one, other):
            assert [event["id"] for event in await events(stream, 3)] == ["a-0", "a-1", "a-2"]
    await until(live, pattern, 0)


# --- resume


async def test_a_client_that_comes_back_gets_what_it_missed_and_then_what_comes(live: LiveServer) -> None:
    publish(live, 1.0, 2.0, 3.0)
    async with listening(live, "a-1") as stream:
        opening, *missed = await events(stream, 3)
        assert opening == {"retry": "500", "id": "a-1", "event": "resume", "data": "resume"}
        assert [event["id"] for event in missed] == ["a-2", "a-3"]
        await asyncio.to_thread(publish, live, 4.0)
        assert (await events(stream, 1))[0]["id"] == "a-4"


async def test_a_client_that_missed_nothing_gets_nothing_twice(live: LiveServer) -> None:
    publish(live, 1.0, 2.0)
    async with listening(live, "a-2") as stream:
        assert [event["event"] for event in await events(stream, 1)] == ["resume"]
        assert await anext(stream) == {"": "keepalive"}


async def test_programs_may_ask_by_query_and_a_header_wins(live: LiveServer) -> None:
    publish(live, 1.0, 2.0, 3.0)
    async with listening(live, after="a-2") as stream:
        assert [event["id"] for event in await events(stream, 2)] == ["a-2", "a-3"]
    async with listening(live, "a-3", after="a-1") as stream:  # a browser keeps the address when it reconnects
        assert (await events(stream, 1))[0]["id"] == "a-3"


async def test_an_empty_id_is_none(live: LiveServer) -> None:
    publish(live, 1.0)
    assert await ids(live, "", 1) == ["start a-1"]


async def test_what_was_trimmed_away_is_a_gap_and_not_silence(live: LiveServer) -> None:
    publish(live, *range(8))  # the log keeps 5: a-4 to a-8
    kept = ["a-4", "a-5", "a-6", "a-7", "a-8"]
    assert await ids(live, "a-3", 6) == ["resume a-3", *kept]  # just reaches back
    assert await ids(live, "a-2", 6) == ["gap a-3", *kept]
    assert await ids(live, "a-3", 6) == ["resume a-3", *kept]  # the gap's own id is good to go on from


async def test_an_id_that_is_not_ours_is_a_gap(live: LiveServer) -> None:
    publish(live, 1.0, 2.0)
    for cursor in ("b-2", "2", "a-", "-2", "a-x", "a--1", "a-3", "a-99999999999999999999", "A-1", "junk", "é", "a-²"):
        async with listening(live, after=cursor) as stream:
            found = [(event.get("event"), event["id"]) for event in await events(stream, 3)]
        assert found == [("gap", "a-0"), (None, "a-1"), (None, "a-2")], cursor


def test_each_start_is_another_epoch() -> None:
    seen = []
    for _ in range(2):
        with start(name="tests") as live:
            seen += publish(live, 1.0)
    first, second = seen
    assert first != second
    assert first.endswith("-1")
    assert second.endswith("-1")


def test_an_oversized_id_is_a_400(live: LiveServer) -> None:
    for path in ("/events/prices", "/events/countdown"):
        for asked in ({"headers": {"Last-Event-ID": "a" * 65}}, {"params": {"after": "a" * 65}}):
            answer = httpx.get(live.url + path, **asked, verify=TLS)
            assert answer.status_code == 400
            assert answer.json() == {"detail": "an id has at most 64 characters"}


# --- slow readers, and those who leave


async def flood(pattern: ModuleType, count: int, size: int = 1) -> None:
    """Publish in one turn of the loop, so that no reader gets a turn in between."""
    for _ in range(count):
        pattern.feed.publish("x" * size, SETTINGS)


async def test_a_reader_that_is_too_slow_is_sent_away_and_resumes(live: LiveServer, pattern: ModuleType) -> None:
    async with listening(live) as stream:
        await events(stream, 1)
        await asyncio.wrap_future(live.submit(flood(pattern, 5)))  # its outbox holds 3
        assert [event["id"] for event in await events(stream, 3)] == ["a-1", "a-2", "a-3"]
        assert (await events(stream, 1))[0]["event"] == "error"
        assert [block async for block in stream] == []
    assert await ids(live, "a-3", 3) == ["resume a-3", "a-4", "a-5"]
    assert live.errors() == []


@pytest.mark.parametrize("stalled", [False, True])
async def test_a_client_that_leaves_is_forgotten_without_the_garbage_collector(
    live: LiveServer, pattern: ModuleType, stalled: bool
) -> None:
    gc.disable()
    try:
        reader, writer = await asyncio.open_connection(live.host, live.port, limit=1024)
        writer.write(b"GET /events/prices HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(live, pattern, 1)
        if stalled:  # more than all buffers between the two hold: the stream is suspended at its `yield`
            for _ in range(2):
                await asyncio.wrap_future(live.submit(flood(pattern, 2, 8_000_000)))
        else:
            await reader.readuntil(b"keepalive")
        writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, pack("ii", 1, 0))
        writer.close()
        await until(live, pattern, 0)
    finally:
        gc.enable()
    assert live.errors() == []


# --- publishing


BODIES = [
    b"",
    b"{",
    b"[]",
    b"{}",
    b'{"price":"x"}',
    b'{"price":null}',
    b'{"price":NaN}',
    b'{"price":1e999}',
    b"[" * 900,
]


def test_a_price_that_is_none_is_a_4xx_and_not_published(live: LiveServer, pattern: ModuleType) -> None:
    with httpx.Client(verify=TLS) as client:
        for body in BODIES:
            answer = client.post(f"{live.url}/events/prices", content=body)
            assert answer.status_code == 422, body
    assert pattern.feed.last == 0
    assert live.errors() == []


def test_a_body_that_is_too_large_is_a_413(live: LiveServer) -> None:
    body = b'{"price":1' + b" " * 1024 + b"}"
    for content in (body, iter([body])):  # with its length said beforehand, and in chunks
        assert httpx.post(f"{live.url}/events/prices", content=content, verify=TLS).status_code == 413
    assert live.errors() == []


# --- the finite feed


def test_a_countdown_ends_with_done_and_stays_ended(live: LiveServer) -> None:
    path = f"{live.url}/events/countdown"
    whole = httpx.get(path, params={"start": 2}, verify=TLS)
    assert whole.text == (
        "retry: 500\nid: 2\ndata: 2\n\n"  #
        "retry: 500\nid: 1\ndata: 1\n\n"
        "id: 0\nevent: done\ndata: complete\n\n"
    )
    assert whole.headers["cache-control"] == "no-cache"
    again = httpx.get(path, params={"start": 2}, headers={"Last-Event-ID": "0"}, verify=TLS)
    assert (again.status_code, again.content) == (204, b"")


def test_a_countdown_goes_on_where_it_was_cut(live: LiveServer) -> None:
    for cursor, expected in {"3": "2 1 0", "1": "0", "4": "3 2 1 0", "x": "3 2 1 0"}.items():
        body = httpx.get(f"{live.url}/events/countdown", headers={"Last-Event-ID": cursor}, verify=TLS).text
        ids = [line.removeprefix("id: ") for line in body.splitlines() if line.startswith("id")]
        assert " ".join(ids) == expected, cursor


def test_a_countdown_from_anywhere_else_is_a_422(live: LiveServer) -> None:
    for wrong in ("0", "101", "x", ""):
        assert httpx.get(f"{live.url}/events/countdown", params={"start": wrong}, verify=TLS).status_code == 422


# --- everything at once


class Client:
    """Reads, is cut at any byte, comes back with the last id it has whole; notes numbers and gaps in order."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.cursor: str | None = None
        self.seen: list[str] = []

    async def read(self, live: LiveServer, last: asyncio.Future[int]) -> None:
        async with httpx.AsyncClient(base_url=live.url, timeout=TIMEOUT, verify=TLS) as client:
            while not (last.done() and self.cursor == f"a-{last.result()}"):
                await self.once(client, self.random.randrange(20, 1500))
                await asyncio.sleep(self.random.random() * 0.04)

    async def once(self, client: httpx.AsyncClient, most: int) -> None:
        headers = {"Last-Event-ID": self.cursor} if self.cursor is not None else {}
        body = b""
        async with client.stream("GET", "/events/prices", headers=headers) as response:
            async for piece in response.aiter_raw():
                body += piece
                if len(body) > most or body.endswith(b"keepalive\n\n"):
                    break
        for block in body[:most].decode().split("\n\n")[:-1]:  # what is behind the last blank line never was
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "data" in fields and fields.get("event") in (None, "gap", "start"):
                self.seen += [f"{fields.get('event', '')} {fields['id']}".strip()]
            self.cursor = fields.get("id", self.cursor)

    def check(self) -> int:
        """Follow the ids one by one: a number follows the one before, and only a gap may jump. Return the gaps."""
        assert self.seen[0].startswith("start a-")
        at, gaps = int(self.seen[0].removeprefix("start a-")), 0
        for each in self.seen[1:]:
            if each.startswith("gap a-"):
                assert int(each.removeprefix("gap a-")) > at, "a gap where nothing was lost"
                at, gaps = int(each.removeprefix("gap a-")), gaps + 1
            else:
                assert each == f"a-{at + 1}", f"{each} follows {at}"
                at += 1
        return gaps


@pytest.mark.parametrize(("seed", "log", "gaps_expected"), [(1, 1000, False), (2, 1000, False), (3, 8, True)])
async def test_nothing_is_lost_doubled_or_swapped_and_what_was_trimmed_is_told(
    pattern: ModuleType, seed: int, log: int, gaps_expected: bool
) -> None:
    random = Random(seed)
    settings = Settings(sse_epoch="a", sse_keepalive=0.03, sse_log_events=log, sse_outbox_events=4, sse_retry=0.01)
    app = FastAPI()
    app.include_router(pattern.router)
    last: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    clients = [Client(Random(seed * 100 + number)) for number in range(6)]

    async def publishing() -> None:
        for _ in range(60):
            for _ in range(random.randrange(7)):  # some bursts are more than an outbox holds
                pattern.feed.publish("{}", settings)
            await asyncio.sleep(random.random() * 0.02)

    with start(app, name="tests", settings=settings) as live:
        async with asyncio.timeout(TIMEOUT), asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.read(live, last))
            await until(live, pattern, len(clients))
            await asyncio.wrap_future(live.submit(publishing()))
            last.set_result(pattern.feed.last)
        assert live.errors() == []
    assert pattern.feed.last > 100
    gaps = [client.check() for client in clients]
    assert any(gaps) is gaps_expected
