"""What the strict protocol does beyond the cases of `tests/real/test_conformance.py`, each beside plain uvicorn."""

import asyncio
import os
import socket
import struct
from typing import Any

import pytest
from realtime.wire import DEADLINE, SMALL, until
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from labserver.realtime.strict import StrictWebSocket
from labserver.stage import start

KINDS = {"plain": WebSocketsSansIOProtocol, "strict": StrictWebSocket}
TEXT, CLOSE, PING, PONG = 0x81, 0x88, 0x89, 0x8A
ASK = (
    b"GET /ws HTTP/1.1\r\nHost: test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def frame(first: int, payload: bytes = b"") -> bytes:
    """Return a short frame, masked with zeros."""
    return bytes([first, 0x80 | len(payload)]) + bytes(4) + payload


class Served:
    """A server with one endpoint, of which the test takes what its protocol and its endpoint meet."""

    def __init__(self, kind: str, *, accept: asyncio.Event | None = None) -> None:
        self.made: list[Any] = []
        self.met: list[Any] = []
        self.go = accept
        made = self.made

        def connection_made(self: Any, transport: Any) -> None:
            made.append(self)
            super(type(self), self).connection_made(transport)

        ws = type("Recorded", (KINDS[kind],), {"connection_made": connection_made})
        app = Starlette(routes=[WebSocketRoute("/ws", self.endpoint)])
        options: dict[str, Any] = {"ws": ws, "ws_per_message_deflate": False, "socket_options": SMALL}
        self.live = start(app, name="strict", **options)

    async def endpoint(self, websocket: WebSocket) -> None:
        if self.go is not None:
            await self.go.wait()
        await websocket.accept()
        while (message := await websocket.receive())["type"] != "websocket.disconnect":
            self.met.append(message.get("text"))
            if message.get("text") == "wait":
                await asyncio.Event().wait()
        self.met.append(message["code"])

    def connect(self) -> socket.socket:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(DEADLINE)
        sock.connect((self.live.host, self.live.port))
        sock.sendall(ASK)
        return sock

    def open(self) -> socket.socket:
        sock = self.connect()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += sock.recv(1)
        return sock


def frames(sock: socket.socket) -> list[tuple[int, bytes]]:
    """Return all frames until the end."""
    data = b""
    try:
        while more := sock.recv(1 << 16):
            data += more
    except ConnectionError:
        pass
    found = []
    while len(data) > 1 and len(data) >= 2 + data[1]:
        found.append((data[0], data[2 : 2 + data[1]]))
        data = data[2 + data[1] :]
    return found


@pytest.mark.parametrize(("kind", "waiting"), [("plain", 3000), ("strict", 1)])
async def test_one_message_waits_for_a_slow_app_however_many_one_read_brought(kind: str, waiting: int) -> None:
    served = Served(kind)
    with served.live, served.open() as sock:
        sock.sendall(frame(TEXT, b"wait") + frame(TEXT) * 3000)
        (protocol,) = served.made
        await until(lambda: served.met == ["wait"] and protocol.queue.qsize() >= waiting)
        assert protocol.queue.qsize() == waiting
        assert protocol.read_paused
    assert served.met[0] == "wait"


async def test_what_waited_is_met_in_order_and_the_close_frame_behind_it_too() -> None:
    served = Served("strict")
    with served.live, served.open() as sock:
        texts = [str(number) for number in range(3000)]
        await asyncio.to_thread(
            sock.sendall, b"".join(frame(TEXT, each.encode()) for each in texts) + frame(CLOSE, struct.pack("!H", 4000))
        )
        await until(lambda: served.met[-1:] == [4000])
        assert served.met[:-1] == texts
        assert await asyncio.to_thread(frames, sock) == [(CLOSE, struct.pack("!H", 4000))]
    assert served.live.errors() == []


@pytest.mark.parametrize(("kind", "code"), [("plain", 1005), ("strict", 1006)])
async def test_a_peer_that_is_lost_is_told_by_its_code(kind: str, code: int) -> None:
    served = Served(kind)
    with served.live:
        served.open().close()
        await until(lambda: served.met == [code])


@pytest.mark.parametrize("kind", KINDS)
async def test_an_invalid_text_before_a_close_frame_ends_with_1007_and_no_traceback(kind: str) -> None:
    served = Served(kind)
    with served.live, served.open() as sock:
        sock.sendall(frame(TEXT, b"\xff") + frame(CLOSE, struct.pack("!H", 1000)))
        codes = [payload[:2] for first, payload in await asyncio.to_thread(frames, sock) if first == CLOSE]
        await until(lambda: bool(served.live.errors()) or served.met)
        assert (codes == [struct.pack("!H", 1007)], served.live.errors() == []) == (kind == "strict",) * 2


@pytest.mark.parametrize("kind", KINDS)
async def test_a_bad_frame_before_the_handshake_was_answered_ends_without_a_traceback(kind: str) -> None:
    go = asyncio.Event()
    served = Served(kind, accept=go)
    with served.live, served.connect() as sock:
        await until(lambda: served.made)
        sock.sendall(frame(0x83))
        assert await asyncio.to_thread(frames, sock) == []
        served.live._runner.submit(_set(go)).result(DEADLINE)  # type: ignore[attr-defined]
    assert (served.live.errors() == []) == (kind == "strict")


async def _set(event: asyncio.Event) -> None:
    event.set()


@pytest.mark.parametrize("kind", KINDS)
async def test_pings_of_a_peer_that_does_not_read_fill_no_buffer_and_the_latest_is_answered(kind: str) -> None:
    served = Served(kind)
    with served.live, served.open() as sock:
        (protocol,) = served.made
        flood = [frame(PING, os.urandom(100)) for _ in range(1000)]

        def full() -> bool:
            size: int = protocol.transport.get_write_buffer_size()
            return size > 1 << 20

        for _ in range(60):
            await asyncio.to_thread(sock.sendall, b"".join(flood))
        sock.sendall(frame(PING, b"the last"))
        if kind == "plain":
            await until(full)
            return
        await until(lambda: not protocol.writable.is_set())
        assert not full()
        got = b""
        while not got.endswith(bytes([PONG, 8]) + b"the last"):
            more = await asyncio.to_thread(sock.recv, 1 << 16)
            assert more
            got = (got + more)[-100:]
