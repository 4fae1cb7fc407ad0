"""Reports that end with their reader and jobs that do not, on a real server, with the garbage collector off."""

import asyncio
import gc
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import fresh

QUICK = Settings(work_step=0.005, sse_keepalive=0.05)
PAUSED = Settings(work_step=60)
HOT = Settings(work_step=0)
TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
DEADLINE = 5.0


class Newer:
    """Lets a server say that it speaks ASGI 2.4; if it is `strict`, also do what that means: `send` raises OSError."""

    def __init__(self, app: ASGIApp, *, strict: bool) -> None:
        self.app, self.strict = app, strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            await send(message)
            if self.strict and send.__self__.disconnected:  # type: ignore[attr-defined]  # a request of uvicorn's
                raise OSError("the client has left")

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            await self.app({**scope, "asgi": {**scope["asgi"], "spec_version": "2.4"}}, receive, checked)


SERVERS: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "2.3": lambda app: app,
    "2.4": lambda app: Newer(app, strict=True),
    "2.4, silent": lambda app: Newer(app, strict=False),
}


@pytest.fixture
def pattern() -> ModuleType:
    return fresh("labserver.patterns.disconnects")


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def app_of(pattern: ModuleType, *, middleware: bool = False) -> FastAPI:
    app = FastAPI()
    app.include_router(pattern.router)
    if middleware:
        app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    return app


@pytest.fixture
def live(pattern: ModuleType) -> Iterator[LiveServer]:
    with start(app_of(pattern), name="tests", settings=QUICK) as server:
        yield server


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)


async def settled(measure: Callable[[], int]) -> None:
    """Wait until a number that grows has been the same for a while."""
    last = -1
    async with asyncio.timeout(DEADLINE):
        while last != (now := measure()):
            last = now
            await asyncio.sleep(0.2)


@asynccontextmanager
async def reading(live: LiveServer, path: str, **headers: str) -> AsyncIterator[httpx.Response]:
    async with (
        httpx.AsyncClient(base_url=live.url, timeout=DEADLINE, verify=TLS) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        yield response


def ask(live: LiveServer, method: str, path: str, **options: Any) -> httpx.Response:
    return httpx.request(method, live.url + path, **options, verify=TLS)


def begin(live: LiveServer, steps: int) -> str:
    answer = httpx.post(f"{live.url}/jobs", json={"steps": steps}, verify=TLS)
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    return str(answer.headers["location"])


def told(text: str) -> list[tuple[str, str, Any]]:
    """Return (id, event, data) of each event of a stream."""
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.split("\n\n") if ": " in block]
    return [(block["id"], block["event"], json.loads(block["data"])) for block in blocks if "id" in block]


async def hear(response: httpx.Response, count: int) -> list[tuple[str, str, Any]]:
    """Return the next events of a stream."""
    text = ""
    async with aclosing(response.aiter_text()) as body:
        async for part in body:
            text += part
            if text.count("\n\n") >= count:
                break
    return told(text)


# --- the report


def test_a_report_has_its_pages_and_says_that_it_is_complete(live: LiveServer, pattern: ModuleType) -> None:
    answer = httpx.get(f"{live.url}/stream/report?pages=3&size=5", verify=TLS)
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines == [*({"page": n, "text": "....."} for n in (1, 2, 3)), {"done": True, "pages": 3}]
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert httpx.get(f"{live.url}/work", verify=TLS).json() == {"pages": 3, "open": 0, "steps": 0}


@pytest.mark.parametrize("query", ["pages=0", "pages=2000000000", "size=0", "size=2000000", "pages=many"])
def test_a_report_of_no_size_is_refused(live: LiveServer, query: str) -> None:
    assert httpx.get(f"{live.url}/stream/report?{query}", verify=TLS).status_code == 422


@pytest.mark.parametrize("middleware", [False, True], ids=["", "under BaseHTTPMiddleware"])
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.usefixtures("no_collector")
async def test_a_report_is_closed_when_its_reader_leaves(pattern: ModuleType, server: str, middleware: bool) -> None:
    """At the await, where nothing is sent, and at the yield, where a full connection holds it."""
    app = SERVERS[server](app_of(pattern, middleware=middleware))
    work = pattern.work
    with start(app, name="tests", settings=PAUSED) as live:
        leaving = asyncio.create_task(anext(aiter(opened(live, "/stream/report"))))
        await until(lambda: work.open == 1)
        leaving.cancel()
        await until(lambda: work.open == 0)
    with start(app, name="tests", settings=HOT) as live:
        async with reading(live, "/stream/report?pages=1000000&size=100000") as response:
            await anext(response.aiter_raw())
            await settled(lambda: work.pages)
            made = work.pages
        await until(lambda: work.open == 0)
        assert work.pages - made <= 1


async def opened(live: LiveServer, path: str) -> AsyncIterator[bytes]:
    async with reading(live, path) as response:
        async for chunk in response.aiter_raw():
            yield chunk


@pytest.mark.parametrize("middleware", [False, True], ids=["", "under BaseHTTPMiddleware"])
@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.usefixtures("no_collector")
async def test_clean_up_that_awaits_comes_to_its_end(pattern: ModuleType, server: str, middleware: bool) -> None:
    done: list[str] = []

    async def source() -> AsyncGenerator[str]:
        try:
            while True:
                yield "tick"
                await asyncio.sleep(0.01)
        finally:
            done.append("begun")
            await asyncio.sleep(0.05)
            done.append("ended")

    app = app_of(pattern, middleware=middleware)
    app.get("/ticks", response_model=None)(tied(pattern, source))
    with start(SERVERS[server](app), name="tests") as live:
        async with reading(live, "/ticks") as response:
            await anext(response.aiter_raw())
        await until(lambda: len(done) == 2)


@pytest.mark.usefixtures("no_collector")
async def test_clean_up_that_a_failed_send_began_is_not_cut_short_by_the_leaving(pattern: ModuleType) -> None:
    """A server of 2.4 tells both: `send` raises, and a moment later there is the message."""
    done: list[str] = []
    told = asyncio.Event()

    async def source() -> AsyncGenerator[str]:
        try:
            yield "tick"
        finally:
            told.set()
            await asyncio.sleep(0.02)
            done.append("ended")

    async def receive() -> Message:
        await told.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise OSError("the client has left")

    with pytest.raises(OSError, match="left"):
        await pattern.TiedStream(source())({"type": "http"}, receive, send)
    assert done == ["ended"]


def tied(pattern: ModuleType, source: Callable[[], AsyncGenerator[str]]) -> Callable[[], Any]:
    async def endpoint() -> Any:
        return pattern.TiedStream(source())

    return endpoint


async def test_a_source_that_fails_cuts_the_body_and_is_logged_once(pattern: ModuleType) -> None:
    async def source() -> AsyncGenerator[str]:
        yield "first"
        raise ValueError("no more")

    app = app_of(pattern)
    app.get("/broken", response_model=None)(tied(pattern, source))
    with start(app, name="tests") as live:
        with pytest.raises(httpx.RemoteProtocolError):
            ask(live, "GET", "/broken")
        await until(live.errors)
        assert live.errors() == ["ValueError: no more"]


def test_who_leaves_leaves_no_error_in_the_log(live: LiveServer, pattern: ModuleType) -> None:
    with httpx.stream("GET", f"{live.url}/stream/report", verify=TLS) as response:
        next(response.iter_raw())
    asyncio.run(until(lambda: pattern.work.open == 0))
    assert live.errors() == []


def test_the_server_stops_at_once_while_a_report_and_a_job_are_at_work(pattern: ModuleType) -> None:
    with start(app_of(pattern), name="tests", settings=PAUSED) as live:
        begin(live, 3)
        (task,) = pattern.running.values()
        with httpx.stream("GET", f"{live.url}/stream/report", verify=TLS):
            assert live.stop()
    assert task.cancelled()
    assert (pattern.running, pattern.work.open) == ({}, 0)


# --- jobs


async def test_a_job_that_is_asked_for_twice_is_started_once(live: LiveServer, pattern: ModuleType) -> None:
    """The answer to the first was lost, so its client asks again."""
    order = {"steps": 5, "id": "inventory-2026"}
    answers = [ask(live, "POST", "/jobs", json=order) for _ in range(2)]
    assert [(answer.status_code, answer.headers["location"]) for answer in answers] == [
        (202, "/jobs/inventory-2026")
    ] * 2
    assert ask(live, "GET", "/jobs/inventory-2026?wait=5").json()["state"] == "done"
    assert pattern.work.steps == 5


async def test_a_job_runs_though_nobody_watches(live: LiveServer, pattern: ModuleType) -> None:
    path = begin(live, 4)
    await until(lambda: pattern.work.steps == 4)
    state = ask(live, "GET", path).json()
    assert state == {"id": path.removeprefix("/jobs/"), "state": "done", "steps": 4}


async def test_its_events_are_numbered_and_the_last_one_says_how_it_ended(live: LiveServer) -> None:
    path = begin(live, 3)
    answer = ask(live, "GET", f"{path}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    steps = [(str(n), "progress", {"step": n, "of": 3}) for n in (1, 2, 3)]
    assert told(answer.text) == [*steps, ("4", "done", {"steps": 3})]


async def test_who_comes_back_goes_on_where_it_was_and_the_work_is_done_once(
    live: LiveServer, pattern: ModuleType
) -> None:
    path = begin(live, 30)
    async with reading(live, f"{path}/events") as other:
        async with reading(live, f"{path}/events") as response:
            before = await hear(response, 5)
        last = before[-1][0]
        async with reading(live, f"{path}/events", **{"Last-Event-ID": last}) as response:
            after = told((await response.aread()).decode())
        whole = told((await other.aread()).decode())
    assert before + after == whole
    assert [int(id) for id, _, _ in whole] == list(range(1, 32))
    assert pattern.work.steps == 30


@pytest.mark.parametrize(("cursor", "status", "events"), [("", 200, 3), ("3", 204, 0), ("9", 200, 3), ("x", 200, 3)])
async def test_after_the_end(live: LiveServer, cursor: str, status: int, events: int) -> None:
    path = begin(live, 2)
    ask(live, "GET", f"{path}/events")
    answer = ask(live, "GET", f"{path}/events", headers={"Last-Event-ID": cursor})
    assert (answer.status_code, len(told(answer.text))) == (status, events)


async def test_a_comment_comes_while_a_step_takes_long(pattern: ModuleType) -> None:
    settings = Settings(work_step=60, sse_keepalive=0.02)
    with start(app_of(pattern), name="tests", settings=settings) as live:
        async with reading(live, f"{begin(live, 1)}/events") as response:
            assert await anext(response.aiter_text()) == ": keepalive\n\n"


async def test_who_cancels_a_job_ends_it_for_all(live: LiveServer) -> None:
    path = begin(live, 1000)
    async with reading(live, f"{path}/events") as response:
        await asyncio.sleep(0.05)
        assert ask(live, "DELETE", path).json()["state"] == "cancelled"
        events = told((await response.aread()).decode())
    assert [event for _, event, _ in events[-2:]] == ["progress", "cancelled"]
    assert ask(live, "DELETE", path).json()["state"] == "cancelled"
    assert live.errors() == []


def test_a_job_that_is_done_stays_done(live: LiveServer) -> None:
    path = begin(live, 1)
    assert httpx.get(f"{live.url}{path}?wait=5", verify=TLS).json()["state"] == "done"
    assert httpx.delete(live.url + path, verify=TLS).json()["state"] == "done"


async def test_waiting_for_its_end_has_a_limit_and_does_it_no_harm(live: LiveServer) -> None:
    path = begin(live, 60)
    assert ask(live, "GET", f"{path}?wait=0.02").json()["state"] == "running"
    assert ask(live, "GET", f"{path}?wait=20").json()["state"] == "done"
    assert ask(live, "GET", f"{path}?wait=31").status_code == 422


async def test_a_step_that_fails_is_told_and_logged(pattern: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(job: Any, number: int, settings: Settings) -> dict[str, int]:
        raise ConnectionError("the disk is full of secrets")

    monkeypatch.setattr(pattern, "step", fail)
    with start(app_of(pattern), name="tests", settings=QUICK) as live:
        path = begin(live, 3)
        text = ask(live, "GET", f"{path}/events").text
        assert told(text) == [("1", "error", {"steps": 3})]
        assert "secrets" not in text
        assert live.errors() == ["ConnectionError: the disk is full of secrets"]
        assert ask(live, "GET", path).json()["state"] == "error"


def test_only_so_many_jobs_and_the_oldest_that_ended_make_room(pattern: ModuleType) -> None:
    settings = Settings(work_step=60, jobs_max=2)
    with start(app_of(pattern), name="tests", settings=settings) as live:
        first, second = begin(live, 1), begin(live, 1)
        full = httpx.post(f"{live.url}/jobs", json={"steps": 1}, verify=TLS)
        assert (full.status_code, full.headers["retry-after"]) == (503, "10")
        httpx.delete(live.url + first, verify=TLS)
        begin(live, 1)
        statuses = [httpx.get(live.url + path, verify=TLS).status_code for path in (first, second)]
        assert statuses == [404, 200]


def test_a_job_is_forgotten_when_it_ended_long_ago(pattern: ModuleType) -> None:
    with start(app_of(pattern), name="tests", settings=Settings(work_step=0, job_ttl=0)) as live:
        path = begin(live, 1)
        asyncio.run(until(lambda: not pattern.running))
        assert httpx.get(live.url + path, verify=TLS).status_code == 404
        assert pattern.jobs == {}


@pytest.mark.parametrize("body", [{}, {"steps": 0}, {"steps": 1001}, {"steps": "many"}, {"steps": 1, "id": "a/b"}, [1]])
def test_an_order_that_makes_no_sense_is_refused(live: LiveServer, body: object) -> None:
    assert httpx.post(f"{live.url}/jobs", json=body, verify=TLS).status_code == 422


def test_an_order_that_is_too_long_is_refused(live: LiveServer) -> None:
    assert httpx.post(f"{live.url}/jobs", json={"steps": 1, "x": "y" * 2000}, verify=TLS).status_code == 413


@pytest.mark.parametrize(("method", "path"), [("GET", "/jobs/x"), ("GET", "/jobs/x/events"), ("DELETE", "/jobs/x")])
def test_a_job_that_nobody_started_is_not_found(live: LiveServer, method: str, path: str) -> None:
    assert httpx.request(method, live.url + path, verify=TLS).status_code == 404


def test_an_id_that_is_too_long_is_refused(live: LiveServer) -> None:
    answer = httpx.get(f"{live.url}{begin(live, 1)}/events", headers={"Last-Event-ID": "1" * 21}, verify=TLS)
    assert answer.status_code == 422


@pytest.mark.usefixtures("no_collector")
async def test_viewers_who_leave_leave_nothing_behind(pattern: ModuleType) -> None:
    with start(app_of(pattern), name="tests", settings=PAUSED) as live:
        path = f"{begin(live, 1)}/events"
        viewers = [asyncio.create_task(anext(aiter(opened(live, path)))) for _ in range(5)]
        await until(lambda: live.submit(tasks("watch")).result(5) == 5)
        for viewer in viewers:
            viewer.cancel()
        await until(lambda: live.submit(tasks("watch")).result(5) == 0)
        assert live.submit(tasks("run")).result(5) == 1


async def tasks(name: str) -> int:
    """Count the tasks in whose stack stands a function of this name; runs on the server's loop."""
    words = {"watch": "stream_response", "run": "run"}[name]
    return sum(task.get_coro().__name__ == words for task in asyncio.all_tasks())  # type: ignore[union-attr]
