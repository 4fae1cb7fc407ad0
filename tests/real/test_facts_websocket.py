"""What notebook 01 teaches about uvicorn and Starlette: each test fails when a new version makes it untrue."""

import asyncio

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from uvicorn import Config
from websockets.asyncio.client import connect

from labserver.stage import start


async def meet(app: FastAPI, met: list[str], count: int) -> list[str]:
    """Serve `app`, connect, vanish without a close frame, and return what the endpoint met."""
    with start(app, name="facts") as live:
        websocket = await connect(f"{live.ws_url}/ws")
        websocket.transport.abort()
        async with asyncio.timeout(5):
            while len(met) < count:
                await asyncio.sleep(0.01)
    return met


def named(error: Exception) -> str:
    code = f" {error.code}" if isinstance(error, WebSocketDisconnect) else ""
    return type(error).__name__ + code


async def test_a_vanished_peer_is_told_as_1005_on_receive_1006_on_send_and_then_as_a_runtime_error() -> None:
    app = FastAPI()
    met: list[str] = []

    @app.websocket("/ws")
    async def watch(websocket: WebSocket) -> None:
        await websocket.accept()
        for attempt in (websocket.receive_text, lambda: websocket.send_text("a"), lambda: websocket.send_text("b")):
            try:
                await attempt()
            except Exception as error:
                met.append(named(error))

    assert (await meet(app, met, 3))[:2] == ["WebSocketDisconnect 1005", "WebSocketDisconnect 1006"]
    assert met[2] == "WebSocketDisconnected"


async def test_after_the_servers_own_close_send_close_and_receive_raise_a_runtime_error() -> None:
    app = FastAPI()
    met: list[Exception] = []

    @app.websocket("/ws")
    async def close_and_go_on(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(1000)
        for attempt in (lambda: websocket.send_text("a"), websocket.close, websocket.receive_text):
            try:
                await attempt()
            except Exception as error:
                met.append(error)

    with start(app, name="facts") as live:
        async with connect(f"{live.ws_url}/ws") as websocket:
            await websocket.wait_closed()
        async with asyncio.timeout(5):
            while len(met) < 3:
                await asyncio.sleep(0.01)
    assert [isinstance(error, RuntimeError) for error in met] == [True, True, True]


@pytest.mark.parametrize(
    ("method", "message"), [("receive_text", b"x"), ("receive_bytes", "x"), ("receive_json", b"x")]
)
async def test_the_other_type_of_message_raises_key_error(method: str, message: str | bytes) -> None:
    app = FastAPI()
    met: list[str] = []

    @app.websocket("/ws")
    async def receive(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await getattr(websocket, method)()
        except Exception as error:
            met.append(named(error))

    with start(app, name="facts") as live:
        async with connect(f"{live.ws_url}/ws") as websocket:
            await websocket.send(message)
            await websocket.wait_closed()
    assert met == ["KeyError"]


def test_uvicorn_takes_messages_of_16_mib_unless_told_otherwise() -> None:
    assert Config("app").ws_max_size == 16 * 1024 * 1024
