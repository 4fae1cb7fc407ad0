"""Server-Sent Events as WHATWG HTML 9.2 reads them: a stream falls into blocks, a block into fields."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from labserver.stage.wire.label import elide

__all__ = ["SseBlock", "SseFields", "sse_blocks"]

_BOM = b"\xef\xbb\xbf"
_BREAK = re.compile(rb"\r\n|\n|\r")


@dataclass(frozen=True, slots=True)
class SseFields:
    """What the lines of one block say; `data` holds a string per data line, and without one nothing is dispatched."""

    data: tuple[str, ...] = ()
    name: str = "message"
    id: str | None = None
    retry: str = ""

    @property
    def text(self) -> str:
        return "\n".join(self.data)

    @property
    def label(self) -> str:
        """What the block says, in one line."""
        if self.id is not None:
            return f"id {elide(self.id, 24)}"
        if self.data:
            return elide(self.text or self.name, 48)
        return f"retry {self.retry}" if self.retry else f"event: {self.name}"

    @property
    def note(self) -> str:
        """What the label does not say."""
        empty = bool(self.data) and not self.text and self.id is None  # the label is the name
        notes = [elide(self.text, 48)] if self.id is not None and self.text not in ("", self.id) else []
        notes += [f"event: {self.name}"] if self.name != "message" and not empty else []
        notes += [f"retry: {self.retry}"] if self.retry else []
        notes += ["empty data"] if empty else [] if self.data else ["no data: never dispatched"]
        return ", ".join(notes)


@dataclass(frozen=True, slots=True)
class SseBlock:
    """Lines up to a blank one, or a comment that stands alone.

    Attributes:
        start, stop: offsets in the stream, the blank line included.
        lines: the lines without their ends, each with its offset.
        whole: whether the blank line came.
    """

    start: int
    stop: int
    lines: tuple[tuple[int, bytes], ...]
    whole: bool = True

    @property
    def comment(self) -> str | None:
        """The line of a comment that stands alone, its colon included."""
        first = self.lines[0][1]
        return first.decode(errors="replace") if len(self.lines) == 1 and first.startswith(b":") else None

    @property
    def fields(self) -> SseFields:
        """The block as the standard processes it, line by line (9.2.6)."""
        data: list[str] = []
        found: dict[str, str] = {}
        for _, line in self.lines:
            key, _, value = line.decode(errors="replace").partition(":")
            value = value.removeprefix(" ")
            if key == "data":
                data.append(value)
            elif _counts(key, value):
                found[key] = value
        return SseFields(tuple(data), found.get("event") or "message", found.get("id"), found.get("retry", ""))


def _counts(key: str, value: str) -> bool:
    """Whether a field is one of the standard's, with a value that it takes."""
    match key:
        case "event":
            return True
        case "id":
            return "\0" not in value
        case "retry":
            return value.isascii() and value.isdigit()
    return False


def sse_blocks(data: bytes) -> Iterator[SseBlock]:
    """Split an event stream into blocks (9.2.5). A comment outside a block is a block of its own."""
    start = at = len(_BOM) if data.startswith(_BOM) else 0
    lines: list[tuple[int, bytes]] = []
    for match in _BREAK.finditer(data, at):
        begin, line, at = at, data[at : match.start()], match.end()
        if not line:
            if lines:
                yield SseBlock(start, at, tuple(lines))
            lines, start = [], at
        elif line.startswith(b":") and not lines:
            blank = _BREAK.match(data, at)  # may follow at once, and is the comment's then
            stop = blank.end() if blank else at
            yield SseBlock(start, stop, ((begin, line),))
            start = at
        else:
            lines.append((begin, line))
    if at < len(data):
        lines.append((at, data[at:]))
    if lines:
        yield SseBlock(start, len(data), tuple(lines), whole=False)
