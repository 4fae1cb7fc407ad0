"""HTTP/1.1 messages as h11 parses them, with the places of head and body on the wire."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import h11

from labserver.stage.wire.direction import Direction, Span

__all__ = ["Message", "answer_parser", "read_message", "request_parser"]

_SLICE = 4096  # h11 is fed in slices, so that its leftover, which is copied to find an offset, stays small
_Head = h11.Request | h11.Response | h11.InformationalResponse


@dataclass(slots=True)
class Message:
    """A request or an answer.

    Attributes:
        start, body_start, stop: offsets of the head, of what follows the head, and behind the message.
        spans: where the bytes of the body lie.
        complete: whether all of it came.
        error: what was wrong with its body.
    """

    head: _Head
    start: int
    body_start: int
    stop: int = 0
    spans: list[Span] = field(default_factory=list)
    complete: bool = False
    error: str = ""

    def header(self, name: bytes) -> str:
        """Return the values of a header, given in lower case, as one; "" when there is none."""
        return b", ".join(value for key, value in self.head.headers if key == name).decode("latin-1")

    def has(self, name: bytes) -> bool:
        return any(key == name for key, _ in self.head.headers)

    @property
    def status(self) -> int:
        """Status of an answer, 0 of a request."""
        return 0 if isinstance(self.head, h11.Request) else self.head.status_code

    @property
    def upgrade(self) -> bool:
        """Whether a request asks to become a WebSocket."""
        return "websocket" in self.header(b"upgrade").lower()

    @property
    def chunked(self) -> bool:
        return "chunked" in self.header(b"transfer-encoding").lower()


def request_parser() -> h11.Connection:
    """Return an h11 server that waits for a request."""
    return h11.Connection(h11.SERVER)


def answer_parser(request: Message) -> h11.Connection:
    """Return an h11 client that has just sent such a request and reads the answer to it."""
    asked = h11.Connection(h11.CLIENT)
    headers = [("Host", "tape")]
    if request.upgrade:
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    method = request.head.method if isinstance(request.head, h11.Request) else b"GET"
    asked.send(h11.Request(method=method, target="/", headers=headers))
    asked.send(h11.EndOfMessage())
    return asked


def read_message(side: Direction, parser: h11.Connection) -> Message | str:
    """Parse one message where `side` is understood up to, and go behind it.

    Returns: the message, or "" when there is less than its head, or what is wrong with it.
    """
    start = side.at
    message: Message | None = None
    try:
        for event, offset in _steps(side, parser):
            if isinstance(event, _Head):
                message = Message(event, start, offset)
            if message is not None:
                _extend(message, event, offset)
                if message.complete:
                    break
    except h11.RemoteProtocolError as error:
        if message is None:
            return str(error) if side.unread else ""
        message.error, message.stop = str(error), len(side.data)
    if message is None:
        return ""
    side.at = message.stop
    return message


_Step = h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]


def _extend(message: Message, event: _Step, offset: int) -> None:
    message.stop = offset
    if isinstance(event, h11.Data):
        message.spans.append(Span(offset - len(event.data), offset, event.chunk_end))
    message.complete = isinstance(event, h11.EndOfMessage | h11.InformationalResponse)


def _steps(side: Direction, parser: h11.Connection) -> Iterator[tuple[_Step, int]]:
    """Yield what h11 makes of the bytes, each with the offset behind it, until no more can come."""
    fed = side.at
    while True:
        event = parser.next_event()
        if event is not h11.NEED_DATA:
            yield event, fed - len(parser.trailing_data[0])
            if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return
        elif fed < len(side.data):
            parser.receive_data(side.data[fed : fed + _SLICE])
            fed = min(fed + _SLICE, len(side.data))
        elif _lasts_until_the_end(side, parser):
            parser.receive_data(b"")
        else:
            yield event, fed
            return


def _lasts_until_the_end(side: Direction, parser: h11.Connection) -> bool:
    """Whether a body is being read and its sender has ended: it may be as long as the connection."""
    ended = side.end is not None and side.end.how == "eof"
    return ended and parser.their_state is h11.SEND_BODY and not parser.trailing_data[1]
