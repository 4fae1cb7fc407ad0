"""What notebook 15 teaches of the four transports beside each other: each test fails when it becomes untrue."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

import httpx
import pytest
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, browser, fault_proxy, nginx, start, usage
from labserver.stage.lab import fresh

NAMES = ("ws", "events", "ndjson", "bytes")
COUNT = 20
FIRST = 1_800_000_000_000  # thirteen digits, as the ids of a server that runs now
SETTINGS = Settings(feed_first_id=FIRST, sse_retry=0.5)
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def feed() -> Iterator[LiveServer]:
    with start(name="facts", settings=SETTINGS) as live:
        yield live


def packing() -> FastAPI:
    """Return an app with the feed behind GZipMiddleware."""
    app = FastAPI()
    app.add_middleware(GZipMiddleware, minimum_size=0)
    app.include_router(fresh("labserver.patterns.transports").router)
    return app


async def publish(live: LiveServer, *prices: float) -> None:
    async with httpx.AsyncClient(verify=False) as client:
        for price in prices:
            (await client.post(f"{live.url}/quotes", json={"price": price})).raise_for_status()


async def weigh(live: LiveServer, name: str, compression: str | None = None) -> float:
    """Return the bytes of a quote on the wire, framing included."""
    query = f"after={FIRST - 1}&until={FIRST + COUNT - 1}"
    async with live.tape() as tape:
        if name == "ws":
            async with connect(f"{tape.ws_url}/quotes/ws?{query}", compression=compression) as socket:  # type: ignore[arg-type]
                assert len([message async for message in socket]) == COUNT + 2
        else:
            async with httpx.AsyncClient(verify=False) as client:
                (await client.get(f"{tape.url}/quotes/{name}?{query}")).raise_for_status()
    sent = [event.raw for event in tape.events if event.kind == "text"] or [chunk.raw for chunk in tape.chunks]
    return sum(map(len, sent)) / COUNT


async def test_an_event_takes_most_bytes_and_packed_numbers_the_fewest(feed: LiveServer) -> None:
    await publish(feed, *(100 + number / 7 for number in range(COUNT)))
    size = {name: await weigh(feed, name) for name in NAMES}
    assert sorted(size, key=size.__getitem__) == ["bytes", "ws", "ndjson", "events"]
    assert size["events"] < 100


async def test_compressed_a_socket_takes_the_fewest_and_an_event_stream_what_it_always_takes(feed: LiveServer) -> None:
    prices = [100 + number for number in range(COUNT)]
    await publish(feed, *prices)
    large = {name: await weigh(feed, name) for name in NAMES}
    with start(packing(), name="packing", settings=SETTINGS) as packed:
        await publish(packed, *prices)
        small = {name: await weigh(packed, name, compression="deflate") for name in NAMES}
    assert small["events"] == large["events"]
    assert min(small, key=small.__getitem__) == "ws"
    assert all(small[name] < large[name] for name in ("ws", "ndjson", "bytes"))


async def idle(live: LiveServer, name: str, headers: str, count: int) -> list[asyncio.StreamWriter]:
    """Open connections that wait."""
    writers = []
    for _ in range(count):
        reader, writer = await asyncio.open_connection(live.host, live.port)
        writer.write(f"GET /quotes/{name} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(10)
        writers.append(writer)
    return writers


@pytest.mark.timeout(60)
async def test_an_idle_connection_costs_the_same_by_each_and_a_compressed_socket_more(
    measured: Callable[[str], None],
) -> None:
    deflate = f"{UPGRADE}Sec-WebSocket-Extensions: permessage-deflate\r\n"
    kinds = [("deflate", "ws", deflate), ("ws", "ws", UPGRADE), *((name, name, "") for name in NAMES[1:])]
    held, cost = [], {}
    with start(name="facts", process=True, settings=Settings(feed_heartbeat=60)) as live:
        for kind, name, headers in kinds:
            held += await idle(live, name, headers, 10)
            before = usage(live).memory
            held += await idle(live, name, headers, 50)
            cost[kind] = (usage(live).memory - before) / 50 / 1024
        for writer in held:
            writer.transport.abort()
    measured("KiB of an idle connection: " + ", ".join(f"{kind} {size:.0f}" for kind, size in cost.items()))
    assert cost["deflate"] > 1.3 * cost["ws"]
    plain = [cost[name] for name in NAMES]
    assert max(plain) < 2 * min(plain)


# --- proxies


@pytest.fixture
def front(require: Callable[[str], None]) -> None:
    require("nginx")


async def read(url: str, ws_url: str, name: str) -> AsyncIterator[bytes | str]:
    if name == "ws":
        async with connect(f"{ws_url}/quotes/ws") as socket:
            async for message in socket:
                yield message
    else:
        async with (
            httpx.AsyncClient(verify=False, timeout=30) as client,
            client.stream("GET", f"{url}/quotes/{name}") as answer,
        ):
            async for piece in answer.aiter_raw():
                yield piece


@pytest.mark.usefixtures("front")
async def test_without_the_upgrade_header_uvicorn_answers_404_and_the_others_pass(feed: LiveServer) -> None:
    with nginx(feed, upgrade=False) as proxy:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{proxy.ws_url}/quotes/ws")
        assert refused.value.response.status_code == 404
        for name in NAMES[1:]:
            records = read(proxy.url, proxy.ws_url, name)
            assert await anext(records)
            await records.aclose()  # type: ignore[attr-defined]


@pytest.mark.usefixtures("front")
@pytest.mark.parametrize(("heartbeat", "stays"), [(60.0, False), (0.1, True)])
async def test_a_heartbeat_keeps_each_of_them_open_behind_a_proxy(heartbeat: float, stays: bool) -> None:
    async def open_still(proxy_url: str, proxy_ws: str, name: str) -> bool:
        with suppress(httpx.TransportError, ConnectionClosed):
            try:
                async with asyncio.timeout(2.0):
                    async for _ in read(proxy_url, proxy_ws, name):
                        pass
            except TimeoutError:
                return True
        return False

    settings = Settings(feed_heartbeat=heartbeat)
    with start(name="facts", settings=settings) as live, nginx(live, read_timeout=1.0) as proxy:
        found = await asyncio.gather(*(open_still(proxy.url, proxy.ws_url, name) for name in NAMES))
    assert found == [stays] * 4


# --- a browser

LISTEN = """async ([name, url]) => {
  const got = (window.heard ??= {})[name] = {text: "", ended: ""};
  if (name === "ws") {
    const socket = new WebSocket(url);
    socket.onmessage = event => got.text += event.data;
    socket.onclose = event => got.ended = "close " + event.code;
  } else if (name === "events") {
    const source = new EventSource(url);
    source.onmessage = event => got.text += `"id":${event.lastEventId},`;
    source.onerror = () => got.ended = ["connecting", "open", "closed"][source.readyState];
  } else {
    const reader = (await fetch(url)).body.getReader();
    const read = async () => {
      for (let piece; !(piece = await reader.read()).done;) got.text += new TextDecoder("latin1").decode(piece.value);
      got.ended = "clean";
    };
    read().catch(error => got.ended = error.name);
  }
}"""

HAVE_ONE = f"""() => Object.entries(heard).every(
  ([name, got]) => name === "bytes" ? got.text.length === 30 : got.text.includes('"id":{FIRST},')
)"""


@pytest.mark.real("chromium")
async def test_of_a_pages_four_readers_event_source_alone_comes_back(feed: LiveServer, chromium: str) -> None:
    assert chromium
    tunnel = fault_proxy(feed)
    with tunnel:
        async with browser() as chrome:
            page = await chrome.new_page()
            await page.goto(f"{tunnel.url}/nothing-here")
            for name in NAMES:
                await page.evaluate(LISTEN, [name, f"/quotes/{name}?after={FIRST - 1}"])
            await publish(feed, 1.0)
            await page.wait_for_function(HAVE_ONE)
            tunnel.cut()
            await page.wait_for_function("() => Object.values(heard).every(got => got.ended)")
            await publish(feed, 2.0)
            await page.wait_for_function(f"""() => heard.events.text.includes('"id":{FIRST + 1},')""")
            heard = await page.evaluate("heard")
    assert {name: got["ended"] for name, got in heard.items()} == {
        "ws": "close 1006",
        "events": "connecting",
        "ndjson": "TypeError",
        "bytes": "TypeError",
    }
    assert heard["events"]["text"] == f'"id":{FIRST},"id":{FIRST + 1},'
    assert f'"id":{FIRST},' in heard["ws"]["text"]
    assert f'"id":{FIRST},' in heard["ndjson"]["text"]
    assert not any(f'"id":{FIRST + 1},' in heard[name]["text"] for name in ("ws", "ndjson"))
    assert len(heard["bytes"]["text"]) == 11 + 19, "how it began, and one quote"
