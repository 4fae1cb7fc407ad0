"""Clients that come back: event streams, WebSockets and NDJSON, for any program.

    async with events("https://example.org/channels/news/events", token=login) as feed:
        async for event in feed: ...

A task of its own reads, some items ahead, and the end of the `with` block ends it and its connection there and then. A
bare async generator would keep them after a `break` until it is collected, and a time-out around one step would end it.
All resume after the last id, and add nothing to what the server promises: a doubled or swapped message is an error
here, and a `gap` is an event.
"""

import asyncio
import random
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager, nullcontext, suppress
from dataclasses import KW_ONLY, dataclass, field, replace
from time import monotonic
from typing import Any, Generic, Self, TypeVar

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, InvalidStatus

from .codes import BROKEN, NORMAL, UNAUTHENTICATED, Refused, may_reconnect
from .engines.base import since
from .eventsource import Block, EventSourceParser
from .message import check_event, control, json_value

__all__ = ["Ended", "Event", "Gap", "Retry", "StreamFailed", "events", "records", "socket"]

EVENTS = ("text/event-stream",)
RECORDS = ("application/x-ndjson", "application/ndjson", "application/jsonl")
LATER = {401, 408, 425, 429, UNAUTHENTICATED}  # not for good, like 5xx; unauthenticated if there is a fresh token
AHEAD = 64  # items that are read ahead of the caller; more of them while an answer is waited for
CLOSING = 1.0  # seconds a server has to answer a close
DAY = 86_400.0  # seconds: who asks for a longer wait gets this

END: Any = object()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """A message. `done`, where there is one, is the last. An event stream does not say its `channel`: it is ""."""

    id: str
    channel: str
    event: str
    data: Any


class Gap(Event):
    """No message: some before `id` that you have not seen may be missing. Ask for the whole, and read on."""


class StreamFailed(Exception):
    """The stream did not end well; `code` is an HTTP status or a close code, `least` the seconds asked to wait."""

    def __init__(self, reason: str, code: int | None = None, least: float = 0.0) -> None:
        super().__init__(reason if code is None else f"{reason} ({code})")
        self.reason, self.code, self.least = reason, code, least


class Ended(StreamFailed):
    """To come back is of no use, or no longer allowed: refused for good, not understood, or failed too often."""


class _Again(StreamFailed):
    """This connection has failed; the next one may not."""


@dataclass(frozen=True)
class Retry:
    """When to come back: after a random part of a ceiling that doubles (full jitter), beyond what the server asks for.

    Attributes:
        base: the first ceiling, seconds; again after a message, and after a connection that held longer than `cap`.
        cap: the highest ceiling, seconds.
        attempts: how often to come back in a row; None: without end. `asyncio.timeout` sets a deadline for all.
        jitter: returns the part, 0 to 1.
        sleep: waits.
    """

    base: float = 1.0
    cap: float = 30.0
    attempts: int | None = None
    jitter: Callable[[], float] = random.random
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    def __post_init__(self) -> None:
        if not 0 < self.base <= self.cap:
            raise ValueError(f"base={self.base}, cap={self.cap}: pass seconds, 0 < base <= cap")


@dataclass(eq=False)
class _Client(Generic[T]):
    """What outlives a connection, and the loop over connections.

    Attributes:
        after: cursor of the last message seen; None: from now on.
        token: sent as a bearer; a function is asked for the first, and for a fresh one after a 401 or 4401.
        silence: seconds without a sign of life after which a connection is dead: two heartbeats of the server, or more.
        limit: the most characters of an event, bytes of a message or record.
    """

    url: str
    _: KW_ONLY
    after: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | Callable[[], Awaitable[str]] | None = None
    retry: Retry = Retry()
    silence: float = 45.0
    limit: int = 1 << 20

    def __post_init__(self) -> None:
        self._bearer, self._asked = "", False  # asked for a fresh token, and not let in since
        self._failures, self._floor, self._opened = 0, 0.0, float("inf")
        self._heard, self._stirred = asyncio.Queue[Any](), asyncio.Event()
        self._asking: dict[str | None, tuple[str, asyncio.Future[Any]]] = {}  # key -> what was said, and its answer
        self._end: BaseException | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        self._reader.add_done_callback(self._finish)
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        item: T = await self._heard.get()
        self._stirred.set()
        if item is not END:
            return item
        self._heard.put_nowait(END)  # it stays the end
        raise StopAsyncIteration if getattr(self._end, "code", None) == NORMAL else self._end or AssertionError

    async def _read(self) -> None:
        async with aclosing(self._follow()) as heard:
            async for item in heard:
                self._heard.put_nowait(item)
                while self._heard.qsize() >= AHEAD and not self._asking:
                    self._stirred.clear()
                    await self._stirred.wait()

    def _finish(self, reader: asyncio.Task[None]) -> None:
        error = None if reader.cancelled() else reader.exception()
        self._end = error or Ended("it is done, or was left", NORMAL)
        self._heard.put_nowait(END)
        for key in self._asking:
            self._answer(key, self._end)

    def _answer(self, key: str | None, value: Any) -> None:
        """Hand an answer to who asked, if anybody still waits for it."""
        _, answer = self._asking.get(key, (None, None))
        if answer is not None and not answer.done():
            answer.set_exception(value) if isinstance(value, BaseException) else answer.set_result(value)

    def _connection(self, headers: dict[str, str]) -> AsyncGenerator[T, None]:
        """Yield what one connection says; return when it said that it is done."""
        raise NotImplementedError

    async def _follow(self) -> AsyncGenerator[T, None]:
        """Yield what one connection after the other says."""
        while True:
            headers = await self._authorized()
            try:
                async with aclosing(self._connection(headers)) as heard:
                    async for item in heard:
                        yield item
                return
            except _Again as failed:
                await self._pause(failed)
            except Ended as end:
                if end.code != NORMAL:
                    raise
                return
            except (ValueError, LookupError, TypeError) as error:
                raise Ended(f"not understood: {error!r:.200}") from error

    async def _authorized(self) -> dict[str, str]:
        if not self._bearer and self.token is not None:
            self._bearer = self.token if isinstance(self.token, str) else await self.token()
        return {**self.headers, **({"Authorization": f"Bearer {self._bearer}"} if self._bearer else {})}

    async def _pause(self, failed: _Again) -> None:
        """Wait before the next connection, but not for a first fresh token; Ended if there shall be none."""
        row = 0 if monotonic() - self._opened > self.retry.cap else self._failures
        self._failures, self._opened = row + 1, float("inf")
        if failed.code in (401, UNAUTHENTICATED):
            if self._asked or not callable(self.token):
                raise Ended(failed.reason, failed.code) from failed
            self._asked, self._bearer = True, ""
            if not row:
                return
        if self.retry.attempts is not None and row >= self.retry.attempts:
            raise Ended(failed.reason, failed.code) from failed
        ceiling = min(self.retry.cap, self.retry.base * 2.0 ** min(row, 60))
        await self.retry.sleep(min(max(self._floor, failed.least), DAY) + self.retry.jitter() * ceiling)

    def _let_in(self) -> None:
        self._asked, self._opened = False, monotonic()

    def _begin(self, kind: str, id: str) -> Gap | None:
        """Go on where the server says. A `start` where a `resume` was asked for is a gap as well."""
        self._let_in()
        lost = kind == "gap" or (kind == "start" and self.after not in (None, "", id))
        self.after = self.after if kind == "resume" else id
        return Gap(id, "", "gap", None) if lost else None

    def _pass(self, id: str) -> None:
        """Take a message's id as the cursor."""
        with suppress(ValueError):  # ids of another form have no order
            if self.after and not since(self.after, id):
                raise StreamFailed(f"the server broke its promise: {id} came after {self.after}")
        self.after, self._failures = id, 0

    def _resuming(self) -> str:
        return str(httpx.URL(self.url).copy_merge_params({"after": self.after} if self.after else {}))


def _over(code: int, reason: str, wait: str, unit: float) -> StreamFailed:
    """Return what an HTTP status or close code means; `wait` may end in how long to stay away, in `unit` seconds."""
    again = code in LATER or (may_reconnect(code) if code >= NORMAL else code >= 500)
    least = re.search("(?:^|retry=)([0-9]+)$", wait)
    return (_Again if again else Ended)(reason, code, float(least[1]) * unit if least else 0.0)


def _error(data: Any) -> StreamFailed:
    """Return what an `error` in the stream means: with a code it is about the connection, else about the stream."""
    match data:
        case {"code": int(code), "reason": str(reason)}:
            return _over(code, reason, reason, 0.001)
        case {"reason": reason}:
            return StreamFailed(str(reason))
    return StreamFailed(f"the stream failed: {data!r:.200}")


@dataclass(eq=False)
class _Http(_Client[T]):
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
                    raise _over(status, "the server answered", got.get("Retry-After", ""), 1.0)
                if (kind := got.get("Content-Type", "").partition(";")[0].strip().lower()) not in kinds:
                    raise Ended(f"no stream but {kind or 'something of no type'}", status)
                self._let_in()
                yield response.aiter_bytes()
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise Ended(str(error)) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Again(f"{type(error).__name__} {error}", BROKEN) from error


class events(_Http[Event]):  # lower case, for it is used as a function is
    """An event stream, resumed by `Last-Event-ID`. To iterate raises StreamFailed after an `error`, or Ended."""

    async def _connection(self, headers: dict[str, str]) -> AsyncGenerator[Event, None]:
        headers |= {"Accept-Encoding": "identity"} | ({"Last-Event-ID": self.after} if self.after else {})
        parser = EventSourceParser(self.after or "", self._floor, limit=self.limit)
        async with self._body(self.url, headers, EVENTS) as pieces:
            async for piece in pieces:
                for block in parser.feed(piece):
                    self._floor = parser.retry
                    if (event := self._understood(block, parser.last_id)) is not None:
                        yield event
                    if block.event == "done":
                        return
                self.after, self._floor = parser.last_id or None, parser.retry
        raise _Again("the stream ended without done, error or drain")

    def _understood(self, block: Block, id: str) -> Event | None:
        match block.event:
            case "start" | "resume" | "gap":
                return self._begin(block.event, id)
            case "drain":
                raise _Again("the server restarts")
            case "error":
                with suppress(ValueError):
                    raise _error(json_value(block.data))
                raise StreamFailed(block.data)
        if block.id is not None:
            self._pass(id)
        return Event(id, "", block.event, json_value(block.data) if block.data else None)


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

    async def _connection(self, headers: dict[str, str]) -> AsyncGenerator[Any, None]:
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
                                yield Gap(str(record.get("id", "")), "", "gap", None)
                            return
                        case {"error": reason}:
                            raise StreamFailed(str(reason))
                    if self.by:
                        self._pass(str(record[self.by]))
                    yield record
        raise _Again("the stream ended without a last record")


@dataclass(eq=False)
class socket(_Client[Event]):
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
            if self._line is not None:
                with suppress(ConnectionClosed):
                    await self._line.send(said)
            return await answer
        finally:
            del self._asking[key]

    async def _connection(self, headers: dict[str, str]) -> AsyncGenerator[Event, None]:
        async with self._connected(headers) as self._line:
            for said, _ in list(self._asking.values()):
                await self._line.send(said)
            while True:
                async with asyncio.timeout(self.silence):
                    event = await self._understood(json_value(await self._line.recv()))
                if event is not None:
                    yield event
                    if event.event == "done":
                        return

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
            raise _over(status, "the server answered", got.get("Retry-After", ""), 1.0) from refused
        except ConnectionClosed as closed:
            close = closed.rcvd or closed.sent
            code, reason = (close.code, close.reason) if close else (BROKEN, "")
            raise _over(code, reason or "the connection ended", reason, 0.001) from closed
        except (OSError, InvalidMessage) as error:
            raise _Again(f"{type(error).__name__} {error}", BROKEN) from error
        except InvalidHandshake as error:
            raise Ended(str(error)) from error

    async def _understood(self, said: Any) -> Event | None:
        match said:
            case {"id": str(id), "channel": str(channel), "event": str(name), "data": data}:
                self._pass(id)
                if name == "error":
                    raise _error(data)
                return Event(id, channel, name, data)
            case {"type": "start" | "resume" | "gap" as kind, "id": str(id)}:
                return self._begin(kind, id)
            case {"type": "ping"} if self._line is not None:
                await self._line.send(control("pong"))
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
        return None
