"""WebSocket frames as websockets' own parser reads them (RFC 6455, RFC 7692), and the messages they make."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.headers import parse_extension
from websockets.streams import StreamReader

from labserver.stage.wire.direction import Direction
from labserver.stage.wire.event import WireEvent
from labserver.stage.wire.label import counted, elide, hexed
from labserver.stage.wire.reading import Reading

__all__ = ["CLOSE_NAMES", "add_frames", "close_name", "mend_notes", "parse_frame"]

CLOSE_NAMES = {
    1000: "normal",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no code",
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

_MAX_FRAME = 64 << 20  # bytes; a tape is bounded well below, this stops a forged length


def close_name(code: int) -> str:
    """Return what a close code means, in two or three words."""
    own = "the application's own" if code >= 4000 else "a registered code" if code >= 3000 else "unknown code"
    return CLOSE_NAMES.get(code, own)


@dataclass(frozen=True, slots=True)
class _Piece:
    """A frame with its bytes on the wire and the offset behind them."""

    frame: Frame
    raw: bytes
    end: int


def add_frames(reading: Reading, coded: str) -> None:
    """Add the messages of a WebSocket, which begins where both directions are understood up to, and how it ended.

    Args:
        coded: Sec-WebSocket-Extensions of the 101 answer.
    """
    closed = _add_messages(reading, reading.client, _extensions(coded, "client"))
    answered = _add_messages(reading, reading.server, _extensions(coded, "server"))
    client, server = reading.client.end, reading.server.end
    if answered:
        return
    if server is not None and not reading.client_left:
        reading.add_end(server, "cut", "cut", "close 1006: no close frame came", "1006")
    elif not closed and client is not None:
        reading.add_end(client, "cut", "client gone", "no close frame sent")
    elif closed and server is not None:
        reading.add_end(server, "cut", "cut", "close 1006: the close was not answered", "1006")


def _extensions(coded: str, sender: str) -> list[Extension]:
    """Return what decodes the frames of `sender`, by the parameters that were agreed on (RFC 7692, 7.1)."""
    try:
        agreed = [dict(pairs) for name, pairs in parse_extension(coded) if name == "permessage-deflate"]
    except Exception:  # none, or no header that can be understood
        return []
    if not agreed:
        return []
    bits = agreed[0].get(f"{sender}_max_window_bits") or ""
    window = int(bits) if bits.isdigit() and 8 <= int(bits) <= 15 else 15
    return [PerMessageDeflate(f"{sender}_no_context_takeover" in agreed[0], True, window, 15)]


# --- frames into messages


def parse_frame(reader: StreamReader, masked: bool, extensions: Sequence[Extension] | None = None) -> Frame:
    """Parse one frame from a reader that holds all there is.

    Raises:
        EOFError: if there is less than a frame.
        ProtocolError, PayloadTooBig: if it is none.
    """
    try:
        next(Frame.parse(reader.read_exact, mask=masked, max_size=_MAX_FRAME, extensions=extensions))
    except StopIteration as done:
        frame: Frame = done.value
        return frame
    raise EOFError("the reader waits for more")


def _pieces(side: Direction, extensions: list[Extension]) -> Iterator[_Piece]:
    """Yield the frames of a direction, which is understood up to the one that was yielded last."""
    reader = StreamReader()
    reader.feed_data(side.rest)
    reader.feed_eof()
    while reader.buffer:
        frame = parse_frame(reader, side.sender == "client", extensions)
        end = len(side.data) - len(reader.buffer)
        raw, side.at = side.data[side.at : end], end
        yield _Piece(frame, raw, end)


def _add_messages(reading: Reading, side: Direction, extensions: list[Extension]) -> bool:
    """Add the messages of one direction; return whether a close frame was among them."""
    held: list[_Piece] = []
    try:
        for piece in _pieces(side, extensions):
            opcode = piece.frame.opcode
            if opcode is Opcode.CLOSE:
                _add_close(reading, side, piece)
                return True
            if opcode in (Opcode.PING, Opcode.PONG):
                _add_ping(reading, side, piece)
                continue
            held = [*held, piece] if opcode is Opcode.CONT else [piece]
            if piece.frame.fin:
                _add_message(reading, side, held)
                held = []
    except EOFError:
        if side.end is not None:
            reading.add_rest(side, "lost", hexed(side.rest, 12), "half a frame")
    except (ProtocolError, PayloadTooBig, AssertionError) as error:
        note = elide(str(error) or type(error).__name__, 60)
        reading.add_rest(side, "error", "not a frame", note, name="garbage")
    else:
        if held and side.end is not None:
            _add_unfinished(reading, side, held)
    return False


def _add_ping(reading: Reading, side: Direction, piece: _Piece) -> None:
    payload = bytes(piece.frame.data)
    kind = "ping" if piece.frame.opcode is Opcode.PING else "pong"
    note = f"{kind}, {counted(len(payload), 'byte')}"
    more = {"raw": piece.raw, "frames": (piece.raw,), "data": payload, "size": len(payload)}
    reading.add(side, piece.end, kind, kind, note, **more)


def _add_message(reading: Reading, side: Direction, pieces: list[_Piece]) -> None:
    payload = b"".join(bytes(piece.frame.data) for piece in pieces)
    frames = tuple(piece.raw for piece in pieces)
    more = {"raw": b"".join(frames), "frames": frames, "size": len(payload)}
    note = _message_note(side, pieces, payload)
    if pieces[0].frame.opcode is Opcode.TEXT:
        text = payload.decode(errors="replace")
        reading.add(side, pieces[-1].end, "text", elide(text, 48), note, data=text, **more)
    else:
        reading.add(side, pieces[-1].end, "bytes", hexed(payload, 12), note, data=payload, **more)


def _message_note(side: Direction, pieces: list[_Piece], payload: bytes) -> str:
    text = pieces[0].frame.opcode is Opcode.TEXT
    notes = ["text" if text else "binary", counted(len(payload), "byte")]
    notes[1] += f" in {len(pieces)} frames" if len(pieces) > 1 else ""
    notes += ["not UTF-8"] if text and not _is_utf8(payload) else []
    notes += ["masked"] if side.sender == "client" else []
    notes += ["deflated"] if pieces[0].raw[0] & 0x40 else []
    return ", ".join(notes)


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _add_close(reading: Reading, side: Direction, piece: _Piece) -> None:
    payload = bytes(piece.frame.data)
    code, reason = _close(payload)
    label = (f"close {code}" if payload else "close") + (f" {elide(reason, 32)}" if reason else "")
    note = f"close, {counted(len(payload), 'byte')}: {close_name(code)}"
    more = {"raw": piece.raw, "frames": (piece.raw,), "data": payload, "size": len(payload), "name": str(code)}
    reading.add(side, piece.end, "close", label, note, **more)


def _close(payload: bytes) -> tuple[int, str]:
    """Return code and reason: 1005 when there is none, 1002 when it is malformed (RFC 6455, 7.1.5)."""
    if not payload:
        return 1005, ""
    try:
        close = Close.parse(payload)
    except (ProtocolError, UnicodeDecodeError):
        return 1002, ""
    return int(close.code), close.reason


def _add_unfinished(reading: Reading, side: Direction, pieces: list[_Piece]) -> None:
    raw = b"".join(piece.raw for piece in pieces)
    note = f"{counted(len(pieces), 'frame')} of a message that never ended"
    reading.add(side, len(side.data), "lost", hexed(raw, 12), note, raw=raw, data=raw, size=len(raw))


# --- what only the whole conversation tells


def mend_notes(events: Sequence[WireEvent]) -> list[WireEvent]:
    """Return the events with what only the whole tells: an echoed close, and once what a wide character takes."""
    out: list[WireEvent] = []
    closer: str | None = None
    told: set[str] = set()
    for event in events:
        mended = event
        if event.kind == "close" and event.frames:
            if closer not in (None, event.sender):
                mended = replace(event, note="close, echoed: both ends know")
            closer = closer or event.sender
        elif event.kind == "text":
            wide = _wide(event)
            if wide and wide not in told and len(event.frames) == 1:
                note = event.note.replace(", masked", "") + f": {wide} takes {len(wide.encode())}"
                mended = replace(event, note=note)
            told.add(wide)
        out.append(mended)
    return out


def _wide(event: WireEvent) -> str:
    """Return the first character of a short text that takes more than a byte, or ""."""
    if not isinstance(event.data, str) or len(event.data) > 48:
        return ""
    return next((char for char in event.data if ord(char) > 127 and char.isprintable()), "")
