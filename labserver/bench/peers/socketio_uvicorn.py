"""python-socketio under uvicorn: an event to a room, over its own protocol on top of WebSockets."""

from typing import Any

from labserver.bench.peers import Options, Peer, Serve, Wire, packages
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

_PATH = "/socket.io/?EIO=4&transport=websocket"
_CONNECT, _EVENT = "40", "42"  # Engine.IO's message, and in it Socket.IO's connect and event

PEER = Peer(
    "python-socketio",
    packages("socketio"),
    Wire(
        ws=_PATH,
        publish=_PATH,
        hello=f'{_CONNECT}\n{_EVENT}["join"]',
        greet=_CONNECT,
        head=f'{_EVENT}["publish",',
        tail="]",
    ),
)


def build(options: Options) -> Serve:
    """Serve one room."""
    import socketio

    server = socketio.AsyncServer(async_mode="asgi", transports=["websocket"])

    async def join(sid: str, *data: Any) -> None:
        await server.enter_room(sid, "bench")

    async def publish(sid: str, data: Any) -> None:
        await server.emit("message", data, room="bench")

    server.on("join", join)
    server.on("publish", publish)
    return uvicorn_with(socketio.ASGIApp(server))
