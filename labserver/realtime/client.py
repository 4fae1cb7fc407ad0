"""Clients that come back: event streams, WebSockets and NDJSON, for any program.

    async with events("https://example.org/channels/news/events", token=login) as feed:
        async for event in feed: ...

Each is a context manager around an iterator: a bare async generator would keep its connection after a `break` until it
is collected; the end of a `with` block ends it there and then. They resume after the last id, and add nothing to what
the server promises: a doubled or swapped message is an error here, and a `gap` is an event.
"""

import asyncio
import random
import re
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, nullcontext, suppress
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

__all__ = ["Ended", "Event", "Gap", "OutOfOrder", "Retry", "StreamFailed", "events", "records", "socket"]

EVENTS = ("text/event-stream",)
RECORDS = ("application/x-ndjson", "application/ndjson", "application/jsonl")
LATER = {401, 408, 425, 429}  # of the statuses below 500; 401 if there is a fresh token
AHEAD = 64  # messages that a socket reads ahead of its caller, who may wait for an answer behind them
CLOSING = 1.0  # seconds a server has to answer a close
DAY = 86_400.0  # seconds: who asks for a longer wait gets this

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Event:
    """A message; `channel` is "" on an event stream, which does not say it. `done`, if it is said, is the last one."""

    id: str
    channel: str
    event: str
    data: Any


class Gap(Event):
    """No message: some before `id` that you have not seen may be missing. Ask for the whole, and read on."""


class StreamFailed(Exception):
    """The stream did not end well, for a `reason`; `code` is an HTTP status or a close code, where there is one."""

    def __init__(self, reason: str, code: int | None = None) -> None:
        super().__init__(reason if code is None else f"{reason} ({code})")
        self.reason, self.code = reason, code


class Ended(StreamFailed):
    """To come back is of no use, or no longer allowed: refused for good, not understood, or failed too often."""


class OutOfOrder(StreamFailed):
    """The server broke its promise: a message is not newer than the one before it."""


class _Again(StreamFailed):
    """This connection has failed; the next one, `least` seconds later, may not."""

    least = 0.0


@dataclass(frozen=True, slots=True)
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
        url: where.
        after: cursor of the last message seen; None: from now on.
        headers: sent with every request.
        token: sent as a bearer; a function is asked for the first, and for a fresh one after a 401 or 4401.
        retry: when to come back.
        silence: seconds without a sign of life after which a connection is dead: two of the server's heartbeats or more.
        limit: the most characters of an event, bytes of a message or record.
    """

    url: str
    _: KW_ONLY
    after: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    token: str | Callable[[], Awaitable[str]] | None = None
    retry: Retry = Retry()  # noqa: RUF009 - frozen
    silence: float = 45.0
    limit: int = 1 << 20

    def __post_init__(self) -> None:
        self._bearer, self._asked = "", False  # asked for a fresh token, and not let in since
        self._failures, self._floor, self._opened = 0, 0.0, float("inf")

    def _connection(self, headers: dict[str, str]) -> AsyncGenerator[T, None]:
        """Yield what one connection says; return when it said that it is done."""
        raise NotImplementedError

    async def _follow(self) -> AsyncGenerator[T, None]:
        """Yield what one connection after the other says."""
        while True:
            try:
                async with aclosing(self._connection(await self._authorized())) as heard:
                    async for item in heard:
                        yield item
                return
            except _Again as failed:
                await self._pause(failed)
            except Ended as end:
                if end.code != NORMAL:
                    raise
                return

    async def _authorized(self) -> dict[str, str]:
        if not self._bearer and self.token is not None:
            self._bearer = self.token if isinstance(self.token, str) else await self.token()
        return {**self.headers, **({"Authorization": f"Bearer {self._bearer}"} if self._bearer else {})}

    async def _pause(self, failed: _Again) -> None:
        """Wait before the next connection; not before the first with a fresh token. Raises Ended if there is none."""
        if monotonic() - self._opened > self.retry.cap:
            self._failures = 0
        self._opened = float("inf")
        ceiling = min(self.retry.cap, self.retry.base * 2.0 ** min(self._failures, 60))
        wait = min(max(self._floor, failed.least), DAY) + self.retry.jitter() * ceiling
        if failed.code in (401, UNAUTHENTICATED):
            if self._asked or not callable(self.token):
                raise Ended(failed.reason, failed.code) from failed
            self._asked, self._bearer, wait = True, "", wait if self._failures else 0.0
        self._failures += 1
        if self.retry.attempts is not None and self._failures > self.retry.attempts:
            raise Ended(failed.reason, failed.code) from failed
        await self.retry.sleep(wait)

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
                raise OutOfOrder(f"{id} came after {self.after}")
        self.after, self._failures = id, 0

    def _resuming(self) -> str:
        return str(httpx.URL(self.url).copy_merge_params({"after": self.after} if self.after else {}))


def _answered(status: int, headers: Mapping[str, str]) -> StreamFailed:
    """Return what it means that a stream was answered like this."""
    if status not in LATER and status < 500:
        return Ended("the server refused", status)
    failed, seconds = _Again("the server answered", status), headers.get("Retry-After", "")
    failed.least = float(seconds) if seconds.isascii() and seconds.isdigit() else 0.0
    return failed


def _closed(code: int, reason: str) -> StreamFailed:
    """Return what a close code means."""
    if not may_reconnect(code) and code != UNAUTHENTICATED:
        return Ended(reason or "the server closed", code)
    failed, retry = _Again(reason or "the connection was closed", code), re.search("retry=([0-9]+)", reason)
    failed.least = float(retry[1]) / 1000 if retry else 0.0
    return failed


def _error(data: Any) -> StreamFailed:
    """Return what an `error` in the stream means: with a code it is about the connection, else about the stream."""
    match data:
        case {"code": int(code), "reason": str(reason)}:
            return _closed(code, reason)
        case {"reason": str(reason)} | str(reason):
            return StreamFailed(reason)
    return StreamFailed(f"the stream failed: {data!r:.200}")


def _json(text: str | bytes) -> Any:
    try:
        return json_value(text) if text else None
    except ValueError as error:
        raise Ended(str(error)) from error


@dataclass(eq=False)
class _Http(_Client[T]):
    """A client over HTTP; `client` is whose connections it uses, and stays open."""

    client: httpx.AsyncClient | None = field(default=None, kw_only=True)

    async def __aenter__(self) -> AsyncIterator[T]:
        self._stack = AsyncExitStack()
        mine = httpx.AsyncClient() if self.client is None else nullcontext(self.client)
        self._web: httpx.AsyncClient = await self._stack.enter_async_context(mine)
        return await self._stack.enter_async_context(aclosing(self._follow()))

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    @asynccontextmanager
    async def _body(
        self, url: str, headers: dict[str, str], kinds: tuple[str, ...]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the pieces of a response that is a stream of one of these kinds."""
        sent = httpx.Headers({"Accept": ", ".join(kinds), **headers}, encoding="utf-8")
        try:
            async with self._web.stream("GET", url, headers=sent, timeout=self.silence) as response:
                if response.status_code != 200:
                    raise _answered(response.status_code, response.headers)
                if (kind := response.headers.get("Content-Type", "")).partition(";")[0].strip().lower() not in kinds:
                    raise Ended(f"no stream, but {kind or 'something of no type'}", 200)
                self._let_in()
                yield response.aiter_bytes()
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            raise Ended(str(error)) from error
        except (httpx.TransportError, httpx.DecodingError) as error:
            raise _Again(f"{type(error).__name__} {error}", BROKEN) from error


class events(_Http[Event]):  # lower case, as what they are called like
    """An event stream, resumed by `Last-Event-ID`; ends after `done`.

    Raises, while you iterate:
        StreamFailed: the stream said `error`; or Ended, or OutOfOrder.
    """

    async def _connection(self, headers: dict[str, str]) -> AsyncGenerator[Event, None]:
        headers |= {"Accept-Encoding": "identity"} | ({"Last-Event-ID": self.after} if self.after else {})
        parser = EventSourceParser(self.after or "", self._floor, limit=self.limit)
        async with self._body(self.url, headers, EVENTS) as pieces:
            async for piece in pieces:
                try:
                    for block in parser.feed(piece):
                        self._floor = parser.retry
                        if (event := self._understood(block, parser.last_id)) is not None:
                            yield event
                        if block.event == "done":
                            return
                except ValueError as error:
                    raise Ended(str(error)) from error
                self.after, self._floor = parser.last_id or None, parser.retry
        raise _Again("the stream ended without done, error or drain")

    def _understood(self, block: Block, id: str) -> Event | None:
        match block.event, _json(block.data):
            case ("start" | "resume" | "gap") as kind, _:
                return self._begin(kind, id)
            case "drain", _:
                raise _Again("the server restarts")
            case "error", data:
                raise _error(data)
            case name, data:
                if block.id is not None:
                    self._pass(id)
                return Event(id, "", name, data)


@dataclass(eq=False)
class records(_Http[Any]):
    """The records of NDJSON up to the last one, which says `{"done": true}` and is not yielded; a `Gap` if it says so.

    `by` is the field whose value `after=` takes: with it, a stream that breaks is resumed. A `limit=` counts anew then.

    Raises, while you iterate:
        StreamFailed: the last record is an error; or Ended, also when it never came.
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
                    match record := _json(line):
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

    It reads by a task of its own, so that `publish` works also where nobody iterates at the moment.
    """

    dial: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._heard, self._came, self._room = deque[Event](), asyncio.Event(), asyncio.Event()
        self._asking: dict[str | None, tuple[str, asyncio.Future[Any]]] = {}  # by the key of what was said
        self._line: ClientConnection | None = None
        self._end: Exception | None = None

    async def __aenter__(self) -> Self:
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: Any) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        self._finish(Ended("this side left", NORMAL))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._heard:
            if self._end is not None:
                raise StopAsyncIteration if getattr(self._end, "code", None) == NORMAL else self._end
            self._came.clear()
            await self._came.wait()
        self._room.set()
        return self._heard.popleft()

    async def publish(self, data: Any, event: str | None = None, key: str | None = None) -> str:
        """Publish a value; return its id when it is stored: once, for it is said again after a reconnect, by its key.

        Raises:
            Refused: by the server, which goes on; `codes.TRY_LATER` asks for the same again, with the same key.
            StreamFailed: there is no connection any more; nobody can tell whether it is stored.
            ValueError: `data` is not JSON, or `event` no name, or `key` is on its way already.
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
        answer = asyncio.get_running_loop().create_future()
        self._asking[key] = said, answer
        self._room.set()
        try:
            if self._line is not None:
                with suppress(ConnectionClosed):
                    await self._line.send(said)
            return await answer
        finally:
            del self._asking[key]

    def _answer(self, key: str | None, value: Any) -> None:
        _, answer = self._asking.get(key, ("", None))
        if answer is not None and not answer.done():
            answer.set_exception(value) if isinstance(value, Exception) else answer.set_result(value)
        elif key is None and isinstance(value, Exception):
            raise value

    def _finish(self, end: Exception) -> None:
        self._end = self._end or end
        self._came.set()
        for key in self._asking:
            self._answer(key, self._end)

    async def _read(self) -> None:
        end: Exception = Ended("the channel is done", NORMAL)
        try:
            async with aclosing(self._follow()) as heard:
                async for event in heard:
                    self._heard.append(event)
                    self._came.set()
                    while len(self._heard) >= AHEAD and not self._asking:
                        self._room.clear()
                        await self._room.wait()
        except Exception as error:
            end = error
        self._finish(end)

    async def _connection(self, headers: dict[str, str]) -> AsyncGenerator[Event, None]:
        async with self._connected(headers) as self._line:
            for said, _ in list(self._asking.values()):
                await self._line.send(said)
            while True:
                async with asyncio.timeout(self.silence):
                    event = await self._understood(_json(await self._line.recv()))
                if event is not None:
                    yield event
                    if event.event == "done":
                        return

    @asynccontextmanager
    async def _connected(self, headers: dict[str, str]) -> AsyncIterator[ClientConnection]:
        # no pings of its own: they would take a caller who reads slowly for a dead server
        chosen = {"open_timeout": self.silence, "ping_interval": None, "close_timeout": CLOSING, "compression": None}
        try:
            line = await connect(
                self._resuming(), additional_headers=headers, max_size=self.limit, **{**chosen, **self.dial}
            )
            try:
                yield line
            finally:
                try:
                    await line.close()
                finally:
                    line.transport.abort()
        except InvalidStatus as refused:
            response = refused.response
            raise _answered(response.status_code, httpx.Headers([*response.headers.raw_items()])) from refused
        except ConnectionClosed as closed:
            close = closed.rcvd or closed.sent
            raise _closed(close.code, close.reason) if close else _Again("the connection broke", BROKEN) from closed
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
                self._answer(said.get("key"), Refused(code, reason or "refused"))
            case {"type": str()}:  # of a later version
                pass
            case _:
                raise Ended(f"no frame of this protocol: {said!r:.100}")
        return None
