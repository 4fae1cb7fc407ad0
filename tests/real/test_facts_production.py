"""What notebook 14 teaches about uvicorn's end and browsers' connections: a new version that differs fails here."""

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse, StreamingResponse
from playwright.async_api import Browser, BrowserContext
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from labserver.stage import LiveServer, browser, nginx, start

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
WAITS = "Waiting for connections to close. (CTRL+C to force quit)"


@asynccontextmanager
async def child(**options: Any) -> AsyncIterator[LiveServer]:
    """The app of `shutdown_app` in a process of its own, killed at the end."""
    live = await asyncio.to_thread(lambda: start("shutdown_app:app", name="ends", process=True, **options))
    try:
        yield live
    finally:
        if live.alive and live.pid:
            os.kill(live.pid, signal.SIGKILL)
        await asyncio.to_thread(live.stop)


class Reader:
    """A client that counts the events it reads, and knows whether the body was complete."""

    def __init__(self, url: str) -> None:
        self.text, self.complete = "", False
        self.task = asyncio.create_task(self.read(url))

    async def read(self, url: str) -> None:
        with suppress(httpx.RemoteProtocolError, httpx.ReadError):
            async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url) as answer:
                async for piece in answer.aiter_text():
                    self.text += piece
                self.complete = True

    async def events(self, more: int) -> None:
        """Wait until so many more events have come."""
        wanted = self.text.count("data:") + more
        await until(lambda: self.text.count("data:") >= wanted)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(15):
        while not condition():
            await asyncio.sleep(0.01)


def terminate(live: LiveServer, number: int = signal.SIGTERM) -> None:
    assert live.pid is not None
    os.kill(live.pid, number)


@POSIX
async def test_one_open_stream_makes_sigterm_hang_and_the_lifespan_ends_only_after_it() -> None:
    async with child() as live:
        reader = Reader(f"{live.url}/plain")
        await reader.events(1)
        async with connect(f"{live.ws_url}/ws") as websocket:
            terminate(live)
            with pytest.raises(ConnectionClosed):
                await websocket.recv()
            assert websocket.close_code == 1012  # a WebSocket is told at once
        await until(lambda: WAITS in live.logs())
        await reader.events(50)
        with pytest.raises(httpx.ConnectError):  # nobody else is let in meanwhile, not even a health check
            async with httpx.AsyncClient() as client:
                await client.get(live.url)
        terminate(live)  # nor does a second SIGTERM help
        await reader.events(25)
        assert live.alive
        assert "lifespan ended" not in live.logs()
        terminate(live, signal.SIGKILL)
        await reader.task
        assert not reader.complete


@POSIX
@pytest.mark.parametrize(("path", "order"), [("plain", ["lifespan", "stream"]), ("native", ["lifespan"])])
async def test_a_graceful_timeout_cuts_the_streams_and_their_finally_comes_after_the_lifespans_or_never(
    path: str, order: list[str]
) -> None:
    async with child(timeout_graceful_shutdown=0.2) as live:
        reader = Reader(f"{live.url}/{path}")
        await reader.events(1)
        terminate(live)
        await reader.task
        await until(lambda: not live.alive)
        assert not reader.complete  # nobody said goodbye
        assert [line.split()[0] for line in live.logs() if line.endswith(" ended")] == order


def run(command: list[str], environment: dict[str, str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@POSIX
async def test_two_workers_say_goodbye_to_all_of_their_streams(tmp_path: Path) -> None:
    (tmp_path / "drained_app.py").write_text(
        "from fastapi import FastAPI\nfrom labserver.patterns.production import router\n"
        "app = FastAPI()\napp.include_router(router)\n"
    )
    command = [sys.executable, "-m", "uvicorn", "drained_app:app", "--workers", "2", "--port", "0"]
    environment = {**os.environ, "LABSERVER_DRAIN_SECONDS": "0.3", "PYTHONPATH": str(tmp_path)}
    server = run(command, environment)
    try:
        assert server.stderr is not None
        lines = iter(server.stderr.readline, "")
        port = next(found[1] for line in lines if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)))
        started = 0
        while started < 2:
            started += "Application startup complete" in next(lines)
        readers = [Reader(f"http://127.0.0.1:{port}/feed?channels=a") for _ in range(6)]
        await until(lambda: all("ready" in reader.text for reader in readers))
        server.terminate()
        async with asyncio.timeout(20):
            for reader in readers:
                await reader.task
        assert all(reader.complete and "event: drain" in reader.text for reader in readers)
        await asyncio.to_thread(server.wait, 20)
    finally:
        server.kill()
        server.communicate()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome(require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with browser() as running:
        yield running


@pytest.fixture(scope="module")
def open_ends() -> Iterator[LiveServer]:
    """An app with a page, a stream that never ends and a socket."""
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>a page</title>")

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield "data: open\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    @app.websocket("/ws")
    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    with start(app, name="open ends") as live:
        yield live


OPEN = """n => {
  window.sources = [];
  window.opened = 0;
  for (let i = 0; i < n; i++) {
    const source = new EventSource("/stream?" + i);
    source.onmessage = () => window.opened++;
    window.sources.push(source);
  }
}"""
LATER = "() => new Promise(done => setTimeout(() => done(window.opened), 500))"


async def tab(context: BrowserContext, url: str, streams: int, opens: int) -> Any:
    """Open a tab with so many streams, of which so many open."""
    page = await context.new_page()
    await page.goto(url)
    await page.evaluate(OPEN, streams)
    await page.wait_for_function(f"window.opened === {opens}")
    return page


@pytest.mark.asyncio(loop_scope="module")
async def test_over_http1_a_browser_opens_six_connections_across_tabs_and_the_seventh_waits_until_one_closes(
    chrome: Browser, open_ends: LiveServer
) -> None:
    context = await chrome.new_context()
    first = await tab(context, open_ends.url, 4, 4)
    second = await context.new_page()
    await second.goto(open_ends.url)
    await second.evaluate(OPEN, 3)
    await second.wait_for_function("window.opened === 2")
    assert await second.evaluate(LATER) == 2
    await first.evaluate("() => window.sources[0].close()")
    await second.wait_for_function("window.opened === 3")
    await context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_over_http2_all_twelve_open(
    chrome: Browser, open_ends: LiveServer, require: Callable[[str], None]
) -> None:
    require("nginx")
    with nginx(open_ends, tls=True, http2=True, name="h2") as front:
        context = await chrome.new_context()
        page = await tab(context, front.url, 12, 12)
        assert await page.evaluate("performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
        await context.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_websockets_are_not_among_the_six(chrome: Browser, open_ends: LiveServer) -> None:
    context = await chrome.new_context()
    page = await tab(context, open_ends.url, 6, 6)
    opened = """n => Promise.all(Array.from({length: n}, () => new Promise(done => {
      const socket = new WebSocket(location.origin.replace("http", "ws") + "/ws");
      socket.onopen = () => done(1);
    }))).then(all => all.length)"""
    assert await page.evaluate(opened, 20) == 20
    await context.close()
