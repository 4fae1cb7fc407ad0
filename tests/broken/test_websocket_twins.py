"""Each twin of the WebSocket topic fails in the way that it says, where a real client can see it."""

import asyncio

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from labserver.stage import LiveServer


async def online(lab: LiveServer, twin: str) -> int:
    async with httpx.AsyncClient(base_url=lab.url) as client:
        return int((await client.get(f"/broken/{twin}/online")).json()["online"])


@pytest.mark.parametrize(
    ("path", "message"), [("/ws", b"x"), ("/ws/bytes", "x"), ("/ws/json", b"x"), ("/ws/json", "x")]
)
async def test_wrong_frame_type_crashes(lab: LiveServer, path: str, message: str | bytes) -> None:
    async with connect(f"{lab.ws_url}/broken/wrong_frame_type_crashes{path}") as websocket:
        await websocket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is None  # no close frame: what every client calls 1006
    assert websocket.close_code == 1006
    assert lab.errors()[0].split(":")[0] in {"KeyError", "JSONDecodeError"}


async def test_disconnect_skips_cleanup(lab: LiveServer) -> None:
    twin = "disconnect_skips_cleanup"
    async with connect(f"{lab.ws_url}/broken/{twin}/ws") as websocket:
        await websocket.send("hello")
        await websocket.recv()
    await until(lab, twin, 0)  # a polite goodbye is cleaned up

    async with connect(f"{lab.ws_url}/broken/{twin}/ws") as websocket:
        await websocket.send(b"x")
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1003  # the code is right, the count is not
    async with connect(f"{lab.ws_url}/broken/{twin}/ws") as websocket:
        await websocket.send("hello")
        await websocket.recv()
        assert await online(lab, twin) == 2
    await until(lab, twin, 1)  # the dead one stays


async def until(lab: LiveServer, twin: str, expected: int, within: float = 3.0) -> None:
    async with asyncio.timeout(within):
        while await online(lab, twin) != expected:
            await asyncio.sleep(0.01)
