"""The echo over real sockets: what comes back, which code ends it, and whether the count is right afterwards."""

import asyncio
import json
import random

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from labserver.stage import LiveServer

WRONG_INPUT = [
    ("/ws", b"\x00\xff", 1003, "text messages only"),
    ("/ws", b"", 1003, "text messages only"),
    ("/ws/bytes", "text", 1003, "binary messages only"),
    ("/ws/bytes", "", 1003, "binary messages only"),
    ("/ws/json", b"{}", 1003, "text messages only"),
    ("/ws/json", "", 1007, "not JSON"),
    ("/ws/json", "{'a': 1}", 1007, "not JSON"),
    ("/ws/json", "[" * 100_000, 1007, "not JSON"),
    ("/ws/json", "1" * 5_000, 1007, "not JSON"),
    ("/ws/json", "NaN", 1007, "not JSON"),
    ("/ws/json", "[Infinity, -Infinity]", 1007, "not JSON"),
    ("/ws/json", "1e999", 1007, "not JSON"),
]


async def online(lab: LiveServer, expected: int, within: float = 3.0) -> int:
    """Return how many sockets the server counts, as soon as that is `expected` or after `within` seconds."""
    deadline = asyncio.get_running_loop().time() + within
    async with httpx.AsyncClient(base_url=lab.url) as client:
        while True:
            count = int((await client.get("/online")).json()["online"])
            if count == expected or asyncio.get_running_loop().time() > deadline:
                return count
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("path", "messages"),
    [
        ("/ws", ["hello", "", "naïve 🌊", "x" * 100_000]),
        ("/ws/bytes", [b"\x00\xff\x7f", b"", random.Random(1).randbytes(100_000)]),
        ("/ws/json", [json.dumps(v) for v in ({"a": [1, None, True]}, "text", 0, [], "\ud800", "naïve")]),
    ],
)
async def test_every_message_comes_back_as_it_was(lab: LiveServer, path: str, messages: list[str | bytes]) -> None:
    async with connect(lab.ws_url + path) as websocket:
        for message in messages:
            await websocket.send(message)
            assert await websocket.recv() == message
        assert await online(lab, 1) == 1
    assert websocket.close_code == 1000
    assert await online(lab, 0) == 0


@pytest.mark.parametrize(("path", "message", "code", "reason"), WRONG_INPUT)
async def test_wrong_input_is_told_by_code_and_reason(
    lab: LiveServer, path: str, message: str | bytes, code: int, reason: str
) -> None:
    async with connect(lab.ws_url + path) as websocket:
        await websocket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
    assert await online(lab, 0) == 0
    assert lab.errors() == []


async def test_text_that_is_not_utf8_closes_1007(lab: LiveServer) -> None:
    async with connect(lab.ws_url + "/ws") as websocket:
        await websocket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1007
    assert await online(lab, 0) == 0


@pytest.mark.parametrize("path", ["/ws", "/ws/bytes", "/ws/json"])
async def test_a_peer_that_vanishes_is_forgotten_without_a_traceback(lab: LiveServer, path: str) -> None:
    sockets = [await connect(lab.ws_url + path) for _ in range(20)]
    assert await online(lab, 20) == 20
    for number, websocket in enumerate(sockets):
        if number % 2:  # every other one also leaves a message behind that the server can't take
            await websocket.send(b"x" if path == "/ws" else "x")
        websocket.transport.abort()
    assert await online(lab, 0) == 0
    assert lab.errors() == []


async def test_two_clients_never_get_each_others_messages(lab: LiveServer) -> None:
    async def talk(name: str) -> None:
        async with connect(lab.ws_url + "/ws") as websocket:
            for number in range(50):
                await websocket.send(f"{name} {number}")
                assert await websocket.recv() == f"{name} {number}"

    await asyncio.gather(*(talk(name) for name in ("ana", "ben", "cleo")))


async def test_a_message_beyond_the_limit_closes_1009(lab: LiveServer) -> None:
    async with connect(lab.ws_url + "/ws", max_size=None) as websocket:
        await websocket.send("x" * (1 << 20))
        assert len(await websocket.recv()) == 1 << 20
        await websocket.send("x" * ((1 << 20) + 1))
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert await online(lab, 0) == 0
