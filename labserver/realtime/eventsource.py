"""The reading end of an event stream (WHATWG HTML, 9.2.6): bytes go in, wherever they are cut, and events come out.

Nothing here waits, reconnects or knows what an event means; `client` does. The writing end is in `message`.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from .message import BREAK, DEFAULT_EVENT

__all__ = ["Block", "EventSourceParser"]


@dataclass(frozen=True, slots=True)
class Block:
    """An event: its name, its lines of data joined, and the id it says itself; None when `last_id` holds on."""

    event: str
    data: str
    id: str | None


class EventSourceParser:
    """Reads one response, after the id and the seconds to wait (`retry`) that were said last. What the response leaves
    unfinished is dropped. `limit` is the most characters of an event's data and a line."""

    def __init__(self, last_id: str = "", retry: float = 0.0, *, limit: int = 1 << 20) -> None:
        self.last_id, self.retry, self._limit = last_id, retry, limit
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._after_cr = False  # a line feed now would belong to the line that has ended
        self._line, self._line_size = list[str](), 0  # of a line that has not ended
        self._begin()

    def _begin(self) -> None:
        self._event, self._data, self._data_size = "", list[str](), 0
        self._id: str | None = None

    def feed(self, piece: bytes) -> Iterator[Block]:
        """Yield the events that are complete with `piece`, read as you iterate; ValueError beyond the limit."""
        for line in self._lines(self._decoder.decode(piece)):
            if line:
                self._field(line)
            else:
                yield from self._dispatch()

    def _lines(self, text: str) -> Iterator[str]:
        """Yield the lines that end in `text`. A CR ends one at once: the LF of a CRLF may come later, or never."""
        belongs = self._after_cr and text[:1] == "\n"
        self._after_cr = text.endswith("\r") if text else self._after_cr
        *ends, rest = BREAK.split(text[belongs:])
        for end in ends:
            self._keep(end)
            yield "".join(self._line)
            self._line, self._line_size = [], 0
        self._keep(rest)

    def _keep(self, part: str) -> None:
        self._line.append(part)
        self._line_size += len(part)
        if self._line_size + self._data_size > self._limit:
            raise ValueError(f"an event of more than {self._limit} characters")

    def _field(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
            self._data_size += len(value) + 1
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        elif name == "retry" and value.isascii() and value.isdigit():
            self.retry = float(value) / 1000

    def _dispatch(self) -> Iterator[Block]:
        """End a block. It is an event if it has data, be it empty; its id holds on in any case."""
        self.last_id = self.last_id if self._id is None else self._id
        if self._data:
            yield Block(self._event or DEFAULT_EVENT, "\n".join(self._data), self._id)
        self._begin()
