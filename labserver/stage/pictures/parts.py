"""The parts of a message: which bytes of a frame, an event or a chunk mean what. Names them and draws nothing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from websockets.frames import Opcode
from websockets.streams import StreamReader

from labserver.stage.pictures.words import fit
from labserver.stage.wire import Sender, WireEvent, close_name, counted, parse_frame, sse_blocks

__all__ = ["UNMASKED", "Part", "Strip", "strips"]

UNMASKED = "hex XOR masking key"
"""Meaning of a payload that is shown masked below and in clear above."""


@dataclass(frozen=True, slots=True)
class Part:
    """Neighbouring bytes with one meaning.

    Attributes:
        offset: of the first byte in its message.
        raw: the bytes on the wire.
        name, meaning: what they are, and what they say.
        payload: whether they are what the application sent; the rest is framing.
        clear: the bytes unmasked, when they differ from `raw`.
        bits: for a byte whose bits matter, the bits in groups.
        secret: bytes that are random, or nobody can read: no glyphs, and none in the text twin.
    """

    offset: int
    raw: bytes
    name: str
    meaning: str
    payload: bool = False
    clear: bytes | None = None
    bits: str = ""
    secret: bool = False

    @property
    def plain(self) -> bytes:
        """The bytes as their reader sees them."""
        return self.raw if self.clear is None else self.clear


@dataclass(frozen=True, slots=True)
class Strip:
    """A message, or one frame of it, in parts."""

    title: str
    sender: Sender
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        return sum(len(part.raw) for part in self.parts)

    @property
    def carried(self) -> int:
        """Bytes of payload."""
        return sum(len(part.raw) for part in self.parts if part.payload)

    @property
    def sub(self) -> str:
        way = "client to server" if self.sender == "client" else "server to client"
        return f"{way}: {counted(self.size, 'byte')} carry {self.carried}"


def strips(event: WireEvent) -> list[Strip]:
    """Return the strips of one event: one, or one per frame of a fragmented message."""
    if event.frames:
        count = len(event.frames)
        numbered = [f", {number} of {count}" if count > 1 else "" for number in range(1, count + 1)]
        return [_frame(raw, event, more) for raw, more in zip(event.frames, numbered, strict=True)]
    title, parts = _named(event)
    return [Strip(title, event.sender, tuple(parts))]


def _named(event: WireEvent) -> tuple[str, list[Part]]:
    match event.kind:
        case "event" | "fields":
            return "SSE event", list(_sse(event.raw))
        case "comment":
            return "SSE comment", _comment(event.raw)
        case "chunk":
            return "HTTP/1.1 chunk", _chunk(event.raw)
        case "line":
            return "NDJSON line", _line(event.raw)
        case "open":
            return "HTTP/1.1 head", _head(event.raw)
        case "body":
            return "Body", [Part(0, event.raw, "bytes", event.note or "body", payload=True)]
    return "Bytes", [Part(0, event.raw, "bytes", event.note or event.kind)]


# --- WebSocket frames (RFC 6455, 5.2)


_OPCODES = {0: "continues", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


@dataclass(frozen=True, slots=True)
class _Frame:
    """The bytes of a frame by its fields."""

    raw: bytes

    @property
    def opcode(self) -> int:
        return self.raw[0] & 15

    @property
    def kind(self) -> str:
        return _OPCODES.get(self.opcode, "reserved")

    @property
    def masked(self) -> bool:
        return self.raw[1] >= 128

    @property
    def short(self) -> int:
        """The length, or 126 or 127 where the length follows."""
        return self.raw[1] & 127

    @property
    def key(self) -> int:
        """Offset of the masking key, behind the length."""
        return 2 + {126: 2, 127: 8}.get(self.short, 0)

    @property
    def body(self) -> int:
        """Offset of the payload."""
        return self.key + 4 * self.masked

    def unmasked(self) -> bytes:
        """Return the payload as websockets' own parser unmasks it."""
        reader = StreamReader()
        reader.feed_data(bytes([self.raw[0] & 0x8F]) + self.raw[1:])  # without the extension's bits, and their state
        reader.feed_eof()
        return bytes(parse_frame(reader, self.masked).data)


def _frame(raw: bytes, event: WireEvent, more: str) -> Strip:
    frame = _Frame(raw)
    parts = [_first_byte(frame), _second_byte(frame), *_key(frame)]
    if raw[frame.body :]:
        closes = frame.opcode == Opcode.CLOSE and len(raw) - frame.body >= 2
        parts += _close(frame) if closes else [_payload(frame, event, bool(more))]
    return Strip(f"WebSocket frame{more}", event.sender, tuple(parts))


def _first_byte(frame: _Frame) -> Part:
    first = frame.raw[0]
    meaning = f"{'last' if first & 128 else 'more follow'}, {frame.kind}{', deflated' if first & 64 else ''}"
    return Part(0, frame.raw[:1], "FIN, opcode", meaning, bits=f"{first >> 7} {first >> 4 & 7:03b} {first & 15:04b}")


def _second_byte(frame: _Frame) -> Part:
    length = counted(frame.short, "byte") if frame.short < 126 else f"{frame.short}: see next"
    meaning = f"{'yes' if frame.masked else 'no'}, {length}"
    return Part(1, frame.raw[1:2], "MASK, length", meaning, bits=f"{frame.masked:d} {frame.short:07b}")


def _key(frame: _Frame) -> Iterator[Part]:
    """Yield the longer length and the masking key, where there are such."""
    if frame.key > 2:
        length = frame.raw[2 : frame.key]
        yield Part(2, length, "extended length", f"{int.from_bytes(length, 'big')} bytes")
    if frame.masked:
        yield Part(frame.key, frame.raw[frame.key : frame.body], "masking key", "new in each frame", secret=True)


def _close(frame: _Frame) -> list[Part]:
    clear, raw, at = frame.unmasked(), frame.raw[frame.body :], frame.body
    code = int.from_bytes(clear[:2], "big")
    parts = [Part(at, raw[:2], "close code", f"{code}, {close_name(code)}", payload=True, clear=clear[:2])]
    return parts + ([Part(at + 2, raw[2:], "reason", "UTF-8, for people", True, clear[2:])] if raw[2:] else [])


def _payload(frame: _Frame, event: WireEvent, fragment: bool) -> Part:
    deflated = "deflated" in event.note
    meaning = UNMASKED if frame.masked else "as it is: no mask"
    if deflated:
        meaning = f"deflated; {event.size} bytes in all" if fragment else f"inflates to {event.size} bytes"
    elif frame.opcode in (Opcode.PING, Opcode.PONG):
        meaning = "comes back in the pong" if frame.opcode == Opcode.PING else "the ping's"
    return Part(frame.body, frame.raw[frame.body :], "payload", meaning, True, frame.unmasked(), secret=deflated)


# --- Server-Sent Events (WHATWG HTML 9.2)


_FIELDS = {"id": "for Last-Event-ID", "event": "which listener", "retry": "ms before a reconnect"}
_LINE_END = re.compile(rb"\r\n|\n|\r")


def _sse(raw: bytes) -> Iterator[Part]:
    block = next(sse_blocks(raw), None)
    end = block.start if block else 0
    if end:
        yield Part(0, raw[:end], "BOM", "ignored")
    starts = [at for at, _ in block.lines] if block else []
    for (at, line), following in zip(block.lines if block else (), [*starts[1:], None], strict=False):
        if line.startswith(b"data:"):
            end = at + len(line) if following is None else following  # the last line's end is the blank line's
            yield from _data(raw, at, line, end)
        else:
            end = _line_end(raw, at + len(line)) if following is None else following
            word = line.partition(b":")[0].decode(errors="replace") or "comment"
            yield Part(at, raw[at:end], fit(word, 120), _FIELDS.get(word, "ignored"))
    if end < len(raw):
        yield Part(end, raw[end:], "blank line", "dispatch now")


def _data(raw: bytes, at: int, line: bytes, stop: int) -> Iterator[Part]:
    """Yield field name, payload and, when another line follows, the line's end."""
    begin, end = at + 5 + line[5:].startswith(b" "), at + len(line)
    yield Part(at, raw[at:begin], "data", "field name")
    if end > begin:
        kind = "JSON" if raw[begin : begin + 1] in (b"{", b"[") else "text"
        yield Part(begin, raw[begin:end], "payload", f"{kind}, on one line", True)
    if stop > end:
        yield Part(end, raw[end:stop], "end of line", "a newline if more data")


def _line_end(raw: bytes, at: int) -> int:
    match = _LINE_END.match(raw, at)
    return match.end() if match else at


def _comment(raw: bytes) -> list[Part]:
    line = raw.rstrip(b"\r\n")
    said = [Part(1, line[1:], "comment", "no listener sees it")] if line[1:] else []
    end = Part(len(line), raw[len(line) :], "end of line", "nothing to dispatch")
    return [Part(0, line[:1], "colon", "a comment"), *said, end]


# --- HTTP bodies and heads


def _line(raw: bytes) -> list[Part]:
    body = raw.rstrip(b"\r\n")
    end = [Part(len(body), raw[len(body) :], "newline", "end of this record")] if raw[len(body) :] else []
    return [Part(0, body, "payload", "one JSON value", True), *end]


def _chunk(raw: bytes) -> list[Part]:
    start = raw.find(b"\r\n") + 2
    size = int(raw[: start - 2].split(b";")[0] or b"0", 16)
    parts = [Part(0, raw[:start], "size", f"{size}, in hex")]
    if size:
        body = raw[start : start + size]
        row = body.startswith(b"{") and body.endswith(b"\n") and body.count(b"\n") == 1
        parts.append(Part(start, body, "payload", "one NDJSON row" if row else "the data", True))
    if raw[start + size :]:
        name = "end of chunk" if size else "end of body"
        parts.append(Part(start + size, raw[start + size :], name, "not part of the data"))
    return parts


def _head(raw: bytes) -> list[Part]:
    """Name the head of a request or an answer: the line that matters, then the rest as one part."""
    end = raw.find(b"\r\n") + 2
    name, meaning = ("status line", "how it went") if raw.startswith(b"HTTP/") else ("request line", "what is asked")
    count = raw[end:].count(b"\r\n") - 1
    headers = Part(end, raw[end:], "headers", f"{count} of them, then a blank line", secret=True)
    return [Part(0, raw[:end], name, meaning), headers]
