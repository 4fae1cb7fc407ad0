"""Heads of requests that are too large, or never end: each is answered or let go, at once or at its deadline."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from realtime.wire import DEADLINE, Lab, raw, served

from labserver.realtime.limits import Limits
from labserver.stage import LiveServer

START = b"GET /sse/c HTTP/1.1\r\nHost: test\r\n"
UPGRADE = (
    b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.fixture
def live() -> Iterator[LiveServer]:
    lab = Lab(Limits(head_max_bytes=20_000, head_deadline=0.5))
    with served(lab, "direct") as live:
        yield live
        assert live.errors() == []


@asynccontextmanager
async def client(live: LiveServer) -> AsyncIterator[socket.socket]:
    with socket.socket() as sock:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (live.host, live.port))
        yield sock


async def told(sock: socket.socket) -> bytes:
    """Return all that the server sends until it closes."""
    data, loop = b"", asyncio.get_running_loop()
    async with asyncio.timeout(DEADLINE):
        try:
            while piece := await loop.sock_recv(sock, 1 << 16):
                data += piece
        except ConnectionError:  # it closed with bytes of ours unread
            pass
    return data


async def say(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


@pytest.mark.parametrize(
    ("request_line", "more", "status"),
    [
        (b"GET /ws/c HTTP/1.1\r\n", b"X: " + b"a" * 12_000 + b"\r\n", b"431"),
        (b"GET /ws/c HTTP/1.1\r\n", b"A: b\r\n" * 200, b"431"),
        (b"GET /ws/c?q=" + b"a" * 12_000 + b" HTTP/1.1\r\n", b"", b"414"),
    ],
)
async def test_a_handshake_that_is_too_large_is_answered(
    live: LiveServer, request_line: bytes, more: bytes, status: bytes
) -> None:
    async with client(live) as sock:
        await say(sock, request_line + b"Host: test\r\n" + UPGRADE + more + b"\r\n")
        assert (await told(sock)).startswith(b"HTTP/1.1 " + status)


async def test_a_head_without_an_end_is_refused_by_its_bytes(live: LiveServer) -> None:
    async with client(live) as sock:
        sent = 0
        await say(sock, START)
        try:
            while sent < 100 * 20_000:
                await say(sock, b"X: " + b"a" * 995 + b"\r\n")
                sent += 1000
                await asyncio.sleep(0)
        except ConnectionError:
            return  # it has closed already
        answer = await told(sock)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 431")


@pytest.mark.parametrize("begun", [b"", b"G", START, START + b"X: a"])
async def test_a_head_that_is_not_whole_in_time_is_refused_however_often_a_byte_comes(
    live: LiveServer, begun: bytes
) -> None:
    async with client(live) as sock:
        await say(sock, begun)
        answer = asyncio.ensure_future(told(sock))
        while not answer.done():
            await asyncio.sleep(0.05)
            if begun.endswith(b"a") and not answer.done():
                try:
                    await say(sock, b"a")
                except ConnectionError:
                    break
        assert (await answer).startswith((b"HTTP/1.1 408", b"") if begun.endswith(b"a") else b"HTTP/1.1 408")


async def test_who_is_served_is_not_under_the_deadline_of_heads(live: LiveServer) -> None:
    for path in ("/sse/c", "/ws/c"):
        async with raw(live, path) as reader:
            await reader.opened()
            await asyncio.sleep(0.7)  # longer than the deadline: what is to be shown is that nothing happens
            reader.sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                reader.sock.recv(1)


async def test_the_deadline_counts_from_the_head_of_each_request(live: LiveServer) -> None:
    async with client(live) as sock:
        await say(sock, b"GET /none HTTP/1.1\r\nHost: test\r\n\r\nGET /none HTTP/1.1\r\n")
        answer = await told(sock)
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"HTTP/1.1 408" in answer
