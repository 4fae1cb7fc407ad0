"""Events grouped by who reads them: a request and all that followed is an exchange, a client's exchanges are a lane."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import parse_qs

from labserver.stage.wire.event import WireEvent

__all__ = ["Exchange", "Lane", "exchanges", "is_keepalive", "lanes"]

_KEEPALIVE = re.compile(r"^(|keep-?alive\b.*|ping\b.*|heart-?beat\b.*)$", re.IGNORECASE)
_STREAMS = ("text/event-stream", "application/x-ndjson", "application/jsonl")
_TWIN = re.compile(r"^/broken/[^/]+")  # where the lab has the twin of a pattern


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
    def refused(self) -> bool:
        """Whether the server was never reached."""
        return any(event.name == "refused" for event in self.events)

    @property
    def failed(self) -> bool:
        """Whether the answer's status is an error's, 4xx or 5xx."""
        return self.answer is not None and self.answer.name[0] in "45"

    @property
    def resumed(self) -> str:
        """`Last-Event-ID: 7` of a request that goes on where a stream was lost, else ""."""
        note = self.request.note if self.request is not None else ""
        return note if note.startswith("Last-Event-ID") else ""

    @property
    def stream(self) -> str:
        """What the answer's body is made of: "event", "line", "body" or nothing."""
        kinds = {event.kind for event in self.events if event.sender == "server"}
        if kinds & {"event", "comment", "fields"}:
            return "event"
        return "line" if "line" in kinds else "body" if "body" in kinds else ""

    @property
    def listens(self) -> bool:
        """Whether its client waits for what is published: on a WebSocket or a stream."""
        if self.websocket or self.stream in ("event", "line"):
            return True
        return not self.failed and self.answer is not None and self.answer.note.startswith(_STREAMS)

    @property
    def start(self) -> float:
        return self.events[0].at

    @property
    def ending(self) -> WireEvent | None:
        """The last event that ended it, None while it is open."""
        ends = [event for event in self.events if event.kind in ("close", "cut") or event.name == "refused"]
        return ends[-1] if ends else None

    @property
    def torn(self) -> bool:
        """Whether it ended in the middle, without a word."""
        return self.ending is not None and (self.ending.kind == "cut" or self.ending.name == "refused")

    @property
    def hung_up(self) -> bool:
        """Whether the server ended it in the middle: by a cut, or by a close that is not a normal one."""
        end = self.first_end
        if end is None or end.sender != "server":
            return False
        return end.kind == "cut" or (self.websocket and end.name not in ("1000", "1001"))

    @property
    def first_end(self) -> WireEvent | None:
        """The event with which one side began to end it, None while it is open."""
        return next((event for event in self.events if event.kind in ("close", "cut")), None)

    @property
    def stop(self) -> float | None:
        """When it ended, None while it is open."""
        return self.ending.at if self.ending is not None else None

    @property
    def silences(self) -> list[tuple[float, float]]:
        """From when to when nothing passed, seconds, from its start to its end."""
        heard = {event.at for event in self.events if event.kind not in ("cut", "close")}
        times = sorted({self.start, *heard, *([self.stop] if self.stop is not None else [])})
        return list(pairwise(times))

    def fell_silent(self, limit: float) -> bool:
        """Whether it was cut after a silence of about `limit` seconds.

        Half of it is enough: on a busy machine the tape sees the last byte late, and the silence looks shorter.
        """
        cut = self.torn and self.ending is not None and self.ending.sender == "server"
        return cut and bool(self.silences) and self.silences[-1][1] - self.silences[-1][0] >= limit / 2

    @property
    def complete(self) -> bool:
        """Whether the server ended it in an orderly way."""
        return self.ending is not None and self.ending.kind == "close" and self.ending.label != "client leaves"


@dataclass(frozen=True, slots=True)
class Lane:
    """Exchanges of one client, one after the other: a stream and its reconnects are one lane.

    Attributes:
        sub: what the client is, in a few words.
        missed: what was published for it and never came, by the time of publishing.
        published: of the lane that is no client: what was published.
    """

    name: str
    exchanges: tuple[Exchange, ...]
    sub: str = ""
    missed: tuple[WireEvent, ...] = ()
    published: tuple[WireEvent, ...] = ()

    @property
    def events(self) -> list[WireEvent]:
        return [event for exchange in self.exchanges for event in exchange.events]

    @property
    def traced(self) -> bool:
        """Whether it is known when some of it was published."""
        return bool(self.missed) or any(event.due is not None for event in self.events)


def is_keepalive(event: WireEvent) -> bool:
    """Whether an event is a comment that only says that the server is alive; timing decides how many there are."""
    return event.kind == "comment" and isinstance(event.data, str) and bool(_KEEPALIVE.match(event.data.strip()))


def exchanges(events: Sequence[WireEvent]) -> list[Exchange]:
    """Group events by connection and request, in the order in which they began.

    What a server sends until it learns that its client has hung up is left out: it reached nobody, and timing decides
    how much that is.
    """
    groups: dict[tuple[int, int], list[WireEvent]] = {}
    for event in events:
        groups.setdefault((event.connection, event.exchange), []).append(event)
    ordered = sorted(groups.items(), key=lambda item: (item[1][0].at, item[0]))
    return [Exchange(tuple(_received(group))) for _, group in ordered]


def _received(group: Sequence[WireEvent]) -> Sequence[WireEvent]:
    gone = next((index for index, event in enumerate(group) if _hangs_up(event)), len(group))
    rest = [event for event in group[gone:] if event.sender == "client" or event.kind in ("close", "cut", "full")]
    return [*group[:gone], *rest]


def _hangs_up(event: WireEvent) -> bool:
    """Whether a client ends its connection here, and not by a close frame, after which more may come."""
    return event.sender == "client" and (event.kind == "cut" or event.label == "client leaves")


def lanes(
    events: Sequence[WireEvent],
    names: Sequence[str] | None = None,
    paths: Sequence[str] = (),
    by: str | None = None,
) -> list[Lane]:
    """Lay exchanges into lanes: one that begins after another of the same path has ended continues its lane.

    Args:
        names: what to call the lanes, in order; by default "client", or "client 1" and so on.
        paths: beginnings of paths, behind a `/broken/<name>` too; requests of others are left out. None: all are kept.
        by: a query parameter or request header whose value says which client it is: its exchanges are a lane.
    """
    found = [each for each in exchanges(events) if not paths or _is_at(each, tuple(paths))]
    if by is not None:
        return _by_client(found, by, names)
    rows: list[list[Exchange]] = []
    for exchange in found:
        row = next((row for row in rows if _continues(row[-1], exchange)), None)
        if row is None:
            rows.append([exchange])
        else:
            row.append(exchange)
    rows.sort(key=lambda row: (row[0].connection, row[0].events[0].exchange))
    return _named(rows, names)


def _named(rows: Sequence[Sequence[Exchange]], names: Sequence[str] | None) -> list[Lane]:
    given = list(names or [])
    given += ["client"] if not given and len(rows) == 1 else [f"client {n + 1}" for n in range(len(given), len(rows))]
    return [Lane(name, tuple(row)) for name, row in zip(given, rows, strict=False)]


def _continues(last: Exchange, following: Exchange) -> bool:
    return last.path == following.path and last.stop is not None and last.stop <= following.start


def _is_at(exchange: Exchange, paths: tuple[str, ...]) -> bool:
    path = exchange.path
    return path.startswith(paths) or _TWIN.sub("", path).startswith(paths)


def _by_client(found: Sequence[Exchange], by: str, names: Sequence[str] | None) -> list[Lane]:
    rows: dict[str, list[Exchange]] = {}
    for exchange in found:
        rows.setdefault(_client(exchange, by), []).append(exchange)
    return _named(list(rows.values()), [*(names or []), *list(rows)[len(names or []) :]])


def _client(exchange: Exchange, by: str) -> str:
    """Return the value of a request's query parameter or header, "client" without one."""
    request = exchange.request
    if request is None:
        return "client"
    if found := parse_qs(request.name.partition("?")[2]).get(by):
        return found[0]
    header = re.search(rb"\r\n" + re.escape(by.encode()) + rb":[ \t]*([^\r\n]*)", request.raw, re.IGNORECASE)
    return header.group(1).decode("latin-1").strip() if header else "client"
