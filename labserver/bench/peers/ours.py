"""The lab's own machinery: the smallest app on `labserver.realtime`, for the rows that measure fan-out."""

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("labserver.realtime")


def build(options: Options) -> Serve:
    """Serve channels on direct connections; the option `deflate` compresses once for all sockets that ask for it."""
    from fastapi import FastAPI, WebSocket

    from labserver.realtime.channels import Channels
    from labserver.realtime.direct import protocols
    from labserver.realtime.sockets import serve_socket
    from labserver.realtime.streams import EventStream

    channels = Channels()
    app = FastAPI(lifespan=channels.lifespan)

    async def ws(websocket: WebSocket) -> None:
        await websocket.accept()
        await serve_socket(websocket, channels, "bench")

    async def publish(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await channels.publish_json("bench", text)

    async def sse() -> EventStream:
        return EventStream(channels, "bench")

    app.add_api_websocket_route("/ws", ws)
    app.add_api_websocket_route("/publish", publish)
    app.add_api_route("/sse", sse, response_model=None)
    return uvicorn_with(
        app, **{**protocols(channels.limits), "ws_per_message_deflate": bool(options.get("deflate", False))}
    )
