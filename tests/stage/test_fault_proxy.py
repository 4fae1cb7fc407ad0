"""Each fault does what it says and nothing else; without one the proxy changes nothing."""

import asyncio
import hashlib
import os
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response, WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.errors import LabError
from labserver.stage import fault_proxy, rescue, start
from labserver.stage.proxies.fault_proxy import FaultProxy
from labserver.stage.streams import reset

Side = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    rescue()


async def until(condition: Callable[[], bool], deadline: float = 5.0) -> None:
    """Wait for a condition; fail when it is not true within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        await asyncio.sleep(0.005)


class Pair:
    """A client and the server's side of its connection, with a fault proxy between them."""

    def __init__(self, proxy: FaultProxy, client: Side, server: Side) -> None:
        self.proxy = proxy
        self.client, self.server = client[0], server[0]
        self.to_server, self.to_client = client[1], server[1]


async def silent(*readers: asyncio.StreamReader, seconds: float = 0.1) -> bool:
    """Whether nothing arrives for so long, no end either."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(reader.read(1) for reader in readers), return_exceptions=True)
    except TimeoutError:
        return not any(reader.at_eof() or reader.exception() for reader in readers)
    return False


async def received(reader: asyncio.StreamReader) -> tuple[bytes, str]:
    """Return all that arrives, and how it ends: "end" or "reset"."""
    data = b""
    try:
        async with asyncio.timeout(5):
            while piece := await reader.read(1 << 16):
                data += piece
    except ConnectionResetError:
        return data, "reset"
    return data, "end"


def drained(sock: socket.socket, data: bytes = b"") -> tuple[bytes, str]:
    """Send `data`, then as `received`, on a blocking socket; unlike asyncio's reader it loses nothing at a reset."""
    seen = b""
    try:
        if data:
            sock.sendall(data)
        while piece := sock.recv(1 << 16):
            seen += piece
    except ConnectionResetError:
        return seen, "reset"
    return seen, "end"


async def got(url: str) -> bytes:
    """Return the body that a GET brings."""
    async with httpx.AsyncClient() as client:
        return (await client.get(url)).content


def body(data: bytes) -> FastAPI:
    """Return an app that answers with `data`."""
    app = FastAPI()
    app.get("/")(lambda: Response(data))
    return app


@asynccontextmanager
async def pair(**faults: Any) -> AsyncIterator[Pair]:
    """Yield a `Pair`; both ends are closed at the end."""
    sides: asyncio.Queue[Side] = asyncio.Queue()
    gone = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sides.put_nowait((reader, writer))
        await gone.wait()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    proxy = fault_proxy(f"http://127.0.0.1:{port}", **faults)
    client = await asyncio.open_connection("127.0.0.1", proxy.port)
    other = await asyncio.wait_for(sides.get(), 5)
    await until(lambda: proxy.connections == 1)
    try:
        yield Pair(proxy, client, other)
    finally:
        gone.set()
        await asyncio.to_thread(proxy.stop)
        for _, writer in (client, other):
            writer.close()
        server.close()


async def test_without_a_fault_bytes_half_closes_and_backpressure_go_through() -> None:
    data = os.urandom(3_000_000)
    async with pair() as two:
        two.to_server.write(data)
        two.to_server.write_eof()
        seen = await asyncio.wait_for(two.server.read(), 5)
        two.to_client.write(hashlib.sha256(seen).hexdigest().encode())
        two.to_client.write_eof()
        answer = await asyncio.wait_for(two.client.read(), 5)
        assert answer.decode() == hashlib.sha256(data).hexdigest()
        await until(lambda: two.proxy.connections == 0)


@pytest.mark.parametrize("who", ["client", "server"])
async def test_without_a_fault_an_abort_arrives_as_an_abort(who: str) -> None:
    async with pair() as two:
        near, far = (two.to_server, two.server) if who == "client" else (two.to_client, two.client)
        reset(near)
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(far.read(1), 5)
        await until(lambda: two.proxy.connections == 0)


@pytest.mark.parametrize("size", [0, 1, 1000, 300_000])
def test_cut_after_passes_so_many_bytes_of_the_answer_and_then_resets_both_sides(size: int) -> None:
    data = os.urandom(size + 5000)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        faults = fault_proxy(f"http://127.0.0.1:{listener.getsockname()[1]}", cut_after=size)
        with socket.create_connection(("127.0.0.1", faults.port), 5) as client, listener.accept()[0] as server:
            client.sendall(b"x" * 5000)  # what the client sends does not count
            assert server.recv(5000, socket.MSG_WAITALL) == b"x" * 5000
            ends: list[tuple[bytes, str]] = []
            sender = threading.Thread(target=lambda: ends.append(drained(server, data)))
            sender.start()
            assert drained(client) == (data[:size], "reset")
            sender.join(5)
            assert ends == [(b"", "reset")]


async def test_the_cut_counts_on_each_connection_anew() -> None:
    with start(body(b"a" * 10_000), name="body") as live, fault_proxy(live, cut_after=3000) as faults:
        for _ in range(3):
            async with httpx.AsyncClient() as client, client.stream("GET", faults.url) as answer:
                with pytest.raises(httpx.TransportError):
                    await answer.aread()
        faults.set(cut_after=None)
        assert len(await got(faults.url)) == 10_000


async def test_a_delay_is_added_in_each_direction_and_does_not_narrow_the_line() -> None:
    async with pair(delay=0.2) as two:
        began = time.monotonic()
        for _ in range(20):  # one after the other would take four seconds
            two.to_server.write(b"x")
            await asyncio.sleep(0.001)
        await asyncio.wait_for(two.server.readexactly(20), 5)
        assert 0.2 <= time.monotonic() - began < 1
        began = time.monotonic()
        two.to_client.write(b"y")
        two.to_client.write_eof()
        assert await asyncio.wait_for(two.client.read(), 5) == b"y"
        assert 0.2 <= time.monotonic() - began < 1


async def test_a_throttle_holds_the_answer_to_its_rate_and_not_the_question() -> None:
    async with pair(throttle=100_000) as two:
        began = time.monotonic()
        two.to_server.write(b"x" * 500_000)
        await asyncio.wait_for(two.server.readexactly(500_000), 5)
        assert time.monotonic() - began < 1
        began = time.monotonic()
        two.to_client.write(b"y" * 50_000)
        await asyncio.wait_for(two.client.readexactly(50_000), 5)
        assert 0.45 <= time.monotonic() - began < 2


async def test_a_throttle_is_felt_by_the_server_as_backpressure() -> None:
    async with pair(throttle=10_000) as two:
        two.to_client.transport.set_write_buffer_limits(high=0)
        two.to_client.write(bytes(40_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(two.to_client.drain(), 0.3)


async def test_a_black_hole_passes_nothing_on_and_keeps_the_connection_open_until_it_is_lifted() -> None:
    async with pair() as two:
        two.to_server.write(b"1")
        assert await asyncio.wait_for(two.server.read(1), 5) == b"1"
        two.proxy.set(black_hole=True)
        two.to_server.write(b"2")
        two.to_client.write(b"3")
        two.to_client.write_eof()
        assert await silent(two.server, two.client)
        assert two.proxy.connections == 1
        two.proxy.set(black_hole=False)
        assert await asyncio.wait_for(two.server.read(1), 5) == b"2"
        assert await asyncio.wait_for(two.client.read(), 5) == b"3"


async def test_a_new_connection_falls_into_the_black_hole_too() -> None:
    async with pair(black_hole=True) as two:
        two.to_server.write(b"x")
        assert await silent(two.server)
        assert two.proxy.cut() == 1
        assert (await received(two.client))[1] == (await received(two.server))[1] == "reset"


@pytest.mark.parametrize("how", ["end", "reset"])
@pytest.mark.parametrize("who", ["client", "server"])
async def test_half_open_keeps_an_end_from_the_other_side_until_it_is_lifted(who: str, how: str) -> None:
    async with pair(half_open=True) as two:
        two.to_server.write(b"up")
        two.to_client.write(b"down")
        assert await asyncio.wait_for(two.server.readexactly(2), 5) == b"up"
        assert await asyncio.wait_for(two.client.readexactly(4), 5) == b"down"
        near, far, back = two.to_server, two.server, two.to_client
        if who == "server":
            near, far, back = two.to_client, two.client, two.to_server
        if how == "end":
            near.close()
        else:
            reset(near)
        assert await silent(far)
        for _ in range(3):  # nor does it learn by writing
            back.write(b"anybody there?")
            await back.drain()
            assert await silent(far)
        assert two.proxy.connections == 1
        two.proxy.set(half_open=False)
        assert (await received(far))[0] == b""
        await until(lambda: two.proxy.connections == 0)


async def test_a_dead_peer_behind_half_open_stops_who_writes_to_it_some_time() -> None:
    async with pair(half_open=True) as two:
        two.to_server.transport.abort()
        two.to_client.transport.set_write_buffer_limits(high=0)
        two.to_client.write(bytes(40_000_000))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(two.to_client.drain(), 0.3)
        assert two.proxy.connections == 1


async def test_cut_resets_every_open_connection_and_says_how_many() -> None:
    async with pair() as two:
        more = [await asyncio.open_connection("127.0.0.1", two.proxy.port) for _ in range(2)]
        await until(lambda: two.proxy.connections == 3)
        assert two.proxy.cut() == 3
        for reader in (two.client, two.server, *(reader for reader, _ in more)):
            assert await received(reader) == (b"", "reset")
        assert two.proxy.connections == two.proxy.cut() == 0
        for _, writer in more:
            writer.close()


async def test_a_fault_may_come_and_go_in_the_middle_of_a_throttled_answer() -> None:
    async with pair(throttle=1000) as two:
        two.to_client.write(b"x" * 60_000)  # a minute
        assert await asyncio.wait_for(two.client.read(1), 5)
        two.proxy.set(throttle=None)
        await asyncio.wait_for(two.client.readexactly(59_999), 5)
        assert two.proxy.faults.throttle is None


def test_a_connection_is_reset_when_the_server_is_gone() -> None:
    with start(body(b"a"), name="body") as live:
        faults = fault_proxy(live)
        assert httpx.get(faults.url).content == b"a"
    with pytest.raises(httpx.TransportError):
        httpx.get(faults.url)


async def test_websockets_and_tapes_go_through() -> None:
    with start(name="lab") as live, fault_proxy(live) as faults:
        async with faults.tape("through the faults") as tape:
            async with httpx.AsyncClient() as client:
                assert (await client.get(tape.url)).status_code == (await client.get(live.url)).status_code
            with pytest.raises(InvalidStatus):
                await connect(f"{faults.ws_url}/no-such-path")
        assert tape.connections == 1


async def test_stop_ends_it_at_once_and_again_is_harmless() -> None:
    async with pair() as two:
        began = time.monotonic()
        assert two.proxy.stop()
        assert time.monotonic() - began < 1
        assert (await received(two.client))[1] == (await received(two.server))[1] == "reset"
        assert two.proxy.stop()
        assert not two.proxy.alive
        assert (two.proxy.connections, two.proxy.cut()) == (0, 0)
        two.proxy.set(delay=1.0)
        assert repr(two.proxy) == "<FaultProxy 'faults' stopped>"
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", two.proxy.port)


async def test_a_stop_leaves_none_of_many_fresh_connections_open() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=200) as upstream:
        for _ in range(30):
            with fault_proxy(f"http://127.0.0.1:{upstream.getsockname()[1]}") as faults:
                clients = [socket.create_connection(("127.0.0.1", faults.port), 5) for _ in range(5)]
            for client in clients:
                with client:
                    assert drained(client)[0] == b""


async def test_a_new_one_replaces_the_one_of_its_name_and_rescue_stops_all() -> None:
    with start(body(b"a"), name="body") as live:
        first, second = fault_proxy(live), fault_proxy(live)
        other = fault_proxy(second, name="another")
        assert [each.alive for each in (first, second, other)] == [False, True, True]
        async with fault_proxy(live, name="third") as third:
            assert await got(other.url) == b"a"
        assert not third.alive
        assert repr(rescue()) == (
            "body (thread): stopped\nanother (fault proxy): stopped\nfaults (fault proxy): stopped"
        )
        assert not second.alive


@pytest.mark.parametrize(
    ("faults", "said"),
    [
        ({"cut_after": -1}, "cut_after=-1 can't be: pass bytes, such as 1000, or None."),
        ({"cut_after": 1.5}, "cut_after=1.5 can't be"),
        ({"cut_after": True}, "cut_after=True can't be"),
        ({"delay": -0.1}, "delay=-0.1 can't be: pass seconds"),
        ({"delay": None}, "delay=None can't be"),
        ({"delay": float("nan")}, "delay=nan can't be"),
        ({"throttle": 0}, "throttle=0 can't be: pass bytes per second"),
        ({"throttle": "fast"}, "throttle='fast' can't be"),
        ({"idle_timeout": 0}, "idle_timeout=0 can't be: pass seconds"),
        ({"black_hole": 1}, "black_hole=1 can't be: pass True or False."),
        ({"half_open": None}, "half_open=None can't be"),
        ({"name": ""}, "name='' is no name"),
    ],
)
def test_a_wrong_value_says_what_to_pass(faults: dict[str, Any], said: str) -> None:
    with pytest.raises(LabError, match=f"^{re.escape(said)}"):
        fault_proxy("http://127.0.0.1:1", **faults)


async def test_an_idle_connection_is_hung_up_on_and_a_busy_one_is_not() -> None:
    app = FastAPI()
    ended: list[str] = []

    @app.websocket("/{name}")
    async def echo(websocket: WebSocket, name: str) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)
        ended.append(name)

    with start(app, name="echo") as live, fault_proxy(live, idle_timeout=0.3) as proxy:
        began = time.monotonic()
        async with connect(f"{proxy.ws_url}/quiet") as quiet, connect(f"{proxy.ws_url}/busy") as busy:
            while time.monotonic() < began + 1.0:
                await busy.send("x")
                assert await busy.recv() == "x"
                await asyncio.sleep(0.02)
            assert quiet.close_code == 1006
            await until(lambda: ended == ["quiet"])
            assert proxy.connections == 1
        assert busy.close_code == 1000


def test_a_wrong_change_changes_nothing() -> None:
    with fault_proxy("http://127.0.0.1:1", delay=0.5) as faults:
        with pytest.raises(LabError, match="There is no fault 'lag'; the faults are cut_after, delay, throttle, "):
            faults.set(lag=1)
        with pytest.raises(LabError, match="delay=-1 can't be"):
            faults.set(black_hole=True, delay=-1)
        assert (faults.faults.delay, faults.faults.black_hole) == (0.5, False)


@pytest.mark.parametrize("upstream", [None, 8000, "127.0.0.1:8000", "ftp://127.0.0.1", "http://", "http://x:port"])
def test_a_wrong_upstream_says_what_to_give(upstream: object) -> None:
    with pytest.raises(LabError, match="give it a server from start"):
        fault_proxy(upstream)


def test_an_upstream_that_can_t_be_one_now_says_why() -> None:
    with pytest.raises(LabError, match="write the upstream as http://host:port"):
        fault_proxy("http://127.0.0.1:8000/path")
    with start(body(b"a"), name="body") as live:
        with pytest.raises(LabError, match="does not record yet"):
            fault_proxy(live.tape())
        with live.tape() as tape, fault_proxy(tape) as faults:
            assert httpx.get(faults.url).content == b"a"
    with pytest.raises(LabError, match="<LiveServer 'body' stopped> does not run"):
        fault_proxy(live)


def test_what_is_encrypted_stays_so() -> None:
    with fault_proxy("https://127.0.0.1:1") as faults:
        assert faults.url == f"https://127.0.0.1:{faults.port}"
        assert faults.ws_url == f"wss://127.0.0.1:{faults.port}"
        with pytest.raises(LabError, match="TLS"):
            faults.tape()
