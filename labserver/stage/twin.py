"""A tape in plain text, and the grouping that text and pictures share: events -> exchanges -> lanes.

The text holds order, names and counts; never a time, a port, a read or a chunk, so that it is the same in every run.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from labserver.stage.wire import WireEvent

__all__ = ["Exchange", "Lane", "exchanges", "is_keepalive", "lanes", "lines", "text"]

_KEEPALIVE = re.compile(r"^(|keep-?alive\b.*|ping\b.*|heart-?beat\b.*)$", re.IGNORECASE)
_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_SIGNS = {"cut": "x", "lost": ".", "full": "~"}
_FOLD = 6  # a run of numbered messages longer than this is one line even when each says something


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and all that followed it: an answer, a stream, or a whole WebSocket conversation."""

    events: tuple[WireEvent, ...]

    @property
    def connection(self) -> int:
        return self.events[0].connection

    @property
    def request(self) -> WireEvent | None:
        return next((event for event in self.events if event.kind == "open" and event.sender == "client"), None)

    @property
    def answer(self) -> WireEvent | None:
        answers = [event for event in self.events if event.kind == "open" and event.sender == "server"]
        return answers[-1] if answers else None

    @property
    def path(self) -> str:
        return self.request.name.partition("?")[0] if self.request else ""

    @property
    def upgrade(self) -> bool:
        """Whether the client asked for a WebSocket."""
        return self.request is not None and self.request.label.endswith("Upgrade: websocket")

    @property
    def websocket(self) -> bool:
        """Whether it became a WebSocket."""
        return self.answer is not None and self.answer.name == "101"

    @property
    def stream(self) -> str:
        """What the answer's body is made of: "event", "line", "body" or nothing."""
        kinds = {event.kind for event in self.events if event.sender == "server"}
        if kinds & {"event", "comment", "fields"}:
            return "event"
        return "line" if "line" in kinds else "body" if "body" in kinds else ""

    @property
    def start(self) -> float:
        return self.events[0].at

    @property
    def ending(self) -> WireEvent | None:
        """The last event that ended it, None while it is open."""
        ends = [event for event in self.events if event.kind in ("close", "cut") or event.name == "refused"]
        return ends[-1] if ends else None

    @property
    def stop(self) -> float | None:
        """When it ended, None while it is open."""
        return self.ending.at if self.ending is not None else None

    @property
    def complete(self) -> bool:
        """Whether the server ended it in an orderly way."""
        return self.ending is not None and self.ending.kind == "close" and self.ending.label != "client leaves"


@dataclass(frozen=True, slots=True)
class Lane:
    """Exchanges of one client, one after the other: a stream and its reconnects are one lane."""

    name: str
    exchanges: tuple[Exchange, ...]
    sub: str = ""

    @property
    def events(self) -> list[WireEvent]:
        return [event for exchange in self.exchanges for event in exchange.events]


def is_keepalive(event: WireEvent) -> bool:
    """Whether an event is a comment that only says that the server is alive; timing decides how many there are."""
    return event.kind == "comment" and isinstance(event.data, str) and bool(_KEEPALIVE.match(event.data.strip()))


def exchanges(events: Sequence[WireEvent]) -> list[Exchange]:
    """Group events by connection and request, in the order in which they began."""
    groups: dict[tuple[int, int], list[WireEvent]] = {}
    for event in events:
        groups.setdefault((event.connection, event.exchange), []).append(event)
    return [Exchange(tuple(group)) for _, group in sorted(groups.items(), key=lambda item: (item[1][0].at, item[0]))]


def lanes(events: Sequence[WireEvent], names: Sequence[str] | None = None) -> list[Lane]:
    """Lay exchanges into lanes: one that begins after another of the same path has ended continues its lane.

    Args:
        names: what to call the lanes, in order; by default "client", or "client 1" and so on.
    """
    rows: list[list[Exchange]] = []
    for exchange in exchanges(events):
        for row in rows:
            last = row[-1]
            if last.path == exchange.path and last.stop is not None and last.stop <= exchange.start:
                row.append(exchange)
                break
        else:
            rows.append([exchange])
    rows.sort(key=lambda row: (row[0].connection, row[0].events[0].exchange))
    given = list(names or [])
    given += ["client"] if not given and len(rows) == 1 else [f"client {n + 1}" for n in range(len(given), len(rows))]
    return [Lane(name, tuple(row)) for name, row in zip(given, rows, strict=False)]


def text(
    name: str,
    panels: Sequence[tuple[str, Sequence[Lane]]],
    *,
    counts: bool = True,
    keepalives: str = "once",
) -> str:
    """Return the text twin of lanes, or of several panels of lanes, each under its `== head ==`.

    Args:
        counts: False where timing decides how many messages pass: a run of them then ends in `+`.
        keepalives: "once" says per exchange that there were some, "between" says between which events.
    """
    out = [name, ""]
    for head, panel in panels:
        if head:
            out += [f"== {head} ==", ""]
        for heading, body in _merged([(lane, lines(lane, counts=counts, keepalives=keepalives)) for lane in panel]):
            out += [heading, *body, ""]
        if not panel:
            out += ["(nothing passed)", ""]
    return "\n".join(line.rstrip() for line in out).rstrip() + "\n"


def _merged(blocks: list[tuple[Lane, list[str]]]) -> list[tuple[str, list[str]]]:
    """Say what several neighbouring lanes saw once when they saw the same."""
    out: list[tuple[str, list[str]]] = []
    group: list[Lane] = []
    for index, (lane, body) in enumerate(blocks):
        group.append(lane)
        if index + 1 < len(blocks) and blocks[index + 1][1] == body:
            continue
        out.append((_heading(group), body))
        group = []
    return out


def _heading(group: list[Lane]) -> str:
    first, last = group[0], group[-1]
    sub = f" ({first.sub})" if first.sub else ""
    if len(group) == 1:
        return first.name + sub
    one, other = _NUMBERED.match(first.name), _NUMBERED.match(last.name)
    if one and other and one.group(1) == other.group(1) and int(other.group(2)) - int(one.group(2)) == len(group) - 1:
        return f"{first.name}..{other.group(2)} (each){sub}"
    names = ", ".join(lane.name for lane in group)
    return f"{names} (each){sub}"


@dataclass(frozen=True, slots=True)
class _Row:
    sign: str
    kind: str
    what: str
    size: str = ""
    note: str = ""

    def render(self) -> str:
        line = f"  {self.sign} {self.kind:<10}{self.what}"
        line += f"  {self.size}" if self.size else ""
        return line + (f"  ({self.note})" if self.note else "")


def lines(lane: Lane, *, counts: bool = True, keepalives: str = "once") -> list[str]:
    """Return the lines of the text twin that tell one lane."""
    rows: list[_Row] = []
    for number, exchange in enumerate(lane.exchanges):
        rows += _folded(_rows(exchange, again=number > 0, keepalives=keepalives), counts)
    return [row.render() for row in rows]


def _rows(exchange: Exchange, again: bool, keepalives: str) -> list[_Row]:
    rows: list[_Row] = []
    alive = False
    answer = exchange.answer
    quiet = bool(exchange.stream in ("event", "line") and answer and answer.name == "200")
    for event in exchange.events:
        if event is answer and quiet:
            continue
        if is_keepalive(event):
            repeated = bool(rows) and rows[-1].kind == "keepalive"
            if not alive or (keepalives == "between" and not repeated):
                rows.append(_Row("<", "keepalive", ": +"))
            alive = True
            continue
        rows.append(_row(event, exchange, again))
    return rows


def _row(event: WireEvent, exchange: Exchange, again: bool) -> _Row:
    sign = _SIGNS.get(event.kind) or (">" if event.sender == "client" else "<")
    what, note, size = event.label, event.note, ""
    if event.kind == "open" and event.sender == "client" and not exchange.upgrade:
        resumed = note.startswith("Last-Event-ID")
        what, note = (note, "") if resumed and again else (what, note if resumed else "")
    elif event.kind == "body":
        note = ""
        if event.sender == "server" and not exchange.complete:
            what, size = "+", ""
        else:
            size = f"{event.size} byte" + ("s" if event.size != 1 else "")
    elif event.kind == "close" and event.label == "client leaves":
        note = "" if note == "by the client" else note
    elif event.kind == "fields":
        note = note.replace(f"retry: {event.label.removeprefix('retry ')}, ", "")
    elif event.kind == "lost" and event.note.startswith("half a frame"):
        what = "half a frame"
        note = ""
    return _Row(sign, event.shown, what, size, note)


def _folded(rows: list[_Row], counts: bool) -> list[_Row]:
    """Fold equal neighbours into `x3`, and neighbours with consecutive numbers into `1..3`."""
    out: list[_Row] = []
    at = 0
    while at < len(rows):
        stop = _run(rows, at, _equal)
        if stop - at > 1 and rows[at].kind not in ("open", "close", "cut", "keepalive"):
            number = f"x{stop - at}" if counts else "+"
            if rows[at].kind in ("ping", "pong"):
                number = "+"
            out.append(replace(rows[at], what=f"{rows[at].what} {number}".strip()))
            at = stop
            continue
        stop = _run(rows, at, _next)
        plain = all(not row.note and not row.size for row in rows[at:stop])
        if stop - at > (1 if plain else _FOLD) and rows[at].kind in ("event", "line", "text"):
            what = f"{rows[at].what}..{rows[stop - 1].what}" if counts else f"{rows[at].what}.. +"
            note = "" if not plain and not _same_note(rows[at:stop]) else rows[at].note
            out.append(replace(rows[at], what=what, note=note))
            at = stop
            continue
        stop = _run(rows, at, _alike)
        if stop - at > 2 * _FOLD and rows[at].kind in ("event", "line", "text", "bytes"):
            left = stop - at - 4
            out += rows[at : at + 3]
            out.append(_Row(rows[at].sign, "…", f"{left} more" if counts else "+"))
            out += rows[stop - 1 : stop] if counts else []
            at = stop
            continue
        out.append(rows[at])
        at += 1
    return out


def _run(rows: list[_Row], at: int, same: "object") -> int:
    stop = at + 1
    while stop < len(rows) and same(rows[stop - 1], rows[stop]):  # type: ignore[operator]
        stop += 1
    return stop


def _equal(one: _Row, other: _Row) -> bool:
    return one == other


def _alike(one: _Row, other: _Row) -> bool:
    return one.sign == other.sign and one.kind == other.kind


def _next(one: _Row, other: _Row) -> bool:
    first, second = _NUMBERED.match(one.what), _NUMBERED.match(other.what)
    return (
        _alike(one, other)
        and first is not None
        and second is not None
        and first.group(1) == second.group(1)
        and int(second.group(2)) == int(first.group(2)) + 1
    )


def _same_note(rows: list[_Row]) -> bool:
    return all(row.note == rows[0].note and row.size == rows[0].size for row in rows)
