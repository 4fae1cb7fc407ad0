"""Each twin of the connection manager fails in the way that it says, where a real client can see it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from labserver.stage import LiveServer

BIG = "x" * 200_000  # bytes: some twenty of them fill what the kernel buffers for one socket
ALL = ("set_changes_while_iterating", "one_slow_client_stalls_all", "swallowed_errors_keep_dead_sockets")
WAITS = 1.0  # seconds after which a post, which takes milliseconds, is thought to wait for somebody


@asynccontextmanager
async def stalled(lab: LiveServer, base: str) -> AsyncIterator[ClientConnection]:
    """Connect a client that reads nothing from now on; it hangs up at the end."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((lab.host, lab.port))
    websocket = await connect(f"{lab.ws_url}{base}/ws/rooms/a", sock=sock, compression=None, max_queue=1)
    websocket.transport.pause_reading()
    try:
        yield websocket
    finally:
        websocket.transport.abort()


def http(lab: LiveServer, base: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=lab.url + base, timeout=10, verify=False)


async def post_until_one_waits(client: httpx.AsyncClient) -> "asyncio.Task[httpx.Response]":
    """Return the first post that is not answered, or else fail after many."""
    for _ in range(100):
        post = asyncio.create_task(client.post("/rooms/a/messages", json={"text": BIG}))
        done, _ = await asyncio.wait([post], timeout=WAITS)
        if not done:
            return post
    pytest.fail("no post waited for the client that does not read")


async def online(client: httpx.AsyncClient, expected: int, within: float = 3.0) -> int:
    """Return the room's count as soon as it is `expected`, or after `within` seconds."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + within
    while True:
        count = int((await client.get("/rooms/a")).json()["online"])
        if count == expected or clock() > deadline:
            return count
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("how", ["somebody joins", "somebody leaves", "the slow one itself gives up"])
async def test_set_changes_while_iterating(lab: LiveServer, how: str) -> None:
    base = "/broken/set_changes_while_iterating"
    url = f"{lab.ws_url}{base}/ws/rooms/a"
    async with stalled(lab, base) as slow, connect(url, max_queue=None) as other, http(lab, base) as client:
        waiting = await post_until_one_waits(client)
        if how == "somebody joins":
            joined = await connect(url)
        elif how == "somebody leaves":
            await other.close()
        else:
            slow.transport.abort()
        await online(client, 3 if how == "somebody joins" else 1)
        slow.transport.resume_reading()
        reading = asyncio.create_task(read_all(slow))
        assert (await waiting).status_code == 500
        reading.cancel()
        if how == "somebody joins":
            await joined.close()
    assert lab.errors()[-1] == "RuntimeError: Set changed size during iteration"


async def read_all(websocket: ClientConnection) -> None:
    async for _ in websocket:
        pass


async def test_set_changes_while_iterating_never_without_a_slow_reader(lab: LiveServer) -> None:
    base = "/broken/set_changes_while_iterating"

    async def come_and_go() -> None:
        for _ in range(20):
            async with connect(f"{lab.ws_url}{base}/ws/rooms/a") as websocket:
                await websocket.send("hello")
                await websocket.recv()

    async def say() -> None:
        for _ in range(100):
            assert (await client.post("/rooms/a/messages", json={"text": "small"})).status_code == 200

    async with http(lab, base) as client, asyncio.TaskGroup() as group:
        for job in (come_and_go, come_and_go, say, say):
            group.create_task(job())
    assert lab.errors() == []


async def test_one_slow_client_stalls_all(lab: LiveServer) -> None:
    base = "/broken/one_slow_client_stalls_all"
    url = f"{lab.ws_url}{base}/ws/rooms/a"
    async with stalled(lab, base) as slow, connect(url, max_queue=None), http(lab, base) as client:
        waiting = await post_until_one_waits(client)
        done, _ = await asyncio.wait([waiting], timeout=WAITS)
        assert not done
        assert await online(client, 2) == 2  # and nobody is sent away
        slow.transport.abort()
        assert (await waiting).status_code == 200
    assert lab.errors() == []


async def test_swallowed_errors_keep_dead_sockets(lab: LiveServer) -> None:
    base = "/broken/swallowed_errors_keep_dead_sockets"
    url = f"{lab.ws_url}{base}/ws/rooms/a"
    async with http(lab, base) as client:
        for number in range(5):
            async with connect(url) as websocket:
                assert await online(client, number + 1) == number + 1
                if number % 2:
                    websocket.transport.abort()
        async with connect(url) as alive:
            answer = await client.post("/rooms/a/messages", json={"text": "is anybody here?"})
            assert answer.json() == {"receivers": 6}  # one of them is there
            assert await alive.recv() == "is anybody here?"
        assert await online(client, 0, within=0.5) == 6
    assert await writers(lab) == 6
    assert lab.errors() == []


async def writers(lab: LiveServer) -> int:
    async def count() -> int:
        return sum("Connection.write" in str(task.get_coro()) for task in asyncio.all_tasks())

    return await asyncio.wrap_future(lab.submit(count()))


async def test_the_pattern_does_none_of_it(lab: LiveServer) -> None:
    async with http(lab, "") as client:
        async with stalled(lab, "") as slow, connect(f"{lab.ws_url}/ws/rooms/a", max_queue=None) as fast:
            for _ in range(100):
                async with asyncio.timeout(WAITS):
                    answer = await client.post("/rooms/a/messages", json={"text": BIG})
                assert answer.status_code == 200
            assert answer.json() == {"receivers": 1}
            assert [len(await fast.recv()) for _ in range(100)] == [len(BIG)] * 100
            slow.transport.abort()
        assert await online(client, 0) == 0
    assert lab.errors() == []


@pytest.mark.parametrize("twin", ALL)
async def test_in_all_else_a_twin_is_right(lab: LiveServer, twin: str) -> None:
    """Words reach everyone in the room, and a binary message is told by its code."""
    base = f"/broken/{twin}"
    url = f"{lab.ws_url}{base}/ws/rooms/a"
    async with connect(url) as ana, connect(url) as ben, http(lab, base) as client:
        await ana.send("hello")
        assert await ben.recv() == "hello"
        assert (await client.post("/rooms/a/messages", json={"text": "posted"})).json() == {"receivers": 2}
        assert [await ana.recv(), await ana.recv()] == ["hello", "posted"]
        await ana.send(b"\x00")
        await ana.wait_closed()
        assert (ana.close_code, ana.close_reason) == (1003, "text messages only")
        assert await online(client, 1) == 1
    assert lab.errors() == []
