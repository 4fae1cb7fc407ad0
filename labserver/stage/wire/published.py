"""What was published and what became of it in each lane: on time, late, replayed after a reconnect, or never seen."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from labserver.stage.wire.event import DATA, Fate, WireEvent
from labserver.stage.wire.exchange import Exchange, Lane

__all__ = ["Match", "Publication", "trace"]

Match = Callable[[str, WireEvent], bool]
"""Whether an event is what was published under a label."""

_CONTROL = ("start", "resume", "gap", "done", "error")  # SSE events that tell of the stream; their id is another's


@dataclass(frozen=True, slots=True)
class Publication:
    """Something was published at `at`, seconds since the tape's first byte (or before it), known by its label."""

    at: float
    label: str


def trace(
    lanes: Sequence[Lane], published: Sequence[Publication], late: float | None = None, match: Match | None = None
) -> list[Lane]:
    """Return the lanes with each event that was published known by its label, and the lane of what was published.

    An event is a replay when it was published before its exchange began, and late when it came more than `late`
    seconds after. What a lane that was listening, or was hung up on, never received, it has missed.
    The published lane is the first one; it is the last one when there is only one lane to compare with.

    Args:
        late: seconds; None: nothing is late.
        match: which event is which publication; by default its SSE id is the label, or its data is, or holds it as a
            word.
    """
    if not published:
        return list(lanes)
    known = _by_default(lanes) if match is None else match
    traced = [_lane(lane, published, late, known) for lane in lanes]
    events = tuple(
        WireEvent(max(each.at, 0.0), 0, 0, "client", "event", each.label, data=each.label) for each in published
    )
    source = Lane("published", (), published=events)
    return [*traced, source] if len(traced) == 1 else [source, *traced]


def _by_default(lanes: Sequence[Lane]) -> Match:
    ids = {event.id for lane in lanes for event in lane.events if event.id is not None}

    def match(label: str, event: WireEvent) -> bool:
        if label in ids:
            return event.id == label and event.name not in _CONTROL
        data = event.data if isinstance(event.data, str) else event.data.decode(errors="replace")
        return label in data and (data == label or bool(re.search(_word(label), data)))

    return match


def _word(label: str) -> str:
    return rf"(?<![\w.-]){re.escape(label)}(?![\w-]|\.\w)"


# --- one lane


def _lane(lane: Lane, published: Sequence[Publication], late: float | None, match: Match) -> Lane:
    found: dict[str, int] = {}  # how often each label was seen
    exchanges = []
    for exchange in lane.exchanges:
        events = [_event(event, exchange, published, late, match, found) for event in exchange.events]
        exchanges.append(Exchange(tuple(events)))
    missed = []
    for label in dict.fromkeys(each.label for each in published):
        never = [each for each in published if each.label == label][found.get(label, 0) :]
        missed += [each for each in never if _expected(lane, each.at)]
    gone = (WireEvent(each.at, 0, 0, "server", "lost", each.label, due=each.at, fate="missed") for each in missed)
    return replace(lane, exchanges=tuple(exchanges), missed=tuple(sorted(gone, key=lambda event: event.at)))


def _event(
    event: WireEvent,
    exchange: Exchange,
    published: Sequence[Publication],
    late: float | None,
    match: Match,
    found: dict[str, int],
) -> WireEvent:
    """Return the event under its publication's label, if it is one; the n-th of a label is the n-th published."""
    if event.sender != "server" or event.kind not in DATA:
        return event
    label = next((each.label for each in published if match(each.label, event)), None)
    if label is None:
        return event
    same = [each for each in published if each.label == label]
    source = same[min(found.get(label, 0), len(same) - 1)]
    found[label] = found.get(label, 0) + 1
    return replace(event, label=label, note="", due=source.at, fate=_fate(event, exchange, source.at, late))


def _fate(event: WireEvent, exchange: Exchange, due: float, late: float | None) -> Fate:
    if due < exchange.start:
        return "replay"
    return "late" if late is not None and event.at - due > late else ""


def _expected(lane: Lane, at: float) -> bool:
    """Whether a lane should have received what was published then: it listened, or was cut off, or came back."""
    if any(event.kind == "full" for event in lane.events):
        return False  # nobody knows what came after the tape was full
    listening = [exchange for exchange in lane.exchanges if exchange.listens]
    before = [exchange for exchange in listening if exchange.start <= at]
    if not before:
        return False
    last = before[-1]
    if last.stop is None or at <= last.stop or last.hung_up:
        return True
    following = next((exchange for exchange in listening if exchange.start > at), None)
    left = last.first_end is not None and last.first_end.sender == "client"
    return following is not None and (bool(following.resumed) or not left)
