"""uvicorn's WebSocket, as strict as RFC 6455; `tests/real/test_conformance.py` has the cases.

A text that can't be UTF-8 any more fails at that frame, a close frame is heard amid a message, an answer goes out
before a later frame fails the connection, and one message at a time waits for the app, however many one read brought.
"""

from codecs import getincrementaldecoder
from collections.abc import Generator
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CTRL_OPCODES, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

__all__ = ["StrictWebSocket"]

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
