"""A server that does to a client what networks and servers do: refuse, cut, reset, fall silent, repeat, dribble.

It speaks HTTP/1.1 on raw sockets, one request per connection, because no framework lets an answer be this wrong. What a
path does is a script: a function from the visit to a `Reply`. Each request is kept, with its headers and the moments at
which it came, was dealt with and was left. What a check makes of that is not decided here.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from itertools import pairwise
from types import TracebackType
from typing import Literal

import h11

from labserver.stage import background
from labserver.stage.streams import READ, close, prepare, reset

__all__ = ["KEEPALIVE", "Ending", "Hostile", "Reply", "Script", "Visit", "in_turn", "waits"]

KEEPALIVE = 0.2
"""Seconds between the comments on a stream that is held open."""

MOST_VISITS = 400
"""Answers that a path gives; a client that asks without a pause hears nothing from then on, and costs no more."""

_REFUSAL = b"not now, or not you\n"

Ending = Literal["hold", "silent", "whole", "cut", "reset"]
"""How an answer goes on after its pieces. `hold`: comments, until the client leaves; `silent`: nothing more, and the
connection stays; `whole`: the last chunk, a clean end; `cut`: the connection ends without it; `reset`: by RST."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What one visit gets.

    Attributes:
        pieces: of a body of status 200; each is sent as a chunk of its own, so that a client reads it as one.
        end: see `Ending`; of status 200 alone, as any other one has a short body and ends in order.
        status: of the head; 0 sends none, so that `silent` and `reset` come before the answer.
        headers: beside those that HTTP needs; a `Content-Type` in place of that of an event stream.
    """

    pieces: tuple[bytes, ...] = ()
    end: Ending = "hold"
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def streams(self) -> bool:
        """Whether there are pieces and an ending, and not a refusal, which is sent as a whole."""
        return self.status in (0, 200)


@dataclass(slots=True, eq=False)
class Visit:
    """One request, and what became of it.

    Attributes:
        path: the path without its query.
        number: of this path's visits, from 1.
        headers: as they came, names in lower case.
        came: when the request was read, in seconds of the monotonic clock.
        over: when the server ended its answer, None while it holds it.
        left: when the connection's other side had gone, None while it is there.
    """

    path: str
    number: int
    headers: dict[str, str] = field(default_factory=dict)
    came: float = 0.0
    over: float | None = None
    left: float | None = None

    @property
    def last_event_id(self) -> str | None:
        """The id that the client says it has, None if it says nothing."""
        return self.headers.get("last-event-id")


Script = Callable[[Visit], Reply]


def waits(visits: list[Visit]) -> list[float]:
    """Return the seconds from the end of each answer to the next visit, 0 where it was the client that left."""
    return [after.came - (before.over or after.came) for before, after in pairwise(visits)]


def in_turn(*replies: Reply) -> Script:
    """Return a script that gives one reply after the other, and the last one from then on."""
    return lambda visit: replies[min(visit.number, len(replies)) - 1]


class Hostile:
    """The server. It listens inside `with`, on the background loop; scripts are set and visits read from any thread.

    Example:
        with Hostile() as hostile:
            hostile.script("/feed", in_turn(Reply((b"data: 1\\n\\n",), "cut"), Reply()))
    """

    def __init__(self) -> None:
        self.port = 0
        self._server: asyncio.Server | None = None
        self._scripts: dict[str, Script] = {}
        self._visits: dict[str, list[Visit]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    def script(self, path: str, script: Script) -> None:
        """Say what happens at a path; any other one is answered 404."""
        self._scripts[path] = script

    def visits(self, path: str) -> list[Visit]:
        """The requests of a path so far, in order."""
        return list(self._visits.get(path, ()))

    def __enter__(self) -> "Hostile":
        background.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        background.run(self._close())

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=2)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        prepare(writer)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, h11.RemoteProtocolError):
            try:
                if (visit := await self._arrival(reader)) is not None:
                    await _deal(visit, self._reply(visit), reader, writer)
            finally:
                await close(writer)

    async def _arrival(self, reader: asyncio.StreamReader) -> Visit | None:
        """Read a request and keep it; None if the client says nothing and leaves."""
        protocol = h11.Connection(h11.SERVER)
        while (event := protocol.next_event()) is h11.NEED_DATA:
            protocol.receive_data(await reader.read(READ))
        if not isinstance(event, h11.Request):
            return None
        path = event.target.decode("ascii").partition("?")[0]
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        visits = self._visits.setdefault(path, [])
        visits.append(Visit(path, len(visits) + 1, headers, time.monotonic()))
        return visits[-1]

    def _reply(self, visit: Visit) -> Reply:
        if visit.number > MOST_VISITS:
            return Reply(end="silent", status=0)
        script = self._scripts.get(visit.path)
        return script(visit) if script is not None else Reply(status=404)


async def _deal(visit: Visit, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer, and stay until this side ends it or the client has gone."""
    gone = asyncio.ensure_future(_gone(reader))
    try:
        if reply.streams:
            writer.write(_head(reply))
            writer.writelines(map(_chunk, reply.pieces))
            await writer.drain()
        if reply.streams and reply.end in ("hold", "silent"):
            await _stay(reply, gone, writer)
        else:
            visit.over = time.monotonic()  # before the client can know, so that its wait is never measured too short
            _end(reply, writer)
            await gone
        visit.left = time.monotonic()
    finally:
        gone.cancel()


def _end(reply: Reply, writer: asyncio.StreamWriter) -> None:
    """End an answer as its script says; a refusal is written here as a whole."""
    if reply.streams and reply.end == "reset":
        reset(writer)
        return
    if not reply.streams:
        writer.write(_head(reply))
    elif reply.end == "whole":
        writer.write(b"0\r\n\r\n")
    writer.write_eof()


async def _stay(reply: Reply, gone: "asyncio.Future[None]", writer: asyncio.StreamWriter) -> None:
    """Keep the connection until the client leaves: by comments, or without a byte."""
    every = KEEPALIVE if reply.end == "hold" else None
    while not (await asyncio.wait({gone}, timeout=every))[0]:
        writer.write(_chunk(b":\n\n"))


async def _gone(reader: asyncio.StreamReader) -> None:
    """Return when the client has ended its side, in order or not."""
    with suppress(ConnectionError):
        while await reader.read(READ):
            pass


def _head(reply: Reply) -> bytes:
    """The head of an answer; of a refusal the whole of it."""
    if not reply.status:
        return b""
    body, framing = b"", {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
    if reply.status != 200:
        body = _REFUSAL if reply.status != 204 else b""
        framing = {"Content-Type": "text/plain", "Content-Length": str(len(body))} if body else {}
    fields = {**framing, **dict(reply.headers), "Connection": "close"}
    first = f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}"
    lines = [first, *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)
