"""Items as NDJSON over real sockets: lines, batches, the last line, pages, bad input, and what stays behind."""

import asyncio
import gc
import json
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from labserver.patterns import ndjson
from labserver.settings import Settings
from labserver.stage import Database, LiveServer, database, start

PATHS = ["/stream/items", "/stream/items/native"]


@pytest.fixture(scope="module")
def shop() -> Iterator[Database]:
    with database(1200) as made:
        yield made


@pytest.fixture(scope="module")
def live(shop: Database) -> Iterator[LiveServer]:
    with start(name="ndjson", settings=Settings(database_url=shop.url)) as live:
        yield live


def app() -> FastAPI:
    """The pattern alone, which starts sooner than the lab."""
    made = FastAPI()
    made.include_router(ndjson.router)
    return made


def lines(response: httpx.Response) -> list[dict[str, object]]:
    assert response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


@pytest.mark.parametrize("path", PATHS)
def test_every_item_comes_once_in_order_and_the_last_line_counts_them(live: LiveServer, path: str) -> None:
    response = httpx.get(live.url + path, params={"limit": 5000})
    *rows, end = lines(response)
    assert [row["id"] for row in rows] == list(range(1, 1201))
    assert rows[0] == {"id": 1, "name": "white stool 1", "price": 6909, "created": "2020-08-05"}
    assert end == {"done": True, "rows": 1200}


def test_the_head_says_what_it_is_and_that_nobody_keeps_it(live: LiveServer) -> None:
    headers = httpx.get(f"{live.url}/stream/items").headers
    assert headers["content-type"] == "application/x-ndjson"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")


async def test_the_first_chunk_is_small_and_the_others_hold_a_batch_each(live: LiveServer) -> None:
    async with live.tape() as tape, httpx.AsyncClient() as client:
        await client.get(f"{tape.url}/stream/items", params={"limit": 1100})
    counts = [bytes(chunk.raw).count(b'"id"') for chunk in tape.chunks]
    assert [count for count in counts if count] == [50, 500, 500, 50]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("limit", [1, 49, 50, 51, 550, 551, 1199, 1200])
def test_limit_is_exact_also_at_the_edges_of_a_batch(live: LiveServer, path: str, limit: int) -> None:
    *rows, end = lines(httpx.get(live.url + path, params={"limit": limit}))
    assert (len(rows), end) == (limit, {"done": True, "rows": limit})


@pytest.mark.parametrize("path", PATHS)
def test_after_goes_on_behind_the_last_id(live: LiveServer, path: str) -> None:
    seen: list[object] = []
    while True:
        *rows, end = lines(httpx.get(live.url + path, params={"after": seen[-1] if seen else 0, "limit": 333}))
        assert end == {"done": True, "rows": len(rows)}
        if not rows:
            break
        seen += [row["id"] for row in rows]
    assert seen == list(range(1, 1201))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "query", ["limit=0", "limit=100001", "limit=x", "limit=1.5", "after=-1", f"after={2**63}", "after="]
)
def test_bad_input_is_a_422_and_no_stream(live: LiveServer, path: str, query: str) -> None:
    response = httpx.get(f"{live.url}{path}?{query}")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/json")


def test_one_item_and_one_that_is_not_there(live: LiveServer) -> None:
    assert httpx.get(f"{live.url}/items/7").json()["id"] == 7
    missing = httpx.get(f"{live.url}/items/1201")
    assert (missing.status_code, missing.json()) == (404, {"detail": "there is no item 1201"})
    assert httpx.get(f"{live.url}/items/{2**63 - 1}").status_code == 404
    assert httpx.get(f"{live.url}/items/{2**63}").status_code == 422


@pytest.mark.parametrize("path", PATHS)
def test_a_row_that_cannot_be_read_ends_the_stream_with_error_and_says_where_to_go_on(path: str) -> None:
    with database(700, bad=600) as spoilt, start(app(), name="bad", settings=Settings(database_url=spoilt.url)) as live:
        *rows, end = lines(httpx.get(live.url + path))
        last = 50 if path == "/stream/items" else 500  # the page with the bad row fails as a whole
        assert [row["id"] for row in rows] == list(range(1, 551 if last == 50 else 501))
        assert end == {"error": "the next items can't be read", "after": rows[-1]["id"]}
        assert live.errors() == ["ValueError: Invalid isoformat string: 'soon'"]


def test_what_fails_before_the_first_row_is_a_status_and_no_stream() -> None:
    with database(60, bad=1) as spoilt, start(app(), name="bad", settings=Settings(database_url=spoilt.url)) as live:
        assert httpx.get(f"{live.url}/stream/items").status_code == 500


def test_without_a_database_it_says_what_to_set() -> None:
    with start(app(), name="none", settings=Settings(database_url=None)) as live:
        for path in [*PATHS, "/items/1"]:
            answer = httpx.get(live.url + path)
            assert (answer.status_code, answer.json()) == (503, {"detail": "no database: set LABSERVER_DATABASE_URL"})


async def test_a_client_that_stops_reading_or_leaves_holds_no_connection_of_the_pool() -> None:
    with database(1500, width=4000) as wide, start(app(), name="own", settings=Settings(database_url=wide.url)) as live:
        gc.disable()
        try:
            url = f"{live.url}/stream/items?limit=1500"
            async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
                body = response.aiter_raw()
                await anext(body)
                (engine,) = ndjson.engines.values()
                async with asyncio.timeout(10):
                    while engine.pool.checkedout():  # it reads pages until the buffers are full
                        await asyncio.sleep(0.01)
                assert await tasks(live) == 1  # it is not over
                await body.aclose()
            async with asyncio.timeout(10):
                while await tasks(live):
                    await asyncio.sleep(0.01)
            assert engine.pool.checkedout() == 0
        finally:
            gc.enable()
        assert live.errors() == []
    assert ndjson.engines == {}  # closed with the server


async def tasks(live: LiveServer) -> int:
    """Count the server's tasks that serve a request."""

    async def count() -> int:
        return sum("RequestResponseCycle" in repr(task.get_coro()) for task in asyncio.all_tasks())

    return await asyncio.wrap_future(live.submit(count()))
