"""A message and its forms on the wire, as pure functions: WebSocket frames, Server-Sent Events, NDJSON, HTTP chunks.

A message is encoded once and not once per receiver. Nothing here knows of connections, channels' readers or a clock.
"""

import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from struct import pack
from typing import Any

import orjson

__all__ = [
    "Burst",
    "Forms",
    "Kind",
    "Message",
    "Position",
    "as_event",
    "as_text",
    "check_event",
    "chunk",
    "comment",
    "compact",
    "control",
    "deflated",
]
__all__ += ["dumps", "forms", "frame", "framed", "json_text", "json_value", "line", "opening", "position", "sse"]

DEFAULT_EVENT = "message"  # what an EventSource calls an event without a name (WHATWG HTML, 9.2.6)
LAST = frozenset({"done", "error"})  # a message of these events is a channel's last: its readers are let go after it
RESERVED = LAST | {"start", "resume", "gap", "drain", "open"}  # said by the server alone
EVENT_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
BREAK = re.compile("\r\n|\r|\n")  # what ends a line of an event stream; nothing else does
ID = re.compile(r"[0-9A-Za-z]{1,32}(-[0-9]{1,19}){1,3}")
TEXT, BINARY = 0x81, 0x82  # FIN and the opcode
COMPRESSED = 0x40  # RSV1 (RFC 7692, 6)

Position = tuple[str, tuple[int, ...]]

Kind = str | int
"""How messages are framed: "ws", a window's bits for a deflated one, "sse"; "text" and "event" under any server."""

Burst = bytes | list[str]
"""What is written at a time: bytes, or for "text" the texts of as many frames."""

Forms = tuple[str, bytes]
"""What is said, as a WebSocket's text and as an event."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message as it is stored and delivered.

    Attributes:
        id: `epoch-number`; a cursor is the id of the last message seen.
        channel: where it was published.
        event: its name; "message" when none was given.
        data: JSON text without line breaks outside of strings.
    """

    id: str
    channel: str
    data: str
    event: str = DEFAULT_EVENT


def dumps(value: Any) -> str:
    """Return compact JSON text of what the server itself says; `compact` is for what others publish.

    Raises:
        ValueError: `value` holds half a character, a whole number above 64 bits or an object of an unknown type.
    """
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    except orjson.JSONEncodeError as error:
        raise ValueError(f"not JSON: {error}") from None


def json_value(text: str | bytes) -> Any:
    """Return what JSON text says, without loss: whole numbers of any size stay whole.

    Raises:
        ValueError: it is not JSON (RFC 8259), holds half a character, or is nested deeper than a thousand levels.
    """
    try:
        orjson.loads(text)  # stricter and faster; but to it a large whole number is a float
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None


def json_text(body: str | bytes) -> str:
    """Return JSON text without a line break between its tokens, so that it fits into one record of NDJSON.

    Raises:
        ValueError: as for `json_value`.
    """
    value = json_value(body)
    text = body if isinstance(body, str) else body.decode()
    if BREAK.search(text) is None:
        return text.strip()
    return compact(value)


def compact(value: Any) -> str:
    """Return a value as compact JSON text, whole numbers of any size included.

    Raises:
        ValueError: it can't be written as JSON: NaN, half a character, an object of an unknown type.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {error}") from None
    return text


def check_event(name: str) -> str:
    """Return `name`.

    Raises:
        ValueError: it is no name for an event, or one that only the server says.
    """
    if not EVENT_NAME.fullmatch(name) or name in RESERVED:
        taken = ", ".join(sorted(RESERVED))
        raise ValueError(f"an event has 1 to 64 of A-Z a-z 0-9 _ . : - as its name, and not one of: {taken}")
    return name


def position(id: str) -> Position:
    """Return an id as (epoch, numbers): within one epoch the numbers are in the order of publishing.

    Raises:
        ValueError: it has not the form `epoch-number`.
    """
    if not ID.fullmatch(id):
        raise ValueError("an id looks like epoch-number: take it as the server gave it")
    epoch, *numbers = id.split("-")
    return epoch, tuple(map(int, numbers))


# ---- WebSocket


def as_text(message: Message) -> str:
    """Return the JSON object that a WebSocket delivers as one text frame; `data` is not encoded again."""
    head = f'{{"id":"{message.id}","channel":{dumps(message.channel)},"event":"{message.event}"'
    return f'{head},"data":{message.data}}}'


def control(kind: str, **fields: Any) -> str:
    """Return a text frame that is no message but about the connection: `{"type": kind, ...}`."""
    return dumps({"type": kind, **fields})


def frame(payload: bytes, first: int = TEXT) -> bytes:
    """Return one unmasked frame (RFC 6455, 5.2), as a server sends it; `first` holds FIN, RSV and opcode."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    return pack("!BBH", first, 126, size) + payload if size < 65536 else pack("!BBQ", first, 127, size) + payload


def deflated(payload: bytes, bits: int, first: int = TEXT) -> bytes:
    """Return one frame under permessage-deflate (RFC 7692, 7.2.1) that is the same for every socket.

    Args:
        payload: as it was before compression.
        bits: the window both sides agreed on, 9 to 15; without context takeover, or frames would differ.
        first: FIN and the opcode.
    """
    squeezed = zlib.compressobj(1, zlib.DEFLATED, -bits, 5)
    body = squeezed.compress(payload) + squeezed.flush(zlib.Z_SYNC_FLUSH)
    return frame(body[:-4], first | COMPRESSED)


# ---- Server-Sent Events


def sse(data: str, *, event: str | None = None, id: str | None = None, retry: float | None = None) -> bytes:
    """Return one event (WHATWG HTML, 9.2.5).

    Args:
        data: each of its lines becomes a field, so a line break in it forges nothing.
        event: its name; None or "message" sends no field.
        id: what the client comes back with.
        retry: seconds until it should come back.

    Raises:
        ValueError: `event` or `id` holds a line break, or `id` the character NUL.
    """
    if BREAK.search(event or "") or BREAK.search(id or "") or "\0" in (id or ""):
        raise ValueError("an event's name and id hold no line break, and an id no NUL")
    fields = [] if retry is None else [f"retry: {retry * 1000:.0f}"]
    fields += [] if id is None else [f"id: {id}"]
    fields += [] if event in (None, DEFAULT_EVENT) else [f"event: {event}"]
    fields += [f"data: {line}" for line in BREAK.split(data)]
    return "\n".join([*fields, "\n"]).encode()


def comment(text: str = "") -> bytes:
    """Return a comment: bytes on the wire that no client dispatches."""
    return b"".join(b":%b\n" % (b" " + line.encode() if line else b"") for line in BREAK.split(text)) + b"\n"


def as_event(message: Message) -> bytes:
    """Return a message as an event."""
    if BREAK.search(message.data) is None:  # names and ids hold no break since they were published
        event = "" if message.event == DEFAULT_EVENT else f"event: {message.event}\n"
        return f"id: {message.id}\n{event}data: {message.data}\n\n".encode()
    return sse(message.data, event=message.event, id=message.id)


def opening(kind: str, cursor: str, retry: float) -> bytes:
    """Return how a stream begins: `kind` is "start", "resume" or "gap", and messages after `cursor` follow."""
    return sse(dumps({"id": cursor}), event=kind, id=cursor, retry=retry)


# ---- HTTP


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk of a chunked body (RFC 9112, 7.1); no bytes would be the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def line(value: Any) -> bytes:
    """Return one record of NDJSON.

    Raises:
        ValueError: as for `dumps`.
    """
    return dumps(value).encode() + b"\n"


# ---- what a connection is given


def forms(message: Message) -> Forms:
    """Return both forms of a message."""
    return as_text(message), as_event(message)


def framed(kind: Kind, said: Iterable[Forms]) -> Burst:
    """Return what is said as the bytes (or, for "text", the texts) that a connection of this kind is given."""
    if kind == "text":
        return [text for text, _ in said]
    return b"".join(_encoder(kind)(forms) for forms in said)


def _encoder(kind: Kind) -> Callable[[Forms], bytes]:
    if isinstance(kind, int):
        return lambda forms: deflated(forms[0].encode(), kind)
    return _ENCODERS[kind]


_ENCODERS: dict[Kind, Callable[[Forms], bytes]] = {
    "ws": lambda forms: frame(forms[0].encode()),
    "sse": lambda forms: chunk(forms[1]),
    "event": lambda forms: forms[1],
}
