"""Bodies of HTTP answers: put together again, content coding undone, read as events, as lines or as bytes."""

import re
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import suppress

from labserver.stage.wire.direction import Direction, Span
from labserver.stage.wire.label import elide, preview
from labserver.stage.wire.message import Message
from labserver.stage.wire.reading import Reading
from labserver.stage.wire.sse import SseBlock, sse_blocks

__all__ = ["Body", "add_body"]

_MOST = 64 << 20  # bytes; a tape is bounded well below, this stops a zip bomb
_LINE_TYPES = re.compile(r"(ndjson|jsonl|json-lines|jsonlines|stream\+json|json-seq)")
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": zlib.MAX_WBITS}  # zlib's word for each content coding


class Body:
    """A body as its client sees it.

    Attributes:
        data: its bytes.
        readable: whether they are plain, because no content coding was used or it is undone.
    """

    def __init__(self, server: Direction, answer: Message) -> None:
        coding = answer.header(b"content-encoding").lower()
        self._inflated = coding in _WINDOWS
        self.readable = self._inflated or coding in ("", "identity")
        self._spans: list[Span] = []
        self._starts: list[int] = []  # where in `data` the bytes of each span begin
        parts: list[bytes] = []
        total = 0
        plain = ((span, server.data[span.at : span.stop]) for span in answer.spans)
        for span, piece in _inflate(plain, _WINDOWS[coding]) if self._inflated else plain:
            if piece:
                self._spans.append(span)
                self._starts.append(total)
                parts.append(piece)
                total += len(piece)
        self.data = b"".join(parts)

    def wire(self, end: int) -> int:
        """Return the offset on the wire at which the body's first `end` bytes were complete."""
        if not self._starts:
            return 0
        index = max(bisect_right(self._starts, end - 1) - 1, 0)
        span = self._spans[index]
        return span.stop if self._inflated else span.at + end - self._starts[index]


def _inflate(pieces: Iterable[tuple[Span, bytes]], window: int) -> Iterator[tuple[Span, bytes]]:
    """Undo the content coding; what comes before a fault in it is still good."""
    inflate, room = zlib.decompressobj(window), _MOST
    with suppress(zlib.error):
        for span, piece in pieces:
            data = inflate.decompress(piece, room)
            yield span, data
            room -= len(data)
            if room <= 0:
                return


def add_body(reading: Reading, answer: Message) -> None:
    """Add what the body of an answer says."""
    body = Body(reading.server, answer)
    kind = answer.header(b"content-type").lower()
    over = answer.complete or reading.talk.over
    if body.readable and kind.startswith("text/event-stream"):
        _add_events(reading, body, over)
    elif body.readable and _LINE_TYPES.search(kind):
        _add_lines(reading, body, over, answer.complete)
    elif body.data:
        _add_bytes(reading, body, answer)


def _add_bytes(reading: Reading, body: Body, answer: Message) -> None:
    data, size = body.data, len(body.data)
    label = preview(data) if body.readable else "coded"
    arrivals = reading.server.arrivals(answer.spans)
    end, note = body.wire(size), f"{size} bytes of body"
    reading.add(reading.server, end, "body", label, note, size=size, raw=data, data=data, arrivals=arrivals)


def _add_events(reading: Reading, body: Body, over: bool) -> None:
    for block in sse_blocks(body.data):
        if block.whole or over:  # else the rest may still come
            _add_block(reading, body.wire(block.stop), block, body.data[block.start : block.stop])


def _add_block(reading: Reading, end: int, block: SseBlock, raw: bytes) -> None:
    server = reading.server
    if not block.whole:
        label = elide(raw.decode(errors="replace").rstrip("\r\n"), 48)
        note = "half an event: never dispatched"
        reading.add(server, end, "lost", label, note, raw=raw, data=raw, size=len(raw))
    elif block.comment is not None:
        data = block.comment[1:].removeprefix(" ")
        reading.add(server, end, "comment", elide(block.comment, 48), raw=raw, data=data, size=len(raw))
    else:
        found = block.fields
        kind, size = "event" if found.data else "fields", len(found.text.encode())
        more = {"raw": raw, "data": found.text, "size": size, "id": found.id, "name": found.name}
        reading.add(server, end, kind, found.label, found.note, **more)


def _add_lines(reading: Reading, body: Body, over: bool, complete: bool) -> None:
    for match in _LINE.finditer(body.data):
        raw, end = match.group(), body.wire(match.end())
        text = raw.decode(errors="replace").strip("\r\n\x1e ")
        whole = raw.endswith(b"\n")
        if whole or complete:
            note = "" if whole else "no newline"
            if text:
                reading.add(reading.server, end, "line", elide(text, 48), note, raw=raw, data=text, size=len(raw))
        elif over:
            reading.add(reading.server, end, "lost", elide(text, 48), "half a line", raw=raw, data=raw, size=len(raw))
