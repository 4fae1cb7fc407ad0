"""One direction of a connection as a whole: its bytes end to end, when each passed, and how far they are understood."""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from labserver.stage.wire.recording import Conversation, Sender

__all__ = ["Direction", "Span"]


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring bytes of a body on the wire, from `at` up to `stop`; `last` says that a chunk ends with them."""

    at: int
    stop: int
    last: bool


class Direction:
    """All that one side sent.

    Attributes:
        data: the bytes of all reads.
        at: offset up to which they are understood.
        end: how the side stopped sending, None while it may go on, or when the recording stopped before.
    """

    def __init__(self, talk: Conversation, sender: Sender) -> None:
        reads = [(order, read) for order, read in enumerate(talk.reads) if read.sender == sender]
        self.sender: Sender = sender
        self.data = b"".join(read.data for _, read in reads)
        self.at = 0
        self.end = None if talk.full else next((end for end in talk.ends if end.sender == sender), None)
        self._stamps = [(order, read.at) for order, read in reads]
        self._limits: list[int] = []  # offset behind each read
        for _, read in reads:
            self._limits.append((self._limits[-1] if self._limits else 0) + len(read.data))

    @property
    def rest(self) -> bytes:
        """What is not understood yet."""
        return self.data[self.at :]

    @property
    def unread(self) -> bool:
        return self.at < len(self.data)

    def cut(self, spans: Iterable[Span]) -> bytes:
        """Return the bytes of `spans` as one."""
        return b"".join(self.data[span.at : span.stop] for span in spans)

    def stamp(self, end: int) -> tuple[int, float]:
        """Return the place in the recording and the time of the byte before offset `end`."""
        if not self._stamps:
            return (0, 0.0)
        return self._stamps[min(bisect_left(self._limits, max(end, 1)), len(self._stamps) - 1)]

    def arrivals(self, spans: Iterable[Span]) -> tuple[tuple[float, int], ...]:
        """Return when the bytes of `spans` came, seconds, and how many each time."""
        sums: dict[float, int] = {}
        for span in spans:
            at = span.at
            while at < span.stop:
                index = bisect_right(self._limits, at)
                stop = min(span.stop, self._limits[index])
                when = self._stamps[index][1]
                sums[when] = sums.get(when, 0) + stop - at
                at = stop
        return tuple(sums.items())
