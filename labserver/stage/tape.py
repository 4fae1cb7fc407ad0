"""The tape: what really went over the wire between any client and a server, as events, text and pictures.

A tape is a tap proxy (`tap.py`) in front of a server and what its bytes mean (`wire`). The client in the cell stays
what it is, plain httpx, websockets or curl; only its URL is the tape's.
"""

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from labserver.errors import LabError
from labserver.settings import get_settings
from labserver.stage import background, wire
from labserver.stage.pictures import microscope, panels, twin
from labserver.stage.pictures.panels import Layout
from labserver.stage.rich import Picture
from labserver.stage.tap import Tap
from labserver.stage.wire import (
    MESSAGES,
    Exchange,
    Lane,
    Match,
    Publication,
    Sender,
    WireEvent,
    parse,
    parse_chunks,
    trace,
)

__all__ = ["Tape", "WireEvent", "tapes"]

_SETTLE = 2.0  # seconds that late frames are waited for when the block ends
_MAGNIFIED = ("text", "bytes", "ping", "pong", "close", "event", "comment", "fields", "line", "body", "lost", "error")


class Tape:
    """Records what passes between clients and the server at `host:port`.

    Use it as a context manager, `with` or `async with`; inside, point the client at `url` or `ws_url`. When the block
    ends the tape waits until late frames are in, at most 2 s, then stops recording and ends open connections.

    Args:
        host: the server's host, a name or an address.
        port: the server's port.
        name: the figure's name, the first line of its text.
        max_bytes: bytes kept, `Settings.tape_max_bytes` by default; the rest is forwarded and only counted.
    """

    def __init__(self, host: str, port: int, name: str = "tape", *, max_bytes: int | None = None) -> None:
        self.name = name
        self.host = host
        self._tap = Tap(host, port, max_bytes or get_settings().tape_max_bytes)
        self._opened = False
        self._url = ""
        self._cache: tuple[int, list[WireEvent]] = (-1, [])
        self._published: list[tuple[float, str]] = []  # by the monotonic clock

    # --- recording

    def open(self) -> "Tape":
        """Start to listen and record; return the tape itself."""
        self._check_new()
        background.run(self._tap.open())
        self._started()
        return self

    def close(self) -> None:
        """Wait for late frames, stop recording, end open connections. A closed tape keeps its events."""
        background.run(self._stop())

    def __enter__(self) -> "Tape":
        return self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> "Tape":
        self._check_new()
        await asyncio.wrap_future(background.submit(self._tap.open()))
        self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.wrap_future(background.submit(self._stop()))

    def _check_new(self) -> None:
        if self._opened:
            raise LabError("This tape was already used. Make a new one for each recording: live.tape().")

    def _started(self) -> None:
        self._opened = True
        self._url = f"http://127.0.0.1:{self._tap.port}"

    async def _stop(self) -> None:
        await self._tap.settle(_SETTLE)
        await self._tap.close()

    def published(self, label: str) -> None:
        """Note that something is published now, known by `label`: its SSE id, or a word of its data.

        Call it right before you publish. Pictures then have a lane of what was published, and tell of each client what
        came late, what it missed, and what was sent again after a reconnect.
        """
        self._published.append((time.monotonic(), str(label)))

    # --- addresses

    @property
    def url(self) -> str:
        """Base URL for HTTP clients, without a slash at its end.

        Raises:
            LabError: if the tape does not record yet.
        """
        if not self._url:
            raise LabError("The tape does not record yet. Use its url inside `async with live.tape() as tape:`.")
        return self._url

    @property
    def ws_url(self) -> str:
        """Base URL for WebSocket clients, without a slash at its end."""
        return "ws" + self.url.removeprefix("http")

    # --- what was seen

    @property
    def events(self) -> list[WireEvent]:
        """All events so far, by time. Of a tape that still records: those that are complete."""
        version = self._tap.version
        if self._cache[0] != version:
            found = [event for talk in list(self._tap.talks) for event in parse(talk)]
            self._cache = (version, sorted(found, key=lambda event: event.at))
        return list(self._cache[1])

    def messages(self, sender: Sender | None = None) -> list[bytes | str]:
        """Payloads in order: str for text frames, events and lines, bytes for binary frames and other bodies.

        Args:
            sender: "client" or "server"; both when None.
        """
        return [e.data for e in self.events if e.kind in MESSAGES and sender in (None, e.sender)]

    @property
    def close_codes(self) -> list[int | None]:
        """For each WebSocket, in order, the close code its client saw; None while it is open."""
        return [_close_code(each) for each in wire.exchanges(self.events) if each.websocket]

    @property
    def close_code(self) -> int | None:
        """The close code that the client of the last WebSocket saw: 1006 when no close frame came.

        None while the socket is open, or when there was none: a refused handshake has a `status` and no code.
        """
        codes = self.close_codes
        return codes[-1] if codes else None

    @property
    def status(self) -> int | None:
        """Status of the last HTTP answer, 101 for a WebSocket; None if there was no answer."""
        answers = [event.name for event in self.events if event.kind == "open" and event.sender == "server"]
        return int(answers[-1]) if answers else None

    @property
    def ended(self) -> Literal["closed", "clean", "cut", "open"]:
        """How the last exchange ended.

        "clean": the server sent the whole answer. "closed": by a WebSocket close frame, or the client left.
        "cut": in the middle, without a word. "open": not at all, or there was none.
        """
        found = wire.exchanges(self.events)
        if not found or (ending := found[-1].ending) is None:
            return "open"
        if found[-1].torn:
            return "cut"
        return "clean" if ending.label == "clean end" else "closed"

    @property
    def dropped(self) -> int:
        """Bytes that passed after the tape was full, and were not kept."""
        return self._tap.dropped

    @property
    def connections(self) -> int:
        """Number of TCP connections that were made to the tape."""
        return len(self._tap.talks)

    # --- as text and as pictures

    def lanes(
        self,
        *,
        names: Sequence[str] | None = None,
        paths: Sequence[str] = (),
        by: str | None = None,
        late: float | None = None,
        match: Match | None = None,
    ) -> list[Lane]:
        """Return the exchanges by client, and what became of what was published; for the arguments see `show`."""
        start = self._tap.first
        published = [Publication(at - start if start else 0.0, label) for at, label in self._published]
        return trace(wire.lanes(self.events, names, paths, by), published, late, match)

    def text(
        self,
        *,
        names: Sequence[str] | None = None,
        paths: Sequence[str] = (),
        by: str | None = None,
        counts: bool = True,
        keepalives: Literal["once", "between"] = "once",
        idle_limit: float | None = None,
        late: float | None = None,
        match: Match | None = None,
    ) -> str:
        """Return the text twin: order, names and counts; never times, ports, reads or chunks.

        Args:
            names: what to call the lanes; by default "client", "client 1" and so on.
            counts: False where timing decides how many messages pass: a run of them then ends in `+`.
            keepalives: "once" says per exchange that there were some; "between" says between which events.
            paths, by, idle_limit, late, match: see `show`.
        """
        found = self.lanes(names=names, paths=paths, by=by, late=late, match=match)
        return twin.text(self.name, [("", found)], counts=counts, keepalives=keepalives, idle_limit=idle_limit)

    def show(
        self,
        headline: str | None = None,
        note: str | None = None,
        layout: Layout = "auto",
        *,
        names: Sequence[str] | None = None,
        paths: Sequence[str] = (),
        by: str | None = None,
        counts: bool = True,
        keepalives: Literal["once", "between"] = "once",
        idle_limit: float | None = None,
        late: float | None = None,
        match: Match | None = None,
    ) -> Picture:
        """Return the picture of the tape.

        Args:
            headline: the finding as a sentence; computed from the events when None.
            note: the line under it, what was done or how to read it.
            layout: "ladder" (a row per frame, time down) for who and in which order, "lanes" (time to the right) for
                how long; "auto" takes the ladder for WebSockets that follow one another and lanes for all else.
            names, counts, keepalives: see `text`.
            paths: draw only requests whose path begins with one of these: ("/ws/rooms",).
            by: query parameter or request header that says which client it is, when several reconnect to one path.
            idle_limit: seconds of silence after which a proxy would hang up; draws its idle clock (lanes only), and
                says whether the silence reaches it.
            late: seconds; what came later than that after it was `published` is marked.
            match: `match(label, event)` says which event was published as `label`; by default the one whose SSE id
                or data it is, or whose data holds it as a word.
        """
        found = self.lanes(names=names, paths=paths, by=by, late=late, match=match)
        return panels.picture(self.name, [("", found)], headline, note, layout, counts, keepalives, idle_limit)

    def bytes(
        self, *numbers: int, chunk: bool = False, headline: str | None = None, note: str | None = None
    ) -> Picture:
        """Return the bytes of messages with each part named: frames, events, comments, lines, bodies.

        Args:
            numbers: which, in the order of `events` without opens and ends, from 0; negative ones count from the end.
                The first when none is given.
            chunk: count the chunks of HTTP answers instead, the last and empty one too.

        Raises:
            LabError: if there is no such message.
        """
        found = self.chunks if chunk else [event for event in self.events if event.raw and event.kind in _MAGNIFIED]
        try:
            chosen = [found[number] for number in numbers or (0,)]
        except IndexError:
            what = "chunk" if chunk else "message"
            count = len(found)
            raise LabError(f"There is no such {what}: the tape holds {count}, so use 0 to {count - 1}.") from None
        return microscope.draw(self.name, chosen, headline, note)

    @property
    def chunks(self) -> list[WireEvent]:
        """The chunks of HTTP/1.1 answers: framing that no client shows."""
        found = [event for talk in list(self._tap.talks) for event in parse_chunks(talk)]
        return sorted(found, key=lambda event: event.at)

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return self.show()._repr_mimebundle_()

    def __repr__(self) -> str:
        return self.text()


def _close_code(exchange: Exchange) -> int | None:
    for event in exchange.events:
        if event.kind == "close" and event.sender == "server":
            return int(event.name)
    if any(event.kind == "cut" for event in exchange.events):
        return 1006
    return None


def tapes(
    headline: str | None,
    *heads: tuple[str, Tape],
    note: str | None = None,
    name: str | None = None,
    layout: Layout = "auto",
    names: Sequence[str] | None = None,
    paths: Sequence[str] = (),
    by: str | None = None,
    counts: bool = True,
    keepalives: Literal["once", "between"] = "once",
    idle_limit: float | None = None,
    late: float | None = None,
    match: Match | None = None,
) -> Picture:
    """Return several tapes as panels of one picture on one time axis: broken beside mended, each from its first byte.

    Args:
        headline: the finding as a sentence; computed when None.
        heads: head and tape. A tape of one lane is named by its head; words in parentheses at its end go under it.
        name: the figure's name, first line of the text; the first tape's by default.
        names, and all else: see `Tape.show`; they hold for each tape.
    """
    found = [(head, tape.lanes(names=names, paths=paths, by=by, late=late, match=match)) for head, tape in heads]
    figure = name or (heads[0][1].name if heads else "tapes")
    return panels.picture(figure, found, headline, note, layout, counts, keepalives, idle_limit)
