"""FastAPI's own event streams: an endpoint that yields `ServerSentEvent` from a queue per reader."""

from collections.abc import AsyncIterable

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.queues import Queues
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("FastAPI's own SSE")


def build(options: Options) -> Serve:
    """Serve events of values, as FastAPI documents it."""
    from fastapi import FastAPI, WebSocket
    from fastapi.sse import EventSourceResponse, ServerSentEvent

    app, queues = FastAPI(), Queues()

    @app.get("/sse", response_class=EventSourceResponse)
    async def sse() -> AsyncIterable[ServerSentEvent]:
        async for message in queues.reader():
            yield ServerSentEvent(data=message)

    async def publish(websocket: WebSocket) -> None:
        await websocket.accept()
        async for message in websocket.iter_json():
            queues.put(message)

    app.add_api_websocket_route("/publish", publish)
    return uvicorn_with(app)
