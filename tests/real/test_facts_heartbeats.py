"""What the lesson on heartbeats says of uvicorn, proxies and browsers, measured."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from playwright.async_api import async_playwright
from websockets.asyncio.client import connect
from websockets.frames import Opcode

from labserver.settings import Settings
from labserver.stage import LiveServer, nginx, start

QUIET = "/broken/no_heartbeat/ws/heartbeat/server"
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.fixture
def pinging() -> Iterator[LiveServer]:
    with start(name="pinging", ws_ping_interval=0.2, ws_ping_timeout=0.2) as live:
        yield live


def test_uvicorn_pings_every_20_s_and_waits_20_s_for_the_pong() -> None:
    options = inspect.signature(uvicorn.Config).parameters
    assert (options["ws_ping_interval"].default, options["ws_ping_timeout"].default) == (20.0, 20.0)


async def test_uvicorn_closes_1011_when_no_pong_comes(pinging: LiveServer) -> None:
    reader, writer = await asyncio.open_connection(pinging.host, pinging.port)
    writer.write(HANDSHAKE.format(path=QUIET).encode())
    async with asyncio.timeout(5):
        assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
        ping = await reader.readexactly(2)
        assert ping[0] & 0x0F == Opcode.PING
        await reader.readexactly(ping[1])
        close = await reader.readexactly(2)
        assert close[0] & 0x0F == Opcode.CLOSE
        assert int.from_bytes((await reader.readexactly(close[1]))[:2], "big") == 1011
    writer.close()


async def test_a_client_library_answers_pings_that_no_code_sees(pinging: LiveServer) -> None:
    async with pinging.tape() as tape, connect(f"{tape.ws_url}{QUIET}", ping_interval=None) as websocket:
        async with asyncio.timeout(10):
            while sum(event.kind == "pong" for event in tape.events) < 4:  # twice as long as it would last without
                await asyncio.sleep(0.02)
        assert websocket.close_code is None


async def test_uvicorns_ping_outlives_a_proxys_limit_and_without_it_the_socket_dies(
    require: Callable[[str], None],
) -> None:
    require("nginx")
    with (
        start(name="pinging", ws_ping_interval=0.2, ws_ping_timeout=5) as pinging,
        start(name="silent", ws_ping_interval=None) as silent,
        nginx(pinging, read_timeout=0.6, name="to pinging") as alive,
        nginx(silent, read_timeout=0.6, name="to silent") as dead,
    ):
        kept = await connect(f"{alive.ws_url}{QUIET}", ping_interval=None)
        lost = await connect(f"{dead.ws_url}{QUIET}", ping_interval=None)
        async with asyncio.timeout(10):
            await lost.wait_closed()
        assert lost.close_code == 1006
        await asyncio.sleep(0.9)  # longer than the limit once more
        assert kept.close_code is None
        await kept.close()


async def test_two_tasks_may_send_on_one_socket() -> None:
    app, count = FastAPI(), 3000

    @app.websocket("/ws")
    async def both(websocket: WebSocket) -> None:
        async def send(who: str) -> None:
            for number in range(count):
                await websocket.send_json([who, number, "x" * (number % 200)])

        await websocket.accept()
        async with asyncio.TaskGroup() as group:
            group.create_task(send("one"))
            group.create_task(send("other"))

    with start(app, name="two tasks") as live:
        async with connect(f"{live.ws_url}/ws") as websocket, asyncio.timeout(30):
            came = [json.loads(await websocket.recv()) for _ in range(2 * count)]
    for who in ("one", "other"):
        assert [(number, len(text)) for name, number, text in came if name == who] == [
            (number, number % 200) for number in range(count)
        ]


async def test_a_heartbeat_task_that_expects_no_disconnect_logs_a_traceback_at_a_normal_close() -> None:
    app = FastAPI()

    @app.websocket("/ws")
    async def beating(websocket: WebSocket) -> None:
        async def beat() -> None:
            while True:
                await asyncio.sleep(0.02)
                await websocket.send_json({"type": "ping"})

        await websocket.accept()
        task = asyncio.create_task(beat())
        try:
            await websocket.receive_text()
        except WebSocketDisconnect:
            del task

    with start(app, name="beating") as live:
        async with connect(f"{live.ws_url}/ws"):
            pass
        async with asyncio.timeout(5):
            while not live.errors():
                await asyncio.sleep(0.01)
        assert live.errors()[0].split(":")[0] == "WebSocketDisconnect"


async def test_a_browsers_websocket_has_no_ping_and_a_bare_word_breaks_its_json(chromium: str) -> None:
    script = """url => new Promise(done => {
      const socket = new WebSocket(url), seen = [];
      socket.onmessage = event => {
        try { seen.push(JSON.parse(event.data).type) } catch (error) { seen.push(error.name) }
        if (seen.length === 2) done({ seen, ping: "ping" in socket });
      };
      socket.onopen = () => socket.send('{"type": "message", "text": "hello"}');
    })"""
    with start(name="tests", settings=Settings(ws_heartbeat=0.1)) as live:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = await browser.new_page()
            await page.goto(f"{live.url}/heartbeats")
            mended = await page.evaluate(script, f"{live.ws_url}/ws/heartbeat/server")
            broken = await page.evaluate(script, f"{live.ws_url}/broken/text_ping_breaks_json/ws/heartbeat/server")
            await browser.close()
    assert mended == {"seen": ["message", "ping"], "ping": False}
    assert broken["seen"] == ["message", "SyntaxError"]
