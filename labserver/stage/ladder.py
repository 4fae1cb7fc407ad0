"""The ladder: client and server as two lifelines, time running down, a row per frame. For who said what in which order.

Rows are evenly spaced and not to scale: an echo is over in 20 ms, and a row gives each label a full line.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from labserver.stage.drawing import Sheet, fit, width, wrap
from labserver.stage.rich import Picture
from labserver.stage.story import headline, ladder_words
from labserver.stage.twin import Exchange, Lane
from labserver.stage.wire import WireEvent

__all__ = ["draw"]

_CLIENT, _SERVER = 176, 560  # lifelines, px
_MIDDLE = (_CLIENT + _SERVER) / 2
_HALF = 6  # half a lifeline's width
_ROW, _GROUP = 36, 20  # between rows; more between handshake, messages and close
_NOTE = 592
_MOST = 26  # rows of one conversation; more are folded in the middle
_HEAD, _TAIL = 12, 8  # rows kept at both ends when folded
_NOTE_ROOM = 808 - _NOTE
_LABEL_ROOM = _SERVER - _CLIENT - 40


@dataclass(frozen=True, slots=True)
class _Row:
    event: WireEvent
    group: int
    y: float = 0
    folded: int = 0
    inside: str = ""


def draw(
    name: str,
    panels: Sequence[tuple[str, Sequence[Lane]]],
    twin: str,
    title: str | None = None,
    note: str | None = None,
) -> Picture:
    """Draw conversations one below the other, each a ladder; panels with a head get it above them."""
    lanes = [lane for _, panel in panels for lane in panel]
    every = [exchange for lane in lanes for exchange in lane.exchanges]
    title = title or headline(lanes)
    sheet = Sheet(name, title)
    scale = _Scale(every)
    sheet.head(note or f"Time runs down, a row per frame; {scale.words} since the first byte, not to scale.")
    y = 102.0
    said = []
    for head, panel in panels:
        if head:
            sheet.text(24, y - 10, fit(head, 780, 13, weight=600), size=13, weight=600)
            y += 24
            said.append(f"{head}:")
        for lane in panel:
            for exchange in lane.exchanges:
                y = _conversation(sheet, exchange, y, scale, lane.name) + 56
                said.append(ladder_words(exchange))
    if not every:
        sheet.text(_MIDDLE, 132, "nothing passed", role="mute", anchor="middle")
        y = 200
        said.append("No connection was made to the tape.")
    sheet.desc = " ".join(said)
    return Picture(sheet.svg(y - 20), sheet.alt, twin)


class _Scale:
    """The numbers at the left: milliseconds, or seconds when they would be long."""

    def __init__(self, every: Sequence[Exchange]) -> None:
        last = max((event.at for exchange in every for event in exchange.events), default=0.0)
        self.unit, self._digits, self._factor = ("ms", 0, 1000.0) if last < 10 else ("s", 1, 1.0)
        self.words = "milliseconds" if self.unit == "ms" else "seconds"

    def at(self, event: WireEvent) -> str:
        return f"{event.at * self._factor:.{self._digits}f}"


def _rows(exchange: Exchange) -> list[_Row]:
    """Lay the events into rows, the middle of a long conversation folded into one row."""
    rows: list[_Row] = []
    for event in exchange.events:
        if event.kind == "close" and event.label == "clean end" and rows and exchange.upgrade:
            continue  # a refused handshake: the answer's row already is the end
        group = 0 if event.kind == "open" else 2 if event.kind in ("close", "cut") else 1
        group = max(group, rows[-1].group if rows else 0)
        rows.append(_Row(event, group))
    if len(rows) <= _MOST:
        return rows
    middle = rows[_HEAD : len(rows) - _TAIL]
    up = sum(row.event.sender == "client" for row in middle)
    words = f"… {len(middle)} more frames: {up} to the server, {len(middle) - up} to the client …"
    return [*rows[:_HEAD], _Row(middle[0].event, 1, folded=len(middle), inside=words), *rows[len(rows) - _TAIL :]]


def _conversation(sheet: Sheet, exchange: Exchange, top: float, scale: _Scale, who: str) -> float:
    """Draw one conversation from its names at `top` down; return the y of its last row."""
    y = top + 26
    placed: list[_Row] = []
    for row in _rows(exchange):
        if placed:
            y += _ROW + (_GROUP if row.group != placed[-1].group else 0)
        placed.append(_Row(row.event, row.group, y, row.folded, row.inside))
    refused = any(event.name == "refused" for event in exchange.events)
    end = exchange.ending
    torn = end is not None and (end.kind == "cut" or refused)
    bottom = y if end is not None else y + 20
    sheet.text(_CLIENT, top, fit(who, 300, 13, weight=600), size=13, weight=600, anchor="middle")
    sheet.text(_SERVER, top, "server", size=13, weight=600, anchor="middle")
    sheet.text(56, top, scale.unit, role="mute", anchor="end")
    _lifeline(sheet, _CLIENT, top + 26, bottom, torn, end is None)
    if refused:
        sheet.line(_SERVER, top + 26, _SERVER, bottom - 16, "mute", 1.25, "2 4")
    else:
        _lifeline(sheet, _SERVER, top + 26, bottom, torn, end is None)
    for row in placed:
        _row(sheet, row, scale, exchange)
    if end is None:
        sheet.text(_MIDDLE, bottom + 4, "still open", role="mute", anchor="middle")
    return bottom


def _lifeline(sheet: Sheet, x: float, top: float, bottom: float, torn: bool, is_open: bool) -> None:
    left, right = x - _HALF, x + _HALF
    if torn:
        edge = "".join(f"L{left + tooth * 3:.1f} {bottom + (3 if tooth % 2 else -3):.1f}" for tooth in range(5))
        sheet.path(f"M{right:.1f} {top:.1f}H{left:.1f}{edge}Z", fill="band")
        sheet.path("M" + edge[1:], stroke="hot", width=2)
    else:
        sheet.rect(left, top, 2 * _HALF, max(bottom - top, 1), "band")
        if not is_open:
            sheet.line(left - 1, bottom, right + 1, bottom, width=2)
    sheet.line(left - 1, top, right + 1, top, width=2)


def _row(sheet: Sheet, row: _Row, scale: _Scale, exchange: Exchange) -> None:
    event, y = row.event, row.y
    if row.folded:
        sheet.text(_MIDDLE, y + 4, row.inside, role="mute", anchor="middle")
        return
    sheet.text(56, y + 4, scale.at(event), role="mute", anchor="end")
    if event.kind in ("cut", "full") or event.name == "refused" or event.label == "client leaves":
        _broken(sheet, event, y)
        return
    refused = exchange.upgrade and event is exchange.answer and not exchange.websocket
    failed = (
        event.shown == "error" or event.kind == "lost" or refused or (event.kind == "open" and event.name[:1] in "45")
    )
    role = "hot" if failed else "ink"
    _arrow(sheet, event, y, role)
    label = fit(_label(event), _LABEL_ROOM, 13, mono=True)
    sheet.text(_MIDDLE, y - 7, label, size=13, role=role, mono=True, anchor="middle")
    _note(sheet, event.note, y, "hot" if failed else "mute")


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
    up = event.sender == "client"
    at = _CLIENT if up else _SERVER
    if up:
        sheet.line(_CLIENT + _HALF, y, _SERVER - _HALF - 7, y, role)
        sheet.path(
            f"M{_SERVER - 7:.1f} {y:.1f}L{_SERVER - 14:.1f} {y + 3.5:.1f}L{_SERVER - 14:.1f} {y - 3.5:.1f}Z", fill=role
        )
    else:
        sheet.line(_SERVER - _HALF, y, _CLIENT + _HALF + 7, y, role)
        sheet.path(
            f"M{_CLIENT + 7:.1f} {y:.1f}L{_CLIENT + 14:.1f} {y - 3.5:.1f}L{_CLIENT + 14:.1f} {y + 3.5:.1f}Z", fill=role
        )
    if event.kind in ("open", "close"):
        sheet.line(at - _HALF - 1, y, at + _HALF + 1, y, role, 2)
    else:
        sheet.mark(event.shown, at, y, role)


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
        sheet.mark("error", _SERVER, y)
    _note(sheet, event.note, y, role)
