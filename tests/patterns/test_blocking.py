"""Work that blocks, over real sockets: readings from threads of their own, digests, alarms from a thread, bad input."""

import asyncio
import gc
import hashlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI

from labserver.patterns import blocking
from labserver.settings import Settings
from labserver.stage import LiveServer, start

QUICK = Settings(meter_seconds=0.01, password_rounds=1000)


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with start(name="blocking", settings=QUICK) as live:
        yield live


@pytest.fixture
def own() -> Iterator[LiveServer]:
    """The pattern alone, as the module that a test can reach into."""
    blocking.threads.cache_clear()
    app = FastAPI()
    app.include_router(blocking.router)
    with start(app, name="own", settings=Settings(meter_seconds=0.01, meter_threads=3, alarm_outbox=3)) as live:
        yield live


@asynccontextmanager
async def streams(url: str, number: int) -> AsyncIterator[list[httpx.Response]]:
    """Open `number` streams at once; their clients leave at the end of the block."""
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=20, verify=False) as crowd:
        asked = [crowd.send(crowd.build_request("GET", url), stream=True) for _ in range(number)]
        yield await asyncio.gather(*asked)


async def until(probe: Callable[[], bool], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not probe():
            await asyncio.sleep(0.01)


def test_readings_are_lines_and_the_last_one_says_that_they_are_all(live: LiveServer) -> None:
    response = httpx.get(f"{live.url}/stream/readings?count=4")
    *rows, end = [json.loads(line) for line in response.text.splitlines()]
    assert [row["reading"] for row in rows] == [20.84, 20.91, 20.14, 19.24]
    assert end == {"done": True}
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.headers["cache-control"] == "no-store"


async def test_readings_take_their_own_threads_and_leave_the_pool_alone(
    own: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, reading = threading.Event(), []

    def read(meter: blocking.Meter) -> float:
        reading.append(meter)
        gate.wait(20)
        return 1.0

    monkeypatch.setattr(blocking.Meter, "read", read)
    try:
        async with streams(f"{own.url}/stream/readings?count=1", 60) as crowd:
            await until(lambda: len(blocking.open_meters) == 60)
            assert len(reading) == 3
            async with httpx.AsyncClient(timeout=10) as client:
                for path in ("/ping/def", "/ping/async", "/openapi.json"):
                    assert (await client.get(own.url + path)).status_code == 200
            assert len(reading) == 3  # nothing has moved meanwhile
            gate.set()
            bodies = [await response.aread() for response in crowd]
        assert set(bodies) == {b'{"reading": 1.0}\n{"done": true}\n'}
        assert len(reading) == 60
        assert not blocking.open_meters
    finally:
        gate.set()


async def test_a_client_that_leaves_closes_its_meter_without_the_collector(own: LiveServer) -> None:
    gc.disable()
    try:
        async with streams(f"{own.url}/stream/readings?count=1000", 10), httpx.AsyncClient() as client:
            assert (await client.get(f"{own.url}/meters")).json() == {"open": 10}
        await until(lambda: not blocking.open_meters)
    finally:
        gc.enable()
    assert own.errors() == []


async def test_a_driver_that_fails_closes_its_meter_and_cuts_the_stream(
    own: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(meter: blocking.Meter) -> float:
        raise OSError("no such meter")

    monkeypatch.setattr(blocking.Meter, "read", read)
    async with httpx.AsyncClient() as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"{own.url}/stream/readings")
    await until(lambda: not blocking.open_meters)


def test_a_password_becomes_its_digest(live: LiveServer) -> None:
    answer = httpx.post(f"{live.url}/passwords", json={"password": "pä55 wörd"})
    assert (answer.status_code, list(answer.json())) == (200, ["digest"])
    assert answer.json()["digest"] == blocking.digest("pä55 wörd", 1000)
    assert answer.json()["digest"] != blocking.digest("pä55 wörd", 1001)
    assert len(bytes.fromhex(answer.json()["digest"])) == hashlib.sha256().digest_size


@pytest.mark.parametrize(("path", "field"), [("/passwords", "password"), ("/alarms", "alarm")])
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 422),
        (b"{}", 422),
        (b'{"FIELD": ""}', 422),
        (b'{"FIELD": 5}', 422),
        (b'{"FIELD": "' + b"x" * 201 + b'"}', 422),
        (b'{"FIELD": "' + b"x" * 2000 + b'"}', 413),
        (b"[", 422),
    ],
)
def test_a_bad_body_is_a_4xx(live: LiveServer, path: str, field: str, body: bytes, status: int) -> None:
    content = body.replace(b"FIELD", field.encode())
    answer = httpx.post(live.url + path, content=content, headers={"content-type": "application/json"})
    assert answer.status_code == status


async def test_half_a_character_is_replaced(own: LiveServer) -> None:
    async with streams(f"{own.url}/stream/alarms", 1) as (listener,), httpx.AsyncClient() as client:
        lines = listener.aiter_lines()
        await anext(lines)
        head = {"content-type": "application/json"}
        assert (
            await client.post(f"{own.url}/alarms", content=b'{"alarm": "\\ud800"}', headers=head)
        ).status_code == 202
        assert await anext(lines) == '{"alarm": "?"}'
        await lines.aclose()


@pytest.mark.parametrize(
    "path", ["/stream/readings?count=0", "/stream/readings?count=1001", "/stream/readings?count=x", "/lag?seconds=0"]
)
def test_a_bad_query_is_a_422_and_no_stream(live: LiveServer, path: str) -> None:
    assert httpx.get(live.url + path).status_code == 422


async def test_everyone_who_listens_hears_an_alarm_and_who_leaves_is_forgotten(own: LiveServer) -> None:
    async with streams(f"{own.url}/stream/alarms", 5) as crowd, httpx.AsyncClient() as client:
        lines = [response.aiter_lines() for response in crowd]
        assert {await anext(line) for line in lines} == {'{"listening": true}'}
        for alarm in ("smoke", "water"):
            answer = await client.post(f"{own.url}/alarms", json={"alarm": alarm})
            assert (answer.status_code, answer.json()) == (202, {"listeners": 5})
            assert {await anext(line) for line in lines} == {json.dumps({"alarm": alarm})}
        for line in lines:
            await line.aclose()
    await until(lambda: not blocking.alarms.listeners)


async def test_who_reads_too_slowly_loses_the_oldest() -> None:
    queue: asyncio.Queue[str] = asyncio.Queue(3)
    for number in range(10):
        blocking.put(queue, str(number))
    assert [queue.get_nowait() for _ in range(3)] == ["7", "8", "9"]


async def test_the_lag_is_that_of_its_own_loop(own: LiveServer) -> None:
    async def block() -> None:
        threading.Event().wait(0.4)

    async def ask(client: httpx.AsyncClient) -> float:
        return float((await client.get(f"{own.url}/lag?seconds=0.5")).json()["worst"])

    async with httpx.AsyncClient(timeout=10) as client:
        asked = asyncio.create_task(ask(client))
        await asyncio.sleep(0.1)
        await asyncio.wrap_future(own.submit(block()))
        assert await asked >= 0.25


async def test_stopping_waits_for_no_stream() -> None:
    with start(name="stops", settings=QUICK) as live:
        async with (
            streams(f"{live.url}/stream/readings?count=1000", 20),
            streams(f"{live.url}/stream/alarms", 20),
        ):
            assert await asyncio.to_thread(live.stop)
