"""The lanes: time to the right, a band per connection. For how long things took, and what silence or a cut cost.

The band is the open connection. A clean bar is an open or a close, a torn edge is a cut, an empty band is silence;
everything else is a mark on the band, a label above its mark, or a measured length below.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median

from labserver.stage.drawing import LEFT, MARGIN, RIGHT, WIDTH, Axis, Sheet, duration, fit, kilo, width, wrap
from labserver.stage.rich import Picture
from labserver.stage.story import describe, headline
from labserver.stage.twin import Exchange, Lane, is_keepalive
from labserver.stage.wire import WireEvent, elide

__all__ = ["draw"]

_BAND, _DENSE, _TALL = 24, 16, 56  # heights of a band, px: with labels, many, with bars
_ROW = 18  # a label row
_NAME_ROOM = LEFT - MARGIN - 10
_DATA = ("event", "line", "text", "bytes")
_MANY = 40  # marks on one band; more become ticks
_CROWD = 6  # lanes; more are dense
_VERDICT = 688


@dataclass(slots=True)
class _Scene:
    """What all lanes of a picture share."""

    sheet: Sheet
    axis: Axis
    dense: bool
    idle: float | None
    bottom: float = 0
    grids: list[tuple[float, float]] = field(default_factory=list)


def draw(
    name: str,
    panels: Sequence[tuple[str, Sequence[Lane]]],
    twin: str,
    title: str | None = None,
    note: str | None = None,
    idle_limit: float | None = None,
) -> Picture:
    """Draw panels of lanes on one time axis.

    Args:
        panels: head (empty for one without) and its lanes. A panel of one lane is named by its head.
        idle_limit: seconds of silence after which somebody between hangs up; draws its clock under each lane.
    """
    panels = [(head, _capped(panel)) for head, panel in panels]
    every = [lane for _, panel in panels for lane in panel]
    title = title or headline(every)
    sheet = Sheet(name, title)
    dense = len(every) > _CROWD
    span = max((event.at for lane in every for event in lane.events), default=0.0)
    scene = _Scene(sheet, _axis(every, span, dense), dense, idle_limit)
    sheet.head(note or _explain(every))
    top = 108.0
    for head, panel in panels:
        first = top
        if head:
            sheet.text(MARGIN, top - 16, fit(head, WIDTH - 48, 13, weight=600), size=13, weight=600)
            top += 16 if dense else 32
        for number, lane in enumerate(panel):
            bottom = _lane(scene, lane, top)
            scene.bottom = bottom
            top = top + 28 if dense else max(top + 88, bottom + 46)
            if dense and number == len(panel) - 1:
                top += 44
        if panel:
            scene.grids.append((first - 28, scene.bottom + 16))
    if not every:
        sheet.text(LEFT, 124, "nothing passed", role="mute")
        scene.bottom = 132
    axis = scene.bottom + 16
    scene.axis.draw(
        sheet, axis, [(a, axis if index == len(scene.grids) - 1 else b) for index, (a, b) in enumerate(scene.grids)]
    )
    heads = [head for head, _ in panels if head]
    sheet.desc = (f"{len(heads)} panels on one time axis: {'; '.join(heads)}. " if heads else "") + describe(
        every, span
    )
    return Picture(sheet.svg(axis + 44), sheet.alt, twin)


def _capped(panel: Sequence[Lane]) -> list[Lane]:
    """At most 24 lanes; the rest is stated as one empty lane, the text has it."""
    most = 24
    if len(panel) <= most:
        return list(panel)
    return [*panel[: most - 1], Lane(f"… {len(panel) - most + 1} more", ())]


def _axis(every: Sequence[Lane], span: float, dense: bool) -> Axis:
    """Choose the span so that the label of each last end has room at its right."""
    span = max(span, 0.001)
    if dense:
        return Axis(span * 1.04, _VERDICT - 16)
    widest = span
    for lane in every:
        last = lane.exchanges[-1] if lane.exchanges else None
        if last is not None and last.ending is not None:
            room = RIGHT - LEFT - min(width(_end_label(last.ending), 12, True), 160) - 18 - 12
            widest = max(widest, (last.stop or 0) * (RIGHT - LEFT) / room)
    return Axis(widest)


def _explain(every: Sequence[Lane]) -> str:
    kinds = {event.shown for lane in every for event in lane.events}
    words = ["Time runs to the right; a band is an open connection."]
    if any(_bars(lane) for lane in every):
        words = ["Time runs to the right. Each bar is what arrived at once, as tall as its bytes."]
    elif any(len(_marks(each)) > _MANY for lane in every for each in lane.exchanges):
        words.append("Each tick is a message.")
    elif "event" in kinds:
        words.append("Each dot is an event" + (", each ring a comment." if "comment" in kinds else "."))
    return " ".join(words)


# --- one lane -------------------------------------------------------------------------------------------------------


def _lane(scene: _Scene, lane: Lane, top: float) -> float:
    """Draw a lane whose band begins at `top`; return where its content ends."""
    sheet, bars = scene.sheet, not scene.dense and _bars(lane)
    height = _DENSE if scene.dense else _TALL if bars else _BAND
    _name(scene, lane, top + height / 2, "bytes at a time" if bars else "")
    views = [_view(scene, lane, exchange, bars) for exchange in lane.exchanges]
    for view in views:
        _band(sheet, view, top, height)
    if scene.dense:
        for view in views:
            _dense_marks(scene, view, top + height / 2)
        _verdict(sheet, lane, top + height / 2)
        return top + height
    bottom = top + height
    for number, view in enumerate(views):
        following = views[number + 1].x0 if number + 1 < len(views) else None
        gap = views[number + 1].exchange.start - (view.exchange.stop or 0) if following is not None else 0.0
        bottom = max(bottom, _ending(scene, view, following, gap, top, height))
        if view.exchange.request is not None:
            sheet.arrow_up(view.x0, top)
    if not bars:
        for number, view in enumerate(views):
            _request(scene, view, top, again=number > 0)
            _draw_marks(scene, view, top)
        bottom = max(bottom, _measures(scene, lane, top))
    else:
        tallest = max((size for view in views for _, size, _ in _batches(view.exchange)), default=1)
        for number, view in enumerate(views):
            _request(scene, view, top, again=number > 0)
            bottom = max(bottom, _draw_bars(scene, view, top, tallest, len(views) == 1))
    return _idle_clock(scene, lane, top) if scene.idle else bottom


def _name(scene: _Scene, lane: Lane, middle: float, default: str) -> None:
    """Set a lane's name beside its band, and under it what it is."""
    sheet = scene.sheet
    name = fit(lane.name, _NAME_ROOM, 13, weight=600)
    sub = [] if scene.dense else wrap(lane.sub or default, _NAME_ROOM, 2)
    y = middle + 4 - (7 if sub else 0) - (6 if len(sub) > 1 else 0)
    sheet.text(MARGIN, y, name, size=13, weight=600)
    for number, line in enumerate(sub):
        sheet.text(MARGIN, y + 16 + 14 * number, line, role="mute")


@dataclass(frozen=True, slots=True)
class _View:
    """An exchange laid out: where its band begins and ends, and its marks with their places.

    `crowded` says that the marks are too many: they are drawn as ticks, and `marks` holds errors alone.
    """

    exchange: Exchange
    x0: float
    x1: float
    marks: tuple[tuple[float, WireEvent], ...]
    crowded: bool = False


def _view(scene: _Scene, lane: Lane, exchange: Exchange, bars: bool) -> _View:
    axis = scene.axis
    x0, x1 = axis.x(exchange.start), axis.x(_stop(exchange, lane, axis.span))
    if bars:
        return _View(exchange, x0, max(x1, _bar_places(scene, exchange, x0).end), ())
    marks = _side_by_side(scene, exchange, x0, _marks(exchange))
    drawn = [event for event in _marks(exchange) if event.sender == "server"]
    late = marks[-1][0] if marks else x0
    crowded = len(drawn) > _MANY or (len(drawn) > 8 and late - x1 > 40) or late > axis.right - 4
    if crowded:
        few = [event for event in _marks(exchange) if event.shown in ("error", "lost")]
        marks = [(min(axis.x(event.at), x1 - 10), event) for event in few[:3]]
        return _View(exchange, x0, max(x1, x0 + 12), tuple(marks), crowded=True)
    return _View(exchange, x0, max(x1, late + 11 if marks else x0 + 3), tuple(marks))


def _side_by_side(
    scene: _Scene, exchange: Exchange, x0: float, events: Sequence[WireEvent]
) -> list[tuple[float, WireEvent]]:
    """Give each mark its place; those of one instant stand side by side, the first at its true place."""
    out: list[tuple[float, WireEvent]] = []
    last, apart = x0, 11
    for event in events:
        labelled = bool(event.label) and not is_keepalive(event) and not scene.dense
        sent = event.sender == "client"
        x = max(scene.axis.x(event.at), last + (14 if labelled and out else apart))
        out.append((x, event))
        last = x - 8 if sent else x
    return out


def _stop(exchange: Exchange, lane: Lane, span: float) -> float:
    """Return when the band ends: at the exchange's end, or never while it is open."""
    if exchange.stop is not None:
        return exchange.stop
    full = [event.at for event in exchange.events if event.kind == "full"]
    if full:
        return full[0]
    later = [each.start for each in lane.exchanges if each.start > exchange.start]
    return min(later, default=span)


def _band(sheet: Sheet, view: _View, top: float, height: float) -> None:
    ending = view.exchange.ending
    torn = ending is not None and (ending.kind == "cut" or ending.name == "refused")
    sheet.band(view.x0, max(view.x1, view.x0 + 10) if torn else view.x1, top, height, torn)
    sheet.line(view.x0, top, view.x0, top + height, width=2)
    if ending is not None and not torn:
        sheet.line(view.x1, top, view.x1, top + height, width=2)


def _end_label(ending: WireEvent) -> str:
    return elide(ending.label, 26)


def _ending(scene: _Scene, view: _View, following: float | None, gap: float, top: float, height: float) -> float:
    """Label an end: right of the edge, else above it, ending at it; in the gap before a reconnect, how long it was.

    Return where the label ends, downwards.
    """
    ending, sheet, x1 = view.exchange.ending, scene.sheet, view.x1
    if ending is None and view.exchange.events[-1].kind == "full":
        box = sheet.box(x1 + 14, top + height / 2 + 4, "tape full", mono=True)
        x, anchor = (x1 - 8, "end") if box.x1 > WIDTH - 8 else (x1 + 14, "start")
        sheet.text(x, top + height / 2 + 4, "tape full", role="mute", mono=True, anchor=anchor)
    if ending is None:
        return 0
    hot = ending.kind == "cut" or ending.name == "refused"
    role, middle, label, bottom = ("hot" if hot else "ink"), top + height / 2, _end_label(ending), 0.0
    if following is not None:
        text = f"{label}, {duration(gap)} offline"
        if following - x1 >= width(text, 12, weight=600) + 36:
            quiet = role if hot else "mute"
            box = sheet.text((x1 + following) / 2 + 2, middle + 4, text, role=quiet, weight=600, anchor="middle")
            sheet.line(x1 + 8, middle, box.x0 - 6, middle, quiet)
            sheet.line(box.x1 + 6, middle, following - 8, middle, quiet)
            return bottom
        if hot and sheet.measure(x1, following, top + height + 14, f"{duration(gap)} offline", hot=True):
            bottom = top + height + 19
    elif x1 + 14 + width(label, 12, True) <= WIDTH - 8:
        sheet.text(x1 + 14, middle + 4, label, role=role, mono=True)
        return bottom
    for row in (0, 1):
        box = sheet.box(x1 + 4, top - 8 - row * _ROW, label, anchor="end", mono=True)
        if box.x0 >= LEFT + 8 and sheet.free(box):
            sheet.text(x1 + 4, top - 8 - row * _ROW, label, role=role, mono=True, anchor="end", halo=True)
            break
    return bottom


def _request(scene: _Scene, view: _View, top: float, again: bool) -> None:
    """Label a request: right of its arrow, left of a reconnect's, and a row higher when an event follows at once."""
    request, sheet, x0 = view.exchange.request, scene.sheet, view.x0
    if request is None:
        return
    resumed = request.note.startswith("Last-Event-ID")
    label = request.note if resumed and again else request.label.removesuffix(", Upgrade: websocket")
    label = elide(label, 40)
    wide = width(label, 12, True)
    labelled = (x for x, event in view.marks if event.label and not is_keepalive(event))
    tight = next(labelled, RIGHT) - x0 < wide + 30 and not view.crowded
    places = [(x0 + 8, 0, "start"), (x0 + 8, 1, "start"), (x0 - 8, 0, "end"), (x0 - 8, 1, "end")]
    if tight:
        places = [places[2], places[1], places[3]] if again else [places[1], places[0]]
    for x, row, anchor in places:
        y = top - 8 - row * _ROW
        box = sheet.box(x, y, label, anchor=anchor, mono=True)
        if box.x0 >= LEFT and box.x1 <= WIDTH - 8 and sheet.free(box):
            sheet.text(x, y, label, mono=True, anchor=anchor, halo=True)
            return


# --- marks ----------------------------------------------------------------------------------------------------------


def _marks(exchange: Exchange) -> list[WireEvent]:
    """Return what is marked on a band: all but opens, ends and bodies of requests; of a failed request its answer."""
    answer = exchange.answer
    failed = answer is not None and answer.name[:1] in "45"
    out: list[WireEvent] = []
    for event in exchange.events:
        if event is answer and failed:
            out.append(replace(event, kind="error"))
        elif event.kind == "body" and (failed or event.sender == "client"):
            continue
        elif event.kind not in ("open", "close", "cut", "full") and event.name != "refused":
            out.append(event)
    return out


def _draw_marks(scene: _Scene, view: _View, top: float) -> None:
    """Draw the marks of a band and label those that have room."""
    sheet, middle, exchange = scene.sheet, top + _BAND / 2, view.exchange
    if view.crowded:
        _ticks(scene, exchange, middle)
    for x, event in view.marks:
        if event.sender == "client":
            sheet.arrow_up(x, top)
    replayed = _replayed([event for _, event in view.marks], exchange)
    idents = [(x, event.id) for x, event in view.marks if event.kind == "event" and event.id is not None]
    near = [b[0] - a[0] < 6 + width(f"id {elide(b[1], 18)}", 12, True) for a, b in pairwise(idents)]
    short = any(near) or (bool(idents) and idents[0][0] - view.x0 < 10 + width(f"id {idents[0][1]}", 12, True) / 2)
    for index, (x, event) in enumerate(view.marks):
        shown, replay = event.shown, index in replayed
        role = "hot" if shown in ("error", "lost") or replay else "ink"
        if event.sender == "client":
            _label(sheet, _texts(event, short), x + 8, top, "ink", "start")
            continue
        sheet.mark("replay" if replay else shown, x, middle, role)
        if shown == "error":
            _error_label(sheet, event, x, top)
        elif event.label and not is_keepalive(event):
            quiet = shown in ("lost", "comment", "fields")
            _label(sheet, _texts(event, short), x, top, "mute" if quiet else role, "middle", view.x0)


def _texts(event: WireEvent, short: bool) -> list[str]:
    """Return what a mark may be labelled with, the best first."""
    if event.id is not None and event.kind == "event":
        return [elide(event.id, 18) if short else f"id {elide(event.id, 18)}"]
    return [elide(event.label, 22), *([elide(event.label, 10)] if len(event.label) > 10 else [])]


def _label(
    sheet: Sheet, texts: Sequence[str], x: float, top: float, role: str, anchor: str, x0: float | None = None
) -> None:
    """Set a label above its mark, in the second row if the first is taken; none when both are: the text has it."""
    places = [(x, 0, anchor, text) for text in texts]
    if x0 is not None and x - x0 < 40:
        places += [(x0 + 8, 0, "start", text) for text in texts]
    places.append((x, 1, anchor, texts[0]))
    for at, row, side, text in places:
        y = top - 8 - row * _ROW
        box = sheet.box(at, y, text, anchor=side, mono=True)
        if box.x0 >= LEFT - 4 and sheet.free(box, 5):
            sheet.text(at, y, text, role=role, mono=True, anchor=side, halo=True)
            return


def _error_label(sheet: Sheet, event: WireEvent, x: float, top: float) -> None:
    label = elide(event.label if event.kind != "event" or event.id is None else event.note, 40)
    for row in (0, 1):
        for at, anchor in ((x + 4, "end"), (x - 4, "start")):
            box = sheet.box(at, top - 8 - row * _ROW, label, anchor=anchor, mono=True)
            if box.x0 >= LEFT and sheet.free(box):
                sheet.text(at, top - 8 - row * _ROW, label, role="hot", mono=True, anchor=anchor, halo=True)
                return


def _replayed(marks: Sequence[WireEvent], exchange: Exchange) -> set[int]:
    """Return which marks of a resumed stream came at once with its answer: what was missed, sent again."""
    request, answer = exchange.request, exchange.answer
    if request is None or answer is None or not request.note.startswith("Last-Event-ID"):
        return set()
    times = [event.at for event in marks if event.kind == "event"]
    gaps = [b - a for a, b in pairwise(times)]
    near = max(0.005, 0.2 * max(gaps, default=0.0))
    found: set[int] = set()
    before = answer.at
    for index, event in enumerate(marks):
        if event.kind != "event":
            continue
        if event.at - before > near or event.name in ("done", "error"):
            break
        found.add(index)
        before = event.at
    return found


def _ticks(scene: _Scene, exchange: Exchange, middle: float, half: float = 7) -> None:
    """Draw very many marks as ticks, one path for all, at most two to a pixel."""
    places = sorted(
        {round(scene.axis.x(e.at) * 2) / 2 for e in _marks(exchange) if e.sender == "server" and e.shown != "error"}
    )
    sent = sorted(
        {round(scene.axis.x(e.at) * 2) / 2 for e in _marks(exchange) if e.sender == "client" and e.kind in _DATA}
    )
    if sent:
        top = middle - _BAND / 2
        scene.sheet.path("".join(f"M{x:.1f} {top - 9:.1f}V{top - 1:.1f}" for x in sent), stroke="ink", width=1)
    if places:
        d = "".join(f"M{x:.1f} {middle - half:.1f}V{middle + half:.1f}" for x in places)
        scene.sheet.path(d, stroke="ink", width=2 if len(places) < 120 else 1)


def _dense_marks(scene: _Scene, view: _View, middle: float) -> None:
    if view.crowded:
        _ticks(scene, view.exchange, middle, 5)
    for x, event in view.marks:
        if event.sender == "server":
            scene.sheet.mark(event.shown, x, middle)


def _verdict(sheet: Sheet, lane: Lane, middle: float) -> None:
    """Say at the right of a dense lane how it went."""
    if not lane.exchanges:
        return
    ending = lane.exchanges[-1].ending
    count = sum(event.kind in _DATA and event.sender == "server" for event in lane.events)
    if ending is not None and (ending.kind == "cut" or ending.name == "refused"):
        sheet.text(_VERDICT, middle + 4, fit(ending.label, 130, weight=600), role="hot", weight=600)
        return
    body = sum(event.size for event in lane.events if event.kind == "body" and event.sender == "server")
    answer = lane.exchanges[-1].answer
    if answer is not None and answer.name[:1] in "45":
        sheet.text(_VERDICT, middle + 4, fit(answer.label, 130, weight=600), role="hot", weight=600)
    else:
        text = f"{count} message{'' if count == 1 else 's'}" if count or not body else kilo(body)
        sheet.text(_VERDICT, middle + 4, text, role="mute")


# --- bars -----------------------------------------------------------------------------------------------------------


def _batches(exchange: Exchange) -> list[tuple[float, int, str]]:
    """Return what arrived at once: time, bytes, and which rows it was."""
    out: list[tuple[float, int, int, int]] = []
    row = 0
    for event in exchange.events:
        if event.kind == "line" and event.shown == "line":
            row += 1
            if out and event.at - out[-1][0] < 1e-9:
                at, size, first, _ = out[-1]
                out[-1] = (at, size + event.size, first, row)
            else:
                out.append((event.at, event.size, row, row))
    rows = [(at, size, f"{first}\u2013{last}" if last > first else f"{first}") for at, size, first, last in out]
    for event in exchange.events:
        if event.kind == "body" and event.sender == "server":
            rows += [(at, size, "") for at, size in event.arrivals]
    return rows


def _bars(lane: Lane) -> bool:
    """Whether a lane is told by sizes: many rows, rows that came at once, or a body in several pieces."""
    for exchange in lane.exchanges:
        times = [event.at for event in exchange.events if event.kind == "line"]
        pieces = max((len(e.arrivals) for e in exchange.events if e.kind == "body" and e.sender == "server"), default=0)
        if len(times) > 12 or len(set(times)) < len(times) or pieces > 1:
            return True
    return False


@dataclass(frozen=True, slots=True)
class _Bars:
    """Bars with their places and width, the marks among them, and the least x at which the band may end."""

    bars: tuple[tuple[float, int, str], ...]
    marks: tuple[tuple[float, WireEvent], ...]
    wide: float
    end: float


def _bar_places(scene: _Scene, exchange: Exchange, x0: float) -> _Bars:
    found = _batches(exchange)
    wide = 14.0 if len(found) <= 30 else max(1.0, min(14.0, 450 / len(found)))
    bars: list[tuple[float, int, str]] = []
    for at, size, rows in found:
        least = (bars[-1][0] + wide + 2 if bars else x0 + 6) if wide >= 14 else x0 + 1
        bars.append((max(scene.axis.x(at), least), size, rows))
    last = bars[-1][0] + wide if bars else x0
    marks: list[tuple[float, WireEvent]] = []
    for event in _marks(exchange):
        if event.shown in ("error", "lost"):
            last = max(scene.axis.x(event.at), last + 12)
            marks.append((last, event))
    return _Bars(tuple(bars), tuple(marks), wide, last + (13 if marks else 6))


def _draw_bars(scene: _Scene, view: _View, top: float, tallest: int, labels: bool) -> float:
    """Draw bars as tall as their bytes, and under them sizes and rows where all of them have room."""
    sheet, bottom = scene.sheet, top + _TALL
    found = _bar_places(scene, view.exchange, view.x0)
    for x, size, _ in found.bars:
        tall = max(48 * size / tallest, 1.5)
        sheet.rect(x, bottom - tall, found.wide, tall, "ink")
    for x, event in found.marks:
        sheet.mark(event.shown, x, top + _TALL / 2)
        if event.shown == "error":
            _error_label(sheet, event, x, top)
        else:
            _label(sheet, _texts(event, False), x, top, "mute", "middle")
    return _bar_labels(sheet, found.bars, found.wide, bottom) if labels else bottom


def _bar_labels(sheet: Sheet, places: Sequence[tuple[float, int, str]], wide: float, bottom: float) -> float:
    if not places:
        return bottom
    sizes = [sheet.box(x + wide / 2, bottom + 18, kilo(size), anchor="middle", mono=True) for x, size, _ in places]
    rows = [sheet.box(x + wide / 2, bottom + 34, row, anchor="middle") for x, _, row in places]
    if any(b.x0 < a.x1 + 6 for line in (sizes, rows) for a, b in pairwise(line)) or sizes[-1].x1 > WIDTH - 8:
        total = sum(size for _, size, _ in places)
        sheet.text(LEFT, bottom + 18, f"{kilo(total)} in {len(places)} pieces", role="mute")
        return bottom + 18
    if sizes[0].x0 < LEFT - 60:
        return bottom
    sheet.text(MARGIN, bottom + 18, "size", role="mute")
    for x, size, _ in places:
        sheet.text(x + wide / 2, bottom + 18, kilo(size), mono=True, anchor="middle")
    if not places[0][2]:
        return bottom + 18
    sheet.text(MARGIN, bottom + 34, "rows", role="mute")
    for x, _, row in places:
        sheet.text(x + wide / 2, bottom + 34, row, role="mute", anchor="middle")
    return bottom + 34


# --- measures -------------------------------------------------------------------------------------------------------


def _measures(scene: _Scene, lane: Lane, top: float) -> float:
    """Measure below the band what is long: the silence before a cut, the longest between keepalives, the pace."""
    y = top + _BAND + 14
    drawn = False
    for exchange in lane.exchanges:
        times = [e.at for e in exchange.events if e.sender == "server" and e.kind not in ("cut", "close")]
        times = times or [exchange.start]
        ending = exchange.ending
        if ending is not None and ending.kind == "cut" and ending.at - times[-1] > 0.12 * scene.axis.span:
            x0, x1 = scene.axis.x(times[-1]), scene.axis.x(ending.at)
            drawn |= scene.sheet.measure(x0, x1, y, f"{duration(ending.at - times[-1])} silent", hot=True)
        if any(is_keepalive(event) for event in exchange.events) and len(times) > 1:
            gap, at = max((b - a, a) for a, b in pairwise(times))
            if scene.axis.x(at + gap) - scene.axis.x(at) >= 12:
                x0, x1 = scene.axis.x(at), scene.axis.x(at + gap)
                drawn |= scene.sheet.measure(x0, x1, y, f"{duration(gap)}, the longest silence")
        elif len(_marks(exchange)) > 8 and _view(scene, lane, exchange, False).crowded:
            drawn |= _pace(scene, exchange, y)
    return y + 5 if drawn else top + _BAND


def _pace(scene: _Scene, exchange: Exchange, y: float) -> bool:
    """Measure how long the first message took, and how fast the others followed."""
    marks = [event for event in _marks(exchange) if event.sender == "server" and event.kind in _DATA]
    if len(marks) < 3:
        return False
    first, last = marks[0].at, marks[-1].at
    x0, x1 = scene.axis.x(first), scene.axis.x(last)
    pace = median(b.at - a.at for a, b in pairwise(marks))
    noun = "events" if marks[0].kind == "event" else "rows" if marks[0].kind == "line" else "messages"
    every = f", one every {duration(pace)}" if pace >= 0.001 else ""
    drawn = scene.sheet.measure(x0, x1, y, f"{len(marks)} {noun}{every}")
    wait = f"first after {duration(first - exchange.start)}"
    if scene.axis.x(first) - scene.axis.x(exchange.start) > width(wait) + 32:
        drawn |= scene.sheet.measure(scene.axis.x(exchange.start), x0, y, wait)
    return drawn


def _idle_clock(scene: _Scene, lane: Lane, top: float) -> float:
    """Draw the clock of somebody who hangs up after `idle` seconds: it climbs in silence and falls with each byte."""
    sheet, axis, limit = scene.sheet, scene.axis, scene.idle or 1.0
    high, base = top + 64, top + 96
    sheet.text(MARGIN, base - 8, "idle clock", role="mute")
    sheet.line(LEFT, high, RIGHT, high, "mute", 1, "2 4")
    sheet.text(RIGHT, high - 6, f"{limit:g} s limit", role="mute", anchor="end")
    for exchange in lane.exchanges:
        stop = _stop(exchange, lane, axis.span)
        times = sorted({exchange.start, *(e.at for e in exchange.events if e.kind not in ("cut", "close")), stop})
        d = f"M{axis.x(times[0]):.1f} {base:.1f}"
        for a, b in pairwise(times):
            height = min((b - a) / limit, 1.0) * (base - high)
            d += f"L{axis.x(b):.1f} {base - height:.1f}V{base:.1f}"
        sheet.path(d + "Z", fill="band", stroke="mute", width=1.25)
        ending = exchange.ending
        if ending is not None and ending.kind == "cut" and len(times) > 1 and times[-1] - times[-2] >= 0.9 * limit:
            reach = base - min((times[-1] - times[-2]) / limit, 1.0) * (base - high)
            sheet.line(axis.x(times[-2]), base, axis.x(times[-1]), reach, "hot", 2)
            sheet.circle(axis.x(times[-1]), reach, 4, "hot")
    sheet.line(LEFT, base, RIGHT, base, "edge", 1)
    return base
