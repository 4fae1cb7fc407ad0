"""The words of a lane: its name, its request, what a mark says, how it ended. Each stands only where it has room."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from labserver.stage.pictures import fates
from labserver.stage.pictures.layout import View
from labserver.stage.pictures.scene import ROW, VERDICT, Scene
from labserver.stage.pictures.shapes import measure
from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT, WIDTH, Sheet
from labserver.stage.pictures.words import duration, fit, kilo, width, wrap
from labserver.stage.wire import DATA, Lane, WireEvent, counted, elide

__all__ = ["above", "end_label", "ending", "error", "name", "request", "short_ids", "texts", "verdict"]

_NAME_ROOM = LEFT - MARGIN - 10
_VERDICT_ROOM = WIDTH - VERDICT - 8


def name(scene: Scene, lane: Lane, middle: float, default: str) -> None:
    """Set a lane's name beside its band, and under it what it is."""
    sub = [] if scene.dense else wrap(lane.sub or default, _NAME_ROOM, 2)
    y = middle + 4 - (7 if sub else 0) - (6 if len(sub) > 1 else 0)
    scene.sheet.text(MARGIN, y, fit(lane.name, _NAME_ROOM, 13, weight=600), size=13, weight=600)
    for number, line in enumerate(sub):
        scene.sheet.text(MARGIN, y + 16 + 14 * number, line, role="mute")


# --- above the band


_Place = tuple[float, int, str, str]  # x, row above the band, anchor, text


def _set_first_free(
    sheet: Sheet, places: Iterable[_Place], top: float, left: float = LEFT, gap: float = 6, role: str = "ink"
) -> bool:
    """Set the first text that has room; return False when no place is free: the text twin has it."""
    for x, row, anchor, text in places:
        y = top - 8 - row * ROW
        box = sheet.box(x, y, text, anchor=anchor, mono=True)
        if box.x0 >= left and sheet.free(box, gap):
            sheet.text(x, y, text, role=role, mono=True, anchor=anchor, halo=True)
            return True
    return False


def request(scene: Scene, view: View, top: float, again: bool) -> None:
    """Label a request: right of its arrow, left of a reconnect's, and a row higher when an event follows at once."""
    asked, x0 = view.exchange.request, view.x0
    if asked is None:
        return
    resumed = view.exchange.resumed if again else ""
    label = elide(resumed or asked.label.removesuffix(", Upgrade: websocket"), 40)
    right = [(x0 + 8, 0, "start", label), (x0 + 8, 1, "start", label)]
    left = [(x0 - 8, 0, "end", label), (x0 - 8, 1, "end", label)]
    places = [*right, *left]
    if next(iter(view.labelled), RIGHT) - x0 < width(label, 12, True) + 30 and not view.crowded:
        places = [left[0], right[1], left[1]] if again else [right[1], right[0]]
    _set_first_free(scene.sheet, places, top)


def above(
    sheet: Sheet, said: Sequence[str], x: float, top: float, role: str, anchor: str, x0: float | None = None
) -> None:
    """Set a label above its mark, or beside the band's beginning `x0` when that is near, or in the second row."""
    places = [(x, 0, anchor, text) for text in said]
    if x0 is not None and x - x0 < 40:
        places += [(x0 + 8, 0, "start", text) for text in said]
    _set_first_free(sheet, [*places, (x, 1, anchor, said[0])], top, LEFT - 4, 5, role)


def error(sheet: Sheet, event: WireEvent, x: float, top: float) -> None:
    """Label an error at either side of its mark."""
    label = elide(event.label if event.kind != "event" or event.id is None else event.note, 40)
    places = [(at, row, side, label) for row in (0, 1) for at, side in ((x + 4, "end"), (x - 4, "start"))]
    if not _set_first_free(sheet, places, top, gap=14, role="hot"):  # nearer it would read on from the label before
        _set_first_free(sheet, places, top, role="hot")


def texts(event: WireEvent, short: bool) -> list[str]:
    """Return what a mark may be labelled with, the best first."""
    if event.due is not None:
        return [elide(event.label, 18)]
    if event.id is not None and event.kind == "event":
        return [elide(event.id, 18) if short else f"id {elide(event.id, 18)}"]
    return [elide(event.label, 22), *([elide(event.label, 10)] if len(event.label) > 10 else [])]


def short_ids(view: View) -> bool:
    """Whether ids have to do without the word "id" because some would touch."""
    found = [(x, _id_width(event)) for x, event in view.marks if event.kind == "event" and event.id is not None]
    if not found:
        return False
    first, wide = found[0]
    return first - view.x0 < 10 + wide / 2 or any(b[0] - a[0] < 6 + b[1] for a, b in pairwise(found))


def _id_width(event: WireEvent) -> float:
    return width(f"id {elide(event.id or '', 18)}", 12, True)


# --- the end


def end_label(event: WireEvent) -> str:
    """Return what an end is called."""
    return elide(event.label, 26)


def ending(scene: Scene, lane: Lane, view: View, following: View | None, top: float, height: float) -> float:
    """Label an end; return how far down that reaches.

    It stands right of the edge, else above it; in the gap before a reconnect, with how long the gap was, unless marks
    of what was lost stand there.
    """
    end, middle = view.exchange.ending, top + height / 2
    if end is None:
        _tape_full(scene.sheet, view, middle)
        return 0.0
    label, role = end_label(end), "hot" if view.exchange.torn else "ink"
    if following is None and view.x1 + 14 + width(label, 12, True) <= WIDTH - 8:
        scene.sheet.text(view.x1 + 14, middle + 4, label, role=role, mono=True)
        return 0.0
    bottom = 0.0
    if following is not None:
        gap = f"{duration(following.exchange.start - end.at)} offline"
        lost = any(view.x1 < scene.axis.x(event.at) < following.x0 for event in lane.missed)
        if not lost and _in_gap(scene.sheet, view.x1, following.x0, middle, f"{label}, {gap}", view.exchange.torn):
            return 0.0
        if view.exchange.torn and measure(
            scene.sheet, view.x1, following.x0, top + height + 14, gap, hot=True, left_first=True
        ):
            bottom = top + height + 19
    places = [(view.x1 + 4, row, "end", label) for row in (0, 1)]
    _set_first_free(scene.sheet, places, top, LEFT + 8, role=role)
    return bottom


def _in_gap(sheet: Sheet, x0: float, x1: float, middle: float, text: str, torn: bool) -> bool:
    """Set words between a band and the next, a line at both sides; return False without room."""
    if x1 - x0 < width(text, 12, weight=600) + 36:
        return False
    role = "hot" if torn else "mute"
    box = sheet.text((x0 + x1) / 2 + 2, middle + 4, text, role=role, weight=600, anchor="middle")
    sheet.line(x0 + 8, middle, box.x0 - 6, middle, role)
    sheet.line(box.x1 + 6, middle, x1 - 8, middle, role)
    return True


def _tape_full(sheet: Sheet, view: View, middle: float) -> None:
    if view.exchange.events[-1].kind != "full":
        return
    fits = view.x1 + 14 + width("tape full", 12, True) <= WIDTH - 8
    x, anchor = (view.x1 + 14, "start") if fits else (view.x1 - 8, "end")
    sheet.text(x, middle + 4, "tape full", role="mute", mono=True, anchor=anchor)


def verdict(sheet: Sheet, lane: Lane, middle: float) -> None:
    """Say at the right of a dense lane how it went."""
    if not lane.exchanges:
        return
    last = lane.exchanges[-1]
    bad = last.first_end if last.hung_up else last.ending if last.torn else last.answer if last.failed else None
    text = bad.label if bad is not None else ""
    if lane.missed:
        lost = f"{len(lane.missed)} lost"
        both = f"{' '.join(text.split()[:2])}, {lost}"
        text = both if bad and width(both, weight=600) <= _VERDICT_ROOM else lost
    elif not bad and (worst := fates.worst(lane.events)):
        text = f"{duration(fates.lateness(worst))} late"
    if text:
        sheet.text(VERDICT, middle + 4, fit(text, _VERDICT_ROOM, weight=600), role="hot", weight=600)
    else:
        sheet.text(VERDICT, middle + 4, _received(lane), role="mute")


def _received(lane: Lane) -> str:
    again = sum(event.fate == "replay" for event in lane.events)
    traced = [fates.lateness(event) for event in lane.events if event.due is not None and not event.fate]
    if again or traced:
        return f"{again} replayed" if again else f"within {duration(max(*traced, 0.001))}"
    events = [event for event in lane.events if event.sender == "server"]
    count = sum(event.kind in DATA for event in events)
    size = sum(event.size for event in events if event.kind == "body")
    return counted(count, "message") if count or not size else kilo(size)
