"""Each twin of the NDJSON topic fails in the way that it says, where a real client can see it; the pattern does not."""

import asyncio
import json
import warnings
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, database, start

SLOW = 15  # clients: as many as the pool has connections, 5 and 10 more


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    """A lab over rows so wide that one stream fills every buffer between server and client."""
    wide = database(1500, width=4000)
    with wide, start(name="wide", settings=Settings(database_url=wide.url, database_pool_timeout=1.0)) as live:
        yield live


@asynccontextmanager
async def slow_clients(url: str) -> AsyncIterator[list[int]]:
    """Keep streams open whose clients have read the first chunk, and nothing since; give the statuses."""
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=20))
        statuses = []
        for _ in range(SLOW):
            response = await stack.enter_async_context(client.stream("GET", f"{url}/stream/items?limit=1500"))
            body = await stack.enter_async_context(aclosing(response.aiter_raw()))
            await anext(body)
            statuses.append(response.status_code)
        yield statuses


async def test_session_held_for_the_stream(live: LiveServer) -> None:
    url = f"{live.url}/broken/session_held_for_the_stream"
    async with slow_clients(url) as statuses, httpx.AsyncClient(timeout=20) as client:
        assert statuses == [200] * SLOW
        assert (await client.get(f"{url}/items/1")).status_code == 500
        async with asyncio.timeout(20):
            while not live.errors():  # it is logged behind the answer
                await asyncio.sleep(0.01)
        assert live.errors()[-1].startswith("TimeoutError: QueuePool limit of size 5 overflow 10 reached")
    async with httpx.AsyncClient(timeout=20) as client:
        assert (await client.get(f"{url}/items/1")).status_code == 200  # they left, and so did their sessions


async def test_slow_clients_of_the_pattern_hold_nothing(live: LiveServer) -> None:
    async with slow_clients(live.url) as statuses, httpx.AsyncClient(timeout=20) as client:
        assert statuses == [200] * SLOW
        assert (await client.get(f"{live.url}/items/1")).status_code == 200


@pytest.mark.parametrize("path", ["/stream/items", "/stream/items/native"])
def test_no_end_marker(path: str) -> None:
    with database(700, bad=600) as spoilt, start(name="bad", settings=Settings(database_url=spoilt.url)) as live:
        url = f"{live.url}/broken/no_end_marker{path}"
        broken = httpx.get(url)
        rows = broken.text.count("\n")
        complete = httpx.get(url, params={"limit": rows})
        assert broken.text == complete.text  # byte for byte: no client can tell
        assert live.errors() == ["ValueError: Invalid isoformat string: 'soon'"]  # the server knows
        ends = [json.loads(httpx.get(live.url + path, params=ask).text.splitlines()[-1]) for ask in ({}, {"limit": 5})]
        assert [list(end) for end in ends] == [["error", "after"], ["done", "rows"]]


def test_cursor_sample_that_cannot_run(live: LiveServer) -> None:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with httpx.stream("GET", f"{live.url}/broken/cursor_sample_that_cannot_run/stream/items") as response:
            assert response.status_code == 200
            with pytest.raises(httpx.RemoteProtocolError):
                response.read()
    assert live.errors()[-1] == "TypeError: 'async for' requires an object with __aiter__ method, got coroutine"
    assert "coroutine 'AsyncSession.stream' was never awaited" in {str(each.message) for each in warned}
