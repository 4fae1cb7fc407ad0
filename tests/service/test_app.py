"""The service over real sockets: as `labserver serve` runs it, and as an app under another server's limits."""

import asyncio
import signal
import sys
from collections.abc import Callable
from subprocess import Popen

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage.server import start

LIMIT = 1000
TERMINATED = 1 if sys.platform == "win32" else -signal.SIGTERM  # uvicorn raises the signal again once it has shut down
Serve = Callable[..., tuple[Popen[str], str]]


@pytest.fixture(scope="module")
def url(serve: Serve) -> str:
    """The address of a server whose messages may have 1,000 bytes."""
    return serve(LABSERVER_MESSAGE_MAX_BYTES=str(LIMIT))[1]


def ws(url: str) -> str:
    return url.replace("http", "ws", 1) + "/ws/echo"


async def closing(url: str, message: str | bytes, *, text: bool | None = None) -> ConnectionClosed:
    """Send one message and return how the server closed."""
    async with connect(url, compression=None) as socket:
        await socket.send(message, text=text)
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), 5)
        return caught.value


async def test_healthz_says_ok_and_is_not_cached(url: str) -> None:
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"{url}/healthz")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("message", ["hello", "", "žluť 🐎", b"\x00\xff", b"", "x" * LIMIT, b"x" * LIMIT])
async def test_echo_sends_back_the_same_kind_and_content(url: str, message: str | bytes) -> None:
    async with connect(ws(url)) as socket:
        await socket.send(message)
        assert await asyncio.wait_for(socket.recv(), 5) == message


async def test_echo_joins_the_fragments_of_a_message_and_keeps_order(url: str) -> None:
    async with connect(ws(url)) as socket:
        await socket.send(["frag", "ment", "ed"])
        for number in range(50):
            await socket.send(str(number))
        heard = [await asyncio.wait_for(socket.recv(), 5) for _ in range(51)]
    assert heard == ["fragmented", *map(str, range(50))]


@pytest.mark.parametrize("message", ["x" * (LIMIT + 1), b"x" * (LIMIT + 1)])
async def test_a_message_above_the_limit_is_closed_with_1009(url: str, message: str | bytes) -> None:
    closed = await closing(ws(url), message)
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1009


async def test_text_that_is_not_utf8_is_closed_with_1007(url: str) -> None:
    closed = await closing(ws(url), b"\xff\xfe", text=True)
    assert closed.rcvd is not None
    assert closed.rcvd.code == 1007


@pytest.mark.parametrize(("message", "size"), [("é" * 501, 1002), ("x" * 1001, 1001), (b"x" * 1001, 1001)])
async def test_the_app_keeps_its_own_limit_where_the_server_allows_more(message: str | bytes, size: int) -> None:
    with start(create_app(Settings(message_max_bytes=LIMIT)), name="small") as live:
        closed = await closing(f"{live.ws_url}/ws/echo", message)
        assert closed.rcvd is not None
        assert (closed.rcvd.code, closed.rcvd.reason) == (1009, f"{size} bytes, limit {LIMIT}")
        assert live.errors() == []


async def test_a_peer_that_vanishes_leaves_no_error_and_the_next_one_is_served() -> None:
    with start(create_app(), name="vanish") as live:
        for _ in range(5):
            socket = await connect(f"{live.ws_url}/ws/echo", compression=None)
            for _ in range(20):
                await socket.send(b"x" * 100_000)  # the answers are on their way when the peer goes
            socket.transport.abort()
            await asyncio.wait_for(socket.wait_closed(), 5)
        async with connect(f"{live.ws_url}/ws/echo") as socket:
            await socket.send("still here?")
            assert await asyncio.wait_for(socket.recv(), 5) == "still here?"
        assert live.errors() == []


async def test_sigterm_closes_sockets_with_1012_and_ends_the_process(serve: Serve) -> None:
    process, url = serve()
    async with connect(ws(url)) as socket:
        await socket.send("hello")
        await asyncio.wait_for(socket.recv(), 5)
        process.terminate()
        with pytest.raises(ConnectionClosed) as caught:
            await asyncio.wait_for(socket.recv(), 5)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1012
    assert await asyncio.to_thread(process.wait, 10) == TERMINATED
