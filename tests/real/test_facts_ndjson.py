"""What notebook 07 teaches about SQLAlchemy, FastAPI and Starlette: each fails when a new version makes it untrue."""

import asyncio
import gc
import json
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware

from labserver.patterns.items import Item
from labserver.stage import Database, database, start


@pytest.fixture(scope="module")
def shop() -> Iterator[Database]:
    with database(100) as made:
        yield made


@pytest.fixture
async def engine(shop: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(shop.url)
    yield engine
    await engine.dispose()


async def test_stream_is_a_coroutine_and_no_iterator(engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine)() as session:
        coroutine = session.stream(select(Item))
        with pytest.raises(TypeError, match="requires an object with __aiter__ method, got coroutine"):
            async for _ in coroutine:  # type: ignore[attr-defined]
                pass
        coroutine.close()


async def test_a_row_of_an_entity_holds_the_entity_and_a_row_of_columns_their_values(engine: AsyncEngine) -> None:
    async with async_sessionmaker(engine)() as session:
        row = await anext(await session.stream(select(Item)))
        assert list(row._asdict()) == ["Item"]
        with pytest.raises(TypeError, match="Object of type Item is not JSON serializable"):
            json.dumps(row._asdict())
        columns = await anext(await session.stream(select(Item.id, Item.name)))
        assert columns._asdict() == {"id": 1, "name": "white stool 1"}
        assert (await anext(await session.stream_scalars(select(Item)))).id == 1


def test_a_file_of_sqlite_gets_the_usual_pool_of_five_and_ten_more(engine: AsyncEngine) -> None:
    assert (engine.pool.size(), engine.pool._max_overflow, engine.pool._timeout) == (5, 10, 30.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("scope", "order", "held"),
    [
        ("request", ["first row", "last row", "closed"], 0),
        ("function", ["closed", "first row", "last row"], 1),
    ],
)
async def test_when_a_dependency_with_yield_closes_its_session(
    shop: Database, scope: str, order: list[str], held: int
) -> None:
    """Of scope "function" it closes first; the stream opens the closed session again, and then nobody closes it."""
    engine = create_async_engine(shop.url)
    met: list[str] = []
    kept: list[AsyncSession] = []  # as a traceback or a cache would: what the collector frees, it frees some time

    async def session() -> AsyncIterator[AsyncSession]:
        async with async_sessionmaker(engine)() as session:
            kept.append(session)
            yield session
        met.append("closed")

    async def items(db: Annotated[AsyncSession, Depends(session, scope=scope)]) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            rows = (await db.execute(select(Item.id))).scalars().all()
            met.append("first row")
            for row in rows:
                yield f"{row}\n"
            met.append("last row")

        return StreamingResponse(stream())

    app = FastAPI()
    app.get("/items")(items)
    with start(app, name="facts") as live:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{live.url}/items")).text.count("\n") == 100
        async with asyncio.timeout(5):
            while len(met) < 3:
                await asyncio.sleep(0.01)
        assert met == order
        assert engine.pool.checkedout() == held  # type: ignore[attr-defined]
        await asyncio.wrap_future(live.submit(kept[0].close()))
        await asyncio.wrap_future(live.submit(engine.dispose()))


def lines_app() -> FastAPI:
    """One feed in three forms: plain NDJSON, FastAPI's JSON Lines, an event stream; each may break after two lines."""
    app = FastAPI()

    async def values(broken: bool) -> AsyncIterator[dict[str, int]]:
        for number in (1, 2):
            yield {"number": number}
        if broken:
            raise ConnectionError("the source went away")

    @app.get("/native")
    async def native(broken: bool = False) -> AsyncIterator[dict[str, int]]:
        async for value in values(broken):
            yield value

    def plain(media_type: str) -> Callable[[bool], Any]:
        async def endpoint(broken: bool = False) -> StreamingResponse:
            async def stream() -> AsyncIterator[str]:
                async for value in values(broken):
                    yield json.dumps(value) + "\n"

            return StreamingResponse(stream(), media_type=media_type)

        return endpoint

    app.get("/ndjson")(plain("application/x-ndjson"))
    app.get("/events")(plain("text/event-stream"))
    return app


def test_fastapis_json_lines_set_a_media_type_and_no_header_more() -> None:
    with start(lines_app(), name="facts") as live:
        response = httpx.get(f"{live.url}/native")
        schema = httpx.get(f"{live.url}/openapi.json").json()["paths"]["/native"]["get"]["responses"]["200"]["content"]
    assert response.text == '{"number":1}\n{"number":2}\n'
    assert set(response.headers) == {"date", "server", "content-type", "transfer-encoding"}
    assert response.headers["content-type"] == "application/jsonl"
    assert list(schema) == ["application/jsonl"]
    assert "itemSchema" in schema["application/jsonl"]


async def test_fastapis_json_lines_are_a_chunk_for_each_value() -> None:
    with start(lines_app(), name="facts") as live:
        async with live.tape() as tape, httpx.AsyncClient() as client:
            await client.get(f"{tape.url}/native")
    assert len([chunk for chunk in tape.chunks if b"number" in chunk.raw]) == 2


@pytest.mark.parametrize("path", ["/ndjson", "/native"])
def test_a_crash_cuts_the_body_and_under_a_base_http_middleware_ends_it_cleanly(path: str) -> None:
    with start(lines_app(), name="facts") as live, pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{live.url}{path}?broken=true")
    app = lines_app()
    app.add_middleware(BaseHTTPMiddleware, dispatch=lambda request, call_next: call_next(request))
    with start(app, name="facts") as live:
        broken, complete = (httpx.get(f"{live.url}{path}?broken={word}") for word in ("true", "false"))
        assert live.errors() != []
    assert broken.text == complete.text


async def test_gzip_packs_ndjson_and_flushes_each_chunk_and_leaves_event_streams_alone() -> None:
    app = FastAPI()
    gates: dict[str, asyncio.Event] = {}

    def gated(media_type: str) -> Callable[[], Any]:
        async def endpoint() -> StreamingResponse:
            async def stream() -> AsyncIterator[str]:
                gate = gates[media_type] = asyncio.Event()
                yield '{"number":1}\n'
                await gate.wait()
                yield '{"number":2}\n'

            return StreamingResponse(stream(), media_type=media_type)

        return endpoint

    app.get("/ndjson")(gated("application/x-ndjson"))
    app.get("/events")(gated("text/event-stream"))
    app.add_middleware(GZipMiddleware)
    with start(app, name="facts") as live:
        async with httpx.AsyncClient(timeout=5) as client:
            for path, kind in (("/ndjson", "application/x-ndjson"), ("/events", "text/event-stream")):
                async with client.stream("GET", live.url + path) as response, aclosing(response.aiter_raw()) as body:
                    packed = response.headers.get("content-encoding") == "gzip"
                    assert packed is (path == "/ndjson")
                    unpack = zlib.decompressobj(wbits=31).decompress if packed else bytes
                    seen = b""
                    while not seen.endswith(b"\n"):  # the first line comes while the second is not written yet
                        seen += unpack(await anext(body))
                    assert seen == b'{"number":1}\n'
                    live.submit(_open(gates[kind])).result(5)


async def _open(gate: asyncio.Event) -> None:
    gate.set()


@pytest.mark.parametrize("native", [False, True])
async def test_a_generator_that_waits_at_yield_for_a_full_connection_is_closed_or_left_to_the_collector(
    native: bool,
) -> None:
    """A returned StreamingResponse closes it when the client leaves; FastAPI's own JSON Lines leave it as it is."""
    app = FastAPI()
    sent, closed = [], []

    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                await asyncio.sleep(0)
                sent.append(1)
                yield "x" * 100_000
        finally:
            closed.append(True)

    @app.get("/plain")
    async def plain() -> StreamingResponse:
        return StreamingResponse(stream())

    app.get("/native")(stream)
    gc.disable()
    try:
        with start(app, name="facts") as live:
            url = f"{live.url}/{'native' if native else 'plain'}"
            async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
                body = response.aiter_raw()
                await anext(body)
                await settled(lambda: len(sent))
                await body.aclose()
            await until(lambda: live.submit(requests()).result(5) == 0)
            assert bool(closed) is not native
            gc.collect()
            await until(lambda: bool(closed))
    finally:
        gc.enable()


async def requests() -> int:
    """Count the tasks of the server that serve a request; runs on the server's loop."""
    return sum("RequestResponseCycle" in repr(task.get_coro()) for task in asyncio.all_tasks())


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def settled(measure: Callable[[], int], still: float = 0.3) -> None:
    """Wait until a number that grows has been the same for `still` seconds."""
    clock = asyncio.get_running_loop().time
    last, since = measure(), clock()

    def stands() -> bool:
        nonlocal last, since
        if measure() != last:
            last, since = measure(), clock()
        return clock() - since > still

    await until(stands, 10)
