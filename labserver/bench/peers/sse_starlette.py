"""sse-starlette: an `EventSourceResponse` over a queue per reader."""

from collections.abc import AsyncGenerator
from typing import Any

from labserver.bench.peers import Options, Peer, Serve, packages
from labserver.bench.peers.queues import Queues
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("sse-starlette", packages("sse_starlette"))


def build(options: Options) -> Serve:
    """Serve events of text that was encoded before."""
    from fastapi import FastAPI, WebSocket
    from sse_starlette import EventSourceResponse

    app, queues = FastAPI(), Queues()

    async def events() -> AsyncGenerator[dict[str, Any], None]:
        async for text in queues.reader():
            yield {"data": text}

    async def sse() -> Any:
        return EventSourceResponse(events())

    async def publish(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            queues.put(text)

    app.add_api_route("/sse", sse, response_model=None)
    app.add_api_websocket_route("/publish", publish)
    return uvicorn_with(app)
