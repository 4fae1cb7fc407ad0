"""The lanes: time to the right, a band per connection. For how long things took, and what silence or a cut cost.

The band is the open connection. A clean bar is an open or a close, a torn edge is a cut, an empty band is silence;
everything else is a mark on the band, a label above its mark, or a measured length below.
"""

from collections.abc import Sequence
from itertools import pairwise

from labserver.stage.pictures import bars, fates, labels, measures
from labserver.stage.pictures.axis import Axis
from labserver.stage.pictures.layout import MANY, View, by_size, marked, replayed, tick_times, views
from labserver.stage.pictures.scene import BAND, DENSE, TALL, VERDICT, Scene
from labserver.stage.pictures.shapes import arrow_up, band, mark
from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT, WIDTH, Sheet
from labserver.stage.pictures.story import describe, headline
from labserver.stage.pictures.words import fit, width
from labserver.stage.rich import Picture
from labserver.stage.wire import Lane, is_keepalive

__all__ = ["draw"]

_CROWD = 6  # lanes; more are dense
_FEW = 3  # lanes of one panel; more are dense, and with what was published beside them, more than one client
_MOST = 24  # lanes of a panel; the text has the rest

Panels = Sequence[tuple[str, Sequence[Lane]]]


def draw(
    name: str,
    panels: Panels,
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
    every = [lane for _, panel in panels for lane in panel if not lane.published]
    sources = [event for _, panel in panels for lane in panel for event in lane.published]
    span = max((event.at for event in [*sources, *(event for lane in every for event in lane.events)]), default=0.0)
    dense = len(every) > _CROWD or any(_is_dense(panel) for _, panel in panels)
    sheet = Sheet(name, title or headline(every))
    scene = Scene(sheet, _axis(every, span, dense), dense, idle_limit)
    sheet.head(note or _explain(every))
    bottom = _panels(scene, panels)
    heads = [head for head, _ in panels if head]
    sheet.desc = f"{len(heads)} panels on one time axis: {'; '.join(heads)}. " if heads else ""
    sheet.desc += describe([lane for _, panel in panels for lane in panel], span)
    return Picture(sheet.svg(bottom), sheet.alt, twin)


def _capped(panel: Sequence[Lane]) -> list[Lane]:
    """Return at most 24 lanes; the rest is stated as one empty lane."""
    if len(panel) <= _MOST:
        return list(panel)
    return [*panel[: _MOST - 1], Lane(f"… {len(panel) - _MOST + 1} more", ())]


def _split(panel: Sequence[Lane]) -> tuple[list[Lane], Lane | None]:
    """Return the lanes of clients, and the one of what was published."""
    return [lane for lane in panel if not lane.published], next((lane for lane in panel if lane.published), None)


def _is_dense(panel: Sequence[Lane]) -> bool:
    clients, source = _split(panel)
    return len(clients) > (1 if source else _FEW)


def _axis(every: Sequence[Lane], span: float, dense: bool) -> Axis:
    """Choose the span so that the last marks have room side by side, and at their right the label of an end."""
    least = max(span, 0.001) * 1.04 if dense else max([span, 0.001, *(_span(lane) for lane in every)])
    axes = [Axis(least * factor, VERDICT - 16 if dense else RIGHT) for factor in (1.0, 1.06, 1.15, 1.3)]
    return next((axis for axis in axes if not any(_crowded(lane, axis, dense) for lane in every)), axes[0])


def _crowded(lane: Lane, axis: Axis, dense: bool) -> bool:
    """Whether marks of a lane that are not too many find no room."""
    found = views(lane, axis, not dense and by_size(lane), dense)
    return any(view.crowded and len(marked(view.exchange)) <= MANY for view in found)


def _span(lane: Lane) -> float:
    """Return the span that gives the label of a lane's end its room, seconds."""
    last = lane.exchanges[-1] if lane.exchanges else None
    if last is None or last.ending is None:
        return 0.0
    label = min(width(labels.end_label(last.ending), 12, True), 160)
    return last.ending.at * (RIGHT - LEFT) / (RIGHT - LEFT - label - 18 - 12)


def _explain(every: Sequence[Lane]) -> str:
    if any(by_size(lane) for lane in every):
        return "Time runs to the right. Each bar is what arrived at once, as tall as its bytes."
    words = "Time runs to the right; a band is an open connection."
    kinds = {event.shown for lane in every for event in lane.events}
    if any(lane.traced for lane in every):
        again = " Ring with a dot: sent again." if "replay" in kinds else ""
        return "A band is an open connection. Dashed ring: due, not there. Dot: arrived." + again
    if any(len(marked(exchange)) > MANY for lane in every for exchange in lane.exchanges):
        return words + " Each tick is a message."
    if "event" not in kinds:
        return words
    return words + " Each dot is an event" + (", each ring a comment." if "comment" in kinds else ".")


def _panels(scene: Scene, panels: Panels) -> float:
    """Draw the panels one below the other and the axis under them; return the picture's height."""
    top, bottom = 108.0, 132.0
    grids: list[tuple[float, float]] = []
    for head, panel in panels:
        first = top
        if head:
            scene.sheet.text(MARGIN, top - 16, fit(head, WIDTH - 48, 13, weight=600), size=13, weight=600)
            top += 16 if scene.dense else 32
        clients, source = _split(panel)
        if source and scene.dense:
            fates.source(scene, source, top + 8)
            top += 28
        for lane in clients:
            bottom = _lane(scene, lane, top, source)
            top = top + 28 if scene.dense else max(top + 88, bottom + (56 if scene.idle else 46))
        if panel:
            top += 44 if scene.dense else 0
            grids.append((first - 28, bottom + 16))
    if not grids:
        scene.sheet.text(LEFT, 124, "nothing passed", role="mute")
    scene.axis.draw(scene.sheet, bottom + 16, grids)
    return bottom + 60


# --- one lane


def _lane(scene: Scene, lane: Lane, top: float, source: Lane | None) -> float:
    """Draw a lane whose band begins at `top`, and under a labelled one its source; return where its content ends."""
    sized = not scene.dense and by_size(lane)
    height = DENSE if scene.dense else TALL if sized else BAND
    labels.name(scene, lane, top + height / 2, "bytes at a time" if sized else "")
    found = views(lane, scene.axis, sized, scene.dense)
    for view in found:
        _band(scene.sheet, view, top, height)
    if scene.dense:
        return _dense(scene, lane, found, top)
    bottom = max([top + height, *_ends(scene, lane, found, top, height)])
    if sized:
        bottom = max(bottom, bars.draw(scene, found, top))
    else:
        fates.missed(scene, lane, found, top, height)
        for number, view in enumerate(found):
            labels.request(scene, view, top, again=number > 0)
            _marks(scene, view, top)
        bottom = max(bottom, measures.draw(scene, lane, found, top))
    bottom = measures.idle_clock(scene, found, top) if scene.idle else bottom
    return fates.beneath(scene, source, found, top, bottom) if source else bottom


def _band(sheet: Sheet, view: View, top: float, height: float) -> None:
    torn = view.exchange.torn
    band(sheet, view.x0, max(view.x1, view.x0 + 10) if torn else view.x1, top, height, torn)
    sheet.line(view.x0, top, view.x0, top + height, width=2)
    if view.exchange.ending is not None and not torn:
        sheet.line(view.x1, top, view.x1, top + height, width=2)


def _ends(scene: Scene, lane: Lane, found: Sequence[View], top: float, height: float) -> list[float]:
    """Label how each exchange ended, and draw the arrow of its request; return how far down that reaches."""
    reached = []
    for view, following in pairwise([*found, None]):
        if view is not None:
            reached.append(labels.ending(scene, lane, view, following, top, height))
            if view.exchange.request is not None:
                arrow_up(scene.sheet, view.x0, top)
    return reached


def _dense(scene: Scene, lane: Lane, found: Sequence[View], top: float) -> float:
    """Draw a lane of very many: marks without labels, and at the right how it went."""
    middle = top + DENSE / 2
    for view in found:
        fates.waiting(scene, view, middle)
    fates.missed(scene, lane, found, top, DENSE)
    for view in found:
        if view.crowded:
            _ticks(scene, view, middle, 5)
        for x, event in view.marks:
            if event.sender == "server":
                mark(scene.sheet, event.shown, x, middle, "hot" if event.fate == "late" else "ink")
    labels.verdict(scene.sheet, lane, middle)
    return top + DENSE


def _marks(scene: Scene, view: View, top: float) -> None:
    """Draw the marks of a band and label those that have room."""
    sheet, middle = scene.sheet, top + BAND / 2
    fates.waiting(scene, view, middle)
    if view.crowded:
        _ticks(scene, view, middle, 7)
    for x, event in view.marks:
        if event.sender == "client":
            arrow_up(sheet, x, top)
    again = replayed([event for _, event in view.marks], view.exchange)
    short = labels.short_ids(view)
    for index, (x, event) in enumerate(view.marks):
        if event.sender == "client":
            labels.above(sheet, labels.texts(event, short), x + 8, top, "ink", "start")
            continue
        role = "hot" if event.shown in ("error", "lost") or event.fate == "late" or index in again else "ink"
        mark(sheet, "replay" if index in again else event.shown, x, middle, role)
        if event.shown == "error":
            labels.error(sheet, event, x, top)
        elif event.label and not is_keepalive(event):
            quiet = event.shown in ("lost", "comment", "fields")
            labels.above(sheet, labels.texts(event, short), x, top, "mute" if quiet else role, "middle", view.x0)


def _ticks(scene: Scene, view: View, middle: float, half: float) -> None:
    """Draw very many marks as ticks, one path for all, at most two to a pixel."""
    received, sent = ({round(scene.axis.x(at) * 2) / 2 for at in times} for times in tick_times(view.exchange))
    if sent:
        top = middle - BAND / 2
        d = "".join(f"M{x:.1f} {top - 9:.1f}V{top - 1:.1f}" for x in sorted(sent))
        scene.sheet.path(d, stroke="ink", width=1)
    if received:
        d = "".join(f"M{x:.1f} {middle - half:.1f}V{middle + half:.1f}" for x in sorted(received))
        scene.sheet.path(d, stroke="ink", width=2 if len(received) < 120 else 1)
