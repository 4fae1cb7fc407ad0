"""From a recording to events: the one door of the parser."""

from labserver.stage.wire.chunk import chunks
from labserver.stage.wire.event import WireEvent
from labserver.stage.wire.frames import mend_notes
from labserver.stage.wire.http import read_exchanges
from labserver.stage.wire.reading import Reading
from labserver.stage.wire.recording import Conversation

__all__ = ["parse", "parse_chunks"]


def parse(talk: Conversation) -> list[WireEvent]:
    """Return the events of one recorded connection, in the order in which they were complete on the wire."""
    reading = _read(talk)
    events = mend_notes(reading.events)
    return [*events, _full(reading)] if talk.full else events


def parse_chunks(talk: Conversation) -> list[WireEvent]:
    """Return the chunks (RFC 9112, 7.1) of one connection's answers; they are framing, not events."""
    reading = _read(talk)
    return [chunk for number, answer in reading.answers for chunk in chunks(reading, number, answer)]


def _read(talk: Conversation) -> Reading:
    reading = Reading(talk)
    try:
        read_exchanges(reading)
    except Exception as error:  # a fault of ours must not cost the reader the rest of the tape
        note = f"{type(error).__name__}: {error}"
        reading.add(reading.server, len(reading.server.data), "error", "not understood", note)
    return reading


def _full(reading: Reading) -> WireEvent:
    """The last event of a recording that stopped before its connection did."""
    at = max((read.at for read in reading.talk.reads), default=0.0)
    note = "what passed after this was forwarded, not kept"
    return WireEvent(at, reading.talk.number, reading.exchange, "server", "full", "tape full", note)
