"""The end of a server: real processes, real signals, hundreds of streams, some of whose readers do not read."""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import httpx
import pytest
from realtime.wire import KINDS, Lab, Raw, on, raw, served, until

from labserver.realtime.limits import Limits

POSIX = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM to catch")
TESTS = Path(__file__).parents[1]
SMALL = 4096
WAY = {
    "direct": ["--http", "realtime.drain_app:Http", "--ws", "realtime.drain_app:Socket"],
    "plain": ["--ws", "websockets-sansio", "--timeout-graceful-shutdown", "1"],  # ASGI can't abort who does not read
}


class Server:
    """uvicorn as a process of its own, as people start it."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process, self.port, self.host = process, port, "127.0.0.1"
        self.output = ""
        self.reading = asyncio.create_task(self.read())

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.output += line.decode()

    async def ended(self) -> int:
        async with asyncio.timeout(60):
            code = await self.process.wait()
            await self.reading
        return code

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(timeout=20, verify=False) as client:  # certificates take long to load
            return (await client.get(f"http://127.0.0.1:{self.port}{path}")).json()


@asynccontextmanager
async def uvicorn(kind: str, *more: str, drain: float = 1.0) -> AsyncIterator[Server]:
    """Start it on a socket that is bound already, so that no port is guessed."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL)  # else the system holds megabytes
        listener.bind(("127.0.0.1", 0))
        listener.listen(2048)
        command = [sys.executable, "-m", "uvicorn", "realtime.drain_app:app", *WAY[kind], *more]
        command += ["--fd", str(listener.fileno())]
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=TESTS,
            pass_fds=[listener.fileno()],
            env={**os.environ, "DRAIN": str(drain), "PYTHONPATH": f"{TESTS}{os.pathsep}{TESTS.parent}"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        server = Server(process, listener.getsockname()[1])
    try:
        count = int(more[more.index("--workers") + 1]) if "--workers" in more else 1
        await until(lambda: server.output.count("Application startup complete") == count, 60)
        yield server
    finally:
        if process.returncode is None:
            process.kill()
        await server.ended()


class Reader:
    """A client that reads to the end, and remembers when it was told goodbye."""

    def __init__(self, server: Any, wire: str) -> None:
        self.server, self.wire = server, wire
        self.opened, self.told = asyncio.Event(), 0.0
        self.task = asyncio.create_task(self.read())

    async def read(self) -> None:
        async with raw(self.server, f"/{self.wire}/c") as self.client:
            await self.client.opened()
            self.opened.set()
            await self.client.read_until(self.goodbye)
            self.told = monotonic()
            if self.wire == "ws":
                await self.client.send(b"".join(self.client.protocol.data_to_send()))  # the answer to the close frame
                await self.client.read_all()

    def goodbye(self, client: Raw) -> bool:
        """Return whether it was said."""
        return client.frames[-1].opcode == 8 if self.wire == "ws" else client.data.endswith(b"\r\n0\r\n\r\n")

    def retry(self) -> int:
        """Return after how many milliseconds it should come back."""
        if self.wire == "ws":
            code, reason = self.client.frames[-1].data[:2], bytes(self.client.frames[-1].data[2:]).decode()
            assert code == b"\x03\xf4"
            found = re.fullmatch(r"retry=(\d+)", reason)
            assert found
            return int(found[1])
        last = self.client.said()[-1]
        assert last["type"] == "drain"
        return int(last["retry"])


async def readers(server: Any, count: int) -> list[Reader]:
    """Open as many event streams and as many sockets, a few at a time."""
    opened: list[Reader] = []
    for first in range(0, count, 50):
        more = [Reader(server, wire) for wire in ("sse", "ws") for _ in range(min(50, count - first))]
        await asyncio.gather(*(each.opened.wait() for each in more))
        opened += more
    return opened


async def waits_until(server: Server, name: str, count: int) -> None:
    async with asyncio.timeout(30):
        while (await server.get("/state"))[name] < count:
            await asyncio.sleep(0.02)


@POSIX
@pytest.mark.parametrize("kind", KINDS)
async def test_sigterm_tells_everyone_one_after_the_other_and_those_who_do_not_read_hold_nobody(kind: str) -> None:
    drain = 2.0
    async with uvicorn(kind, drain=drain) as server:  # noqa: SIM117
        async with raw(server, "/sse/c", small=True) as deaf, raw(server, "/ws/c", small=True) as mute:  # type: ignore[arg-type]
            await deaf.opened()
            await mute.opened()
            await waits_until(server, "open", 2)
            if kind == "direct":
                async with asyncio.timeout(30):
                    while (await server.get("/state"))["behind"] < 2:
                        await server.get("/publish?count=50")
            else:
                await server.get("/publish?count=1000")
            everyone = await readers(server, 250)
            await waits_until(server, "open", 502)
            began = monotonic()
            server.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                await asyncio.gather(*(each.task for each in everyone))
            code = await server.ended()
            took = monotonic() - began
    retries = {wire: [each.retry() for each in everyone if each.wire == wire] for wire in ("sse", "ws")}
    for each in retries.values():
        assert len(each) == 250
        assert 2000 <= min(each) < 2400
        assert 3600 < max(each) <= 4000
    told = sorted(each.told - began for each in everyone)
    assert told[125] > drain * 0.1  # spread: not told at once
    assert told[375] > drain * 0.5
    assert code == -signal.SIGTERM  # what the signal does, once uvicorn has ended
    assert "the lifespan has ended" in server.output
    assert "Traceback" not in server.output
    assert took < drain + 1 + 3, f"{took:.2f}"  # three for a machine that does much else


@POSIX
@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_sigterm_ends_it_at_once_and_still_in_good_order(kind: str) -> None:
    async with uvicorn(kind, drain=600) as server:
        everyone = await readers(server, 5)
        server.process.send_signal(signal.SIGTERM)
        await waits_until(server, "begun", 1)
        assert sum(bool(each.told) for each in everyone) < 5
        server.process.send_signal(signal.SIGTERM)
        code = await server.ended()
        async with asyncio.timeout(30):
            await asyncio.gather(*(each.task for each in everyone))
    assert all(2000 <= each.retry() <= 4000 for each in everyone)
    assert code == -signal.SIGTERM
    assert "the lifespan has ended" in server.output
    assert "Traceback" not in server.output


@POSIX
async def test_all_workers_drain() -> None:
    async with uvicorn("direct", "--workers", "2") as server:
        everyone = await readers(server, 20)
        pids = {(await server.get("/state"))["pid"] for _ in range(40)}
        assert len(pids) == 2
        server.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(30):
            await asyncio.gather(*(each.task for each in everyone))
        await server.ended()
    assert all(2000 <= each.retry() <= 4000 for each in everyone)
    assert server.output.count("the lifespan has ended") == 2
    assert "Traceback" not in server.output


@pytest.mark.parametrize("kind", KINDS)
async def test_without_signals_whoever_stops_the_server_drains_and_the_next_start_is_fresh(kind: str) -> None:
    lab = Lab(Limits(drain_seconds=0.1))
    for _ in range(2):
        with served(lab, kind) as live:
            everyone = await readers(live, 3)
            assert not lab.channels.drain.begun
            await on(live, lab.channels.drain.run())
            await asyncio.gather(*(each.task for each in everyone))
            assert all(3000 <= each.retry() <= 6000 for each in everyone)
            late = await readers_who_come_late(live)
            assert all(3000 <= each.retry() <= 6000 for each in late)
            await until(lab.empty)


async def readers_who_come_late(live: Any) -> list[Reader]:
    late = [Reader(live, wire) for wire in ("sse", "ws")]
    await asyncio.gather(*(each.task for each in late))
    return late


async def test_uvicorns_own_shutdown_says_goodbye_too() -> None:
    """Where nobody drains: an app without `Channels.lifespan`, or a second signal."""
    lab = Lab()
    with served(lab, "direct", timeout_graceful_shutdown=10, lifespan="off") as live:
        await on(live, lab.channels.engine.start(lab.channels.hub))
        everyone = await readers(live, 3)
        assert await asyncio.to_thread(live.stop)
        await asyncio.gather(*(each.task for each in everyone))
    assert all(3000 <= each.retry() <= 6000 for each in everyone)
    assert lab.empty()
    assert json.dumps(live.errors()) == "[]"
