"""Responses that stream: `EventStream`, a channel as Server-Sent Events, and `Stream`, the finite kind.

Each ends in-band. Clean-up runs in the task that owns it, on every way out, without the garbage collector; right on
servers that cancel a response when its reader leaves (ASGI spec 2.3) and on those that do not (2.4).
"""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, aclosing, asynccontextmanager
from typing import Any

from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .channels import Channels, Subscription, TooMany
from .codes import NORMAL, TRY_LATER, may_reconnect
from .connection import Connection, Goodbye, Plain, Slow
from .direct import DirectHttp, direct
from .engines.base import EngineDown
from .expiry import Expiry
from .limits import Limits
from .message import comment, dumps, line, position, sse

__all__ = ["EventStream", "Stream", "event_stream", "ndjson"]

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}  # no copy in a cache, no wait in nginx
EVENT_STREAM, NDJSON = "text/event-stream", "application/x-ndjson"
PUMPED = 16  # pieces that wait between source and reader: the writer joins them
PUMPED_BYTES = 1 << 18  # and as many bytes, or one piece
FAILED = "the stream failed: its beginning is all there is"

log = logging.getLogger(__name__)


class EventStream(Response):
    """`text/event-stream` of a channel: how it begins, what was missed, what comes, comments in silence.

    Args:
        channels: whose engine and hub.
        channel: its name.
        after: the cursor that the reader came with (`Last-Event-ID`), or None.
        user: who it is, for presence and limits; None for nobody.
        expires: unix time at which its token ends, and this stream with it.
        headers: more of them.
        slow: what happens to a reader who is behind.

    It answers 400 where `after` has no cursor's form, 429 to a user with too many, and 503 while the engine is down.
    """

    media_type = EVENT_STREAM

    def __init__(
        self,
        channels: Channels,
        channel: str,
        *,
        after: str | None = None,
        user: str | None = None,
        expires: float | None = None,
        headers: Mapping[str, str] | None = None,
        slow: Slow = "close",
    ) -> None:
        self.channels, self.channel, self.after, self.user = channels, channel, after, user
        self.expires, self.slow = expires, slow
        self.status_code, self.background = 200, None
        self.init_headers({**HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await _head(self, send)
        elif (refused := await self._begun(scope, receive, send)) is not None:
            await refused(scope, receive, send)

    async def _begun(self, scope: Scope, receive: Receive, send: Send) -> Response | None:
        """Serve the stream, or return why not."""
        subscription = self.channels.subscribe(self.channel, self.user)
        try:
            if self.after is not None:
                position(self.after)
            await subscription.take()
        except ValueError as error:
            return JSONResponse({"detail": str(error)}, 400)
        except TooMany as error:
            return JSONResponse({"detail": str(error)}, 429)
        except EngineDown as error:
            return JSONResponse({"detail": str(error)}, 503, {"retry-after": "1"})
        with ExitStack() as held:
            held.callback(subscription.close)
            line = direct(scope)
            if line is not None:
                self.headers["connection"] = "close"  # a response that is taken over ends with its connection
            body = await _begin(self, send)
            if isinstance(line, DirectHttp) and line.streaming():
                await self._hand_over(line, subscription, held)
            else:
                await self._serve(receive, body, subscription, held)
        return None

    async def _hand_over(self, line: DirectHttp, subscription: Subscription, held: ExitStack) -> None:
        """Begin the stream; when it has begun, this call ends, and the connection goes on without it."""
        held.enter_context(Expiry(line, self.expires))
        line.take_over(farewell, held.pop_all().close)
        try:
            await self._enter(line, subscription)
        except BaseException:
            line.cut()
            raise

    async def _serve(self, receive: Receive, body: "Body", subscription: Subscription, held: ExitStack) -> None:
        async def farewells(goodbye: Goodbye) -> None:
            await body(farewell(goodbye), False)

        plain = Plain(lambda piece: body(piece, True), "event", farewells, self.channels.limits)
        held.enter_context(Expiry(plain, self.expires))
        async with plain.running(), _watching(receive, plain.cut):
            await self._enter(plain, subscription)
            await asyncio.get_running_loop().create_future()

    async def _enter(self, connection: Connection, subscription: Subscription) -> None:
        connection.slow = self.slow
        try:
            await subscription.enter(connection, self.after)
        except EngineDown as error:
            connection.close((TRY_LATER, str(error), self.channels.limits.sse_retry))


def farewell(goodbye: Goodbye) -> bytes:
    """Return the last event of a channel's stream: `drain` when the client may come back, else `error`.

    Where the channel itself has ended, its last message was that.
    """
    code, reason, retry = goodbye
    if code == NORMAL:
        return b""
    if may_reconnect(code):
        return sse(dumps({"retry": round(retry * 1000)}), event="drain", retry=retry)
    return sse(dumps({"code": code, "reason": reason}), event="error")


Body = Callable[[bytes, bool], Awaitable[None]]


async def _begin(response: Response, send: Send) -> Body:
    """Send the head, and return what sends the body."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})

    async def body(data: bytes, more: bool = True) -> None:
        await send({"type": "http.response.body", "body": data, "more_body": more})

    return body


async def _head(response: Response, send: Send) -> None:
    """Answer HEAD: nothing is begun for it."""
    body = await _begin(response, send)
    await body(b"", False)


@asynccontextmanager
async def _watching(receive: Receive, gone: Callable[[], object]) -> AsyncIterator[None]:
    """Call `gone` when the client leaves while inside."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    watcher = asyncio.create_task(watch())
    watcher.add_done_callback(lambda _: gone())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


# ---- finite streams


class Pipe:
    """What a source is ahead of its reader: at most `PUMPED` pieces or `PUMPED_BYTES`, then the source waits."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._changed, self._room = asyncio.Event(), asyncio.Event()
        self._ended = False

    async def put(self, piece: bytes) -> None:
        """Add a piece, when there is room."""
        while len(self._pieces) >= PUMPED or self._size >= PUMPED_BYTES:
            self._room.clear()
            await self._room.wait()
        self._pieces.append(piece)
        self._size += len(piece)
        self._changed.set()

    def end(self) -> None:
        """Add nothing more."""
        self._ended = True
        self._changed.set()

    async def take(self, seconds: float | None) -> bytes | None:
        """Return all that is there, joined; b"" after so many seconds without any; None at the end."""
        while not self._pieces:
            if self._ended:
                return None
            self._changed.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
            except TimeoutError:
                return b""
        burst = b"".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        self._room.set()
        return burst


class Stream(Response):
    """A finite stream that says how it ended, and whose source is closed before the response is over.

    Args:
        source: pieces of the body, encoded. It is pulled a few pieces ahead of the reader, by a task of this response.
        media_type: of the body.
        done: what is written when the source ended.
        failed: what is written when the source raised; the exception itself is logged, never sent.
        heartbeat: what is written after `limits.sse_keepalive` seconds of silence; None for nothing.
        limits: the deadline of a write, and the silence.
        headers: more of them.
    """

    def __init__(
        self,
        source: AsyncGenerator[bytes, None],
        media_type: str,
        *,
        done: Callable[[], bytes],
        failed: Callable[[str], bytes],
        heartbeat: bytes | None = None,
        limits: Limits | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.source, self.done, self.failed, self.heartbeat = source, done, failed, heartbeat
        self.limits = limits or Limits()
        self.status_code, self.background, self.media_type = 200, None, media_type
        self.init_headers({**HEADERS, **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["method"] == "HEAD":
            await self.source.aclose()
            return await _head(self, send)
        pipe = Pipe()
        deadline = None if direct(scope) else self.limits.write_deadline  # a direct connection keeps one of its own
        writer = asyncio.create_task(self._write(pipe, send, deadline))
        tasks = [asyncio.create_task(self._pump(pipe)), writer]
        try:
            async with _watching(receive, writer.cancel):
                await asyncio.wait([writer])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.source.aclose()

    async def _pump(self, pipe: Pipe) -> None:
        last = self.failed(FAILED)
        try:
            async with aclosing(self.source) as source:
                async for piece in source:
                    await pipe.put(piece)
            last = self.done()
        except Exception:
            log.exception("The source of a stream failed")
        await pipe.put(last)
        pipe.end()

    async def _write(self, pipe: Pipe, send: Send, deadline: float | None) -> None:
        body = await _begin(self, send)
        silence = self.limits.sse_keepalive if self.heartbeat is not None else None
        while (burst := await pipe.take(silence)) is not None:
            async with asyncio.timeout(deadline):
                await body(burst or self.heartbeat or b"", True)
        await body(b"", False)


def event_stream(
    source: AsyncGenerator[bytes, None],
    *,
    done: Callable[[], bytes] = lambda: sse("{}", event="done"),
    limits: Limits | None = None,
    headers: Mapping[str, str] | None = None,
) -> Stream:
    """Return events (`message.sse`) as a finite stream whose last one is `done`, or `error` with a reason."""

    def failed(reason: str) -> bytes:
        return sse(dumps({"reason": reason}), event="error")

    return Stream(source, EVENT_STREAM, done=done, failed=failed, heartbeat=comment(), limits=limits, headers=headers)


def ndjson(records: AsyncGenerator[Any, None], *, limits: Limits | None = None) -> Stream:
    """Return values as NDJSON whose last record is `{"done": true, "count": n}`, or `{"error": reason}`."""
    count = 0

    async def lines() -> AsyncGenerator[bytes, None]:
        nonlocal count
        async with aclosing(records):
            async for record in records:
                yield line(record)
                count += 1

    def done() -> bytes:
        return line({"done": True, "count": count})

    return Stream(lines(), NDJSON, done=done, failed=lambda reason: line({"error": reason}), limits=limits)
