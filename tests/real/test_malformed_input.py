"""A thousand malformed inputs to every pattern: no traceback, and nothing is left open."""

import asyncio
import contextlib
import os
import struct
import time
import traceback
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET
from typing import Any

import httpx
import psutil
import pytest
from malformed import Attack, attacks

import labserver.patterns
from labserver.patterns import TOPICS
from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import lab_app

PATTERNS = Path(labserver.patterns.__file__).parent
COUNT, TOGETHER = 1000, 20
ANSWER, READ = 0.5, 0.02  # seconds a client listens after its first piece, and after each other
SERVER = ("uvicorn", "uvloop", f"websockets{os.sep}protocol.py")  # whose lines raise what is not the pattern's fault

# What uvicorn 0.54 itself logs with a traceback, whatever the app does: a text message that is not UTF-8 (it closes
# 1007, as it should); bytes after a frame that broke the protocol, or before the handshake was answered; a pipelined
# request whose client has left. And FastAPI 0.165: an event stream whose client leaves while it begins.
SERVER_FAULTS = (
    "UnicodeDecodeError: 'utf-8' codec can't decode",
    "AssertionError",
    "InvalidState: connection is connecting",
    "BrokenResourceError",
    "RuntimeError: unable to perform operation on <TCPTransport closed=True",
)


async def attack(live: LiveServer, made: Attack) -> None:
    """Do what one malicious client does."""
    reader, writer = await asyncio.open_connection(live.host, live.port)
    try:
        for number, piece in enumerate(made.pieces):
            writer.write(piece)
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(65536), READ if number else ANSWER)
    except ConnectionError:
        pass
    finally:
        if made.abrupt and not writer.is_closing():
            writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()


def open_connections(live: LiveServer) -> int:
    """Count the server's sockets that are neither listening nor gone."""
    found = psutil.Process().net_connections("tcp")
    ours = [each for each in found if each.laddr.port == live.port]
    return sum(each.status not in {psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT, psutil.CONN_NONE} for each in ours)


def tasks(live: LiveServer) -> Counter[str]:
    """Count the tasks on the server's loop by what they run."""

    async def names() -> Counter[str]:
        own = asyncio.current_task()
        return Counter(getattr(t.get_coro(), "__qualname__", "?") for t in asyncio.all_tasks() if t is not own)

    return live.submit(names()).result(10)


async def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return held


class Watched:
    """The lab's app, with note taken of what it answers, and of every exception of a pattern.

    Counted here and not by the clients, who on a busy machine have left before their answer comes.
    """

    def __init__(self, settings: Settings) -> None:
        self.app = lab_app(settings)
        self.raised: list[str] = []
        self.answers: Counter[int] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watched(message: Any) -> None:
            if message["type"] in {"http.response.start", "websocket.accept"}:
                self.answers[message.get("status", 101)] += 1
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            told = "".join(traceback.format_exception(error))
            raised_in = told.rpartition("File ")[2]
            if str(PATTERNS) in told and not any(server in raised_in for server in SERVER):
                self.raised.append(told)
            raise


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [20261122])
async def test_no_malformed_input_leaves_a_traceback_or_an_open_connection(seed: int) -> None:
    # uvicorn begins a pipelined request though its client has left: such a stream ends when it next sends something
    app = Watched(Settings(sse_interval=0.001, sse_keepalive=1.0, feed_heartbeat=1.0))
    with start(app, name="malformed", log_level="info") as live:
        before = tasks(live)
        routes = [route for topic in TOPICS for route in import_module(f"labserver.patterns.{topic}").router.routes]
        gate = asyncio.Semaphore(TOGETHER)

        async def one(made: Attack) -> None:
            async with gate:
                await attack(live, made)

        async with asyncio.TaskGroup() as group:
            for made in attacks(routes, COUNT, seed):
                group.create_task(one(made))

        assert await wait_for(lambda: open_connections(live) == 0), f"{open_connections(live)} connections are open"
        async with httpx.AsyncClient() as client:
            await client.post(f"{live.url}/alarms", json={"alarm": "for the one stream without a heartbeat"})
        assert await wait_for(lambda: tasks(live) == before), f"{tasks(live) - before} are still running"
        assert app.raised == []
        assert [error for error in live.errors() if not error.startswith(SERVER_FAULTS)] == []
        assert app.answers[500] == 0
        assert app.answers[101] > 50
        assert sum(app.answers[code] for code in (404, 405, 422)) > 50
