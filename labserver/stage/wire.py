"""What the bytes of a recorded connection mean: reads in, events out, no I/O and no clock of its own.

HTTP/1.1 is parsed by h11, WebSocket frames by websockets' own frame parser, Server-Sent Events as WHATWG HTML 9.2 says.
Whatever can't be parsed becomes an event of kind "error"; nothing in here raises because of what was on the wire.
The events do not depend on how the bytes were split into reads; only their times do.
"""

import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import h11
from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension
from websockets.streams import StreamReader

__all__ = [
    "CLOSE_NAMES",
    "MESSAGES",
    "Conversation",
    "End",
    "Read",
    "Sender",
    "WireEvent",
    "close_name",
    "elide",
    "parse",
    "parse_chunks",
    "sse_blocks",
]

Sender = Literal["client", "server"]

MESSAGES = ("text", "bytes", "event", "line", "body")
"""Kinds of event that carry a payload the application sent."""

CLOSE_NAMES = {
    1000: "normal",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1007: "bad payload",
    1008: "policy violation",
    1009: "message too big",
    1010: "extension missing",
    1011: "server error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
}
"""Close codes by name (RFC 6455, 7.4.1, and the IANA registry); 3000-3999 are registered, 4000-4999 private."""

_MAX_FRAME = 64 << 20  # a tape is bounded well below; this stops a forged length or a zip bomb
_SLICE = 4096  # h11 is fed in slices, so that its leftover, which is copied to find an offset, stays small
_LINE_TYPES = re.compile(r"(ndjson|jsonl|json-lines|jsonlines|stream\+json|json-seq)")


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes that passed at one instant: seconds since the tape's first byte, who sent them, the bytes."""

    at: float
    sender: Sender
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """One side stopped sending: `how` is "eof" (FIN), "reset" (RST) or "refused" (the server was never reached)."""

    at: float
    sender: Sender
    how: Literal["eof", "reset", "refused"]


@dataclass(frozen=True, slots=True)
class WireEvent:
    """One thing that happened on the wire.

    Attributes:
        at: seconds since the tape's first byte; when its last byte passed.
        connection: number of the TCP connection, from 1, in the order they were accepted.
        exchange: number of the request on its connection, from 1.
        sender: who sent it, "client" or "server"; of a cut, who hung up.
        kind: open, text, bytes, ping, pong, close, event, comment, fields (an SSE block that is never dispatched),
            line, body, cut, lost (half a message, of no use), error (not parseable, or never reached), full.
        label: what it says, one line, may be elided.
        note: what a reader should know about it.
        size: bytes of payload, uncompressed.
        raw: the exact bytes of the message as sent: frames of a WebSocket, bytes of a body (before content coding).
        data: payload: str for text, events and lines, bytes otherwise.
        frames: the frames of a WebSocket message, one by one.
        id: an SSE event's id, None if it had none.
        name: an SSE event's type ("message" by default), the path of a request, the code or status of an answer.
        arrivals: of a body, when its pieces came, seconds, and how many bytes each; timing decides, pictures show it.
    """

    at: float
    connection: int
    exchange: int
    sender: Sender
    kind: str
    label: str = ""
    note: str = ""
    size: int = 0
    raw: bytes = field(default=b"", repr=False)
    data: bytes | str = field(default=b"", repr=False)
    frames: tuple[bytes, ...] = field(default=(), repr=False)
    id: str | None = None
    name: str = ""
    arrivals: tuple[tuple[float, int], ...] = field(default=(), repr=False)

    @property
    def shown(self) -> str:
        """The kind as a reader sees it: an event or line that reports an error is an "error"."""
        if self.kind == "event" and self.name == "error":
            return "error"
        if self.kind == "line" and isinstance(self.data, str) and '"error"' in self.data[:200]:
            record = _json(self.data)
            return "error" if isinstance(record, dict) and "error" in record else "line"
        return self.kind


@dataclass(slots=True)
class Conversation:
    """Everything recorded of one TCP connection. `full` says that the recording stopped before the connection did."""

    number: int
    reads: list[Read] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    full: bool = False
    passed: int = 0


def elide(text: str, width: int) -> str:
    """Return `text` on one line, at most `width` characters, the rest replaced by an ellipsis."""
    short = text[: width * 2].translate(_CONTROL)
    return short if len(short) <= width else short[: width - 1].rstrip() + "…"


_CONTROL: dict[int, str] = dict.fromkeys([*range(32), *range(127, 160)], "·") | {
    9: "\\t",
    10: "\\n",
    13: "\\r",
    0x2028: "·",
    0x2029: "·",
    0x202A: "·",
    0x202B: "·",
    0x202D: "·",
    0x202E: "·",
    0x2066: "·",
    0x2067: "·",
    0xFEFF: "·",
}


class _Stream:
    """One direction of a connection as a whole, and when each of its bytes passed."""

    def __init__(self, talk: Conversation, sender: Sender) -> None:
        reads = [(order, read) for order, read in enumerate(talk.reads) if read.sender == sender]
        self.sender: Sender = sender
        self.data = b"".join(read.data for _, read in reads)
        self._limits: list[int] = []
        self._stamps: list[tuple[int, float]] = []
        total = 0
        for order, read in reads:
            total += len(read.data)
            self._limits.append(total)
            self._stamps.append((order, read.at))
        self.end = None if talk.full else next((end for end in talk.ends if end.sender == sender), None)

    def stamp(self, end: int) -> tuple[int, float]:
        """Return the place in the recording and the time of the byte before offset `end`."""
        if not self._stamps:
            return (0, 0.0)
        return self._stamps[min(bisect_left(self._limits, max(end, 1)), len(self._stamps) - 1)]

    def arrivals(self, spans: "list[tuple[int, int, bool, bool]]") -> tuple[tuple[float, int], ...]:
        """Return when the bytes of `spans` came, and how many each time."""
        sums: dict[float, int] = {}
        for at, length, _, _ in spans:
            stop = at + length
            while at < stop:
                index = bisect_right(self._limits, at)
                piece = min(stop, self._limits[index]) - at
                when = self._stamps[index][1]
                sums[when] = sums.get(when, 0) + piece
                at += piece
        return tuple(sums.items())


class _Collector:
    """Collects the events of one connection with what sorts them: the read in which each was complete."""

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self.exchange = 1
        self.chunks: list[WireEvent] = []
        self._rows: list[tuple[int, int, WireEvent]] = []

    def add(self, stream: _Stream, end: int, kind: str, label: str = "", note: str = "", **more: object) -> None:
        order, at = stream.stamp(end)
        event = WireEvent(at, self.talk.number, self.exchange, stream.sender, kind, label, note, **more)  # type: ignore[arg-type]
        self._rows.append((order, len(self._rows), event))

    def add_end(self, end: End, kind: str, label: str = "", note: str = "", name: str = "") -> None:
        order = len(self.talk.reads)
        event = WireEvent(end.at, self.talk.number, self.exchange, end.sender, kind, label, note, name=name)
        self._rows.append((order, len(self._rows), event))

    def events(self) -> list[WireEvent]:
        return [event for _, _, event in sorted(self._rows, key=lambda row: row[:2])]


def parse(talk: Conversation) -> list[WireEvent]:
    """Return the events of one recorded connection, in the order in which they were complete on the wire."""
    return _parse(talk)[0]


def parse_chunks(talk: Conversation) -> list[WireEvent]:
    """Return the chunks (RFC 9112, 7.1) of one connection's answers; they are framing, not events."""
    return _parse(talk, chunked=True)[1]


def _parse(talk: Conversation, chunked: bool = False) -> tuple[list[WireEvent], list[WireEvent]]:
    out = _Collector(talk)
    client, server = _Stream(talk, "client"), _Stream(talk, "server")
    try:
        _http(out, talk, client, server, chunked)
    except Exception as error:  # a fault of ours must not cost the reader the rest of the tape
        out.add(server, len(server.data), "error", "not understood", f"{type(error).__name__}: {error}")
    events = out.events()
    if talk.full:
        at = max((read.at for read in talk.reads), default=0.0)
        note = "what passed after this was forwarded, not kept"
        events.append(WireEvent(at, talk.number, out.exchange, "server", "full", "tape full", note))
    return events, out.chunks


# --- HTTP/1.1 -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Head:
    """A request or response head, where its body lies on the wire, and how the message ended."""

    start: int
    event: h11.Request | h11.Response | h11.InformationalResponse
    body_start: int
    spans: list[tuple[int, int, bool, bool]]  # offset and length of body bytes; chunk begins, chunk ends here
    stop: int = 0
    complete: bool = False
    error: str = ""

    def header(self, name: bytes) -> str:
        return b", ".join(value for key, value in self.event.headers if key == name).decode("latin-1")


def _http(out: _Collector, talk: Conversation, client: _Stream, server: _Stream, chunked: bool) -> None:
    at_client = at_server = 0
    while at_client < len(client.data):
        http2 = client.data.startswith(b"PRI * HTTP/2", at_client)
        request = "HTTP/2 is not parsed" if http2 else _message(client, at_client, h11.Connection(h11.SERVER))
        if isinstance(request, str):
            if request:
                _garbage(out, client, at_client, request)
            elif talk.ends and not talk.full:
                out.add(client, len(client.data), "lost", _preview(client.data[at_client:]), "half a request")
            break
        upgrade = _add_request(out, client, request)
        at_client = request.stop
        response: _Head | str = ""
        while True:
            response = _message(server, at_server, _asking(request.event, upgrade))
            if isinstance(response, _Head) and response.event.status_code in (100, 102, 103):  # type: ignore[union-attr]
                _add_status(out, server, response)
                at_server = response.stop
                continue
            break
        if isinstance(response, str):
            if at_server < len(server.data):
                _garbage(out, server, at_server, response or "half an answer")
            else:
                _unanswered(out, client, server)
            return
        at_server = response.stop
        if response.event.status_code == 101:  # type: ignore[union-attr]
            _add_status(out, server, response)
            _websocket(out, talk, client, at_client, server, at_server, response.header(b"sec-websocket-extensions"))
            return
        _add_status(out, server, response, refused=upgrade)
        if chunked:
            _chunks(out, server, response)
        _body(out, server, response)
        if not _finish(out, client, server, response):
            return
        out.exchange += 1
    if not client.data:
        _silent(out, client, server)
    elif at_server < len(server.data) and at_client >= len(client.data):
        _garbage(out, server, at_server, "bytes that nobody asked for")


def _asking(request: object, upgrade: bool) -> h11.Connection:
    """Return an h11 client that has just sent such a request and reads the answer to it."""
    asked = h11.Connection(h11.CLIENT)
    headers = [("Host", "tape")]
    if upgrade:
        headers += [("Connection", "Upgrade"), ("Upgrade", "websocket")]
    method = request.method if isinstance(request, h11.Request) else b"GET"
    asked.send(h11.Request(method=method, target="/", headers=headers))
    asked.send(h11.EndOfMessage())
    return asked


def _message(stream: _Stream, start: int, parser: h11.Connection) -> "_Head | str":
    """Parse one message from offset `start`. Return its head, or "" when there is less than one, or what is wrong."""
    head: _Head | None = None
    fed = start
    data = stream.data
    while True:
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError as error:
            if head is None:
                return str(error) if start < len(data) else ""
            head.error, head.stop = str(error), len(data)
            return head
        offset = fed - len(parser.trailing_data[0])
        if event is h11.NEED_DATA:
            if fed < len(data):
                parser.receive_data(data[fed : fed + _SLICE])
                fed += _SLICE
                fed = min(fed, len(data))
                continue
            ended = stream.end is not None and stream.end.how == "eof"
            if head is not None and ended and not parser.trailing_data[1]:
                parser.receive_data(b"")  # a body may be as long as the connection
                continue
            if head is not None:
                head.stop = len(data)
            return head or ""
        if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
            head = _Head(start, event, offset, [], offset)
            if isinstance(event, h11.InformationalResponse):
                head.complete = True
                return head
        elif isinstance(event, h11.Data) and head is not None:
            span = (offset - len(event.data), len(event.data), event.chunk_start, event.chunk_end)
            head.spans.append(span)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            head.complete, head.stop = True, offset
            return head
        else:  # PAUSED or ConnectionClosed: no more can come
            if head is None:
                return ""
            head.stop = offset
            return head


def _add_request(out: _Collector, client: _Stream, request: _Head) -> bool:
    """Add the request and its body; return whether it asks to become a WebSocket."""
    event = request.event
    assert isinstance(event, h11.Request)
    path = event.target.decode("latin-1")
    upgrade = "websocket" in request.header(b"upgrade").lower()
    label = f"{event.method.decode()} {elide(path, 60)}"
    last = request.header(b"last-event-id")
    note = "HTTP request"
    if upgrade:
        label += ", Upgrade: websocket"
    if any(key == b"last-event-id" for key, _ in event.headers):
        note = f"Last-Event-ID: {elide(last, 40)}"
    raw = client.data[request.start : request.body_start]
    out.add(client, request.body_start, "open", label, note, raw=raw, name=path)
    size = sum(length for _, length, _, _ in request.spans)
    if size:
        body = b"".join(client.data[at : at + length] for at, length, _, _ in request.spans)
        label = _preview(body)
        out.add(client, request.stop, "body", label, f"{size} bytes of body", size=size, raw=body, data=body)
    return upgrade


def _add_status(out: _Collector, server: _Stream, response: _Head, refused: bool = False) -> None:
    event = response.event
    assert not isinstance(event, h11.Request)
    reason = event.reason.decode("latin-1")
    label = f"{event.status_code} {reason}".strip()
    note = "from here on: frames"
    if event.status_code != 101:
        note = response.header(b"content-type").split(";")[0] or "no body"
        coding = response.header(b"content-encoding")
        note += f", {coding}" if coding else ""
        note = "no upgrade: the handshake is refused" if refused else note
    raw = server.data[response.start : response.body_start]
    out.add(server, response.body_start, "open", label, note, raw=raw, name=str(event.status_code))


def _unanswered(out: _Collector, client: _Stream, server: _Stream) -> None:
    """A request without an answer: say who hung up, if anybody did."""
    if server.end is not None and server.end.how == "refused":
        out.add_end(server.end, "error", "connection refused", "nothing listens at the server's address", "refused")
    elif _left_first(client, server) and client.end is not None:
        out.add_end(client.end, "close", "client leaves", "before the answer")
    elif server.end is not None:
        out.add_end(server.end, "cut", "cut, no answer", "the server hung up without an answer")


def _silent(out: _Collector, client: _Stream, server: _Stream) -> None:
    """A connection on which the client said nothing."""
    if server.end is not None and server.end.how == "refused":
        out.add_end(server.end, "error", "connection refused", "nothing listens at the server's address", "refused")
    elif server.data:
        _garbage(out, server, 0, "bytes that nobody asked for")
    elif client.end is not None:
        out.add_end(client.end, "close", "client leaves", "without a request")


def _left_first(client: _Stream, server: _Stream) -> bool:
    return client.end is not None and (server.end is None or client.end.at <= server.end.at)


def _finish(out: _Collector, client: _Stream, server: _Stream, response: _Head) -> bool:
    """Add how the answer ended; return whether another may follow on this connection."""
    if response.complete:
        chunked = "chunked" in response.header(b"transfer-encoding").lower()
        sized = response.header(b"content-length")
        how = "last chunk" if chunked else "all bytes" if sized else "connection closed"
        out.add(server, response.stop, "close", "clean end", f"by the server, {how}")
        return True
    if response.error and not response.error.startswith("peer closed"):
        out.add(server, response.stop, "error", "not HTTP", elide(response.error, 60), name="garbage")
    elif _left_first(client, server) and client.end is not None:
        out.add_end(client.end, "close", "client leaves", "by the client")
    elif server.end is not None:
        inside = bool(response.spans) and not response.spans[-1][3]
        chunked = "chunked" in response.header(b"transfer-encoding").lower()
        note = "inside a chunk" if chunked and inside else "no last chunk" if chunked else "bytes are missing"
        out.add_end(server.end, "cut", "cut", note)
    return False


def _garbage(out: _Collector, stream: _Stream, start: int, why: str) -> None:
    raw = stream.data[start:]
    label = "TLS, not HTTP" if raw[:1] == b"\x16" else "HTTP/2" if raw.startswith(b"PRI * HTTP/2") else "not HTTP"
    out.add(stream, len(stream.data), "error", label, elide(why, 60), raw=raw, data=raw, size=len(raw), name="garbage")


def _preview(body: bytes, width: int = 48) -> str:
    """Return the beginning of `body` as text if it is text, else in hex."""
    head = body[: width * 4]
    try:
        text = head.decode() if len(head) == len(body) else _cut_utf8(head)
    except UnicodeDecodeError:
        return _hex(body, 16)
    if any(ord(char) < 32 and char not in "\r\n\t" for char in text):
        return _hex(body, 16)
    return elide(text, width)


def _cut_utf8(head: bytes) -> str:
    """Decode `head`, which may end inside a character."""
    for spare in range(4):
        try:
            return head[: len(head) - spare].decode()
        except UnicodeDecodeError:
            if spare == 3:
                raise
    return ""


def _hex(data: bytes, most: int) -> str:
    return data[:most].hex(" ") + (" …" if len(data) > most else "")


# --- bodies ---------------------------------------------------------------------------------------------------------


class _Body:
    """A body put together again, content coding undone, and where on the wire each of its bytes ended."""

    def __init__(self, server: _Stream, response: _Head) -> None:
        self._starts: list[int] = []
        self._ends: list[tuple[int, int]] = []  # start on the wire, or -1 and the end when coded
        parts: list[bytes] = []
        total = 0
        coding = response.header(b"content-encoding").lower()
        self.error = ""
        inflate = _inflater(coding)
        self.coded = bool(coding) and coding != "identity"
        for at, length, _, _ in response.spans:
            piece = server.data[at : at + length]
            if inflate is not None:
                try:
                    piece = inflate.decompress(piece, _MAX_FRAME - total)
                except zlib.error as error:
                    self.error = str(error)
                    break
            if not piece:
                continue
            self._starts.append(total)
            self._ends.append((-1, at + length) if inflate is not None else (at, at + length))
            parts.append(piece)
            total += len(piece)
        self.data = b"".join(parts)
        self.readable = inflate is not None or not self.coded

    def wire(self, end: int) -> int:
        """Return the offset on the wire at which the body's first `end` bytes were complete."""
        index = max(bisect_right(self._starts, end - 1) - 1, 0)
        if not self._starts:
            return 0
        at, stop = self._ends[index]
        return stop if at < 0 else at + end - self._starts[index]


def _inflater(coding: str) -> "zlib._Decompress | None":
    return {"gzip": zlib.decompressobj(31), "x-gzip": zlib.decompressobj(31), "deflate": zlib.decompressobj()}.get(
        coding
    )


def _body(out: _Collector, server: _Stream, response: _Head) -> None:
    body = _Body(server, response)
    kind = response.header(b"content-type").lower()
    over = response.complete or (bool(out.talk.ends) and not out.talk.full)
    if body.readable and kind.startswith("text/event-stream"):
        _sse(out, server, body, over)
    elif body.readable and _LINE_TYPES.search(kind):
        _lines(out, server, body, response.complete, over)
    elif body.data:
        size = len(body.data)
        label = _preview(body.data) if body.readable else "coded"
        note = f"{size} bytes of body"
        end = body.wire(size)
        pieces = server.arrivals(response.spans)
        out.add(server, end, "body", label, note, size=size, raw=body.data, data=body.data, arrivals=pieces)


def _chunks(out: _Collector, server: _Stream, response: _Head) -> None:
    """Put the chunks of a body together again, each with its size line and its end."""
    if "chunked" not in response.header(b"transfer-encoding").lower():
        return
    start, body = response.body_start, 0
    for at, length, _, last in response.spans:
        body += length
        if last:
            stop = at + length + 2
            _, when = server.stamp(stop)
            raw = server.data[start:stop]
            label = _preview(raw)
            chunk = WireEvent(when, out.talk.number, out.exchange, "server", "chunk", label, size=body, raw=raw)
            out.chunks.append(replace(chunk, data=raw[len(raw) - 2 - body : -2]))
            start, body = stop, 0
    if response.complete:
        raw = server.data[start : response.stop]
        _, when = server.stamp(response.stop)
        out.chunks.append(WireEvent(when, out.talk.number, out.exchange, "server", "chunk", "last chunk", raw=raw))


def sse_blocks(data: bytes) -> Iterator[tuple[int, int, list[tuple[int, bytes]]]]:
    """Split an event stream into blocks (WHATWG HTML 9.2.5): start, end, and its lines with their offsets.

    A comment outside a block is a block of its own. The last block's end is -1 when its blank line never came.
    """
    at = 3 if data.startswith(b"\xef\xbb\xbf") else 0
    lines: list[tuple[int, bytes]] = []
    start = at
    for match in _LINE.finditer(data, at):
        line, stop = match.group(1), match.end()
        if not line:
            if lines:
                yield start, stop, lines
            lines, start = [], stop
        elif line.startswith(b":") and not lines:
            held = [(match.start(), line)]  # with its blank line, which may follow at once
            blank = _LINE.match(data, stop)
            yield start, blank.end() if blank and not blank.group(1) else stop, held
            start = stop
        else:
            lines.append((match.start(), line))
        at = stop
    if at < len(data):
        lines.append((at, data[at:]))
    if lines:
        yield start, -1, lines


_LINE = re.compile(rb"([^\r\n]*)(?:\r\n|\n|\r)")


def _sse(out: _Collector, server: _Stream, body: _Body, over: bool) -> None:
    for start, stop, lines in sse_blocks(body.data):
        end = stop if stop >= 0 else len(body.data)
        raw = body.data[start:end]
        wire = body.wire(end)
        if stop < 0 and not over:
            return  # the rest may still come
        if stop < 0:
            label = elide(raw.decode(errors="replace").rstrip("\r\n"), 48)
            out.add(server, wire, "lost", label, "half an event: never dispatched", raw=raw, data=raw, size=len(raw))
        elif len(lines) == 1 and lines[0][1].startswith(b":"):
            text = lines[0][1].decode(errors="replace")
            out.add(server, wire, "comment", elide(text, 48), raw=raw, data=text[1:].removeprefix(" "), size=len(raw))
        else:
            _sse_event(out, server, wire, raw, [line for _, line in lines])


def _sse_event(out: _Collector, server: _Stream, wire: int, raw: bytes, lines: list[bytes]) -> None:
    data: list[str] = []
    name, ident, retry = "message", None, ""
    for line in lines:
        key, _, value = line.decode(errors="replace").partition(":")
        value = value.removeprefix(" ")
        if key == "data":
            data.append(value)
        elif key == "event":
            name = value or "message"
        elif key == "id" and "\0" not in value:
            ident = value
        elif key == "retry" and value.isascii() and value.isdigit():
            retry = value
    text = "\n".join(data)
    notes = [f"event: {name}"] if name != "message" else []
    notes += [f"retry: {retry}"] if retry else []
    label = f"id {elide(ident, 24)}" if ident is not None else elide(text, 48)
    if ident is not None and text and text != ident:
        notes.insert(0, elide(text, 48))
    if data and not label:
        label, notes = elide(name, 48), [*notes[1 if name != "message" else 0 :], "empty data"]
    size = len(text.encode())
    kind = "event" if data else "fields"
    if kind == "fields":
        notes.append("no data: never dispatched")
        label = label or (f"retry {retry}" if retry else f"event: {name}")
    out.add(server, wire, kind, label, ", ".join(notes), raw=raw, data=text, size=size, id=ident, name=name)


def _lines(out: _Collector, server: _Stream, body: _Body, complete: bool, over: bool) -> None:
    start = 0
    while start < len(body.data):
        newline = body.data.find(b"\n", start)
        end = newline + 1 if newline >= 0 else len(body.data)
        raw = body.data[start:end]
        text = raw.decode(errors="replace").strip("\r\n\x1e ")
        wire = body.wire(end)
        if newline < 0 and not over:
            return
        if newline < 0 and not complete:
            out.add(server, wire, "lost", elide(text, 48), "half a line", raw=raw, data=raw, size=len(raw))
        elif text:
            note = "no newline" if newline < 0 else ""
            out.add(server, wire, "line", elide(text, 48), note, raw=raw, data=text, size=len(raw))
        start = end


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


# --- WebSocket ------------------------------------------------------------------------------------------------------


def _websocket(
    out: _Collector, talk: Conversation, client: _Stream, at_client: int, server: _Stream, at_server: int, coded: str
) -> None:
    client_side, server_side = _deflate(coded)
    mine = _frames(out, client, at_client, client_side)
    theirs = _frames(out, server, at_server, server_side)
    _mend_notes(out)
    if talk.full:
        return
    if not theirs and server.end is not None and not _left_first(client, server):
        note = "close 1006: no close frame came"
        out.add_end(server.end, "cut", "cut", note, name="1006")
    elif not theirs and not mine and client.end is not None:
        out.add_end(client.end, "cut", "client gone", "no close frame sent")
    elif not theirs and mine and server.end is not None:
        out.add_end(server.end, "cut", "cut", "close 1006: the close was not answered", name="1006")


def _deflate(coded: str) -> tuple[list[Extension], list[Extension]]:
    """Return the extensions that decode the client's and the server's frames (RFC 7692, 7.1)."""
    try:
        found = (
            [dict(params) for name, params in parse_extension(coded) if name == "permessage-deflate"] if coded else []
        )
    except Exception:
        found = []
    if not found:
        return [], []
    params = found[0]
    sides: list[list[Extension]] = []
    for side in ("client", "server"):
        bits = params.get(f"{side}_max_window_bits")
        window = int(bits) if bits and bits.isdigit() and 8 <= int(bits) <= 15 else 15
        sides.append([PerMessageDeflate(f"{side}_no_context_takeover" in params, True, window, 15)])
    return sides[0], sides[1]


def _frames(out: _Collector, stream: _Stream, start: int, extensions: list[Extension]) -> bool:
    """Add the messages of one direction; return whether a close frame was among them."""
    reader = StreamReader()
    data = stream.data[start:]
    reader.feed_data(data)
    reader.feed_eof()
    masked = stream.sender == "client"
    parts: list[Frame] = []
    pieces: list[bytes] = []
    deflated = False
    while reader.buffer:
        at = len(data) - len(reader.buffer)
        try:
            for _ in (
                parser := _Returned(
                    Frame.parse(reader.read_exact, mask=masked, max_size=_MAX_FRAME, extensions=extensions)
                )
            ):
                pass
        except EOFError:
            raw = data[at:]
            if stream.end is not None:
                out.add(
                    stream, start + len(data), "lost", _hex(raw, 12), "half a frame", raw=raw, data=raw, size=len(raw)
                )
            return False
        except (ProtocolError, PayloadTooBig, AssertionError) as error:
            raw = data[at:]
            note = elide(str(error) or type(error).__name__, 60)
            out.add(
                stream,
                start + len(data),
                "error",
                "not a frame",
                note,
                raw=raw,
                data=raw,
                size=len(raw),
                name="garbage",
            )
            return False
        frame = parser.value
        stop = len(data) - len(reader.buffer)
        raw, end = data[at:stop], start + stop
        if frame.opcode in (Opcode.PING, Opcode.PONG):
            payload = bytes(frame.data)
            kind = "ping" if frame.opcode is Opcode.PING else "pong"
            label = kind
            note = f"{kind}, {_count(len(payload), 'byte')}"
            out.add(stream, end, kind, label, note, raw=raw, frames=(raw,), data=payload, size=len(payload))
        elif frame.opcode is Opcode.CLOSE:
            _add_close(out, stream, end, raw, bytes(frame.data))
            return True
        else:
            if frame.opcode is not Opcode.CONT:
                parts, pieces, deflated = [], [], bool(raw[0] & 0x40)
            parts.append(frame)
            pieces.append(raw)
            if frame.fin:
                _add_message(out, stream, end, parts, pieces, deflated)
                parts, pieces = [], []
    if pieces and stream.end is not None:
        raw = b"".join(pieces)
        note = f"{_count(len(pieces), 'frame')} of a message that never ended"
        out.add(stream, start + len(data), "lost", _hex(raw, 12), note, raw=raw, data=raw, size=len(raw))
    return False


class _Returned:
    """Runs a generator-based coroutine and keeps what it returned."""

    def __init__(self, coro: Generator[None, None, Frame]) -> None:
        self._coro = coro
        self.value: Frame

    def __iter__(self) -> Iterator[None]:
        self.value = yield from self._coro


def _add_message(
    out: _Collector, stream: _Stream, end: int, parts: list[Frame], pieces: list[bytes], deflated: bool
) -> None:
    payload = b"".join(bytes(part.data) for part in parts)
    text = parts[0].opcode is Opcode.TEXT
    word = "text" if text else "binary"
    data: bytes | str = payload
    label = _hex(payload, 12)
    notes = [word, _count(len(payload), "byte")]
    if text:
        try:
            data = payload.decode()
        except UnicodeDecodeError:
            data = payload.decode(errors="replace")
            notes.append("not UTF-8")
        label = elide(data, 48)
    if len(parts) > 1:
        notes[1] += f" in {len(parts)} frames"
    if stream.sender == "client":
        notes.append("masked")
    if deflated:
        notes.append("deflated")
    kind = "text" if text else "bytes"
    out.add(
        stream,
        end,
        kind,
        label,
        ", ".join(notes),
        raw=b"".join(pieces),
        frames=tuple(pieces),
        data=data,
        size=len(payload),
    )


def _add_close(out: _Collector, stream: _Stream, end: int, raw: bytes, payload: bytes) -> None:
    try:
        code, reason = (
            ((lambda close: (int(close.code), close.reason))(Close.parse(payload))) if payload else (1005, "")
        )
    except (ProtocolError, UnicodeDecodeError):
        code, reason = 1002, ""
    label = f"close {code}" if payload else "close"
    if reason:
        label += f" {elide(reason, 32)}"
    note = f"close, {_count(len(payload), 'byte')}: {close_name(code)}"
    out.add(stream, end, "close", label, note, raw=raw, frames=(raw,), data=payload, size=len(payload), name=str(code))


def close_name(code: int) -> str:
    """Return what a close code means, in two or three words."""
    if code == 1005:
        return "no code"
    if code in CLOSE_NAMES:
        return CLOSE_NAMES[code]
    return "the application's own" if code >= 4000 else "a registered code" if code >= 3000 else "unknown code"


def _mend_notes(out: _Collector) -> None:
    """Say what only the whole conversation tells: an echoed close, and once what a character beyond ASCII takes."""
    closed: WireEvent | None = None
    told: set[str] = set()
    for order, number, event in sorted(out._rows, key=lambda row: row[:2]):
        mended = event
        if event.kind == "close":
            if closed is not None and closed.sender != event.sender:
                mended = replace(event, note="close, echoed: both ends know")
            closed = closed or event
        elif event.kind == "text" and isinstance(event.data, str) and len(event.data) <= 48:
            wide = next((char for char in event.data if ord(char) > 127 and char.isprintable()), "")
            if wide and wide not in told and len(event.frames) == 1:
                note = event.note.replace(", masked", "") + f": {wide} takes {len(wide.encode())}"
                mended = replace(event, note=note)
            told.add(wide)
        if mended is not event:
            out._rows[number] = (order, number, mended)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
