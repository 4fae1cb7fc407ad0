"""The plain kind under a server of other people's: hypercorn, in a thread that ends."""

import asyncio
import socket
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import pytest
from hypercorn.asyncio import serve
from hypercorn.config import Config
from realtime.wire import SMALL, WIRES, Lab, on, publish, raw, until

from labserver.realtime.limits import Limits

pytestmark = pytest.mark.usefixtures("no_collector")
PIECE = "x" * 1000


class Hypercorn:
    """A server in a thread, on a socket bound beforehand."""

    host = "127.0.0.1"

    def __init__(self, app: Any) -> None:
        self._app, self._started = app, threading.Event()
        self.specs: set[str] = set()
        self._listener = socket.socket()
        self._listener.setsockopt(*SMALL[0])
        self._listener.bind((self.host, 0))
        self._listener.listen(100)  # who comes before the server waits for it
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="hypercorn")

    @contextmanager
    def running(self) -> Iterator["Hypercorn"]:
        self._thread.start()
        try:
            assert self._started.wait(30)
            yield self
        finally:
            self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(30)
            assert not self._thread.is_alive()

    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(coro, self._loop)

    async def _serve(self) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        config = Config()
        config.bind = [f"fd://{self._listener.detach()}"]
        config.graceful_timeout = 0.2
        config.errorlog = None
        await serve(self._seen, config, shutdown_trigger=self._ended.wait)

    async def _seen(self, scope: Any, receive: Any, send: Any) -> None:
        async def started(message: Any) -> None:
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                self._started.set()

        if scope["type"] == "lifespan":
            await self._app(scope, receive, started)
        else:
            self.specs.add(scope["asgi"]["spec_version"])
            await self._app(scope, receive, send)


@contextmanager
def served(lab: Lab) -> Iterator[Any]:
    with Hypercorn(lab.app).running() as live:
        yield live


def many(first: int, last: int) -> list[dict[str, Any]]:
    return [{"n": n, "pad": PIECE} for n in range(first, last)]


@pytest.mark.parametrize("wire", WIRES)
async def test_what_was_missed_is_replayed_and_what_comes_is_delivered(wire: str) -> None:
    lab = Lab()
    with served(lab) as live:
        await publish(live, lab, *many(0, 300))
        async with raw(live, f"/{wire}/c?after=e-100") as client:
            await client.opened()
            await publish(live, lab, *many(300, 400))
            await client.read_until(lambda raw: raw.numbers()[-1:] == [399])
            assert client.numbers() == list(range(100, 400))
            assert client.said()[0]["type"] == "resume"
        await until(lab.empty)
        async with raw(live, f"/{wire}/c?after=f-1") as client:
            await client.opened()
            assert client.said()[0]["type"] == "gap"
        await until(lab.empty)
        assert live.specs == {"sse": {"2.1"}, "ws": {"2.3"}}[wire]


async def test_a_socket_publishes_and_is_sent_away_by_its_code() -> None:
    lab = Lab()
    with served(lab) as live:
        async with raw(live, "/ws/c?publish") as client:
            await client.opened()
            await client.say({"type": "publish", "data": {"n": 1}})
            await client.read_until(lambda raw: raw.numbers() == [1] and raw.said()[-1] != raw.said()[0])
            await client.say("{")
            await client.read_until(lambda raw: raw.frames[-1].opcode == 8)
            assert client.frames[-1].data[:2] == b"\x03\xef"
        await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stalled_reader_is_let_go_and_the_others_are_served(wire: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 17, write_deadline=60))
    with served(lab) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf, raw(live, f"/{wire}/c") as other:
            await deaf.opened()
            await other.opened()
            await until(lambda: len(lab.channels.open) == 2)
            count = 0
            reading = asyncio.create_task(other.read_until(lambda raw: b'"n":-1' in raw.data[-3000:]))
            async with asyncio.timeout(30):
                while lab.left == 0:
                    await publish(live, lab, *many(count, count + 20))
                    count += 20
                    await asyncio.sleep(0.001)
            assert lab.metric("cut") == 1
            await publish(live, lab, {"n": -1})
            await reading
            assert other.numbers() == [*range(count), -1]
        await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("when", ["idle", "burst", "replay"])
async def test_who_leaves_leaves_nothing_behind(wire: str, when: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 22, write_deadline=60))
    with served(lab) as live:
        if when == "replay":
            await publish(live, lab, *many(0, 900))
        async with raw(
            live, f"/{wire}/c" + ("?after=e-0&user=u" if when == "replay" else "?user=u"), small=True
        ) as client:
            await client.opened()
            if when == "burst":
                await publish(live, lab, *many(0, 2000))
                await client.read_until(lambda raw: len(raw.numbers()) > 20)
        await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_drain_says_goodbye(wire: str) -> None:
    lab = Lab(Limits(drain_seconds=0.1))
    with served(lab) as live:
        async with raw(live, f"/{wire}/c") as client:
            await client.opened()
            await until(lambda: lab.channels.open)
            await on(live, lab.channels.drain.run())
            if wire == "ws":
                await client.read_until(lambda raw: raw.frames[-1].opcode == 8)
                assert client.frames[-1].data.startswith(b"\x03\xf4retry=")
            else:
                await client.read_until(lambda raw: raw.data.endswith(b"0\r\n\r\n"))
                assert client.said()[-1]["type"] == "drain"
        await until(lab.empty)
