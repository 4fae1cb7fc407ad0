"""The chunks of an answer (RFC 9112, 7.1): framing, not events; no client shows them."""

from collections.abc import Iterator
from dataclasses import replace

from labserver.stage.wire.event import WireEvent
from labserver.stage.wire.label import preview
from labserver.stage.wire.message import Message
from labserver.stage.wire.reading import Reading

__all__ = ["chunks"]


def chunks(reading: Reading, number: int, answer: Message) -> Iterator[WireEvent]:
    """Yield the chunks of the answer to request `number`, each with its size line and its end; the last is empty."""
    if not answer.chunked:
        return
    start, size = answer.body_start, 0
    for span in answer.spans:
        size += span.stop - span.at
        if span.last:
            stop = span.stop + 2
            yield _chunk(reading, number, start, stop, size)
            start, size = stop, 0
    if answer.complete:
        yield replace(_chunk(reading, number, start, answer.stop, 0), label="last chunk")


def _chunk(reading: Reading, number: int, start: int, stop: int, size: int) -> WireEvent:
    raw = reading.server.data[start:stop]
    _, at = reading.server.stamp(stop)
    data = raw[len(raw) - 2 - size : -2]
    return WireEvent(at, reading.talk.number, number, "server", "chunk", preview(raw), size=size, raw=raw, data=data)
