"""The wire event: one thing that happened between a client and a server, whatever protocol it came by."""

import json
from dataclasses import dataclass, field
from typing import Literal

from labserver.stage.wire.recording import Sender

__all__ = ["DATA", "MESSAGES", "Fate", "WireEvent"]

DATA = ("text", "bytes", "event", "line")
"""Kinds of event that an application sends one by one."""

MESSAGES = (*DATA, "body")
"""Kinds of event that carry a payload the application sent."""

Fate = Literal["", "late", "replay", "missed"]


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
        due: when it was published, seconds, if the tape was told (`Tape.published`); the label is then that one's.
        fate: of what was published: "late", "replay" (sent again after a reconnect), "missed" (never came), or "".
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
    due: float | None = None
    fate: Fate = ""

    @property
    def shown(self) -> str:
        """The kind as a reader sees it: what reports an error is an "error", what is sent again a "replay"."""
        if self.fate == "replay":
            return "replay"
        if self.kind == "event":
            return "error" if self.name == "error" else "event"
        return "error" if self.kind == "line" and _reports_error(self.data) else self.kind


def _reports_error(line: bytes | str) -> bool:
    if not isinstance(line, str) or '"error"' not in line[:200]:
        return False
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "error" in record
