"""Where things stand in a lane: its bands, marks and bars by their places on the axis. Draws nothing."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from labserver.stage.pictures.axis import Axis
from labserver.stage.wire import DATA, Exchange, Lane, WireEvent, is_keepalive

__all__ = ["MANY", "Bar", "Bars", "Mark", "View", "by_size", "marked", "replayed", "tick_times", "views"]

MANY = 40  # marks on one band; more become ticks
_OPENING = ("start", "resume", "gap")  # names of an event that says how a stream begins
_APART, _LABELLED_APART = 11, 14  # px between marks of one instant

Mark = tuple[float, WireEvent]
"""An event and its x."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What arrived at once: where its bar begins, its bytes, and which rows it was."""

    x: float
    size: int
    rows: str


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars, each `wide` px, and the marks among them; the band ends at `end` at the earliest."""

    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    wide: float
    end: float


@dataclass(frozen=True, slots=True)
class View:
    """An exchange laid out: where its band begins and ends, and its marks with their places.

    `crowded` says that the marks are too many: they are drawn as ticks, and `marks` holds errors alone.
    `bars` is there when the lane is told by sizes, and has the marks then. `stop` is when the band ends, seconds.
    """

    exchange: Exchange
    x0: float
    x1: float
    stop: float
    marks: tuple[Mark, ...] = ()
    crowded: bool = False
    bars: Bars | None = None

    @property
    def labelled(self) -> list[float]:
        """Where marks stand that have something to say."""
        return [x for x, event in self.marks if event.label and not is_keepalive(event)]


def views(lane: Lane, axis: Axis, bars: bool, dense: bool) -> list[View]:
    """Lay out the exchanges of a lane, as bars or as marks; in a dense picture marks have no labels."""
    return [_view(lane, exchange, axis, bars, dense) for exchange in lane.exchanges]


def _view(lane: Lane, exchange: Exchange, axis: Axis, bars: bool, dense: bool) -> View:
    stop = _stop(exchange, lane, axis.span)
    x0, x1 = axis.x(exchange.start), axis.x(stop)
    if bars:
        found = _bars(axis, exchange, x0)
        return View(exchange, x0, max(x1, found.end), stop, bars=found)
    events = marked(exchange)
    marks = _side_by_side(axis, x0, events, dense)
    late = marks[-1][0] if marks else x0
    received = sum(event.sender == "server" for event in events)
    if received > MANY or (received > 8 and late - x1 > 40) or late > axis.right - 4:
        errors = [event for event in events if event.shown in ("error", "lost")]
        few = tuple((min(axis.x(event.at), x1 - 10), event) for event in errors[:3])
        return View(exchange, x0, max(x1, x0 + 12), stop, few, crowded=True)
    return View(exchange, x0, max(x1, late + 11 if marks else x0 + 3), stop, tuple(marks))


def _stop(exchange: Exchange, lane: Lane, span: float) -> float:
    """Return when the band ends: at the exchange's end, or never while it is open."""
    if exchange.stop is not None:
        return exchange.stop
    full = next((event.at for event in exchange.events if event.kind == "full"), None)
    later = [each.start for each in lane.exchanges if each.start > exchange.start]
    return full if full is not None else min(later, default=span)


# --- marks


def marked(exchange: Exchange) -> list[WireEvent]:
    """Return what is marked on a band: all but opens, ends and bodies of requests; of a failed request its answer."""
    out: list[WireEvent] = []
    for event in exchange.events:
        if event is exchange.answer and exchange.failed:
            out.append(replace(event, kind="error"))
        elif event.kind == "body" and (exchange.failed or event.sender == "client"):
            continue
        elif event.kind not in ("open", "close", "cut", "full") and event.name != "refused":
            out.append(event)
    return out


def _side_by_side(axis: Axis, x0: float, events: Sequence[WireEvent], dense: bool) -> list[Mark]:
    """Give each mark its place; those of one instant stand side by side, the first at its true place."""
    out: list[Mark] = []
    last = x0
    for event in events:
        labelled = bool(event.label) and not is_keepalive(event) and not dense
        x = max(axis.x(event.at), last + (_LABELLED_APART if labelled and out else _APART))
        out.append((x, event))
        last = x - 8 if event.sender == "client" else x
    return out


def tick_times(exchange: Exchange) -> tuple[list[float], list[float]]:
    """Return when messages were received and sent, of a band that has too many for marks."""
    events = marked(exchange)
    received = [event.at for event in events if event.sender == "server" and event.shown != "error"]
    return received, [event.at for event in events if event.sender == "client" and event.kind in DATA]


def replayed(marks: Sequence[WireEvent], exchange: Exchange) -> set[int]:
    """Return which marks are what was missed, sent again.

    That is known when the tape was told what was published; else it is what came at once with a resumed answer.
    """
    if exchange.answer is None or any(event.due is not None for event in marks):
        return {index for index, event in enumerate(marks) if event.fate == "replay"}
    if not exchange.resumed:
        return set()
    numbered = [(i, e) for i, e in enumerate(marks) if e.kind == "event" and e.name not in _OPENING]
    gaps = [b.at - a.at for (_, a), (_, b) in pairwise(numbered)]
    near = max(0.005, 0.2 * max(gaps, default=0.0))
    found: set[int] = set()
    before = exchange.answer.at
    for index, event in numbered:
        if event.at - before > near or event.name in ("done", "error"):
            break
        found.add(index)
        before = event.at
    return found


# --- bars


def by_size(lane: Lane) -> bool:
    """Whether a lane is told by sizes: many rows, rows that came at once, or a body in several pieces."""
    return any(_has_sizes(exchange) for exchange in lane.exchanges)


def _has_sizes(exchange: Exchange) -> bool:
    times = [event.at for event in exchange.events if event.kind == "line"]
    pieces = max((len(event.arrivals) for event in _bodies(exchange)), default=0)
    return len(times) > 12 or len(set(times)) < len(times) or pieces > 1


def _bodies(exchange: Exchange) -> list[WireEvent]:
    return [event for event in exchange.events if event.kind == "body" and event.sender == "server"]


def _batches(exchange: Exchange) -> list[tuple[float, int, str]]:
    """Return what arrived at once: time, bytes, and which rows it was."""
    batches: list[list[WireEvent]] = []
    for event in exchange.events:
        if event.kind == "line" and event.shown == "line":
            if batches and event.at - batches[-1][0].at < 1e-9:
                batches[-1].append(event)
            else:
                batches.append([event])
    out, first = [], 1
    for batch in batches:
        last = first + len(batch) - 1
        rows = f"{first}\u2013{last}" if last > first else f"{first}"
        out.append((batch[0].at, sum(event.size for event in batch), rows))
        first = last + 1
    return out + [(at, size, "") for event in _bodies(exchange) for at, size in event.arrivals]


def _bars(axis: Axis, exchange: Exchange, x0: float) -> Bars:
    found = _batches(exchange)
    wide = 14.0 if len(found) <= 30 else max(1.0, min(14.0, 450 / len(found)))
    bars: list[Bar] = []
    for at, size, rows in found:
        least = (bars[-1].x + wide + 2 if bars else x0 + 6) if wide >= 14 else x0 + 1
        bars.append(Bar(max(axis.x(at), least), size, rows))
    last = bars[-1].x + wide if bars else x0
    marks: list[Mark] = []
    for event in marked(exchange):
        if event.shown in ("error", "lost"):
            last = max(axis.x(event.at), last + 12)
            marks.append((last, event))
    return Bars(tuple(bars), tuple(marks), wide, last + (13 if marks else 6))
