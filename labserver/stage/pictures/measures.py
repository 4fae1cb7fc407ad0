"""What is measured below a band: a silence before a cut, the longest between keepalives, the pace, an idle clock."""

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from labserver.stage.pictures import fates
from labserver.stage.pictures.layout import View, marked
from labserver.stage.pictures.scene import BAND, Scene
from labserver.stage.pictures.shapes import measure
from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT
from labserver.stage.pictures.words import duration, width
from labserver.stage.wire import DATA, Exchange, Lane, is_keepalive

__all__ = ["draw", "idle_clock"]

_NOUNS = {"event": "events", "line": "rows"}
SILENCE = 0.05  # seconds: a shorter gap is the server's work


def draw(scene: Scene, lane: Lane, views: Sequence[View], top: float) -> float:
    """Measure what is long in the exchanges of a lane; return how far down that reaches."""
    y = top + BAND + 14
    drawn = [fates.measured(scene, lane, y)] if fates.worst(lane.events) else []
    drawn = drawn or [_exchange(scene, view, y, lane.traced and len(views) > 1) for view in views]
    return y + 5 if any(drawn) else top + BAND


def _exchange(scene: Scene, view: View, y: float, offline: bool) -> bool:
    """Measure one exchange; where the time offline is measured, the silence before it is not."""
    exchange = view.exchange
    times = _received(exchange)
    drawn = not offline and _silence_before_cut(scene, exchange, times[-1], y)
    if len(times) > 1 and any(is_keepalive(event) for event in exchange.events):
        return _longest_silence(scene, times, y) or drawn
    if view.crowded and len(marked(exchange)) > 8:
        return _pace(scene, exchange, y) or drawn
    return drawn


def _received(exchange: Exchange) -> list[float]:
    """Return when something came, and if nothing did, when the exchange began."""
    events = [event for event in exchange.events if event.sender == "server" and event.kind not in ("cut", "close")]
    return [event.at for event in events] or [exchange.start]


def _silence_before_cut(scene: Scene, exchange: Exchange, last: float, y: float) -> bool:
    end = exchange.ending
    if end is None or end.kind != "cut" or end.at - last <= max(0.12 * scene.axis.span, SILENCE):
        return False
    return _measure(scene, last, end.at, y, f"{duration(end.at - last)} silent", hot=True)


def _longest_silence(scene: Scene, times: Sequence[float], y: float) -> bool:
    gap, at = max((b - a, a) for a, b in pairwise(times))
    if scene.axis.x(at + gap) - scene.axis.x(at) < 12:
        return False
    return _measure(scene, at, at + gap, y, f"{duration(gap)}, the longest silence")


def _measure(scene: Scene, start: float, stop: float, y: float, text: str, hot: bool = False) -> bool:
    return measure(scene.sheet, scene.axis.x(start), scene.axis.x(stop), y, text, hot)


def _pace(scene: Scene, exchange: Exchange, y: float) -> bool:
    """Measure how long the first message took, and how fast the others followed."""
    marks = [event for event in marked(exchange) if event.sender == "server" and event.kind in DATA]
    if len(marks) < 3:
        return False
    first, last = marks[0].at, marks[-1].at
    pace = median(b.at - a.at for a, b in pairwise(marks))
    every = f", one every {duration(pace)}" if pace >= 0.001 else ""
    drawn = _measure(scene, first, last, y, f"{len(marks)} {_NOUNS.get(marks[0].kind, 'messages')}{every}")
    wait = f"first after {duration(first - exchange.start)}"
    if scene.axis.x(first) - scene.axis.x(exchange.start) > width(wait) + 32:
        drawn |= _measure(scene, exchange.start, first, y, wait)
    return drawn


# --- the idle clock


def idle_clock(scene: Scene, views: Sequence[View], top: float) -> float:
    """Draw the clock of somebody who hangs up after `scene.idle` seconds; return how far down it reaches."""
    sheet, high, base = scene.sheet, top + 64, top + 96
    sheet.text(MARGIN, base - 8, "idle clock", role="mute")
    sheet.line(LEFT, high, RIGHT, high, "mute", 1, "2 4")
    sheet.text(RIGHT, high - 6, f"{scene.idle:g} s limit", role="mute", anchor="end")
    for view in views:
        _clock(scene, view, high, base)
    sheet.line(LEFT, base, RIGHT, base, "edge", 1)
    return base


def _clock(scene: Scene, view: View, high: float, base: float) -> None:
    """Draw the clock of one exchange: it climbs in silence and falls with each byte."""
    sheet, axis, limit = scene.sheet, scene.axis, scene.idle or 1.0
    gaps = view.exchange.silences
    gaps += [(gaps[-1][1] if gaps else view.exchange.start, view.stop)] if view.exchange.stop is None else []
    d, reach = f"M{axis.x(view.exchange.start):.1f} {base:.1f}", base
    for a, b in gaps:
        reach = base - min((b - a) / limit, 1.0) * (base - high)
        d += f"L{axis.x(b):.1f} {reach:.1f}V{base:.1f}"
    sheet.path(d + "Z", fill="band", stroke="mute", width=1.25)
    if view.exchange.fell_silent(limit):
        sheet.line(axis.x(gaps[-1][0]), base, axis.x(gaps[-1][1]), reach, "hot", 2)
        sheet.circle(axis.x(gaps[-1][1]), reach, 4, "hot")
