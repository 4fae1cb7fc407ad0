"""Each twin of the heartbeat topic fails in the way that it says, where a real client or a real proxy can see it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from labserver.settings import Settings
from labserver.stage import LiveServer, fault_proxy, nginx, start


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests", settings=Settings(ws_heartbeat=0.1, ws_silence=30), ws_ping_interval=None) as live:
        yield live


async def state(lab: LiveServer, twin: str) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=lab.url) as client:
        return dict((await client.get(f"/broken/{twin}/heartbeats")).json())


async def until(lab: LiveServer, twin: str, **expected: int) -> None:
    async with asyncio.timeout(5):
        while not expected.items() <= (await state(lab, twin)).items():
            await asyncio.sleep(0.01)


async def test_no_heartbeat_dies_of_a_proxys_idle_limit(lab: LiveServer, require: Callable[[str], None]) -> None:
    require("nginx")
    with nginx(lab, read_timeout=0.5) as proxy:
        async with connect(f"{proxy.ws_url}/broken/no_heartbeat/ws/heartbeat/server", ping_interval=None) as quiet:
            with pytest.raises(ConnectionClosed):
                await quiet.recv()
        assert quiet.close_code == 1006
        async with connect(f"{proxy.ws_url}/ws/heartbeat/server", ping_interval=None) as beaten:
            for _ in range(12):  # more than twice the proxy's limit
                await beaten.recv()


async def test_no_heartbeat_keeps_a_client_that_is_gone() -> None:
    settings = Settings(ws_heartbeat=0.1, ws_silence=0.3)
    with start(name="tests", settings=settings, ws_ping_interval=None) as lab, fault_proxy(lab) as proxy:
        gone = [
            await connect(f"{proxy.ws_url}{path}/ws/heartbeat/server", ping_interval=None)
            for path in ("/broken/no_heartbeat", "")
        ]
        await until(lab, "no_heartbeat", sockets=1)
        proxy.set(black_hole=True)
        async with httpx.AsyncClient(base_url=lab.url) as client, asyncio.timeout(5):
            while (await client.get("/heartbeats")).json()["sockets"]:
                await asyncio.sleep(0.01)
        assert (await state(lab, "no_heartbeat"))["sockets"] == 1  # the pattern let its own go, the twin did not
        for websocket in gone:
            websocket.transport.abort()


async def test_text_ping_breaks_json(lab: LiveServer) -> None:
    async with connect(f"{lab.ws_url}/broken/text_ping_breaks_json/ws/heartbeat/server") as websocket:
        await websocket.send('{"type": "message", "text": "hello"}')
        assert json.loads(await websocket.recv())["text"] == "hello"
        heartbeat = await websocket.recv()
        with pytest.raises(json.JSONDecodeError):
            json.loads(heartbeat)


async def test_heartbeat_outlives_its_socket(lab: LiveServer) -> None:
    twin = "heartbeat_outlives_its_socket"
    for _ in range(3):
        async with connect(f"{lab.ws_url}/broken/{twin}/ws/heartbeat/server"):
            pass
    await until(lab, twin, sockets=0, tasks=0)
    async with asyncio.timeout(5):
        while len(lab.errors()) < 3:
            await asyncio.sleep(0.01)
    assert {error.split(":")[0] for error in lab.errors()} <= {"WebSocketDisconnect", "WebSocketDisconnected"}


async def test_the_task_is_there_when_its_socket_is_gone() -> None:
    twin = "heartbeat_outlives_its_socket"
    with start(name="tests", settings=Settings(ws_heartbeat=30)) as lab:
        for path in (f"/broken/{twin}", ""):
            async with connect(f"{lab.ws_url}{path}/ws/heartbeat/server"):
                pass
        await until(lab, twin, sockets=0, tasks=1)
        async with httpx.AsyncClient(base_url=lab.url) as client, asyncio.timeout(5):
            while (await client.get("/heartbeats")).json() != {"sockets": 0, "tasks": 0, "rtt_ms": []}:
                await asyncio.sleep(0.01)
