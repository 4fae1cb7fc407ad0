"""Each twin of the production topic fails in the way that it says; the pattern, at the same moment, does not."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, browser, start

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
NAMES = "a,b,c,d,e,f,g,h"
TWIN = "/broken/six_streams_and_the_tab_hangs"


@asynccontextmanager
async def child(settings: Settings) -> AsyncIterator[LiveServer]:
    """A lab in a process of its own, killed at the end: a hanging one takes seconds to stop."""
    lab = await asyncio.to_thread(lambda: start(name="tests", process=True, settings=settings))
    try:
        yield lab
    finally:
        if lab.alive and lab.pid:
            os.kill(lab.pid, signal.SIGKILL)
        await asyncio.to_thread(lab.stop)


class Reader:
    """A client of a feed that keeps what it reads."""

    def __init__(self, url: str) -> None:
        self.text = ""
        self.task = asyncio.create_task(self.read(url))

    async def read(self, url: str) -> None:
        with suppress(httpx.RemoteProtocolError):
            async with httpx.AsyncClient(timeout=20) as made, made.stream("GET", url) as got:
                async for piece in got.aiter_text():
                    self.text += piece

    async def heard(self, word: str) -> None:
        async with asyncio.timeout(10):
            while word not in self.text:
                await asyncio.sleep(0.01)


@POSIX
async def test_endless_shutdown_hears_no_goodbye_and_never_ends() -> None:
    async with child(Settings(drain_seconds=0, sse_keepalive=0.05)) as lab:
        twin = Reader(f"{lab.url}/broken/endless_shutdown/feed?channels=a")
        pattern = Reader(f"{lab.url}/feed?channels=a")
        await twin.heard("ready")
        await pattern.heard("ready")
        assert lab.pid
        os.kill(lab.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            await pattern.task
        assert "event: drain" in pattern.text
        heartbeats = twin.text.count(": heartbeat")
        async with asyncio.timeout(10):
            while twin.text.count(": heartbeat") < heartbeats + 20:  # it goes on as if nothing had been said
                await asyncio.sleep(0.01)
        assert lab.alive
        assert "Waiting for connections to close. (CTRL+C to force quit)" in lab.logs()
        assert "drain" not in twin.text
        os.kill(lab.pid, signal.SIGKILL)
        await twin.task


@POSIX
async def test_health_check_lies_is_ready_while_it_sends_clients_away() -> None:
    async with child(Settings(drain_seconds=600)) as lab, httpx.AsyncClient(base_url=lab.url) as made:
        twin = f"{lab.url}/broken/health_check_lies"
        readers = [Reader(f"{twin}/feed?channels=a") for _ in range(2)]
        for reader in readers:
            await reader.heard("ready")
        assert lab.pid
        os.kill(lab.pid, signal.SIGTERM)
        async with asyncio.timeout(10):
            while not any("drain" in reader.text for reader in readers):
                await asyncio.sleep(0.01)
        assert (await made.get(f"{twin}/readyz")).json() == {"status": "ready"}
        assert "event: drain" in (await made.get(f"{twin}/feed?channels=a")).text
        os.kill(lab.pid, signal.SIGKILL)
        for reader in readers:
            await reader.task


async def test_six_streams_and_the_tab_hangs(chromium: str) -> None:
    with start(name="tests") as lab:
        async with browser() as chrome, httpx.AsyncClient(base_url=lab.url) as made:
            heard = {}
            for prefix in ("", TWIN):
                page = await chrome.new_page()
                await page.goto(f"{lab.url}{prefix}/feed/page?channels={NAMES}")
                streams = 1 if prefix == "" else 6
                async with asyncio.timeout(10):
                    while (
                        f'feed_open_streams{{kind="http"}} {streams}.0'
                        not in (await made.get(f"{prefix}/metrics")).text
                    ):
                        await asyncio.sleep(0.01)
                told = [(await made.post(f"{prefix}/feed/{name}", json={"text": name})).json() for name in "abcdefgh"]
                heard[prefix] = sum(each["listeners"] for each in told)
                await page.wait_for_function(f"document.querySelectorAll('li').length === {heard[prefix]}")
                answer = page.evaluate("fetch('../healthz').then(() => 'answered')")
                asked = asyncio.ensure_future(answer)
                done, _ = await asyncio.wait([asked], timeout=5 if prefix == "" else 0.5)
                assert bool(done) == (prefix == "")  # every other request of the tab waits as well
                asked.cancel()
                await page.close()
            assert heard == {"": 8, TWIN: 6}
