"""What the benchmark's tests share: a place with few readers, and servers that err on purpose."""

import asyncio
import contextlib
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from labserver.bench.place import Place, place

Deliver = Callable[[list[ServerConnection], int, str], Awaitable[None]]
"""Hands message number so and so to the readers, or does not."""


@pytest.fixture(scope="module")
def here() -> Iterator[Place]:
    with place() as made:
        yield made


async def to_all(readers: list[ServerConnection], number: int, text: str) -> None:
    for reader in readers:
        await reader.send(text)


@asynccontextmanager
async def _serving(deliver: Deliver) -> AsyncIterator[int]:
    readers: list[ServerConnection] = []

    async def handle(connection: ServerConnection) -> None:
        assert connection.request is not None
        if connection.request.path == "/ws":
            readers.append(connection)
            await connection.wait_closed()
            readers.remove(connection)
            return
        with contextlib.suppress(ConnectionClosed):
            async for text in connection:
                assert isinstance(text, str)
                found = re.search(r"@(\d{10})#", text)
                assert found
                await deliver(readers, int(found[1]), text)

    async with serve(handle, "127.0.0.1", 0, compression=None, open_timeout=1, close_timeout=0.1) as server:
        yield server.sockets[0].getsockname()[1]


@contextmanager
def erring(deliver: Deliver) -> Iterator[int]:
    """Yield the port of a WebSocket server, in a thread, that delivers as it likes."""
    loop, up, over, port = asyncio.new_event_loop(), threading.Event(), asyncio.Event(), [0]

    async def run() -> None:
        async with _serving(deliver) as port[0]:
            up.set()
            await over.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert up.wait(10)
    try:
        yield port[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join()
        loop.close()


@pytest.fixture
def erring_server() -> Callable[[Deliver], "contextmanager[int]"]:
    return erring
