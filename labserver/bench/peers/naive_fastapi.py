"""The manager of most tutorials: a list of WebSockets, and `await send_json(...)` to one after the other."""

from typing import Any

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("naive FastAPI manager")


def build(options: Options) -> Serve:
    """Serve a `ConnectionManager` as it is taught."""
    from fastapi import FastAPI, WebSocket, WebSocketDisconnect

    class ConnectionManager:
        def __init__(self) -> None:
            self.active_connections: list[WebSocket] = []

        async def connect(self, websocket: WebSocket) -> None:
            await websocket.accept()
            self.active_connections.append(websocket)

        def disconnect(self, websocket: WebSocket) -> None:
            self.active_connections.remove(websocket)

        async def broadcast(self, message: Any) -> None:
            for connection in self.active_connections:
                await connection.send_json(message)

    app, manager = FastAPI(), ConnectionManager()

    async def ws(websocket: WebSocket) -> None:
        await manager.connect(websocket)
        try:
            while True:
                await websocket.receive_text()
        except WebSocketDisconnect:
            manager.disconnect(websocket)

    async def publish(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_json():
            await manager.broadcast(message)

    app.add_api_websocket_route("/ws", ws)
    app.add_api_websocket_route("/publish", publish)
    return uvicorn_with(app)
