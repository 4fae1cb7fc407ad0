"""What notebook 05 teaches about the server's side of SSE: each test fails when a new version makes it untrue."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

import fastapi.sse
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.middleware.gzip import GZipMiddleware

from labserver.stage import LiveServer, nginx, start
from labserver.stage.proxies.nginx import Nginx

PING = 0.1  # seconds, in place of FastAPI's 15
INTERVAL = 0.1  # seconds between two events: a read that takes both at once has waited for it


@dataclass(frozen=True)
class Seen:
    """What a client saw: the status, the body as far as it came, and whether it ended as HTTP says it should."""

    status: int
    body: str
    clean: bool


def see(url: str) -> Seen:
    body = b""
    with httpx.stream("GET", url) as response:
        try:
            for part in response.iter_bytes():
                body += part
        except httpx.RemoteProtocolError:
            return Seen(response.status_code, body.decode(), False)
    return Seen(response.status_code, body.decode(), True)


async def source(count: int) -> AsyncIterator[str]:
    """Say `count` things and break; it waits before each step, as a real source does."""
    for number in range(count):
        await asyncio.sleep(0.02)
        yield str(number)
    await asyncio.sleep(0.02)
    raise ConnectionError("the source went away")


def breaking() -> FastAPI:
    app = FastAPI()

    @app.get("/plain/{count}")
    async def plain(count: int) -> StreamingResponse:
        return StreamingResponse((f"data: {text}\n\n" async for text in source(count)), media_type="text/event-stream")

    @app.get("/native/{count}", response_class=EventSourceResponse)
    async def native(count: int) -> AsyncIterator[ServerSentEvent]:
        async for text in source(count):
            yield ServerSentEvent(raw_data=text)

    @app.get("/missing/plain")
    async def missing_plain() -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            raise HTTPException(404, "no such feed")
            yield ""

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/missing/native", response_class=EventSourceResponse)
    async def missing_native() -> AsyncIterator[ServerSentEvent]:
        raise HTTPException(404, "no such feed")
        yield ServerSentEvent(raw_data="")

    @app.get("/missing/told", response_class=EventSourceResponse, dependencies=[Depends(refuse)])
    async def missing_told() -> AsyncIterator[ServerSentEvent]:
        yield ServerSentEvent(raw_data="never")

    return app


def refuse() -> None:
    raise HTTPException(404, "no such feed")


async def pass_on(request: Request, call_next: RequestResponseEndpoint) -> Response:
    return await call_next(request)


@pytest.fixture(scope="module")
def bare() -> Iterator[LiveServer]:
    with start(breaking(), name="bare") as live:
        yield live


@pytest.fixture(scope="module")
def wrapped() -> Iterator[LiveServer]:
    app = breaking()
    app.add_middleware(BaseHTTPMiddleware, dispatch=pass_on)
    with start(app, name="wrapped") as live:
        yield live


# --- a crash in the middle, and before the first event


def test_a_crash_in_a_plain_response_cuts_the_body(bare: LiveServer) -> None:
    assert see(f"{bare.url}/plain/2") == Seen(200, "data: 0\n\ndata: 1\n\n", clean=False)


def test_a_crash_in_fastapis_own_response_ends_the_body_cleanly(bare: LiveServer) -> None:
    assert see(f"{bare.url}/native/2") == Seen(200, "data: 0\n\ndata: 1\n\n", clean=True)


@pytest.mark.parametrize("form", ["plain", "native"])
def test_under_base_http_middleware_every_crash_is_a_clean_end(wrapped: LiveServer, form: str) -> None:
    assert see(f"{wrapped.url}/{form}/2") == Seen(200, "data: 0\n\ndata: 1\n\n", clean=True)


def test_an_exception_before_the_first_event_is_a_200(bare: LiveServer, wrapped: LiveServer) -> None:
    assert see(f"{bare.url}/plain/0") == Seen(200, "", clean=False)
    assert see(f"{bare.url}/native/0") == Seen(200, "", clean=True)
    assert see(f"{wrapped.url}/plain/0") == Seen(200, "", clean=True)
    assert see(f"{wrapped.url}/native/0") == Seen(200, "", clean=True)


def test_an_http_exception_in_a_generator_is_never_its_status(bare: LiveServer, wrapped: LiveServer) -> None:
    assert see(f"{bare.url}/missing/plain") == Seen(200, "", clean=False)
    assert see(f"{wrapped.url}/missing/plain") == Seen(200, "", clean=True)
    for live in (bare, wrapped):  # at once, with no wait before it: a 200 or a 500, as the race between two tasks ends
        assert see(f"{live.url}/missing/native").status != 404


def test_in_a_dependency_it_is(bare: LiveServer, wrapped: LiveServer) -> None:
    for live in (bare, wrapped):
        assert see(f"{live.url}/missing/told") == Seen(404, '{"detail":"no such feed"}', clean=True)


# --- what FastAPI's own response writes


def native(*items: object) -> FastAPI:
    app = FastAPI()

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[object]:
        for item in items:
            yield item

    return app


def test_fastapis_own_response_sets_three_headers() -> None:
    with start(native("x"), name="facts") as live:
        headers = httpx.get(f"{live.url}/events").headers
    assert headers["content-type"].startswith("text/event-stream")
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")


def test_a_returned_one_sets_the_type_alone_and_encodes_nothing() -> None:
    app = FastAPI()

    @app.get("/events")
    async def events() -> EventSourceResponse:
        return EventSourceResponse(iter(["not an event"]))

    with start(app, name="facts") as live:
        answer = httpx.get(f"{live.url}/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert not {"cache-control", "x-accel-buffering"} & set(answer.headers)
    assert answer.text == "not an event"


def test_data_is_json_and_raw_data_is_a_line_for_each_of_its_lines() -> None:
    items = [
        {"text": "a\n\nb"},
        ServerSentEvent(data="a\n\nb"),
        ServerSentEvent(raw_data="a\n\nb\r\nc\rd", event="news", id="0", retry=50),
        ServerSentEvent(comment="hello"),
    ]
    with start(native(*items), name="facts") as live:
        text = httpx.get(f"{live.url}/events").text
    assert text == (
        'data: {"text":"a\\n\\nb"}\n\n'
        'data: "a\\n\\nb"\n\n'
        "event: news\ndata: a\ndata: \ndata: b\ndata: c\ndata: d\nid: 0\nretry: 50\n\n"
        ": hello\n\n"
    )


def test_it_refuses_a_line_break_in_a_name_or_an_id() -> None:
    for field in ("event", "id"):
        with pytest.raises(ValueError, match="single line"):
            ServerSentEvent(raw_data="x", **{field: "a\nb"})


def test_it_sends_a_comment_when_nothing_came_for_fifteen_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fastapi.sse._PING_INTERVAL == 15.0
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", PING)
    app = FastAPI()

    @app.get("/events", response_class=EventSourceResponse)
    async def events() -> AsyncIterator[ServerSentEvent]:
        await asyncio.Event().wait()
        yield ServerSentEvent()

    with start(app, name="facts") as live, httpx.stream("GET", f"{live.url}/events") as response:
        lines = response.iter_lines()
        assert [next(lines) for _ in range(4)] == [": ping", "", ": ping", ""]


# --- compression


def test_starlettes_gzip_middleware_leaves_event_streams_alone() -> None:
    app = FastAPI(middleware=[Middleware(GZipMiddleware, minimum_size=1)])

    @app.get("/events")
    async def events() -> StreamingResponse:
        return StreamingResponse(iter(["data: x\n\n"] * 100), media_type="text/event-stream")

    @app.get("/other")
    async def other() -> StreamingResponse:
        return StreamingResponse(iter(["data: x\n\n"] * 100), media_type="text/plain")

    with start(app, name="facts") as live:
        assert "content-encoding" not in httpx.get(f"{live.url}/events").headers
        assert httpx.get(f"{live.url}/other").headers["content-encoding"] == "gzip"


# --- nginx


def padded() -> FastAPI:
    app = FastAPI()

    @app.get("/events")
    async def events(size: int, told: bool = False) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            for number in range(3):
                yield f"id: {number}\ndata: {'x' * size}\n\n"
                await asyncio.sleep(INTERVAL)

        headers = {"X-Accel-Buffering": "no"} if told else {}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    return app


@pytest.fixture(scope="module")
def padding() -> Iterator[LiveServer]:
    with start(padded(), name="padding") as live:
        yield live


def watch(proxy: Nginx, query: str) -> list[float]:
    """Read a feed through nginx; return for each event the seconds from the request until it was whole."""
    with proxy.tape() as tape:
        httpx.get(f"{tape.url}/events?{query}")
    asked, *times = [event.at for event in tape.events if event.kind == "event" or event.sender == "client"]
    return [at - asked for at in times]


@pytest.mark.real("nginx")
def test_nginx_passes_small_events_on_at_once_and_keeps_the_end_of_a_large_one(
    padding: LiveServer, require: Callable[[str], None]
) -> None:
    require("nginx")
    with nginx(padding, name="facts") as proxy:
        for query in ("size=20", "size=1500", "size=20000&told=true"):
            assert len(set(watch(proxy, query))) > 1  # not held
        assert watch(proxy, "size=20000")[0] >= INTERVAL  # whole only when the next one was sent
    with nginx(padding, name="facts", buffering=False) as proxy:
        assert len(set(watch(proxy, "size=20000"))) > 1


@pytest.mark.real("nginx")
def test_nginx_holds_a_feed_that_it_compresses_unless_it_may_not_buffer(
    padding: LiveServer, require: Callable[[str], None]
) -> None:
    require("nginx")
    with nginx(padding, name="facts", gzip=True) as proxy:
        held, told = watch(proxy, "size=20"), watch(proxy, "size=20&told=true")
        coding = [
            httpx.get(f"{proxy.url}/events?size=20{more}").headers["content-encoding"] for more in ("", "&told=1")
        ]
    assert len(set(held)) == 1
    assert held[0] >= 3 * INTERVAL  # at the end
    assert len(set(told)) > 1
    assert coding == ["gzip", "gzip"]
    with nginx(padding, name="facts", gzip=True, buffering=False) as proxy:
        assert len(set(watch(proxy, "size=20"))) > 1


@pytest.mark.real("nginx")
def test_nginx_keeps_the_header_to_itself(padding: LiveServer, require: Callable[[str], None]) -> None:
    require("nginx")
    with nginx(padding, name="facts") as proxy:
        headers = httpx.get(f"{proxy.url}/events?size=20&told=true").headers
    assert "x-accel-buffering" not in headers
