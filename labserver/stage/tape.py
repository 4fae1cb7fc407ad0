"""The tape: what really went over the wire between any client and a server, as events, text and pictures.

A tape is a tap proxy (`tap.py`) in front of a server and what its bytes mean (`wire.py`). The client in the cell stays
what it is, plain httpx, websockets or curl; only its URL is the tape's.
"""

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Literal

from labserver.errors import LabError
from labserver.settings import get_settings
from labserver.stage import background, twin
from labserver.stage.rich import Picture
from labserver.stage.tap import Tap
from labserver.stage.wire import MESSAGES, Sender, WireEvent, parse

__all__ = ["Tape", "WireEvent", "tapes"]

_SETTLE = 2.0  # seconds that late frames are waited for when the block ends
Layout = Literal["auto", "ladder", "lanes"]


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
        return [_close_code(each) for each in twin.exchanges(self.events) if each.websocket]

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
        found = twin.exchanges(self.events)
        if not found or (ending := found[-1].ending) is None:
            return "open"
        if ending.kind == "cut" or ending.name == "refused":
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

    def text(
        self,
        *,
        names: Sequence[str] | None = None,
        counts: bool = True,
        keepalives: Literal["once", "between"] = "once",
    ) -> str:
        """Return the text twin: order, names and counts; never times, ports, reads or chunks.

        Args:
            names: what to call the lanes; by default "client", "client 1" and so on.
            counts: False where timing decides how many messages pass: a run of them then ends in `+`.
            keepalives: "once" says per exchange that there were some; "between" says between which events.
        """
        panel = twin.lanes(self.events, names)
        return twin.text(self.name, [("", panel)], counts=counts, keepalives=keepalives)

    def __repr__(self) -> str:
        return self.text()


def _close_code(exchange: twin.Exchange) -> int | None:
    for event in exchange.events:
        if event.kind == "close" and event.sender == "server":
            return int(event.name)
    if any(event.kind == "cut" for event in exchange.events):
        return 1006
    return None


def tapes(headline: str, *panels: tuple[str, Tape], note: str | None = None) -> Picture:
    """Return several tapes as panels of one picture on one time axis: broken beside mended."""
    raise NotImplementedError
