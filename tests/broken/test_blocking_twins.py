"""Each twin of the blocking topic fails in the way that it says, where another client feels it; the pattern does not.

What blocks is a gate that the test opens, so that the order of events tells and no clock does. What would keep its
threads for good runs in a child process.
"""

import asyncio
import gc
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from types import ModuleType

import httpx
import pytest
from fastapi import FastAPI

from labserver.broken import cpu_in_the_loop, sleep_in_async_generator, sync_generators_use_up_threads
from labserver.patterns import blocking
from labserver.settings import Settings
from labserver.stage import LiveServer, start

POOL = 40  # threads, of AnyIO
STILL = 0.3  # seconds in which an answer that can come has come; one that can't come never will


class Gate:
    """What blocks, until the test lets it go; counts who came."""

    def __init__(self) -> None:
        self.opened, self.came = threading.Event(), 0

    def __call__(self, *_: object) -> float:
        self.came += 1
        self.opened.wait(30)
        return 1.0


@contextmanager
def serving(module: ModuleType, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    """Serve a module whose driver and digest are the gate."""
    module.threads.cache_clear()
    monkeypatch.setattr(module.Meter, "read", gate)
    monkeypatch.setattr(module, "digest", gate)
    app = FastAPI()
    app.include_router(module.router)
    with start(app, name="gated", settings=Settings(meter_threads=3)) as live:
        try:
            yield live
        finally:
            gate.opened.set()


@asynccontextmanager
async def clients() -> AsyncIterator[httpx.AsyncClient]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(limits=limits, timeout=20, verify=False) as client:
        yield client


async def open_stream(client: httpx.AsyncClient, url: str) -> httpx.Response:
    return await client.send(client.build_request("GET", url), stream=True)


async def until(probe: Callable[[], bool], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not probe():
            await asyncio.sleep(0.01)


async def test_sync_generators_use_up_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with serving(sync_generators_use_up_threads, gate, monkeypatch) as live:
        url = f"{live.url}/stream/readings?count=1"
        async with clients() as crowd, clients() as client:
            for number in range(POOL - 1):
                await open_stream(crowd, url)
                await until(lambda at=number: gate.came == at + 1)
            assert (await client.get(f"{live.url}/ping/def")).status_code == 200  # 39 are open: one thread is free
            await open_stream(crowd, url)
            await until(lambda: gate.came == POOL)
            waiting = asyncio.create_task(client.get(f"{live.url}/ping/def"))
            for _ in range(5):
                assert (await client.get(f"{live.url}/ping/async")).status_code == 200
            assert not (await asyncio.wait([waiting], timeout=STILL))[0]
            gate.opened.set()
            assert (await waiting).status_code == 200


async def test_the_pattern_leaves_the_pool_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with serving(blocking, gate, monkeypatch) as live:
        async with clients() as crowd, clients() as client:
            opened = [open_stream(crowd, f"{live.url}/stream/readings?count=1") for _ in range(2 * POOL)]
            await asyncio.gather(*opened)
            await until(lambda: gate.came == 3)
            for path in ("/ping/def", "/ping/async"):
                assert (await client.get(live.url + path)).status_code == 200
            assert not gate.opened.is_set()


async def test_a_sync_generator_is_left_to_the_collector_and_the_pattern_is_not(live_own: LiveServer) -> None:
    gc.collect()
    gc.disable()
    try:
        for twin, left in (("/broken/sync_generators_use_up_threads", 3), ("", 0)):
            async with clients() as client, clients() as crowd:
                url = f"{live_own.url}{twin}/stream/readings?count=1000"
                bodies = [(await open_stream(crowd, url)).aiter_raw() for _ in range(3)]
                for body in bodies:
                    await anext(body)
                meters = f"{live_own.url}{twin}/meters"
                assert (await client.get(meters)).json() == {"open": 3}
                for body in bodies:
                    await body.aclose()
                await crowd.aclose()
                await idle(live_own)
                assert (await client.get(meters)).json() == {"open": left}
                gc.collect()
                assert (await client.get(meters)).json() == {"open": 0}
    finally:
        gc.enable()


@pytest.fixture
def live_own() -> Iterator[LiveServer]:
    with start(name="quick", settings=Settings(meter_seconds=0.02)) as live:
        yield live


async def idle(live: LiveServer) -> None:
    """Wait until no request but the one that asks is being served."""

    async def requests() -> int:
        return sum("RequestResponseCycle" in repr(task.get_coro()) for task in asyncio.all_tasks())

    async with asyncio.timeout(10):
        while await asyncio.wrap_future(live.submit(requests())):
            await asyncio.sleep(0.01)


async def stops_everyone(live: LiveServer, gate: Gate, blocked: Callable[[httpx.AsyncClient], object]) -> None:
    """Prove that nobody is answered from when something blocks until the gate is opened."""
    async with clients() as client, AsyncExitStack() as stack:
        task = asyncio.ensure_future(blocked(client))  # type: ignore[call-overload]
        stack.callback(task.cancel)
        await until(lambda: gate.came == 1)
        pings = [asyncio.create_task(client.get(f"{live.url}/ping/{kind}")) for kind in ("async", "def")]
        assert not (await asyncio.wait(pings, timeout=STILL))[0]
        gate.opened.set()
        assert [(await ping).status_code for ping in pings] == [200, 200]
        await task


async def test_sleep_in_async_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with serving(sleep_in_async_generator, gate, monkeypatch) as live:
        url = f"{live.url}/stream/readings?count=3"
        await stops_everyone(live, gate, lambda client: client.get(url))
        assert gate.came == 3


async def test_cpu_in_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate()
    with serving(cpu_in_the_loop, gate, monkeypatch) as live:
        await stops_everyone(live, gate, lambda client: client.post(f"{live.url}/passwords", json={"password": "x"}))


@pytest.mark.parametrize(("method", "path"), [("GET", "/stream/readings?count=3"), ("POST", "/passwords")])
async def test_the_pattern_stops_nobody(monkeypatch: pytest.MonkeyPatch, method: str, path: str) -> None:
    gate = Gate()
    with serving(blocking, gate, monkeypatch) as live:
        async with clients() as client, clients() as crowd:
            body = {"password": "x"} if method == "POST" else None
            asked = asyncio.create_task(crowd.request(method, live.url + path, json=body))
            await until(lambda: gate.came == 1)
            for kind in ("async", "def"):
                assert (await client.get(f"{live.url}/ping/{kind}")).status_code == 200
            assert not gate.opened.is_set()
            gate.opened.set()
            assert (await asked).status_code == (200 if method == "GET" else 500)  # the gate's digest is no text


async def heard(url: str, alarm: str) -> bool:
    """Listen, report an alarm, and say whether it comes within a second and a half; the client then leaves."""
    async with clients() as client, clients() as reporter, client.stream("GET", f"{url}/stream/alarms") as response:
        lines = response.aiter_lines()
        assert json.loads(await anext(lines)) == {"listening": True}
        assert (await reporter.post(f"{url}/alarms", json={"alarm": alarm})).status_code == 202
        try:
            async with asyncio.timeout(1.5):
                return json.loads(await anext(lines)) == {"alarm": alarm}
        except TimeoutError:
            return False
        finally:
            await lines.aclose()


async def test_blocking_get_keeps_its_thread() -> None:
    workers = ThreadPoolExecutor()._max_workers  # as many as asyncio.to_thread has
    with start(name="child", process=True) as live:
        twin: list[bool] = []
        while len(twin) < 3 * workers and all(twin):  # who leaves just when the next alarm comes frees its thread
            twin.append(await heard(f"{live.url}/broken/blocking_get_keeps_its_thread", f"alarm {len(twin)}"))
        assert not all(twin)
        assert len(twin) > workers
        assert all([await heard(live.url, f"alarm {number}") for number in range(len(twin) + 1)])
        assert live.stop()
