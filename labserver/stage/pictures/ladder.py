"""The ladder: client and server as two lifelines, time running down, a row per frame. For who said what in which order.

Rows are evenly spaced and not to scale: an echo is over in 20 ms, and a row gives each label a full line.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from labserver.stage.pictures.shapes import mark, torn_edge
from labserver.stage.pictures.sheet import MARGIN, WIDTH, Sheet
from labserver.stage.pictures.story import headline, ladder_words
from labserver.stage.pictures.words import fit, width, wrap
from labserver.stage.rich import Picture
from labserver.stage.wire import Exchange, Lane, WireEvent

__all__ = ["draw"]

_CLIENT, _SERVER = 176, 560  # lifelines, px
_MIDDLE = (_CLIENT + _SERVER) / 2
_HALF = 6  # half a lifeline's width
_ROW, _GROUP = 36, 20  # between rows; more between handshake, messages and close
_TIMES = 56  # where the numbers at the left end
_NOTE = 592
_MOST = 26  # rows of one conversation; more are folded in the middle
_HEAD, _TAIL = 12, 8  # rows kept at both ends when folded
_NOTE_ROOM = WIDTH - MARGIN - _NOTE
_LABEL_ROOM = _SERVER - _CLIENT - 40


@dataclass(frozen=True, slots=True)
class _Row:
    event: WireEvent
    group: int
    y: float = 0
    folded: str = ""


def draw(
    name: str,
    panels: Sequence[tuple[str, Sequence[Lane]]],
    twin: str,
    title: str | None = None,
    note: str | None = None,
) -> Picture:
    """Draw conversations one below the other, each a ladder; panels with a head get it above them."""
    lanes = [lane for _, panel in panels for lane in panel]
    scale = _scale(lanes)
    sheet = Sheet(name, title or headline(lanes))
    sheet.head(note or f"Time runs down, a row per frame; {scale.words} since the first byte, not to scale.")
    y = 102.0
    said = []
    for head, panel in panels:
        if head:
            sheet.text(MARGIN, y - 10, fit(head, 780, 13, weight=600), size=13, weight=600)
            y += 24
            said.append(f"{head}:")
        for exchange, who in [(exchange, lane.name) for lane in panel for exchange in lane.exchanges]:
            y = _conversation(sheet, exchange, y, scale, who) + 56
            said.append(ladder_words(exchange))
    if not any(lane.exchanges for lane in lanes):
        sheet.text(_MIDDLE, 132, "nothing passed", role="mute", anchor="middle")
        y = 200
        said.append("No connection was made to the tape.")
    sheet.desc = " ".join(said)
    return Picture(sheet.svg(y - 20), sheet.alt, twin)


@dataclass(frozen=True, slots=True)
class _Scale:
    """The numbers at the left."""

    unit: str
    words: str
    digits: int
    factor: float

    def at(self, event: WireEvent) -> str:
        return f"{event.at * self.factor:.{self.digits}f}"


def _scale(lanes: Sequence[Lane]) -> _Scale:
    """Return milliseconds, or seconds when those would be long."""
    last = max((event.at for lane in lanes for event in lane.events), default=0.0)
    return _Scale("ms", "milliseconds", 0, 1000.0) if last < 10 else _Scale("s", "seconds", 1, 1.0)


# --- rows


def _rows(exchange: Exchange) -> list[_Row]:
    """Lay the events into rows, the middle of a long conversation folded into one row."""
    rows: list[_Row] = []
    for event in exchange.events:
        if event.kind == "close" and event.label == "clean end" and rows and exchange.upgrade:
            continue  # a refused handshake: the answer's row already is the end
        rows.append(_Row(event, max(_group(event), rows[-1].group if rows else 0)))
    return rows if len(rows) <= _MOST else _folded(rows)


def _group(event: WireEvent) -> int:
    return 0 if event.kind == "open" else 2 if event.kind in ("close", "cut") else 1


def _folded(rows: list[_Row]) -> list[_Row]:
    middle = rows[_HEAD : len(rows) - _TAIL]
    up = sum(row.event.sender == "client" for row in middle)
    words = f"… {len(middle)} more frames: {up} to the server, {len(middle) - up} to the client …"
    return [*rows[:_HEAD], _Row(middle[0].event, 1, folded=words), *rows[len(rows) - _TAIL :]]


def _placed(exchange: Exchange, top: float) -> list[_Row]:
    """Give each row its y, the first `top`."""
    y, out = top, list[_Row]()
    for row in _rows(exchange):
        if out:
            y += _ROW + (_GROUP if row.group != out[-1].group else 0)
        out.append(replace(row, y=y))
    return out


# --- drawing


def _conversation(sheet: Sheet, exchange: Exchange, top: float, scale: _Scale, who: str) -> float:
    """Draw one conversation from its names at `top` down; return the y of its last row."""
    placed = _placed(exchange, top + 26)
    still_open = exchange.ending is None
    bottom = placed[-1].y + (20 if still_open else 0)
    sheet.text(_CLIENT, top, fit(who, 300, 13, weight=600), size=13, weight=600, anchor="middle")
    sheet.text(_SERVER, top, "server", size=13, weight=600, anchor="middle")
    sheet.text(_TIMES, top, scale.unit, role="mute", anchor="end")
    _lifeline(sheet, exchange, _CLIENT, top + 26, bottom)
    if exchange.refused:
        sheet.line(_SERVER, top + 26, _SERVER, bottom - 16, "mute", 1.25, "2 4")
    else:
        _lifeline(sheet, exchange, _SERVER, top + 26, bottom)
    for row in placed:
        _row(sheet, row, scale, exchange)
    if still_open:
        sheet.text(_MIDDLE, bottom + 4, "still open", role="mute", anchor="middle")
    return bottom


def _lifeline(sheet: Sheet, exchange: Exchange, x: float, top: float, bottom: float) -> None:
    left, right = x - _HALF, x + _HALF
    if exchange.torn or exchange.refused:
        edge = "".join(f"L{left + tooth * 3:.1f} {bottom + (3 if tooth % 2 else -3):.1f}" for tooth in range(5))
        torn_edge(sheet, f"M{right:.1f} {top:.1f}H{left:.1f}", edge)
    else:
        sheet.rect(left, top, 2 * _HALF, max(bottom - top, 1), "band")
        if exchange.ending is not None:
            sheet.line(left - 1, bottom, right + 1, bottom, width=2)
    sheet.line(left - 1, top, right + 1, top, width=2)


def _row(sheet: Sheet, row: _Row, scale: _Scale, exchange: Exchange) -> None:
    event, y = row.event, row.y
    if row.folded:
        sheet.text(_MIDDLE, y + 4, row.folded, role="mute", anchor="middle")
        return
    sheet.text(_TIMES, y + 4, scale.at(event), role="mute", anchor="end")
    if event.kind in ("cut", "full") or event.name == "refused" or event.label == "client leaves":
        _broken(sheet, event, y)
        return
    failed = _failed(event, exchange)
    _arrow(sheet, event, y, "hot" if failed else "ink")
    label = fit(_label(event), _LABEL_ROOM, 13, mono=True)
    sheet.text(_MIDDLE, y - 7, label, size=13, role="hot" if failed else "ink", mono=True, anchor="middle")
    _note(sheet, event.note, y, "hot" if failed else "mute")


def _failed(event: WireEvent, exchange: Exchange) -> bool:
    refused = exchange.upgrade and event is exchange.answer and not exchange.websocket
    return refused or event.shown in ("error", "lost") or (event.kind == "open" and event.name[:1] in "45")


def _note(sheet: Sheet, note: str, y: float, role: str) -> None:
    weight = 600 if role == "hot" else 400
    lines = wrap(note, _NOTE_ROOM, 2, weight=weight)
    first = y + 4 if len(lines) < 2 else y - 3
    for number, line in enumerate(lines):
        sheet.text(_NOTE, first + 15 * number, line, role=role, weight=weight)


def _label(event: WireEvent) -> str:
    """Return the event's label; a long path gives way so that the rest of a handshake can be read."""
    end = ", Upgrade: websocket"
    if event.kind == "open" and event.label.endswith(end):
        return fit(event.label.removesuffix(end), _LABEL_ROOM - width(end, 13, True), 13, True) + end
    return event.label or event.kind


def _arrow(sheet: Sheet, event: WireEvent, y: float, role: str) -> None:
    at, to, way = (_CLIENT, _SERVER, 1) if event.sender == "client" else (_SERVER, _CLIENT, -1)
    tip = to - 7 * way
    back = tip - 7 * way
    sheet.line(at + _HALF * way, y, tip - _HALF * way, y, role)
    sheet.path(f"M{tip:.1f} {y:.1f}L{back:.1f} {y + 3.5 * way:.1f}L{back:.1f} {y - 3.5 * way:.1f}Z", fill=role)
    if event.kind in ("open", "close"):
        sheet.line(at - _HALF - 1, y, at + _HALF + 1, y, role, 2)
    else:
        mark(sheet, event.shown, at, y, role)


def _broken(sheet: Sheet, event: WireEvent, y: float) -> None:
    """An end without a frame: a torn line between the lifelines, what happened in its middle."""
    role = "mute" if event.kind == "full" or event.label == "client leaves" else "hot"
    words = {"cut": f"cut, by the {event.sender}"}.get(event.label, event.label)
    text = fit(words, _LABEL_ROOM - 60, 12, weight=600)
    weight = 600 if role == "hot" else 400
    box = sheet.text(_MIDDLE, y + 4, text, role=role, weight=weight, anchor="middle")
    sheet.line(_CLIENT + _HALF + 6, y, box.x0 - 8, y, role)
    sheet.line(box.x1 + 8, y, _SERVER - _HALF - 6, y, role)
    if event.name == "refused":
        mark(sheet, "error", _SERVER, y)
    _note(sheet, event.note, y, role)
