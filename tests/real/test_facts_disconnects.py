"""What notebook 11 teaches about clients that leave: each fails when a new version makes it untrue.

The collector is switched off wherever the question is who cleans up. A server that speaks ASGI 2.4 is uvicorn with a
wrapper: it says so, and does what follows from it, that `send` raises OSError when the client has left.
"""

import asyncio
import gc
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from labserver.stage import LiveServer, start

TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
DEADLINE = 5.0
OPEN = 0.5  # seconds after which something that was not closed counts as left open; what is closed takes some ms


class Newer:
    """Makes a server speak ASGI 2.4; one that is not `strict` says so and still sends without a word."""

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


class Seen:
    """What one stream did: chunks made, and how it ended."""

    def __init__(self) -> None:
        self.made = 0
        self.closed: list[str] = []


async def source(how: str, seen: Seen) -> AsyncIterator[str]:
    """Make one chunk and wait for ever, or one now and then, or large ones until the connection is full."""
    try:
        while True:
            if how == "waits" and seen.made:
                await asyncio.Event().wait()
            await asyncio.sleep(0.01 if how == "ticks" else 0)
            seen.made += 1
            yield "x" * (100_000 if how == "full" else 10)
    except BaseException as error:
        seen.closed.append(type(error).__name__)
        raise


def forms_app(seen: Seen) -> FastAPI:
    """One source in each form that people write."""
    app = FastAPI()

    @app.get("/returned/{how}")
    async def returned(how: str) -> StreamingResponse:
        return StreamingResponse(source(how, seen))

    @app.get("/wrapped/{how}")
    async def wrapped(how: str) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            async with aclosing(source(how, seen)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    yield chunk

        return StreamingResponse(stream())

    async def given(how: str) -> AsyncIterator[AsyncIterator[str]]:
        async with aclosing(source(how, seen)) as chunks:  # type: ignore[type-var]
            yield chunks

    @app.get("/depends/{how}")
    async def depends(chunks: Annotated[Any, Depends(given)]) -> StreamingResponse:
        return StreamingResponse(chunks)

    @app.get("/events/{how}", response_class=EventSourceResponse)
    async def events(how: str) -> AsyncIterator[ServerSentEvent]:
        async for chunk in source(how, seen):
            yield ServerSentEvent(raw_data=chunk)

    @app.get("/lines/{how}")
    async def lines(how: str) -> AsyncIterator[str]:
        async for chunk in source(how, seen):
            yield chunk

    @app.get("/polls/{how}")
    async def polls(how: str, request: Request) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            async with aclosing(source(how, seen)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    if await request.is_disconnected():
                        break
                    yield chunk

        return StreamingResponse(stream())

    return app


def under_middleware(app: FastAPI) -> FastAPI:
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    return app


SERVERS: dict[str, Callable[[ASGIApp], ASGIApp]] = {
    "2.3": lambda app: app,
    "2.4": lambda app: Newer(app, strict=True),
    "2.4 silent": lambda app: Newer(app, strict=False),
}


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


async def read_and_leave(url: str, ready: Callable[[], Awaitable[None]]) -> None:
    """Read a first chunk, do what else there is to do, and leave."""
    async with (
        httpx.AsyncClient(timeout=DEADLINE, verify=TLS) as client,
        client.stream("GET", url) as response,
        aclosing(response.aiter_raw()) as body,
    ):
        await anext(body)
        await ready()


async def outcome(form: str, how: str, server: str = "2.3", *, middleware: bool = False) -> str:
    """Let a client leave; say who closed the source: "at once" somebody, the "collector", or "nobody"."""
    seen = Seen()
    app = forms_app(seen)
    served = SERVERS[server](under_middleware(app) if middleware else app)
    with start(served, name=f"facts {form} {server}") as live:

        async def ready() -> None:
            last = -1
            while how == "full" and last != seen.made:  # the connection is full when no more is made
                last = seen.made
                await asyncio.sleep(0.2)

        await read_and_leave(f"{live.url}/{form}/{how}", ready)
        if await closes(seen):
            return "at once"
        gc.collect()
        return "collector" if await closes(seen) else "nobody"


async def closes(seen: Seen) -> bool:
    with suppress(TimeoutError):
        await until(lambda: seen.closed, OPEN)
    return bool(seen.closed)


async def test_uvicorn_speaks_asgi_2_3() -> None:
    versions: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        versions.append(scope["asgi"]["spec_version"])
        await send({"type": "http.response.start", "status": 204})
        await send({"type": "http.response.body"})

    with start(app, name="facts", lifespan="off") as live:
        async with httpx.AsyncClient(verify=TLS) as client:
            await client.get(live.url)
    assert versions == ["2.3"]


@pytest.mark.parametrize("middleware", [False, True], ids=["", "under BaseHTTPMiddleware"])
@pytest.mark.parametrize(
    ("form", "how"), [("returned", "waits"), ("returned", "ticks"), ("events", "waits"), ("lines", "waits")]
)
async def test_on_uvicorn_a_source_that_waits_is_cancelled_at_once(form: str, how: str, middleware: bool) -> None:
    """Polling is not needed: nobody here asks is_disconnected."""
    assert await outcome(form, how, middleware=middleware) == "at once"


async def test_it_is_a_cancelled_error_that_ends_it() -> None:
    seen = Seen()
    with start(forms_app(seen), name="facts") as live:
        await read_and_leave(f"{live.url}/returned/waits", ready=lambda: asyncio.sleep(0))
        await until(lambda: seen.closed)
    assert seen.closed == ["CancelledError"]


@pytest.mark.parametrize("server", ["2.4", "2.4 silent"])
async def test_on_a_server_of_2_4_a_source_that_waits_is_never_closed(server: str) -> None:
    """A poll between two chunks does not help: there is no second chunk."""
    forms = ("returned", "wrapped", "depends", "events", "polls")
    assert await asyncio.gather(*(outcome(form, "waits", server) for form in forms)) == ["nobody"] * len(forms)


@pytest.mark.parametrize(
    ("form", "server", "middleware", "ends"),
    [
        ("returned", "2.4", False, "at once"),  # its send raises
        ("returned", "2.4 silent", False, "nobody"),
        ("polls", "2.4 silent", False, "at once"),
        ("polls", "2.4 silent", True, "nobody"),  # there the answer is always no
    ],
)
async def test_polling_is_needed_where_a_server_of_2_4_is_silent_and_fails_under_base_http_middleware(
    form: str, server: str, middleware: bool, ends: str
) -> None:
    assert await outcome(form, "ticks", server, middleware=middleware) == ends


@pytest.mark.parametrize(("middleware", "turns"), [(False, True), (True, False)], ids=["", "under BaseHTTPMiddleware"])
async def test_an_endpoint_that_returns_later_is_not_cancelled_and_asks_in_vain_under_base_http_middleware(
    middleware: bool, turns: bool
) -> None:
    asked: list[bool] = []
    app = FastAPI()

    @app.get("/slow")
    async def slow(request: Request) -> None:
        for _ in range(40):
            asked.append(await request.is_disconnected())
            await asyncio.sleep(0.01)

    with start(under_middleware(app) if middleware else app, name="facts") as live:
        async with httpx.AsyncClient(verify=TLS) as client:
            request = asyncio.create_task(client.get(f"{live.url}/slow"))
            await until(lambda: asked)
            request.cancel()
            await until(lambda: len(asked) == 40)
    assert asked[-1] is turns


@pytest.mark.parametrize(
    ("form", "server", "middleware", "ends"),
    [
        ("returned", "2.3", False, "at once"),
        ("returned", "2.3", True, "at once"),
        ("returned", "2.4", False, "at once"),
        ("returned", "2.4", True, "collector"),
        ("wrapped", "2.4", True, "collector"),  # aclosing inside a generator: nobody closes that one
        ("depends", "2.4", True, "at once"),  # FastAPI leaves a dependency when the response has ended
        ("events", "2.3", False, "collector"),
        ("events", "2.3", True, "collector"),
        ("lines", "2.3", False, "collector"),
    ],
)
async def test_who_closes_a_source_that_stands_at_its_yield(
    form: str, server: str, middleware: bool, ends: str
) -> None:
    """With a full connection: its reader is slow, and then it leaves."""
    assert await outcome(form, "full", server, middleware=middleware) == ends


async def test_clean_up_that_awaits_is_cancelled_again() -> None:
    """Starlette's group is anyio's: whatever is awaited in it after the cancellation is cancelled as well."""
    done: list[str] = []

    async def stream() -> AsyncIterator[str]:
        try:
            yield "x"
            await asyncio.Event().wait()
        finally:
            done.append("begun")
            try:
                await asyncio.sleep(0.01)
                done.append("ended")
            except asyncio.CancelledError:
                done.append("cancelled")

    app = FastAPI()
    app.get("/", response_model=None)(lambda: StreamingResponse(stream()))
    with start(app, name="facts") as live:
        await read_and_leave(live.url, ready=lambda: asyncio.sleep(0))
        await until(lambda: len(done) == 2)
    assert done == ["begun", "cancelled"]


async def test_after_its_client_left_a_source_that_never_awaits_has_the_process_for_itself() -> None:
    """One sleep(0) cures it, and FastAPI's own streams have one."""
    lives = {}
    with start("tight_app:app", name="facts", process=True) as live:
        for path in ("polite", "lines", "events", "tight"):
            await read_and_leave(f"{live.url}/{path}", ready=lambda: asyncio.sleep(0))
            lives[path] = await answers(live)
    assert lives == {"polite": True, "lines": True, "events": True, "tight": False}


async def answers(live: LiveServer) -> bool:
    """Ask ten times: the first answer may come before the server has noticed that the other client has left."""
    async with httpx.AsyncClient(timeout=2, verify=TLS) as client:
        try:
            for _ in range(10):
                assert (await client.get(f"{live.url}/other")).status_code == 200
                await asyncio.sleep(0.02)
        except httpx.TimeoutException:
            return False
    return True


async def test_what_runs_in_a_thread_goes_on_though_its_stream_was_cancelled() -> None:
    leave, steps, seen = threading.Event(), list[int](), Seen()

    def work() -> None:
        leave.wait(DEADLINE)
        steps.append(1)

    async def stream() -> AsyncIterator[str]:
        try:
            yield "x"
            await asyncio.to_thread(work)
        finally:
            seen.closed.append("finally")

    app = FastAPI()
    app.get("/", response_model=None)(lambda: StreamingResponse(stream()))
    with start(app, name="facts") as live:
        await read_and_leave(live.url, ready=lambda: asyncio.sleep(0))
        await until(lambda: seen.closed)
        assert steps == []
        leave.set()
        await until(lambda: steps)


@pytest.mark.parametrize(
    ("wait", "state"),
    [
        (lambda task: asyncio.wait_for(task, 0.01), True),
        (lambda task: asyncio.wait_for(asyncio.shield(task), 0.01), False),
        (lambda task: asyncio.wait({task}, timeout=0.01), False),
    ],
    ids=["wait_for", "wait_for shield", "wait"],
)
async def test_wait_for_cancels_the_task_that_it_waits_for(
    wait: Callable[["asyncio.Task[None]"], Awaitable[Any]], state: bool
) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    with suppress(TimeoutError):
        await wait(task)
    assert task.cancelled() is state
    task.cancel()


async def test_a_viewer_that_awaits_a_task_takes_it_along() -> None:
    tasks: list[asyncio.Task[None]] = []

    async def stream() -> AsyncIterator[str]:
        tasks.append(asyncio.create_task(asyncio.sleep(60)))
        yield "x"
        await tasks[0]

    app = FastAPI()
    app.get("/", response_model=None)(lambda: StreamingResponse(stream()))
    with start(app, name="facts") as live:
        await read_and_leave(live.url, ready=lambda: asyncio.sleep(0.05))
        await until(lambda: tasks[0].done())
    assert tasks[0].cancelled()
