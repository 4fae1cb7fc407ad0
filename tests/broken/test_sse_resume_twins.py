"""Each twin of the resumable feed fails in the way it says, where a real client can see it; the pattern does not."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, nginx, start

TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
PATTERN = ""
TIMEOUT = 10.0


def serve(**settings: float | str) -> LiveServer:
    return start(name="tests", settings=Settings(sse_epoch="a", **settings))


@asynccontextmanager
async def listening(url: str, cursor: str | None = None) -> AsyncIterator[AsyncIterator[str]]:
    """Yield the lines of a feed, from behind its opening event on."""
    headers = {} if cursor is None else {"Last-Event-ID": cursor}
    async with (
        asyncio.timeout(TIMEOUT),
        httpx.AsyncClient(verify=TLS, timeout=TIMEOUT) as client,
        client.stream("GET", f"{url}/events/prices", headers=headers) as response,
    ):
        lines = response.aiter_lines()
        while await anext(lines):
            pass
        yield lines


async def publish(url: str, *prices: float) -> None:
    async with httpx.AsyncClient(verify=TLS) as client:
        for price in prices:
            (await client.post(f"{url}/events/prices", json={"price": price})).raise_for_status()


@pytest.fixture
def behind_nginx(require: Callable[[str], None]) -> Iterator[str]:
    """The address of the lab behind a proxy that hangs up after a second of silence."""
    require("nginx")
    with serve(sse_keepalive=0.1) as live, nginx(live, read_timeout=1.0, name="tests") as proxy:
        yield proxy.url


async def test_no_keepalive_is_cut_by_a_proxys_idle_limit(behind_nginx: str) -> None:
    async with listening(f"{behind_nginx}/broken/no_keepalive") as lines:
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(lines)


async def test_a_keepalive_holds_the_stream_open(behind_nginx: str) -> None:
    async with listening(behind_nginx) as lines:
        enough = time.monotonic() + 2.5  # more than twice the limit
        while time.monotonic() < enough:
            assert await anext(lines) in (": keepalive", "")
        await publish(behind_nginx, 1.0)
        assert await anext(line async for line in lines if line.startswith("id")) == "id: a-1"


async def test_no_keepalive_leaves_the_silence_empty() -> None:
    with serve(sse_keepalive=0.05) as live:
        async with listening(f"{live.url}/broken/no_keepalive") as lines:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await anext(lines)
        async with listening(live.url) as lines:
            assert await anext(lines) == ": keepalive"


async def three_events_take(live: LiveServer, twin: str) -> float:
    """Publish three events when the feed has just sent a keepalive; return the seconds until all are here."""
    async with listening(live.url + twin) as lines:
        await anext(line async for line in lines if line)
        began = time.monotonic()
        await publish(live.url + twin, 1.0, 2.0, 3.0)
        for number in (1, 2, 3):
            assert await anext(line async for line in lines if line.startswith("id")) == f"id: a-{number}"
        return time.monotonic() - began


async def test_keepalive_delays_events_by_its_interval_each() -> None:
    with serve(sse_keepalive=0.4) as live:
        assert await three_events_take(live, "/broken/keepalive_delays_events") > 1.0
        assert await three_events_take(live, PATTERN) < 0.8


async def test_no_resume_loses_what_was_published_meanwhile() -> None:
    with serve() as live:
        for twin, expected in (("/broken/no_resume", "id: a-4"), (PATTERN, "id: a-2")):
            await publish(live.url + twin, 1.0, 2.0, 3.0)
            async with listening(live.url + twin, "a-1") as lines:
                await publish(live.url + twin, 4.0)
                assert await anext(line async for line in lines if line.startswith("id")) == expected


def test_done_without_close_does_the_work_again_when_the_client_reconnects() -> None:
    with serve(sse_interval=0.0) as live:
        for twin, status in (("/broken/done_without_close", 200), (PATTERN, 204)):
            first = httpx.get(f"{live.url}{twin}/events/countdown", verify=TLS)
            last = [line for line in first.text.splitlines() if line.startswith("id: ")][-1].removeprefix("id: ")
            again = httpx.get(f"{live.url}{twin}/events/countdown", headers={"Last-Event-ID": last}, verify=TLS)
            assert again.status_code == status
            assert again.text == (first.text if status == 200 else "")
