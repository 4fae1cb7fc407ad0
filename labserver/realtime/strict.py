"""uvicorn's two protocols, stricter. Its WebSocket is as RFC 6455 wants it: see `tests/real/test_conformance.py`.

A text that can't be UTF-8 any more fails at that frame, a close frame is heard amid a message, an answer goes out
before a later frame fails the connection, and one message at a time waits for the app, however many one read brought.
A handshake that the parser refuses is answered. The head of an HTTP request ends, in bytes and in time.
"""

import asyncio
from codecs import getincrementaldecoder
from collections.abc import Generator
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from .limits import Limits

__all__ = ["StrictHttp", "StrictWebSocket"]

Utf8 = getincrementaldecoder("utf-8")


class Held(StreamReader):
    """What was read; no further frame of it is parsed while it is held."""

    held = False

    def at_eof(self) -> Generator[None, None, bool]:
        while self.held:
            yield
        return (yield from super().at_eof())


class StrictProtocol(ServerProtocol):
    """websockets' parser; holds what was read behind each message."""

    text: Any = None  # the decoder of a text that is not whole, or not ASCII

    def parse(self) -> Generator[None]:
        self.reader = self.behind = Held()
        yield from super().parse()

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None  # RFC 6455, 5.4: a control frame may stand amid a message
        super().recv_frame(frame)
        if frame.opcode not in CTRL_OPCODES:
            self._check(frame)
            self.behind.held = frame.fin and self.state is State.OPEN

    def _check(self, frame: Frame) -> None:
        """Raise UnicodeDecodeError, which `parse` answers with 1007, once a text can't be UTF-8 any more."""
        if frame.opcode is not Opcode.CONT:
            plain = frame.opcode is Opcode.BINARY or (frame.fin and bytes(frame.data).isascii())
            self.text = None if plain else Utf8()
        if self.text is not None:
            self.text.decode(frame.data, frame.fin)


class StrictWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's protocol on the strict parser."""

    conn: StrictProtocol

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        extensions, limit = self.conn.available_extensions, self.config.ws_max_size
        self.conn.parser.close()  # a generator that holds `conn`, which holds it
        self.conn = StrictProtocol(extensions=extensions, max_size=limit, logger=self.logger)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.handshake_exc is not None and not self.handshake_initiated:  # a line above 8 KiB, 129 headers
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.transport.close()

    async def receive(self) -> Any:
        self.read_on()
        message = await self.queue.get()
        if self.conn.behind.held:
            self.loop.call_soon(self.read_on)  # for who takes his time; who answers at once has answered by then
        return message

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.close":
            self.read_on()  # for the peer's answer

    def read_on(self) -> None:
        """Parse what came behind a message that was taken; read on when no other message is there."""
        if not self.conn.behind.held or not (self.close_sent or self.queue.empty()):
            return
        self.conn.behind.held = False
        if not self.transport.is_closing():
            self.data_received(b"")
        if self.read_paused and not self.conn.behind.held:
            self.read_paused = False
            self.transport.resume_reading()

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        else:
            del self.conn.writes[:-1]  # RFC 6455, 5.5.3: who is behind gets the latest pong alone

    def resume_writing(self) -> None:
        super().resume_writing()
        self.handle_ping()

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is not None:
            super().handle_parser_exception()
        else:  # frames before the handshake was answered
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.handshake_complete and self.conn.close_rcvd is None:
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})  # uvicorn says 1005
        super().connection_lost(exc)


class StrictHttp(HttpToolsProtocol):
    """uvicorn's protocol, for heads of requests that end; one that comes in one piece costs no timer."""

    limits: Limits
    head: int | None = 0  # bytes of a head that is not whole
    head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.head is None:
            self._forget_head()
        else:
            self.head += len(data)
            self._wait_for_head()

    def on_message_begin(self) -> None:
        self.head = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self.head = None
        super().on_headers_complete()

    def _wait_for_head(self) -> None:
        if self.head is not None and self.head > self.limits.head_max_bytes:
            self._refuse_head(b"431 Request Header Fields Too Large")
        elif self.head_due is None and not self.transport.is_closing():
            self.head_due = self.loop.call_later(self.limits.head_deadline, self._refuse_head, b"408 Request Timeout")

    def _forget_head(self) -> None:
        if self.head_due is not None:
            self.head_due.cancel()
            self.head_due = None

    def _refuse_head(self, status: bytes) -> None:
        if self.cycle is None or self.cycle.response_complete:  # amid a response it would be part of it
            self.transport.write(b"HTTP/1.1 %b\r\ncontent-length: 0\r\nconnection: close\r\n\r\n" % status)
        self.transport.close()
