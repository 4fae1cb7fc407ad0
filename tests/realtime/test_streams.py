"""Finite streams: how they end, who closes their source, and how far it runs ahead; without the collector."""

import asyncio
import gc
import json
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from realtime.wire import KINDS, SMALL, Lab, Marked, Newer, on, options, raw, until, wrapped
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from labserver.realtime.limits import Limits
from labserver.realtime.message import sse
from labserver.realtime.streams import PUMPED, Stream, event_stream, ndjson
from labserver.stage import LiveServer, start

pytestmark = pytest.mark.usefixtures("no_collector")


class Source:
    """A generator of numbers that says how far it came and how it ended."""

    def __init__(self, how: str = "", count: int = 10, size: int = 10) -> None:
        self.how, self.count, self.size = how, count, size
        self.made = 0
        self.closed: list[str] = []

    async def pieces(self) -> AsyncGenerator[Any, None]:
        try:
            if self.how == "fails at once":
                raise OSError("secret")
            while self.made < self.count:
                if self.how == "waits":
                    await asyncio.Event().wait()
                if self.how not in ("tight", "yields"):
                    await asyncio.sleep(0)
                self.made += 1
                yield {"n": self.made, "pad": "x" * self.size}
                if self.how == "fails" and self.made == 3:
                    raise OSError("secret")
                if self.how == "yields" and self.made == 1:
                    await asyncio.Event().wait()
            self.closed.append("done")
        except BaseException as error:
            self.closed.append(type(error).__name__)
            raise

    async def events(self) -> AsyncGenerator[bytes, None]:
        pieces = self.pieces()
        try:
            async for value in pieces:
                yield sse(json.dumps(value))
        finally:
            await pieces.aclose()


class Page:
    """An app with one stream, and a mark when the response is over."""

    def __init__(self, source: Source, form: str = "events", limits: Limits | None = None) -> None:
        self.source, self.form, self.limits = source, form, limits or Limits()
        self.over = 0
        other = Route("/other", lambda request: Response("other"))
        self.app = Starlette(routes=[Route("/sse/c", self.stream), other])

    async def stream(self, request: Request) -> Response:
        make: Callable[[], Stream] = {
            "events": lambda: event_stream(self.source.events(), limits=self.limits),
            "ndjson": lambda: ndjson(self.source.pieces(), limits=self.limits),
        }[self.form]
        return Marked(self, make())

    @contextmanager
    def marked(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.over += 1


def served(page: Page, kind: str, app: Any = None, **more: Any) -> Any:
    return start(app or page.app, name="streams", **{**options(kind, page.limits), **more})


async def read(live: LiveServer) -> tuple[httpx.Response, str]:
    async with httpx.AsyncClient(timeout=20) as client:
        got = await client.get(f"{live.url}/sse/c")
        return got, got.text


@pytest.mark.parametrize("middleware", ["none", "base", "gzip", "both"])
@pytest.mark.parametrize("kind", KINDS)
async def test_the_last_event_says_that_it_is_done(kind: str, middleware: str) -> None:
    page = Page(source := Source(count=100))
    with served(page, kind, wrapped(page.app, middleware)) as live:
        got, text = await read(live)
    events = text.split("\n\n")
    assert [json.loads(each.removeprefix("data: "))["n"] for each in events[:-2]] == list(range(1, 101))
    assert events[-2:] == ["event: done\ndata: {}", ""]
    assert got.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert (got.headers["cache-control"], got.headers["x-accel-buffering"]) == ("no-store", "no")
    assert source.closed == ["done"]
    assert live.errors() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("how", "before"), [("fails at once", 0), ("fails", 3)])
async def test_a_source_that_raises_is_told_in_the_last_event_without_its_secret(
    how: str, before: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    page = Page(source := Source(how))
    with served(page, kind) as live:
        got, text = await read(live)
    *events, last, _ = text.split("\n\n")
    assert (got.status_code, len(events)) == (200, before)
    assert last.startswith("event: error\ndata: {")
    assert json.loads(last.partition("data: ")[2]).keys() == {"reason"}
    assert "secret" not in text
    assert source.closed == ["OSError"]
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["secret"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("how", "count", "last"), [("", 50, {"done": True, "count": 50}), ("fails", 3, None)])
async def test_ndjson_ends_with_a_record_of_its_own(how: str, count: int, last: Any, kind: str) -> None:
    page = Page(source := Source(how, count=50), "ndjson")
    with served(page, kind) as live:
        got, text = await read(live)
    *records, end = map(json.loads, text.splitlines())
    assert [record["n"] for record in records] == list(range(1, count + 1))
    assert end == last if last else end.keys() == {"error"}
    assert got.headers["content-type"] == "application/x-ndjson"
    assert len(source.closed) == 1


async def test_silence_is_filled_with_comments() -> None:
    page = Page(Source("waits"), limits=Limits(sse_keepalive=0.05))
    with served(page, "direct") as live:
        async with raw(live, "/sse/c") as client:
            await client.read_until(lambda raw: raw.data.count(b"\r\n:\n\n\r\n") >= 3)
        await until(lambda: page.over)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_that_never_awaits_freezes_nobody_neither_before_nor_after_its_reader_left(kind: str) -> None:
    page = Page(source := Source("tight", count=1 << 60))
    with served(page, kind) as live:
        async with raw(live, "/sse/c") as client, httpx.AsyncClient(timeout=20) as other:
            await client.read_until(lambda raw: len(raw.data) > 10_000)
            reading = asyncio.create_task(client.read_all())
            for _ in range(5):
                assert (await other.get(f"{live.url}/other")).text == "other"
            reading.cancel()
        await until(lambda: page.over)
        made = source.made
        async with httpx.AsyncClient(timeout=20) as other:
            assert (await other.get(f"{live.url}/other")).text == "other"
        assert source.made == made
        assert len(source.closed) == 1


@pytest.mark.parametrize("spec", Newer.SPECS)
@pytest.mark.parametrize("middleware", ["none", "base", "gzip", "both"])
@pytest.mark.parametrize("how", ["waits", "yields", "full"])
async def test_the_source_is_closed_when_its_reader_leaves(how: str, middleware: str, spec: str) -> None:
    """Before the first piece, where it awaits, and where it stands at its yield because the connection is full."""
    kind = "direct" if how == "yields" else "plain"
    page = Page(source := Source(how, count=1 << 60, size=10_000 if how == "full" else 10))
    app = wrapped(page.app, middleware, Newer.SPECS[spec])
    with served(page, kind, app, socket_options=SMALL) as live:
        async with raw(live, "/sse/c", small=True, head={"Accept-Encoding": "gzip"}) as client:
            await client.read_until(lambda raw: len(raw.data) > (0 if how == "waits" else 200))
            if how == "full":
                await still(source)
        await until(lambda: page.over)
        assert len(source.closed) == 1
    assert live.errors() == []


async def still(source: Source) -> None:
    """Wait until a source makes no more."""
    last = -1
    async with asyncio.timeout(10):
        while last != source.made:
            last = source.made
            await asyncio.sleep(0.1)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_source_waits_for_a_slow_reader_a_few_pieces_ahead(kind: str) -> None:
    size = 10_000
    page = Page(source := Source("tight", count=300, size=size), limits=Limits(write_deadline=60))
    with served(page, kind, socket_options=SMALL) as live:
        async with raw(live, "/sse/c", small=True) as client:
            await still(source)
            on_the_way = source.made * size
            assert on_the_way < 3 * PUMPED * size + (1 << 17)
            await client.read_until(lambda raw: raw.data.endswith(b"0\r\n\r\n"))
            assert client.data.count(b'"pad"') == 300
            assert client.said()[-1] == {"type": "done", "retry": None}
        await until(lambda: page.over)


@pytest.mark.parametrize("spec", Newer.SPECS)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_reader_who_does_not_read_ends_its_stream(kind: str, spec: str) -> None:
    page = Page(source := Source("", count=1 << 60, size=10_000), limits=Limits(write_deadline=0.3))
    with served(page, kind, wrapped(page.app, strict=Newer.SPECS[spec]), socket_options=SMALL) as live:
        async with raw(live, "/sse/c", small=True):
            await until(lambda: page.over)
            assert len(source.closed) == 1
            async with httpx.AsyncClient(timeout=20) as other:
                assert (await other.get(f"{live.url}/other")).text == "other"


async def test_what_is_asked_for_by_head_is_not_begun() -> None:
    lab, page = Lab(), Page(Source(count=5))
    for app, kind in ((lab.app, "direct"), (lab.app, "plain"), (page.app, "direct")):
        with start(app, name="streams", **options(kind, lab.limits)) as live:
            async with httpx.AsyncClient(timeout=20) as client:
                for _ in range(2):
                    got = await client.head(f"{live.url}/sse/c")
                    assert (got.status_code, got.content) == (200, b"")
                    assert got.headers["content-type"].startswith("text/event-stream")
            await until(lab.empty)
    assert page.source.made == 0


async def test_no_cycle_keeps_a_response_or_its_source() -> None:
    page = Page(Source("yields"))
    with served(page, "direct") as live:
        async with raw(live, "/sse/c") as client:
            await client.read_until(lambda raw: b'"n"' in raw.data)
        await until(lambda: page.over)

        async def kept() -> list[str]:
            await asyncio.sleep(0)
            return [type(each).__name__ for each in gc.get_objects() if isinstance(each, Stream)]

        async with asyncio.timeout(10):
            while await on(live, kept()):
                await asyncio.sleep(0.01)
