"""What the stage's TCP proxies share: how a connection is prepared, closed and reset."""

import asyncio
import socket
import struct
import sys
from contextlib import suppress

__all__ = ["READ", "close", "prepare", "reset"]

READ = 1 << 16  # bytes at a time, and the most that waits in a stream for each direction
_FLUSH = 1.0  # seconds a connection has to end after it was closed: a peer that stopped reading never lets it
_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)  # close() sends RST


def prepare(writer: asyncio.StreamWriter) -> None:
    """Send at once what is written, let `drain` wait when more than `READ` bytes are not sent yet, and hold little.

    The system would let its buffers for the two sockets of a proxy grow to many megabytes, which hides from a server
    for long that its client does not read.
    """
    writer.transport.set_write_buffer_limits(high=READ)
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, READ)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ)


async def close(*sides: asyncio.StreamWriter) -> None:
    """Close connections; those whose peer does not take what was written for it are reset."""
    for side in sides:
        side.close()
    try:
        async with asyncio.timeout(_FLUSH):
            await asyncio.gather(*(side.wait_closed() for side in sides), return_exceptions=True)
    except TimeoutError:
        pass
    finally:
        for side in sides:
            reset(side)


def reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST, which its peer sees as an abort and not as an end."""
    sock = writer.get_extra_info("socket")
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
