"""How the LLM's SDK reaches its server here: an httpx transport straight on asyncio's, HTTP/1.1 alone.

A token is a read of a hundred bytes. The SDK's own transport takes each through a lock, two timers, a parser in Python
and six generators, which costs more than everything else that a relay does with it. This one parses in C (httptools, as
uvicorn does). What it does not do: proxies, HTTP/2.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator

import httptools
import httpx2

__all__ = ["Transport"]

AHEAD = 1 << 18  # bytes read ahead of who reads the body
FRAMED = (b"content-length", b"transfer-encoding")  # else the end of the connection is the end of the body

Key = tuple[str, str, int | None]


class Line(asyncio.Protocol):
    """One connection: a request at a time, and its response as it comes."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]  # of a stream
        self._news: asyncio.Future[None] | None = None
        self.begin()

    def begin(self) -> None:
        """Make ready for a response."""
        self._parser = httptools.HttpResponseParser(self)
        self.headers: list[tuple[bytes, bytes]] = []
        self.status, self.begun, self.done, self._kept = 0, False, False, False
        self._pieces: list[bytes] = []
        self._size = 0
        self._error: Exception | None = None

    @property
    def reusable(self) -> bool:
        """Whether another request may follow."""
        return self._kept and not self.transport.is_closing()

    async def wait(self, seconds: float | None) -> None:
        """Wait for news.

        Raises:
            httpx2.ReadTimeout: none came for so long; httpx2.RemoteProtocolError: there is no response, or half of one.
        """
        if self._error is None:
            loop = asyncio.get_running_loop()
            self._news = loop.create_future()
            timer = None if seconds is None else loop.call_later(seconds, self._fail, httpx2.ReadTimeout("silence"))
            try:
                await self._news
            finally:
                self._news = None
                if timer is not None:
                    timer.cancel()
        if self._error is not None:
            raise self._error

    async def body(self, seconds: float | None) -> AsyncIterator[bytes]:
        """Yield the body as it comes; otherwise as `wait`."""
        while True:
            if self._pieces:
                piece = b"".join(self._pieces)
                self._pieces.clear()
                self._read_on()
                yield piece
            elif self.done:
                return
            else:
                await self.wait(seconds)

    def _read_on(self) -> None:
        if self._size > AHEAD and not self.transport.is_closing():
            self.transport.resume_reading()
        self._size = 0

    def _wake(self) -> None:
        if self._news is not None and not self._news.done():
            self._news.set_result(None)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._wake()

    # ---- called by the loop

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(httpx2.RemoteProtocolError(str(error)))
            self.transport.abort()
        if self._size > AHEAD and not self.transport.is_closing():
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        if self.begun and error is None and not any(name.lower() in FRAMED for name, _ in self.headers):
            self.done = True
        if not self.done:
            self._fail(httpx2.RemoteProtocolError("the connection ended before the response did"))
        self._wake()

    # ---- called by the parser

    def on_message_begin(self) -> None:
        if self.done:  # nobody has asked for this one
            self.transport.abort()
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.begun = self.status >= 200  # before it there may be early hints

    def on_body(self, body: bytes) -> None:
        self._pieces.append(body)
        self._size += len(body)

    def on_message_complete(self) -> None:
        self.done = self.begun
        self._kept = self.done and self._parser.should_keep_alive()


class Transport(httpx2.AsyncBaseTransport):
    """Connections to any number of servers; those that rest are used again. `aclose` ends what rests."""

    def __init__(self) -> None:
        self._resting: dict[Key, list[Line]] = {}
        self._tls: ssl.SSLContext | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        limits: dict[str, float | None] = request.extensions.get("timeout", {})
        key = (request.url.scheme, request.url.host, request.url.port)
        body = await request.aread()
        line = self._rested(key) or await self._connect(key, limits.get("connect"))
        try:
            line.begin()
            line.transport.writelines([_head(request), body])
            while not line.begun:
                await line.wait(limits.get("read"))
        except BaseException:
            line.transport.abort()
            raise
        stream = _Body(self, key, line, limits.get("read"))
        return httpx2.Response(line.status, headers=line.headers, stream=stream)

    def rest(self, key: Key, line: Line) -> None:
        """Take back a connection whose response is over, however it was."""
        if line.reusable:
            self._resting.setdefault(key, []).append(line)
        else:
            line.transport.abort()

    async def aclose(self) -> None:
        for lines in self._resting.values():
            for line in lines:
                line.transport.abort()
        self._resting.clear()

    def _rested(self, key: Key) -> Line | None:
        lines = self._resting.get(key, [])
        while lines:
            line = lines.pop()
            if line.reusable:
                return line
        return None

    async def _connect(self, key: Key, seconds: float | None) -> Line:
        scheme, host, port = key
        if scheme == "https" and self._tls is None:
            self._tls = httpx2.create_ssl_context()
        tls, usual = (self._tls, 443) if scheme == "https" else (None, 80)
        try:
            async with asyncio.timeout(seconds):
                loop = asyncio.get_running_loop()
                _, line = await loop.create_connection(Line, host, port or usual, ssl=tls)
        except TimeoutError:
            raise httpx2.ConnectTimeout(f"no connection within {seconds} s") from None
        except OSError as error:
            raise httpx2.ConnectError(str(error)) from error
        return line


class _Body(httpx2.AsyncByteStream):
    def __init__(self, transport: Transport, key: Key, line: Line, seconds: float | None) -> None:
        self._transport, self._key, self._line, self._seconds = transport, key, line, seconds
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._line.body(self._seconds)

    async def aclose(self) -> None:
        if self._open:
            self._open = False
            self._transport.rest(self._key, self._line)


def _head(request: httpx2.Request) -> bytes:
    """Return the request's first lines (RFC 9112, 3); httpx has seen to the host and the length.

    Raises:
        httpx2.LocalProtocolError: a field holds a line break.
    """
    fields = b"".join(b"%b: %b\r\n" % (name, value) for name, value in request.headers.raw)
    if fields.count(b"\n") != len(request.headers.raw) or fields.count(b"\r") != len(request.headers.raw):
        raise httpx2.LocalProtocolError("a header holds a line break")
    return b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode(), request.url.raw_path, fields)
