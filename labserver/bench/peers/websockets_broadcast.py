"""websockets and its `broadcast`: the frame is made once, then written to each connection."""

import asyncio
import socket

from labserver.bench.peers import Options, Peer, Serve, packages
from labserver.bench.peers.serving import run

__all__ = ["PEER", "build"]

PEER = Peer("websockets.broadcast", packages("websockets"))


def build(options: Options) -> Serve:
    """Serve readers and a publisher, without compression."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    readers: set[ServerConnection] = set()

    async def handle(connection: ServerConnection) -> None:
        if connection.request is not None and connection.request.path == "/publish":
            async for message in connection:
                broadcast(readers, message)
            return
        readers.add(connection)
        try:
            await connection.wait_closed()
        finally:
            readers.discard(connection)

    async def main(listener: socket.socket) -> None:
        async with serve(handle, sock=listener, compression=None, backlog=4096):
            await asyncio.get_running_loop().create_future()

    return run(main)
