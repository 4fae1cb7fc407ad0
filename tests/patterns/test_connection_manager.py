"""Rooms over real sockets: who gets what, what a client that does not read costs, and that nothing is left behind."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.lab import fresh

BIG = "x" * 200_000  # bytes: some twenty of them fill what the kernel buffers for one socket


def rooms() -> FastAPI:
    """Return an app of this pattern alone, with a state of its own."""
    app = FastAPI()
    app.include_router(fresh("labserver.patterns.connection_manager").router)
    return app


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(rooms(), name="rooms") as live:
        yield live


@pytest.fixture
def small() -> Iterator[LiveServer]:
    """Rooms with short outboxes and little patience."""
    with start(rooms(), name="small", settings=Settings(outbox_messages=4, goodbye_timeout=0.3)) as live:
        yield live


@asynccontextmanager
async def stalled(live: LiveServer, room: str = "a") -> AsyncIterator[ClientConnection]:
    """Connect a client that reads nothing from now on; it hangs up at the end."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((live.host, live.port))
    websocket = await connect(f"{live.ws_url}/ws/rooms/{room}", sock=sock, compression=None, max_queue=1)
    websocket.transport.pause_reading()
    try:
        yield websocket
    finally:
        websocket.transport.abort()


def http(live: LiveServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, verify=False)  # plain HTTP: loading certificates would take longer


async def post(live: LiveServer, text: str, room: str = "a") -> httpx.Response:
    async with http(live) as client:
        return await client.post(f"/rooms/{room}/messages", json={"text": text})


async def online(live: LiveServer, expected: int, room: str = "a", within: float = 5.0) -> int:
    """Return the room's count as soon as it is `expected`, or after `within` seconds."""
    deadline = time.monotonic() + within
    async with http(live) as client:
        while True:
            count = int((await client.get(f"/rooms/{room}")).json()["online"])
            if count == expected or time.monotonic() > deadline:
                return count
            await asyncio.sleep(0.01)


async def tasks(live: LiveServer) -> int:
    """Return how many tasks of the app the server's loop runs: endpoints and writers."""

    async def count() -> int:
        names = [str(task.get_coro()) for task in asyncio.all_tasks()]
        return sum("run_asgi" in name or "Connection.write" in name for name in names)

    async with asyncio.timeout(5):
        return await asyncio.wrap_future(live.submit(count()))


async def no_tasks(live: LiveServer, but: int = 0, within: float = 5.0) -> bool:
    """Wait until no more than `but` of them are left; False if that does not happen."""
    deadline = time.monotonic() + within
    while await tasks(live) > but:
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True


async def until_sent_away(live: LiveServer, others: list[ClientConnection]) -> int:
    """Post until the room has lost its slow member; return how many messages that took."""
    for number in range(200):
        receivers = (await post(live, BIG)).json()["receivers"]
        for other in others:
            await other.recv()
        if receivers == len(others):
            return number + 1
    raise AssertionError("a client that does not read was never sent away")


async def test_everyone_in_the_room_gets_everything_in_order_and_nobody_else(lab: LiveServer) -> None:
    url = f"{lab.ws_url}/ws/rooms"
    async with connect(f"{url}/a") as ana, connect(f"{url}/a") as ben, connect(f"{url}/b") as cleo:
        assert await online(lab, 2) == 2
        for number in range(100):
            await ana.send(f"m{number}")
        assert (await post(lab, "naïve 🌊")).json() == {"receivers": 2}
        for peer in (ana, ben):
            said = [await peer.recv() for _ in range(101)]
            assert [text for text in said if text.startswith("m")] == [f"m{number}" for number in range(100)]
            assert "naïve 🌊" in said
        assert (await post(lab, "for b", "b")).json() == {"receivers": 1}
        assert await cleo.recv() == "for b"
        assert (await post(lab, "nobody is here", "c")).json() == {"receivers": 0}
    assert await online(lab, 0) == 0
    assert await no_tasks(lab)
    assert lab.errors() == []


async def test_who_does_not_read_is_sent_away_and_costs_the_others_nothing(small: LiveServer) -> None:
    async with (
        stalled(small) as slow,
        connect(f"{small.ws_url}/ws/rooms/a", compression=None) as fast,
        http(small) as client,
    ):
        worst, got = 0.0, 0
        for number in range(100):
            begun = time.monotonic()
            await client.post("/rooms/a/messages", json={"text": f"{number} {BIG}"})
            worst = max(worst, time.monotonic() - begun)
            got += (await fast.recv()).startswith(f"{number} ")
        assert got == 100
        assert worst < 1.0
        assert await online(small, 1) == 1
        assert await no_tasks(small, but=2)  # the other client's endpoint and writer
        slow.transport.abort()
    assert await online(small, 0) == 0
    assert small.errors() == []


async def test_a_burst_sends_nobody_away_who_reads(lab: LiveServer) -> None:
    """One read brings more messages than an outbox holds: the writers must have their turn in between."""
    async with connect(f"{lab.ws_url}/ws/rooms/a") as ana, connect(f"{lab.ws_url}/ws/rooms/a") as ben:
        for number in range(1000):
            await ana.send(f"{number}")
        for peer in (ana, ben):
            assert [await peer.recv() for _ in range(1000)] == [f"{number}" for number in range(1000)]


async def test_a_slow_client_that_reads_on_in_time_is_told_why() -> None:
    with start(rooms(), name="patient", settings=Settings(outbox_messages=4, goodbye_timeout=5)) as live:
        async with stalled(live) as slow, connect(f"{live.ws_url}/ws/rooms/a", compression=None) as fast:
            sent = await until_sent_away(live, [fast])
            slow.transport.resume_reading()
            got = 0
            with pytest.raises(ConnectionClosed) as closed:  # noqa: PT012 - each message may be the last
                while True:
                    await slow.recv()
                    got += 1
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1013, "too slow")
        assert 0 < got < sent
        assert await no_tasks(live)
        assert live.errors() == []


async def test_a_client_that_never_reads_holds_no_task_once_the_goodbye_is_given_up(small: LiveServer) -> None:
    async with stalled(small):
        await until_sent_away(small, [])
        assert await no_tasks(small)  # while it is still connected
        assert await online(small, 0) == 0
    assert small.errors() == []


@pytest.mark.parametrize("phase", ["idle", "while it is sent to", "while a send waits", "during the goodbye"])
async def test_who_vanishes_is_forgotten_in_every_phase(small: LiveServer, phase: str) -> None:
    for _ in range(3):
        async with stalled(small) as slow, connect(f"{small.ws_url}/ws/rooms/a", compression=None) as fast:
            if phase == "while it is sent to":
                slow.transport.resume_reading()
                async with asyncio.TaskGroup() as group:
                    for number in range(20):
                        group.create_task(post(small, BIG))
                        if number == 10:
                            slow.transport.abort()
                        await fast.recv()
            elif phase == "while a send waits":
                while await waiting(small) == 0:
                    await post(small, BIG)
                    await fast.recv()
            elif phase == "during the goodbye":
                await until_sent_away(small, [fast])
            slow.transport.abort()
            assert await online(small, 1) == 1
        assert await online(small, 0) == 0
        assert await no_tasks(small)
    assert small.errors() == []


async def waiting(live: LiveServer) -> int:
    """Return how many writers wait in a send."""

    async def count() -> int:
        coros = [task.get_coro() for task in asyncio.all_tasks()]
        return sum("send_text" in str(coro.cr_await) for coro in coros if "Connection.write" in str(coro))

    return await asyncio.wrap_future(live.submit(count()))


async def test_a_server_stops_at_once_with_a_stalled_client(lab: LiveServer) -> None:
    async with stalled(lab), stalled(lab, "b"):
        for _ in range(30):
            await post(lab, BIG)
        assert await waiting(lab) == 1
        begun = time.monotonic()
        assert await asyncio.to_thread(lab.stop)
        assert time.monotonic() - begun < 2.0
    assert lab.errors() == []


async def test_a_client_that_the_server_gives_up_leaves_no_traceback() -> None:
    """Its pong is overdue: uvicorn closes, and the next send is a RuntimeError of uvicorn's own."""
    with start(rooms(), name="pinged", ws_ping_interval=0.1, ws_ping_timeout=0.1) as live:
        async with stalled(live):
            while (await post(live, BIG)).json()["receivers"] and not await waiting(live):
                pass
            for number in range(20):
                await post(live, f"{number}")
                await asyncio.sleep(0.02)
        assert await online(live, 0) == 0
        for _ in range(3):
            async with stalled(live):
                while await online(live, 0, within=0) == 1:
                    await post(live, "small")
        assert await no_tasks(live)
        assert live.errors() == []


async def test_a_room_of_no_such_name_is_refused(lab: LiveServer) -> None:
    for room in ("A", "a_b", "x" * 41, "a%20b", "%2e%2e", "a%0a", "%C3%A4"):
        assert (await post(lab, "hello", room)).status_code == 422
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"{lab.ws_url}/ws/rooms/{room}")
        assert refused.value.response.status_code == 403
    assert lab.errors() == []


async def test_a_body_that_is_no_message_is_a_422_and_reaches_nobody(lab: LiveServer) -> None:
    wrong = (b"", b"{", b"[]", b"{}", b'{"text": 1}', b'{"text": null}', b"\xff", b'{"text": "\\ud800"}', b"[" * 99_999)
    async with connect(f"{lab.ws_url}/ws/rooms/a") as peer, http(lab) as client:
        for body in wrong:
            answer = await client.post("/rooms/a/messages", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in {400, 422}, body[:40]
        await post(lab, "after")
        assert await peer.recv() == "after"
    assert lab.errors() == []


async def test_messages_beyond_the_limit_are_refused(lab: LiveServer) -> None:
    assert (await post(lab, "x" * (1 << 20))).status_code == 200
    assert (await post(lab, "x" * ((1 << 20) + 1))).status_code == 413
    assert (await post(lab, "é" * (1 << 19) + "x")).status_code == 413


@pytest.mark.parametrize(
    ("message", "code"), [(b"\x00", 1003), (b"", 1003), ("x" * ((1 << 20) + 1), 1009)], ids=["binary", "empty", "large"]
)
async def test_wrong_input_on_a_socket_is_told_by_a_code(lab: LiveServer, message: str | bytes, code: int) -> None:
    async with connect(f"{lab.ws_url}/ws/rooms/a") as websocket, connect(f"{lab.ws_url}/ws/rooms/a") as other:
        await websocket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await websocket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code
        assert code != 1003 or closed.value.rcvd.reason == "text messages only"
        assert await online(lab, 1) == 1
        await other.send("still here")
        assert await other.recv() == "still here"
    assert await online(lab, 0) == 0
    assert await no_tasks(lab)
    assert lab.errors() == []


async def test_a_page_from_elsewhere_gets_into_no_room(lab: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{lab.ws_url}/ws/rooms/a", origin="https://evil.example")
    assert refused.value.response.status_code == 403
