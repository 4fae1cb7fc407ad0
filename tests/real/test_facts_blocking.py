"""What notebook 12 teaches about threads, the loop and who waits: each fails when a new version makes it untrue.

Counts and the order of events; where a time is meant, the ratio of two in one run.
"""

import asyncio
import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import anyio.to_thread
import httpx
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import AfterValidator
from starlette.middleware.base import BaseHTTPMiddleware

from labserver.stage import LiveServer, start

POOL = 40  # threads, of AnyIO
STILL = 0.3  # seconds in which an answer that can come has come; one that can't come never will


async def until(probe: Callable[[], object], seconds: float = 15.0) -> None:
    async with asyncio.timeout(seconds):
        while not probe():
            await asyncio.sleep(0.01)


def client() -> httpx.AsyncClient:
    return httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=20, verify=False)


def where_app(seen: dict[str, bool]) -> FastAPI:
    """Every kind of callable that FastAPI runs; each notes whether it ran on the loop."""
    app = FastAPI()

    def note(what: str) -> None:
        try:
            asyncio.get_running_loop()
            seen[what] = True
        except RuntimeError:
            seen[what] = False

    def validator(value: int) -> int:
        note("validator")
        return value

    def dependency() -> None:
        note("def dependency")

    async def async_dependency() -> None:
        note("async def dependency")

    def yielding() -> Iterator[None]:
        note("def dependency, before its yield")
        yield
        note("def dependency, after its yield")

    async def async_yielding() -> AsyncIterator[None]:
        note("async def dependency, before its yield")
        yield
        note("async def dependency, after its yield")

    def chunks() -> Iterator[str]:
        note("sync generator")
        yield "x"

    async def async_chunks() -> AsyncIterator[str]:
        note("async generator")
        yield "x"

    every = [Depends(each) for each in (dependency, async_dependency, yielding, async_yielding)]

    @app.get("/def", dependencies=every)
    def plain(tasks: BackgroundTasks, number: Annotated[int, AfterValidator(validator)] = 1) -> StreamingResponse:
        note("def endpoint")
        tasks.add_task(note, "def background task")
        return StreamingResponse(chunks())

    @app.get("/async")
    async def coroutine(tasks: BackgroundTasks) -> StreamingResponse:
        note("async def endpoint")

        async def later() -> None:
            note("async def background task")

        tasks.add_task(later)
        return StreamingResponse(async_chunks())

    @app.get("/native/def")
    def native() -> Iterator[int]:
        note("def endpoint that yields")
        yield 1

    @app.get("/native/async")
    async def native_async() -> AsyncIterator[int]:
        note("async def endpoint that yields")
        yield 1

    class Failure(Exception):
        pass

    @app.exception_handler(Failure)
    def handler(request: Any, error: Exception) -> StreamingResponse:
        note("def exception handler")
        return StreamingResponse([])

    @app.get("/fails")
    async def fails() -> None:
        raise Failure

    return app


async def test_what_runs_where() -> None:
    seen: dict[str, bool] = {}
    with start(where_app(seen), name="facts") as live:
        async with client() as http:
            for path in ("/def?number=2", "/async", "/native/def", "/native/async", "/fails"):
                assert (await http.get(live.url + path)).status_code == 200
        await until(lambda: len(seen) == 16)
    on_loop = {what for what, here in seen.items() if here}
    assert on_loop == {"validator", *(what for what in seen if what.startswith("async"))}


class Gate:
    """What blocks, until the test lets it go; counts who came."""

    def __init__(self) -> None:
        self.opened, self.came = threading.Event(), 0

    def __call__(self) -> None:
        self.came += 1
        self.opened.wait(30)


def pool_app(gate: Gate, file: Path, tokens: int | None = None) -> FastAPI:
    """Streams that take a thread each, and what may need one beside them."""

    @asynccontextmanager
    async def more_threads(app: FastAPI) -> AsyncIterator[None]:
        limiter = anyio.to_thread.current_default_thread_limiter()
        limiter.total_tokens = tokens or limiter.total_tokens
        yield

    app = FastAPI(lifespan=more_threads)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        def chunks() -> Iterator[str]:
            gate()
            yield "x"

        return StreamingResponse(chunks())

    def setting() -> int:
        return 1

    @app.get("/depends")
    async def depends(value: Annotated[int, Depends(setting)]) -> int:
        return value

    @app.get("/def")
    def plain() -> int:
        return 1

    @app.get("/async")
    async def coroutine() -> int:
        return 1

    @app.get("/file")
    async def download() -> FileResponse:
        return FileResponse(file)

    @app.get("/tokens")
    async def count() -> float:
        return anyio.to_thread.current_default_thread_limiter().total_tokens

    return app


@pytest.mark.parametrize("tokens", [None, 60])
async def test_the_pool_has_forty_threads_unless_told_otherwise_and_one_more_stream_always_uses_them_up(
    tmp_path: Path, tokens: int | None
) -> None:
    gate, file = Gate(), tmp_path / "file"
    file.write_text("x")
    number = tokens or POOL
    try:
        with start(pool_app(gate, file, tokens), name="facts") as live:
            async with client() as crowd, client() as http:
                assert (await http.get(f"{live.url}/tokens")).json() == number

                async def open_streams(count: int) -> None:
                    asked = [crowd.build_request("GET", f"{live.url}/stream") for _ in range(count)]
                    await asyncio.gather(*(crowd.send(each, stream=True) for each in asked))

                await open_streams(number - 1)
                await until(lambda: gate.came == number - 1)
                for path in ("/async", "/def", "/depends", "/file"):
                    assert (await http.get(live.url + path)).status_code == 200
                await open_streams(1)
                await until(lambda: gate.came == number)
                waiting = [asyncio.create_task(http.get(live.url + path)) for path in ("/def", "/depends", "/file")]
                assert (await http.get(f"{live.url}/async")).status_code == 200
                assert not (await asyncio.wait(waiting, timeout=STILL))[0]
                gate.opened.set()
                assert [(await each).status_code for each in waiting] == [200] * 3
    finally:
        gate.opened.set()


@pytest.mark.parametrize("middleware", [False, True])
@pytest.mark.parametrize("native", [False, True])
async def test_a_sync_generator_whose_client_leaves_is_closed_by_the_collector(native: bool, middleware: bool) -> None:
    closed: list[str] = []

    def chunks() -> Iterator[str]:
        try:
            while True:
                time.sleep(0.02)
                yield "x"
        finally:
            closed.append("closed")

    app = FastAPI()
    app.get("/")(chunks if native else lambda: StreamingResponse(chunks()))
    if middleware:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    gc.collect()
    gc.disable()
    try:
        with start(app, name="facts") as live:
            async with client() as http, http.stream("GET", live.url) as response:
                body = response.aiter_raw()
                await anext(body)
                await body.aclose()
            await until(lambda: live.submit(requests()).result(5) == 0)
            assert closed == []
            gc.collect()
            assert closed == ["closed"]
    finally:
        gc.enable()


async def requests() -> int:
    """Count the tasks of the server that serve a request; runs on the server's loop."""
    return sum("RequestResponseCycle" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def test_a_generator_that_blocks_on_the_loop_goes_on_for_a_client_that_has_left() -> None:
    gate, steps = Gate(), []
    app = FastAPI()

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            for number in range(5):
                gate()
                steps.append(number)
                yield "x"

        return StreamingResponse(chunks())

    try:
        with start(app, name="facts") as live:
            async with client() as http:
                asked = asyncio.create_task(http.get(live.url))
                await until(lambda: gate.came == 1)
                asked.cancel()
            gate.opened.set()
            await until(lambda: live.submit(requests()).result(5) == 0)
            assert steps == [0, 1, 2, 3, 4]  # the loop has not turned between the first and the last
    finally:
        gate.opened.set()


async def lag_beside(work: Callable[[], object]) -> float:
    """Run `work` in a thread and return the loop's worst lag meanwhile, as a share of the time that `work` took."""
    worst, clock = 0.0, time.perf_counter

    async def tick() -> None:
        nonlocal worst
        while True:
            before = clock()
            await asyncio.sleep(0.005)
            worst = max(worst, clock() - before)

    ticker = asyncio.create_task(tick())
    await asyncio.sleep(0.02)
    began = clock()
    await anyio.to_thread.run_sync(work)
    took = clock() - began
    await asyncio.sleep(0.02)
    ticker.cancel()
    return worst / took


async def once(work: Callable[[], object], fits: Callable[[float], bool]) -> bool:
    """Say whether the share fits in one of five runs: a busy machine may spoil some."""
    for _ in range(5):
        if fits(await lag_beside(work)):
            return True
    return False


async def test_a_thread_that_computes_a_digest_lets_the_loop_turn_and_one_that_makes_json_does_not() -> None:
    data = [{"id": number, "name": f"item {number}"} for number in range(100_000)]
    text = json.dumps(data)
    frees = {
        "sleep": lambda: time.sleep(0.2),
        "pbkdf2": lambda: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000),
        "python": lambda: sum(number % 7 for number in range(2_000_000)),
    }
    keeps = {"dumps": lambda: json.dumps(data), "loads": lambda: json.loads(text)}
    assert {name for name, work in frees.items() if await once(work, lambda share: share < 0.5)} == {*frees}
    assert {name for name, work in keeps.items() if await once(work, lambda share: share > 0.7)} == {*keeps}


async def test_cancelling_asyncio_to_thread_frees_the_task_and_keeps_the_thread() -> None:
    workers = ThreadPoolExecutor()._max_workers
    assert workers <= min(32, (os.cpu_count() or 1) + 4)
    gate = Gate()
    try:
        waiting = [asyncio.create_task(asyncio.to_thread(gate)) for _ in range(workers)]
        await until(lambda: gate.came == workers)
        for task in waiting:
            task.cancel()
        assert await asyncio.gather(*waiting, return_exceptions=True) != []
        assert all(task.cancelled() for task in waiting)
        one_more = asyncio.create_task(asyncio.to_thread(int))
        assert not (await asyncio.wait([one_more], timeout=STILL))[0]
        gate.opened.set()
        assert await one_more == 0
    finally:
        gate.opened.set()


@pytest.mark.parametrize("abandon", [False, True])
async def test_anyio_waits_for_its_thread_or_abandons_it_and_forgets_that_it_counts(abandon: bool) -> None:
    gate, limiter = Gate(), anyio.CapacityLimiter(1)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: anyio.to_thread.run_sync(gate, limiter=limiter, abandon_on_cancel=abandon))
            await until(lambda: gate.came == 1)
            group.cancel_scope.cancel()
            if not abandon:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(STILL)
                assert limiter.borrowed_tokens == 1
                gate.opened.set()
        assert limiter.borrowed_tokens == 0
        assert gate.opened.is_set() is not abandon  # abandoned, the thread is still in there
    finally:
        gate.opened.set()


def freezing_app(gate: Gate) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    @app.get("/freeze")
    async def freeze() -> None:
        gate()

    return app


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_loop_that_was_blocked_reads_a_pong_that_came_meanwhile_before_it_looks_at_its_deadline(
    loop: str, demand: Callable[[str, bool, str], None]
) -> None:
    """So a server that was blocked does not hang up on clients that answered: they may hang up on it."""
    demand(loop, loop == "asyncio" or find_spec(loop) is not None, "it has no wheel for this platform")
    gate = Gate()
    options: dict[str, Any] = {"ws_ping_interval": 0.1, "ws_ping_timeout": 0.4, "loop": loop}
    with start(freezing_app(gate), name="facts", **options) as live:
        try:
            assert await pong_while_frozen(live, gate) == b"\x89"  # the next ping
        finally:
            gate.opened.set()


async def pong_while_frozen(live: LiveServer, gate: Gate) -> bytes:
    """Answer a ping while the loop is blocked; return the first byte of the frame that comes next."""
    reader, writer = await asyncio.open_connection(live.host, live.port)
    head = "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    writer.write(f"{head}Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode())
    await reader.readuntil(b"\r\n\r\n")
    first = await reader.readexactly(2)
    assert first[0] == 0x89  # a ping
    payload = await reader.readexactly(first[1])
    async with client() as http:
        asked = asyncio.create_task(http.get(f"{live.url}/freeze"))
        await until(lambda: gate.came)
        writer.write(b"\x8a\x84\0\0\0\0" + payload)  # the pong, masked with nothing
        await asyncio.sleep(0.8)  # past its deadline
        gate.opened.set()
        await asked
    try:
        return await asyncio.wait_for(reader.readexactly(1), 10)
    finally:
        writer.transport.abort()
