"""What notebook 03 teaches about a client that does not read: each test fails when a new version makes it untrue."""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from fastapi import FastAPI, WebSocket
from websockets.asyncio.client import ClientConnection, connect

from labserver.stage import start

BIG = "x" * 200_000  # bytes
LONG = 1.0  # seconds after which a send, which takes microseconds, is thought to wait for somebody


@asynccontextmanager
async def stalled(url: str, port: int) -> AsyncIterator[ClientConnection]:
    """Connect a client that reads nothing from now on; it hangs up at the end."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", port))
    websocket = await connect(f"{url}/ws", sock=sock, compression=None, max_queue=1, ping_interval=None)
    websocket.transport.pause_reading()
    try:
        yield websocket
    finally:
        websocket.transport.abort()


class Pushing:
    """An app that sends to its one client without end, and what happened to it.

    Attributes:
        sent: messages that `send` has taken.
        last: when it took the last one, seconds of `time.monotonic`.
        ended: what ended the loop.
        cleaned: whether `finally` ran.
    """

    def __init__(self) -> None:
        self.app = FastAPI()
        self.sent, self.last, self.ended, self.cleaned = 0, time.monotonic(), "", False

        @self.app.websocket("/ws")
        async def push(websocket: WebSocket) -> None:
            await websocket.accept()
            try:
                while True:
                    await websocket.send_text(BIG)
                    self.sent, self.last = self.sent + 1, time.monotonic()
            except Exception as error:
                self.ended = type(error).__name__
            finally:
                self.cleaned = True

    @property
    def waits(self) -> bool:
        return self.sent > 0 and not self.cleaned and time.monotonic() - self.last > LONG


async def until(condition: Callable[[], bool], within: float = 10.0) -> bool:
    """Return whether `condition` became true within so many seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


async def test_a_send_waits_for_a_client_that_does_not_read_after_some_megabytes(
    measured: Callable[[str], None],
) -> None:
    push = Pushing()
    with start(push.app, name="facts") as live:
        async with stalled(live.ws_url, live.port):
            assert await until(lambda: push.waits)
            megabytes = push.sent * len(BIG) / 1e6
    measured(f"a send to a client that does not read waits after {megabytes:.1f} MB")
    assert 0.1 < megabytes < 32
    assert push.cleaned


async def test_close_waits_for_it_as_well() -> None:
    app = FastAPI()
    took: list[float] = []

    @app.websocket("/ws")
    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                while True:
                    await websocket.send_text(BIG)
        begun = time.monotonic()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                await websocket.close(1013, "too slow")
        took.append(time.monotonic() - begun)

    with start(app, name="facts") as live:
        async with stalled(live.ws_url, live.port):
            assert await until(lambda: bool(took))
    assert took[0] >= LONG * 0.9


async def test_uvicorns_ping_timeout_does_not_free_the_send() -> None:
    push = Pushing()
    with start(push.app, name="facts", ws_ping_interval=0.2, ws_ping_timeout=0.2) as live:
        async with stalled(live.ws_url, live.port) as slow:
            assert await until(lambda: push.waits)
            assert not await until(lambda: push.cleaned, within=LONG)  # seven times the deadline
            slow.transport.abort()
            assert await until(lambda: push.cleaned)
    assert push.ended == "WebSocketDisconnect"


async def test_the_ping_timeout_does_end_a_silent_client_whose_buffers_are_not_full() -> None:
    app = FastAPI()
    ended: list[str] = []

    @app.websocket("/ws")
    async def wait(websocket: WebSocket) -> None:
        await websocket.accept()
        try:
            await websocket.receive_text()
        except Exception as error:
            ended.append(type(error).__name__)

    with start(app, name="facts", ws_ping_interval=0.2, ws_ping_timeout=0.2) as live:
        async with stalled(live.ws_url, live.port):
            assert await until(lambda: bool(ended))
    assert ended == ["WebSocketDisconnect"]


async def test_an_endpoint_that_returns_leaves_the_connection_open_until_the_client_reads_or_goes() -> None:
    """ASGI has no abort: uvicorn closes the transport, and that waits for the bytes that nobody reads."""
    app = FastAPI()
    returned = threading.Event()

    @app.websocket("/ws")
    async def push(websocket: WebSocket) -> None:
        await websocket.accept()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LONG):
                while True:
                    await websocket.send_text(BIG)
        returned.set()

    with serving(app) as (server, port):
        async with stalled(f"ws://127.0.0.1:{port}", port) as slow:
            assert await until(returned.is_set)
            assert not await until(lambda: not server.server_state.connections, within=LONG)
            slow.transport.abort()
            assert await until(lambda: not server.server_state.connections)


@contextlib.contextmanager
def serving(app: FastAPI, user_timeout: int | None = None) -> Iterator[tuple[uvicorn.Server, int]]:
    """Serve `app` by plain uvicorn on a socket of our own; `user_timeout` is TCP_USER_TIMEOUT in milliseconds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        if user_timeout is not None:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, user_timeout)
        config = uvicorn.Config(
            app, log_config=None, lifespan="off", ws_ping_interval=None, timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield server, listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(10)
            assert not thread.is_alive()


async def test_tcp_user_timeout_on_the_listening_socket_frees_it(
    demand: Callable[[str, bool, str], None], measured: Callable[[str], None]
) -> None:
    demand("TCP_USER_TIMEOUT", hasattr(socket, "TCP_USER_TIMEOUT"), "only Linux has it.")
    push = Pushing()
    with serving(push.app, user_timeout=1000) as (server, port):
        async with stalled(f"ws://127.0.0.1:{port}", port):
            assert await until(lambda: push.cleaned)
            measured(f"TCP_USER_TIMEOUT of 1 s freed a send after {time.monotonic() - push.last:.1f} s")
            assert await until(lambda: not server.server_state.connections)
    assert push.ended == "WebSocketDisconnect"


async def test_a_list_that_changes_raises_nothing_and_skips_a_member() -> None:
    app = FastAPI()
    members: list[WebSocket] = []

    @app.websocket("/ws")
    async def join(websocket: WebSocket) -> None:
        await websocket.accept()
        members.append(websocket)
        try:
            while True:
                await websocket.receive_text()
                for member in members:
                    with contextlib.suppress(Exception):
                        await member.send_text(BIG)
        finally:
            members.remove(websocket)

    with start(app, name="facts") as live:
        async with (
            stalled(live.ws_url, live.port) as slow,
            connect(f"{live.ws_url}/ws", max_queue=None, compression=None) as second,
            connect(f"{live.ws_url}/ws", max_queue=None, compression=None) as third,
        ):
            sent = 0
            while True:
                await third.send("next")
                sent += 1
                try:
                    async with asyncio.timeout(LONG):
                        await third.recv()
                except TimeoutError:
                    break
            slow.transport.abort()  # the first of the list leaves, and the others move up
            await third.recv()
            await third.send("a last one")
            for _ in range(sent):  # one less than was sent
                await second.recv()
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(LONG):
                    await second.recv()
