"""picows: WebSockets in Cython, for one listener class and no more; a frame to each of a list of transports."""

import socket

from labserver.bench.peers import Options, Peer, Serve, packages
from labserver.bench.peers.serving import run

__all__ = ["PEER", "build"]

PEER = Peer("picows", packages("picows"))


def build(options: Options) -> Serve:
    """Serve readers and a publisher."""
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

    readers: set[WSTransport] = set()

    class Reader(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            readers.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            readers.discard(transport)

    class Publisher(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            message = frame.get_payload_as_bytes()
            for reader in readers:
                reader.send(WSMsgType.TEXT, message)

    def listener_for(request: WSUpgradeRequest) -> WSListener:
        return Publisher() if request.path == b"/publish" else Reader()

    async def main(listener: socket.socket) -> None:
        server = await ws_create_server(listener_for, sock=listener, backlog=4096)
        await server.serve_forever()

    return run(main)
