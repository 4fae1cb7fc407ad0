"""A tape in plain text, lane by lane, a line per event or run of events.

The text holds order, names and counts; never a time, a port, a read or a chunk, so that it is the same in every run.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from labserver.stage.wire import DATA, Exchange, Lane, WireEvent, counted, is_keepalive

__all__ = ["text"]

_NUMBERED = re.compile(r"^(.*?)(\d+)$")
_SIGNS = {"cut": "x", "lost": ".", "full": "~"}
_NAMED = ("event", "line", "text", "bytes", "replay", "lost")  # kinds that may be told as `m1..m6`
_FOLD = 6  # a run of numbered messages longer than this is one line even when each says something


def text(
    name: str,
    panels: Sequence[tuple[str, Sequence[Lane]]],
    *,
    counts: bool = True,
    keepalives: str = "once",
    idle_limit: float | None = None,
) -> str:
    """Return the text twin of lanes, or of several panels of lanes, each under its `== head ==`.

    Args:
        counts: False where timing decides how many messages pass: a run of them then ends in `+`, as do pings, pongs.
        keepalives: "once" says per exchange that there were some, "between" says between which events.
        idle_limit: seconds; says whether the silence of each exchange reaches it.
    """
    how = _How(counts, keepalives, idle_limit)
    out = [name, ""]
    for head, panel in panels:
        if head:
            out += [f"== {head} ==", ""]
        brief = len(panel) > 2 and any(lane.published for lane in panel)
        told = [(lane, _lines(lane, replace(how, brief=brief))) for lane in panel]
        for heading, body in _merged(told):
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
    late: bool = False

    def render(self) -> str:
        line = f"  {self.sign} {self.kind:<10}{self.what}"
        line += f"  {self.size}" if self.size else ""
        line += f"  ({self.note})" if self.note else ""
        return line + ("  late" if self.late else "")


@dataclass(frozen=True, slots=True)
class _How:
    """How a lane is told; see `text`. `brief` leaves out its first open and normal closes."""

    counts: bool = True
    keepalives: str = "once"
    idle_limit: float | None = None
    brief: bool = False


def _lines(lane: Lane, how: _How) -> list[str]:
    """Return the lines of the text twin that tell one lane."""
    counts = how.counts
    rows = _folded([_Row(">", event.kind, event.label) for event in lane.published], counts)
    for number, exchange in enumerate(lane.exchanges):
        found = _brief(exchange, again=number > 0) if how.brief and exchange.listens else exchange
        told = _rows(found, again=number > 0, keepalives=how.keepalives)
        told = told if counts else _beats(told)
        rows += _folded(_with_silence(told, exchange, how.idle_limit), counts)
        following = lane.exchanges[number + 1] if number + 1 < len(lane.exchanges) else None
        rows += _folded(_missed(lane, exchange, following), counts)
        if following is not None and exchange.torn and lane.traced:
            rows.append(_Row("~", "measure", "offline"))
    return [row.render() for row in rows] or ["  (nothing)"]


def _with_silence(rows: list[_Row], exchange: Exchange, limit: float | None) -> list[_Row]:
    """Say, before a cut or at the end, whether the silence of an exchange reached a proxy's limit."""
    if limit is None or exchange.refused:
        return rows
    if not exchange.torn:
        longest = max((stop - start for start, stop in exchange.silences), default=0.0)
        beyond = longest > 1.5 * limit  # less than that is a busy machine: nobody hung up
        return [*rows, _Row("~", "measure", f"silence {'goes beyond' if beyond else 'stays below'} the limit")]
    if not exchange.fell_silent(limit):
        return rows
    at = next((index for index, row in enumerate(rows) if row.sign == "x"), len(rows))
    return [*rows[:at], _Row("~", "measure", "silence reaches the limit"), *rows[at:]]


def _brief(exchange: Exchange, again: bool) -> Exchange:
    """Return an exchange without what goes without saying among many clients."""
    kept = [event for event in exchange.events if event is not exchange.answer or exchange.failed]
    kept = [event for event in kept if event.kind != "close" or (exchange.hung_up and event is exchange.first_end)]
    return Exchange(tuple(event for event in kept if again or event is not exchange.request))


def _missed(lane: Lane, exchange: Exchange, following: Exchange | None) -> list[_Row]:
    """Tell what was published since an exchange began and before the next one, and never came."""
    until = following.start if following is not None else float("inf")
    return [_Row(".", "lost", event.label) for event in lane.missed if exchange.start <= event.at < until]


def _rows(exchange: Exchange, again: bool, keepalives: str) -> list[_Row]:
    rows: list[_Row] = []
    alive = False
    for event in exchange.events:
        if event is exchange.answer and _goes_without_saying(exchange):
            continue
        if not is_keepalive(event):
            rows.append(_row(event, exchange, again))
            continue
        repeated = bool(rows) and rows[-1].kind == "keepalive"
        if not alive or (keepalives == "between" and not repeated):
            rows.append(_Row("<", "keepalive", ": +"))
        alive = True
    return rows


def _beats(rows: list[_Row]) -> list[_Row]:
    """Tell pings and pongs once each, where the first was: how many there are and what is between them is timing."""
    beats = [(row.sign, row.kind) for row in rows]
    return [
        replace(row, what="+", note="", size="") if row.kind in ("ping", "pong") else row
        for index, row in enumerate(rows)
        if row.kind not in ("ping", "pong") or beats.index((row.sign, row.kind)) == index
    ]


def _goes_without_saying(exchange: Exchange) -> bool:
    """Whether the answer's status may be left out: its events tell that it was a 200."""
    return exchange.stream in ("event", "line") and exchange.answer is not None and exchange.answer.name == "200"


def _row(event: WireEvent, exchange: Exchange, again: bool) -> _Row:
    sign = _SIGNS.get(event.kind) or (">" if event.sender == "client" else "<")
    row = _Row(sign, event.shown, event.label, note=event.note, late=event.fate == "late")
    match event.kind:
        case "open" if event.sender == "client" and not exchange.upgrade:
            resumed = exchange.resumed
            return replace(row, what=resumed, note="") if resumed and again else replace(row, note=resumed)
        case "body" if event.sender == "server" and not exchange.complete:
            return replace(row, what="+", note="")
        case "body":
            return replace(row, size=counted(event.size, "byte"), note="")
        case "close" if event.label == "client leaves" and event.note == "by the client":
            return replace(row, note="")
        case "fields":
            return replace(row, note=event.note.replace(f"retry: {event.label.removeprefix('retry ')}, ", ""))
        case "lost" if event.note.startswith("half a frame"):
            return replace(row, what="half a frame", note="")
    return row


# --- folding


def _folded(rows: Sequence[_Row], counts: bool) -> list[_Row]:
    """Fold equal neighbours into `x3`, neighbours with consecutive numbers into `1..3`, and the middle of many."""
    out: list[_Row] = []
    at = 0
    while at < len(rows):
        taken, told = _equals(rows, at, counts) or _numbers(rows, at, counts) or _many(rows, at, counts) or (1, [])
        out += told or [rows[at]]
        at += taken
    return out


_Fold = tuple[int, list[_Row]] | None  # how many rows are told, and by which


def _equals(rows: Sequence[_Row], at: int, counts: bool) -> _Fold:
    first, count = rows[at], _run(rows, at, _equal)
    if count == 1 or first.kind in ("open", "close", "cut", "keepalive"):
        return None
    number = f"x{count}" if counts and first.kind not in ("ping", "pong") else "+"
    return count, [replace(first, what=f"{first.what} {number}".strip())]


def _numbers(rows: Sequence[_Row], at: int, counts: bool) -> _Fold:
    first, count = rows[at], _run(rows, at, _next)
    found = rows[at : at + count]
    plain = all(not row.note and not row.size for row in found)
    if count <= (1 if plain else _FOLD) or first.kind not in _NAMED:
        return None
    same = all((row.note, row.size) == (first.note, first.size) for row in found)
    what = f"{first.what}..{found[-1].what}" if counts else f"{first.what}.. +"
    return count, [replace(first, what=what, note=first.note if same else "")]


def _many(rows: Sequence[_Row], at: int, counts: bool) -> _Fold:
    first, count = rows[at], _run(rows, at, _alike)
    if count <= 2 * _FOLD or first.kind not in DATA:
        return None
    last = rows[at + count - 1]
    more = _Row(first.sign, "…", f"{count - 4} more" if counts else "+")
    return count, [*rows[at : at + 3], more, *([last] if counts else [])]


def _run(rows: Sequence[_Row], at: int, same: Callable[[_Row, _Row], bool]) -> int:
    """Return how many rows from `at` on are the same as their neighbour."""
    stop = at + 1
    while stop < len(rows) and same(rows[stop - 1], rows[stop]):
        stop += 1
    return stop - at


def _equal(one: _Row, other: _Row) -> bool:
    return one == other


def _alike(one: _Row, other: _Row) -> bool:
    return (one.sign, one.kind, one.late) == (other.sign, other.kind, other.late)


def _next(one: _Row, other: _Row) -> bool:
    first, second = _NUMBERED.match(one.what), _NUMBERED.match(other.what)
    if first is None or second is None or not _alike(one, other):
        return False
    return first.group(1) == second.group(1) and int(second.group(2)) == int(first.group(2)) + 1
