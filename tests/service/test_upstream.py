"""The SDK's way to its server, against servers that answer by the book and against it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import httpx2
import pytest
import trustme

from labserver.service import upstream
from labserver.service.upstream import Transport

Answers = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE = 30.0
OK = b"HTTP/1.1 200 OK\r\n"


@asynccontextmanager
async def serving(answers: Answers, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """Serve connections, each by `answers`; yield the address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):  # 3.11 logs the last
            await answers(reader, writer)
        writer.close()

    async with asyncio.timeout(DEADLINE), await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
        yield f"http{'s' if tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def saying(*pieces: bytes, close: bool = False) -> Answers:
    """Answer each request with these pieces, each a write of its own."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            if close:
                return

    return answer


def client(seconds: float = DEADLINE) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=Transport(), timeout=seconds)


@pytest.mark.parametrize(
    "pieces",
    [
        (OK + b"Content-Length: 5\r\n\r\nhello",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",),
        (OK, b"Transfer-", b"Encoding: chunked\r\n\r\n2\r\nhe", b"\r\n3\r\nllo\r", b"\n0\r\n\r\n"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" + OK + b"Content-Length: 5\r\n\r\nhello",),
    ],
)
async def test_a_body_comes_however_it_is_cut_and_its_connection_serves_again(pieces: tuple[bytes, ...]) -> None:
    connections = 0
    answer = saying(*pieces)

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await answer(reader, writer)

    async with serving(counted) as url, client() as web:
        for _ in range(3):
            response = await web.get(url)
            assert (response.status_code, response.content) == (200, b"hello")
            assert "link" not in response.headers
    assert connections == 1


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async with serving(saying(OK + b"\r\n", b"hel", b"lo", close=True)) as url, client() as web:
        for _ in range(2):
            assert (await web.get(url)).content == b"hello"


@pytest.mark.parametrize(
    "answer",
    [
        saying(b"", close=True),
        saying(OK + b"Content-Length: 9\r\n\r\nhello", close=True),
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhello", close=True),
        saying(b"no HTTP at all\r\n\r\n"),
    ],
)
async def test_half_a_response_is_none(answer: Answers) -> None:
    async with serving(answer) as url, client() as web:
        with pytest.raises(httpx2.RemoteProtocolError):
            await web.get(url)


async def test_what_came_before_it_broke_is_read_first() -> None:
    half = saying(OK + b"Content-Length: 9\r\n\r\nhello", close=True)
    async with serving(half) as url, client() as web, web.stream("GET", url) as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"hello"
        with pytest.raises(httpx2.RemoteProtocolError):
            await anext(pieces)


@pytest.mark.parametrize("pieces", [(), (OK + b"Content-Length: 9\r\n\r\nhello",)])
async def test_silence_has_an_end(pieces: tuple[bytes, ...]) -> None:
    async with serving(saying(*pieces)) as url, client(0.1) as web:
        with pytest.raises(httpx2.ReadTimeout):
            await web.get(url)


async def test_nobody_there() -> None:
    async with serving(saying()) as url:
        pass
    async with client() as web:
        with pytest.raises(httpx2.ConnectError):
            await web.get(url)


async def test_a_connection_that_was_closed_while_it_rested_is_not_used_again() -> None:
    async with serving(saying(OK + b"Content-Length: 0\r\n\r\n", close=True)) as url, client() as web:
        for _ in range(3):
            assert (await web.get(url)).status_code == 200
            await asyncio.sleep(0.02)  # its end is read


async def test_a_line_break_in_a_header_is_refused() -> None:
    async with serving(saying(OK + b"Content-Length: 0\r\n\r\n")) as url, client() as web:
        with pytest.raises((httpx2.LocalProtocolError, ValueError)):
            await web.get(url, headers={"x": "a\r\nforged: b"})


async def test_who_does_not_read_holds_the_server_back_and_leaving_ends_it() -> None:
    sent, left = 0, asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(OK + b"Connection: close\r\n\r\n")
        with suppress(ConnectionError):
            while True:
                writer.write(b"x" * 65_536)
                await writer.drain()
                sent += 1
        left.set()

    async with serving(floods) as url, client() as web:
        async with web.stream("GET", url) as response:
            pieces = response.aiter_raw()
            largest = len(await anext(pieces))
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.2)
            largest = max(largest, len(await anext(pieces)))
            assert largest < upstream.AHEAD + 1_000_000
            for _ in range(100):
                await anext(pieces)
            assert sent > before
        await left.wait()


async def test_certificates_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with serving(saying(OK + b"Content-Length: 5\r\n\r\nhello"), tls) as url:
        async with client() as web:
            with pytest.raises(httpx2.ConnectError):
                await web.get(url)
        known = ssl.create_default_context()
        authority.configure_trust(known)
        monkeypatch.setattr(httpx2, "create_ssl_context", lambda: known)
        async with client() as web:
            assert (await web.get(url)).content == b"hello"
