"""Heartbeats over real sockets: pings come, pongs are timed, silence and wrong messages end it, and no task is left."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from labserver.settings import Settings
from labserver.stage import LiveServer, fault_proxy, start

WRONG = [
    (b"{}", 1003),
    ("", 1007),
    ("ping", 1007),
    ("[]", 1007),
    ("{}", 1007),
    ('{"type": "ping"}', 1007),
    ('{"type": "pong", "number": "1"}', 1007),
    ('{"type": "pong", "number": NaN}', 1007),
    ('{"type": "message", "text": 5}', 1007),
    ('{"type": "other", "number": 1}', 1007),
    ("[" * 50_000, 1007),
]


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests", settings=Settings(ws_heartbeat=0.05, ws_silence=0.4)) as live:
        yield live


async def state(lab: LiveServer) -> dict[str, Any]:
    async with httpx.AsyncClient(base_url=lab.url) as client:
        return dict((await client.get("/heartbeats")).json())


async def nobody(lab: LiveServer) -> None:
    async with asyncio.timeout(5):
        while await state(lab) != {"sockets": 0, "tasks": 0, "rtt_ms": []}:
            await asyncio.sleep(0.01)


async def ended(websocket: ClientConnection) -> None:
    """Read until the server closes."""
    with suppress(ConnectionClosed):
        async with asyncio.timeout(5):
            while True:
                await websocket.recv()


async def answer(websocket: ClientConnection, pings: int) -> list[int]:
    """Answer that many pings; return their numbers."""
    numbers = []
    while len(numbers) < pings:
        message = json.loads(await websocket.recv())
        if message["type"] == "ping":
            numbers.append(message["number"])
            await websocket.send(json.dumps({"type": "pong", "number": message["number"]}))
    return numbers


async def test_who_answers_pings_stays_and_is_timed(lab: LiveServer) -> None:
    async with connect(f"{lab.ws_url}/ws/heartbeat/server") as websocket:
        assert await answer(websocket, 12) == list(range(1, 13))  # longer than ws_silence in all
        async with asyncio.timeout(5):
            while not (rtt := (await state(lab))["rtt_ms"]):
                await asyncio.sleep(0.01)
        assert 0 < rtt[0] < 400
        assert await state(lab) | {"rtt_ms": 0} == {"sockets": 1, "tasks": 1, "rtt_ms": 0}
    await nobody(lab)
    assert lab.errors() == []


@pytest.mark.parametrize("path", ["server", "client"])
async def test_who_is_silent_is_sent_away(lab: LiveServer, path: str) -> None:
    async with connect(f"{lab.ws_url}/ws/heartbeat/{path}") as websocket:
        await ended(websocket)
    assert (websocket.close_code, websocket.close_reason) == (4408, "nothing heard from you")
    await nobody(lab)


@pytest.mark.parametrize("path", ["server", "client"])
async def test_what_is_no_message_ends_it(lab: LiveServer, path: str) -> None:
    for message, code in WRONG:
        async with connect(f"{lab.ws_url}/ws/heartbeat/{path}") as websocket:
            await websocket.send(message)
            await ended(websocket)
        assert websocket.close_code == code, message
        assert websocket.close_reason
    assert lab.errors() == []
    await nobody(lab)


@pytest.mark.parametrize("path", ["server", "client"])
async def test_messages_come_back(lab: LiveServer, path: str) -> None:
    async with connect(f"{lab.ws_url}/ws/heartbeat/{path}") as websocket:
        for text in ("hello", "", "naïve 🌊"):
            await websocket.send(json.dumps({"type": "message", "text": text}))
            while (message := json.loads(await websocket.recv()))["type"] == "ping":
                pass
            assert message == {"type": "message", "text": text}


async def test_a_clients_ping_is_answered_with_its_number(lab: LiveServer) -> None:
    async with connect(f"{lab.ws_url}/ws/heartbeat/client") as websocket:
        for number in (1, 0, -5, 10**30):
            await websocket.send(json.dumps({"type": "ping", "number": number}))
            assert json.loads(await websocket.recv()) == {"type": "pong", "number": number}


async def test_a_pong_that_nobody_asked_for_is_not_timed(lab: LiveServer) -> None:
    with start(name="slow", settings=Settings(ws_heartbeat=30)) as slow:
        async with connect(f"{slow.ws_url}/ws/heartbeat/server") as websocket:
            await websocket.send('{"type": "pong", "number": 7}')
            await websocket.send('{"type": "message", "text": "x"}')
            await websocket.recv()
            assert (await state(slow))["rtt_ms"] == []


async def test_a_client_that_vanished_without_a_word_is_noticed(lab: LiveServer) -> None:
    with fault_proxy(lab) as proxy:
        websocket = await connect(f"{proxy.ws_url}/ws/heartbeat/server", ping_interval=None)
        await websocket.recv()
        proxy.set(black_hole=True)
        assert (await state(lab))["sockets"] == 1
        await nobody(lab)
        websocket.transport.abort()
    assert lab.errors() == []


async def test_leaving_between_two_beats_leaves_no_task(lab: LiveServer) -> None:
    for _ in range(5):
        websocket = await connect(f"{lab.ws_url}/ws/heartbeat/server")
        await answer(websocket, 1)
        websocket.transport.abort()
    await nobody(lab)
    assert lab.errors() == []
