"""Clients that come back: event streams, WebSockets and NDJSON, for any program.

    async with events("https://example.org/channels/news/events", token=login) as feed:
        async for event in feed: ...

They are context managers: a bare async generator would keep its connection after a `break` until it is collected, and a
time-out around one step would end it. They resume after the last id, and add nothing to what the server promises: a
doubled or swapped message is an error here, and a `gap` is an event.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from .codes import BROKEN, Refused
from .eventsource import Block, EventSourceParser
from .message import check_event, control, json_value
from .reconnect import Again, Client, Ended, Event, Gap, Retry, StreamFailed, over, stream_error

__all__ = ["Ended", "Event", "Gap", "Retry", "StreamFailed", "events", "records", "socket"]

EVENTS = ("text/event-stream",)
RECORDS = ("application/x-ndjson", "application/ndjson", "application/jsonl")
CLOSING = 1.0  # seconds a server has to answer a close

T = TypeVar("T")


@dataclass(eq=False)
class _Http(Client[T]):
    """A client over HTTP; the connections of `client` are used, and it stays open."""

    client: httpx.AsyncClient | None = field(default=None, kw_only=True)

    async def _read(self) -> None:
        async with httpx.AsyncClient() if self.client is None else nullcontext(self.client) as self._web:
            await super()._read()

    @asynccontextmanager
    async def _body(self, url: str, headers: dict[str, str], kinds: tuple[str, ...]) -> AsyncIterator[Any]:
        """Yield the pieces of a response that is a stream of one of these kinds."""
        sent = httpx.Headers({"Accept": ", ".join(kinds), **headers}, encoding="utf-8")
        try:
            async with self._web.stream("GET", url, headers=sent, timeout=self.silence) as response:
                status, got = response.status_code, response.headers
                if status != 200:
                    raise over(status, "the server answered", got.get("Retry-After", ""), 1.0)
                if (kind := got.get("Content-Type", "").partition(";")[0].strip().lower()) not in kinds:
                    raise Ended(f"no stream but {kind or 'something of no type'}", status)
                self._let_in()
                yield response.aiter_bytes()
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise Ended(str(error)) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise Again(f"{type(error).__name__} {error}", BROKEN) from error


class events(_Http[Event]):  # lower case, for it is used as a function is
    """An event stream, resumed by `Last-Event-ID`. To iterate raises StreamFailed after an `error`, or Ended."""

    async def _connection(self, headers: dict[str, str]) -> None:
        headers |= {"Accept-Encoding": "identity"} | ({"Last-Event-ID": self.after} if self.after else {})
        parser = EventSourceParser(self.after or "", self._floor, limit=self.limit)
        async with self._body(self.url, headers, EVENTS) as pieces:
            async for piece in pieces:
                for block in parser.feed(piece):
                    self._floor = parser.retry
                    await self._take(block, parser.last_id)
                    if block.event == "done":
                        return
                self.after, self._floor = parser.last_id or None, parser.retry
        raise Again("the stream ended without done, error or drain")

    async def _take(self, block: Block, id: str) -> None:
        match block.event:
            case "start" | "resume" | "gap":
                await self._begin(block.event, id)
            case "drain":
                raise Again("the server restarts")
            case "error":
                with suppress(ValueError):
                    raise stream_error(json_value(block.data))
                raise StreamFailed(block.data)
            case name:
                if block.id is not None:
                    self._pass(id)
                await self._give(Event(id, "", name, json_value(block.data) if block.data else None))


@dataclass(eq=False)
class records(_Http[Any]):
    """The records of NDJSON before the last one, which says `{"done": true}`; a `Gap` at the end if it says so.

    `by` is the field whose value `after=` takes: with it, a stream that breaks is resumed; a `limit=` counts anew then.
    To iterate raises StreamFailed for an error as the last record, or Ended, also when a last record never came.
    """

    by: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.retry = self.retry if self.by else replace(self.retry, attempts=0)

    async def _connection(self, headers: dict[str, str]) -> None:
        rest = b""
        async with self._body(self._resuming(), headers, RECORDS) as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                if len(rest) > self.limit:
                    raise Ended(f"a record of more than {self.limit} bytes")
                for line in filter(None, map(bytes.strip, lines)):
                    match record := json_value(line):
                        case {"done": True}:
                            if record.get("gap"):
                                await self._give(Gap(str(record.get("id", "")), "", "gap", None))
                            return
                        case {"error": reason}:
                            raise StreamFailed(str(reason))
                    if self.by:
                        self._pass(str(record[self.by]))
                    await self._give(record)
        raise Again("the stream ended without a last record")


@dataclass(eq=False)
class socket(Client[Event]):
    """A channel over a WebSocket, resumed by `after=`; `dial` is what else `websockets.connect` takes.

    `publish` is answered also where nobody iterates. To iterate raises as `events` does.
    """

    dial: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._line: ClientConnection | None = None

    async def publish(self, data: Any, event: str | None = None, key: str | None = None) -> str:
        """Publish a value and return its id when it is stored: once, though a reconnect says it again, by its key.

        Raises:
            Refused: by the server, which goes on; after `codes.TRY_LATER` say it again, with the same key.
            StreamFailed: the channel has ended; if this was said before, nobody can tell whether it is stored.
            ValueError: `data` is not JSON, `event` is no name, or `key` is on its way already.
        """
        key = key or secrets.token_hex(16)
        name = {} if event is None else {"event": check_event(event)}
        return str(await self._ask(key, control("publish", data=data, key=key, **name)))

    async def renew(self, token: str) -> float:
        """Hand in a fresh token, also for later connections; return the unix time it ends at. Raises as `publish`."""
        self._bearer = token
        return float(await self._ask(None, control("renew", token=token)))

    async def _ask(self, key: str | None, said: str) -> Any:
        if self._end is not None:
            raise self._end
        if key in self._asking:
            raise ValueError(f"key={key!r} is on its way: wait for its answer, or take another key")
        self._asking[key] = said, (answer := asyncio.get_running_loop().create_future())
        self._stirred.set()  # whatever waits to be iterated: the answer comes behind it
        try:
            with suppress(ConnectionClosed, TimeoutError):  # the next connection says it again
                await self._say(said)
            return await answer
        finally:
            del self._asking[key]

    async def _connection(self, headers: dict[str, str]) -> None:
        async with self._connected(headers) as self._line:
            for said, _ in list(self._asking.values()):
                await self._say(said)
            done = False
            while not done:
                async with asyncio.timeout(self.silence):
                    heard = await self._line.recv()
                done = await self._take(json_value(heard))

    async def _say(self, text: str) -> None:
        if self._line is not None:
            async with asyncio.timeout(self.silence):
                await self._line.send(text)

    @asynccontextmanager
    async def _connected(self, headers: dict[str, str]) -> AsyncIterator[ClientConnection]:
        # without pings of its own: they would take a caller who reads slowly for a dead server
        own: dict[str, Any] = {"open_timeout": self.silence, "ping_interval": None, "close_timeout": CLOSING}
        own |= {"max_size": self.limit, "compression": None}
        try:
            line = await connect(self._resuming(), additional_headers=headers, **{**own, **self.dial})
            try:
                yield line
            finally:
                try:
                    await line.close()
                finally:
                    line.transport.abort()
        except InvalidStatus as refused:
            status, got = refused.response.status_code, httpx.Headers([*refused.response.headers.raw_items()])
            raise over(status, "the server answered", got.get("Retry-After", ""), 1.0) from refused
        except ConnectionClosed as closed:
            close = closed.rcvd or closed.sent
            code, reason = (close.code, close.reason) if close else (BROKEN, "")
            raise over(code, reason or "the connection ended", reason, 0.001) from closed
        except (OSError, InvalidMessage) as error:
            raise Again(f"{type(error).__name__} {error}", BROKEN) from error
        except InvalidHandshake as error:
            raise Ended(str(error)) from error

    async def _take(self, said: Any) -> bool:
        """Deal with a frame; return whether it was the last."""
        match said:
            case {"id": str(id), "channel": str(channel), "event": str(name), "data": data}:
                self._pass(id)
                if name == "error":
                    raise stream_error(data)
                await self._give(Event(id, channel, name, data))
                return name == "done"
            case {"type": "start" | "resume" | "gap" as kind, "id": str(id)}:
                await self._begin(kind, id)
            case {"type": "ping"}:
                await self._say(control("pong"))
            case {"type": "ack", "id": str(id)}:
                self._answer(said.get("key"), id)
            case {"type": "renewed", "expires": int() | float() as expires}:
                self._answer(None, expires)
            case {"type": "error", "code": int(code), "reason": str(reason)}:
                refused = Refused(code, reason or "refused")
                if (key := said.get("key")) is None and None not in self._asking:
                    raise refused
                self._answer(key, refused)
            case {"type": str()}:  # of a later version
                pass
            case _:
                raise Ended(f"no frame of this protocol: {said!r:.100}")
        return False
