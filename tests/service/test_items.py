"""Items as NDJSON over real sockets: lines, batches, the last record, pages, bad input, and what stays behind."""

import asyncio
import gc
import json
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from realtime.wire import Newer, wrapped

from labserver.errors import LabError
from labserver.realtime.direct import protocols
from labserver.service import items
from labserver.settings import Settings, get_settings
from labserver.stage import Database, LiveServer, database, start

DEADLINE = 30.0
PATH = "/stream/items"
KINDS = ("direct", "plain")


@pytest.fixture(scope="module")
def shop() -> Iterator[Database]:
    with database(1200) as made:
        yield made


def app_of(settings: Settings) -> FastAPI:
    app = FastAPI()
    app.include_router(items.router)
    app.dependency_overrides[get_settings] = lambda: settings
    return app


def serve(app: Any, settings: Settings, kind: str = "direct", name: str = "items") -> LiveServer:
    return start(app, name=name, **(protocols(settings) if kind == "direct" else {}))


@pytest.fixture(scope="module", params=KINDS)
def live(request: pytest.FixtureRequest, shop: Database) -> Iterator[LiveServer]:
    settings = Settings(database_url=shop.url)
    with serve(app_of(settings), settings, request.param) as live:
        yield live
        assert live.errors() == []


def ask(live: LiveServer, **query: object) -> httpx.Response:
    return httpx.get(live.url + PATH, params=query, verify=False, timeout=DEADLINE)  # type: ignore[arg-type]


def records(response: httpx.Response) -> list[dict[str, Any]]:
    assert (response.status_code, response.text[-1]) == (200, "\n")
    return [json.loads(line) for line in response.text.splitlines()]


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)


# --- lines


def test_every_item_comes_once_in_order_and_the_last_record_counts_them(live: LiveServer) -> None:
    *rows, end = records(ask(live, limit=5000))
    assert [row["id"] for row in rows] == list(range(1, 1201))
    assert rows[0] == {"id": 1, "name": "white stool 1", "price": 6909, "created": "2020-08-05"}
    assert end == {"done": True, "count": 1200, "last": 1200}


def test_the_head_says_what_it_is_and_that_nobody_keeps_it(live: LiveServer) -> None:
    headers = ask(live).headers
    assert headers["content-type"] == "application/x-ndjson"
    assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-store", "no")


async def test_the_first_batch_is_small_and_every_row_is_whole_in_its_chunk(live: LiveServer) -> None:
    async with live.tape() as tape, httpx.AsyncClient(verify=False) as client:
        await client.get(tape.url + PATH, params={"limit": 1200})
    chunks = [bytes(chunk.raw).partition(b"\r\n")[2].removesuffix(b"\r\n") for chunk in tape.chunks]
    counts = [count for chunk in chunks if (count := chunk.count(b'"id"'))]
    assert sum(counts) == 1200
    assert counts[0] == items.FIRST
    assert len(counts) <= 4
    assert all(chunk.endswith(b"\n") for chunk in chunks if b'"id"' in chunk)


@pytest.mark.parametrize("limit", [1, 49, 50, 51, 549, 550, 551, 1199, 1200])
def test_limit_is_exact_also_at_the_edges_of_a_batch(live: LiveServer, limit: int) -> None:
    *rows, end = records(ask(live, limit=limit))
    assert (len(rows), end) == (limit, {"done": True, "count": limit, "last": limit})


def test_who_goes_on_behind_the_last_id_gets_each_item_once(live: LiveServer) -> None:
    seen: list[int] = []
    last = 0
    while True:
        *rows, end = records(ask(live, after=last, limit=333))
        assert end == {"done": True, "count": len(rows), "last": rows[-1]["id"] if rows else last}
        if not rows:
            break
        seen += [row["id"] for row in rows]
        last = end["last"]
    assert seen == list(range(1, 1201))


def test_behind_the_end_there_is_nothing_and_the_place_is_kept(live: LiveServer) -> None:
    assert records(ask(live, after=2**63 - 1)) == [{"done": True, "count": 0, "last": 2**63 - 1}]


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=-1", "limit=100001", "limit=x", "limit=1.5", "limit=", "after=-1", "after=x", "after="]
)
def test_bad_input_is_a_422_that_says_which_and_no_stream(live: LiveServer, query: str) -> None:
    answers = [httpx.get(f"{live.url}{PATH}?{each}", verify=False) for each in (query, f"{query}&x=1")]
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
        assert answer.json()["detail"][0]["loc"] == ["query", query.partition("=")[0]]


def test_a_key_that_no_table_can_hold_is_a_422(live: LiveServer) -> None:
    assert ask(live, after=2**63).status_code == 422


def test_a_text_with_line_breaks_and_quotes_stays_on_its_line(tmp_path: Path) -> None:
    names = ["a\nb", "\r\n", '"},{"', "\u2028\u0085", "\x00", "žluť 🐎", ""]
    path = tmp_path / "names.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, name TEXT, price INTEGER, created DATE)")
    connection.executemany("INSERT INTO items VALUES (?, ?, 1, '2026-01-02')", enumerate(names, 1))
    connection.commit()
    connection.close()
    settings = Settings(database_url=f"sqlite+aiosqlite:///{path.as_posix()}")
    with serve(app_of(settings), settings, name="names") as live:
        lines = ask(live).content.decode().removesuffix("\n").split("\n")
    assert [json.loads(line)["name"] for line in lines[:-1]] == names


# --- what fails


def test_a_row_that_cannot_be_read_ends_the_stream_with_error_and_others_can_be_had(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with database(700, bad=600) as spoilt:
        settings = Settings(database_url=spoilt.url)
        with serve(app_of(settings), settings, name="bad") as live:
            *rows, end = records(ask(live))
            assert [row["id"] for row in rows] == list(range(1, items.FIRST + items.BATCH + 1))
            assert set(end) == {"error"}
            assert "soon" not in end["error"]
            assert "Invalid isoformat string: 'soon'" in caplog.text
            *rows, end = records(ask(live, after=600))
            assert ([row["id"] for row in rows], end["done"]) == (list(range(601, 701)), True)


def test_what_fails_before_the_first_row_is_a_status_and_no_stream(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    empty = tmp_path / "empty.sqlite"
    settings = Settings(database_url=f"sqlite+aiosqlite:///{empty.as_posix()}")
    with serve(app_of(settings), settings, name="empty") as live:
        answer = ask(live)
        assert (answer.status_code, answer.json()) == (503, {"detail": "the items can't be read now"})
        assert answer.headers["retry-after"] == "1"
        assert "no such table: items" in caplog.text


def test_without_a_database_it_says_what_to_set() -> None:
    with serve(app_of(Settings()), Settings(), name="none") as live:
        answer = ask(live)
        assert (answer.status_code, answer.json()) == (503, {"detail": "no database: set LABSERVER_DATABASE_URL"})


@pytest.mark.parametrize("url", ["nonsense", "sqlite+nodriver:///x", "sqlite:///x", "nodb+asyncpg://x"])
def test_a_database_that_cannot_be_used_is_named_at_the_start(url: str) -> None:
    with pytest.raises(LabError, match=r"LABSERVER_DATABASE_URL is of no use: .*Correct or unset it"):
        items.Items(url, 1)


# --- slow readers, and readers who leave


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("middleware", ["none", "base"])
@pytest.mark.parametrize("spec", ["2.3", "2.4", "2.4 silent"])
async def test_who_stops_reading_holds_no_connection_and_who_leaves_leaves_nothing(
    kind: str, middleware: str, spec: str
) -> None:
    """All of it without the collector. Many more slow readers than the pool has connections."""
    with database(1500, width=4000) as wide:
        settings = Settings(database_url=wide.url, write_deadline=60, database_pool_timeout=2)
        app = app_of(settings)
        gc.disable()
        try:
            with serve(wrapped(app, middleware, Newer.SPECS[spec]), settings, kind, "slow") as live:
                await asyncio.to_thread(ask, live, limit=1)
                before = await tasks(live)
                pool = app.state.items.engine.pool
                readers = await asyncio.gather(*(stalled(live) for _ in range(20)))
                await until(lambda: not pool.checkedout())
                assert await tasks(live) > before
                assert (await asyncio.to_thread(ask, live, limit=1)).status_code == 200
                for reader in readers:
                    reader.transport.abort()
                async with asyncio.timeout(DEADLINE):
                    while await tasks(live) > before:
                        await asyncio.sleep(0.01)
                assert pool.checkedout() == 0
                assert live.errors() == []
        finally:
            gc.enable()


async def test_who_leaves_while_a_page_is_read_leaves_a_whole_pool() -> None:
    with database(20_000) as big:
        settings = Settings(database_url=big.url, database_pool_timeout=5)
        app = app_of(settings)
        with serve(app, settings, name="hasty") as live:
            for number in range(60):
                reader, writer = await asyncio.open_connection(live.host, live.port)
                writer.write(f"GET {PATH}?limit=20000 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                await reader.read(1 + number * 500)
                writer.transport.abort()
            pool = app.state.items.engine.pool
            await until(lambda: not pool.checkedout())
            *rows, end = records(await asyncio.to_thread(ask, live, limit=20_000))
            assert (len(rows), end["count"]) == (20_000, 20_000)
            assert live.errors() == []
            assert not [message for message in live.logs() if "garbage collector" in message]
    assert [thread.name for thread in threading.enumerate() if "aiosqlite" in thread.name] == []


async def stalled(live: LiveServer) -> asyncio.StreamWriter:
    """Return a reader that has read the beginning and reads no more."""
    reader, writer = await asyncio.open_connection(live.host, live.port, limit=1 << 12)
    writer.write(f"GET {PATH}?limit=1500 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b'"id":1,')
    return writer


async def tasks(live: LiveServer) -> int:
    """Count the server's tasks."""

    async def count() -> int:
        return len(asyncio.all_tasks())

    return await asyncio.wrap_future(live.submit(count()))


# --- what is documented


def test_openapi_says_what_comes_with_an_example_that_is_true() -> None:
    path = app_of(Settings()).openapi()["paths"][PATH]["get"]
    assert {each["name"] for each in path["parameters"]} == {"limit", "after"}
    assert all("description" in each and "examples" in each["schema"] for each in path["parameters"])
    assert set(path["responses"]) == {"200", "422", "503"}
    ((kind, content),) = path["responses"]["200"]["content"].items()
    assert kind == "application/x-ndjson"
    *rows, end = [json.loads(line) for line in content["example"].splitlines()]
    assert end == {"done": True, "count": len(rows), "last": rows[-1]["id"]}
