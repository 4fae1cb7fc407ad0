"""Connections straight on the transport: stalled readers, who leaves when, order on the wire; without the collector."""

import asyncio
import json
import ssl
import zlib
from typing import Any

import pytest
import trustme
from realtime.wire import SMALL, WIRES, Lab, Raw, alive, on, options, publish, raw, recorded, served, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect

from labserver.realtime.direct import direct, protocols
from labserver.realtime.limits import Limits
from labserver.realtime.message import dumps
from labserver.stage import LiveServer, start

pytestmark = pytest.mark.usefixtures("no_collector")
QUICK = Limits(outbox_bytes=1 << 17, write_deadline=60)
PIECE = "x" * 1000


def many(first: int, last: int) -> list[dict[str, Any]]:
    return [{"n": n, "pad": PIECE} for n in range(first, last)]


async def stall(live: LiveServer, lab: Lab, client: Raw, count: int = 0) -> int:
    """Publish until a reader is behind; return how many messages that took, `count` before them included."""
    await client.opened()
    (connection,) = lab.channels.open
    while not connection.behind:
        await publish(live, lab, *many(count, count + 20))
        count += 20
        await asyncio.sleep(0)
    return count


# ---- readers who stall


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stalled_reader_is_cut_off_by_the_bytes_that_wait_for_it_and_the_others_are_served(wire: str) -> None:
    lab = Lab(QUICK)
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            count = await stall(live, lab, deaf)
            async with raw(live, f"/{wire}/c") as other:
                await other.opened()
                assert lab.channels.hub.connections("c") == 2
                while lab.metric("cut") == 0:
                    await publish(live, lab, *many(count, count + 20))
                    count += 20
                    assert lab.metric("outbox_bytes") <= QUICK.outbox_bytes + (1 << 16)
                await other.read_until(lambda raw: raw.numbers()[-1:] == [count - 1])
                numbers = other.numbers()
                assert numbers == list(range(numbers[0], count))
                assert lab.metric("cut") == 1
                assert lab.metric("connections") == 1
        await until(lab.empty)
    assert live.errors() == []


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stalled_reader_is_cut_off_by_the_deadline(wire: str) -> None:
    lab = Lab(Limits(write_deadline=0.3))
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            await stall(live, lab, deaf)
            await until(lab.empty)
            assert lab.metric("cut") == 1
    assert live.errors() == []


@pytest.mark.parametrize("wire", WIRES)
async def test_a_stalled_reader_who_reads_on_in_time_has_missed_nothing(wire: str) -> None:
    lab = Lab(Limits(write_deadline=60))
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as slow:
            count = await stall(live, lab, slow)
            await publish(live, lab, *many(count, count + 200))
            await slow.read_until(lambda raw: raw.numbers()[-1:] == [count + 199])
            assert slow.numbers() == list(range(count + 200))
            (connection,) = lab.channels.open
            await until(lambda: connection.deadline is None)
            await publish(live, lab, {"n": -1})
            await slow.read_until(lambda raw: raw.numbers()[-1:] == [-1])
        await until(lab.empty)
    assert lab.metric("cut") == 0


@pytest.mark.parametrize("wire", WIRES)
async def test_dropping_the_oldest_leaves_a_gap_and_then_the_newest_in_order(wire: str) -> None:
    lab = Lab(QUICK)
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c?slow=drop_oldest", small=True) as slow:
            count = await stall(live, lab, slow)
            for first in range(count, count + 600, 20):
                await publish(live, lab, *many(first, first + 20))
            await slow.read_until(lambda raw: raw.numbers()[-1:] == [count + 599])
            said = slow.said()
            (gap,) = [at for at, each in enumerate(said) if each.get("type") == "gap"]
            before = [each["data"]["n"] for each in said[:gap] if "data" in each]
            after = [each["data"]["n"] for each in said[gap:] if "data" in each]
            assert before == list(range(len(before)))
            assert after == list(range(after[0], count + 600))
            assert after[0] > len(before)
            assert said[gap]["id"] == f"e-{after[0]}"  # the one before; numbers of ids begin at 1
        await until(lab.empty)
    assert lab.metric("dropped") > 0
    assert lab.metric("cut") == 0


async def test_an_answer_that_was_dropped_last_does_not_hide_the_gap() -> None:
    lab = Lab(Limits(outbox_bytes=5000, write_deadline=60))
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, "/ws/c?slow=drop_oldest", small=True) as slow:
            count = await stall(live, lab, slow)
            (connection,) = lab.channels.open

            async def told() -> None:
                for n in range(count, count + 10):
                    connection.tell((dumps({"type": "ack", "pad": PIECE}), b""))
                    await lab.channels.publish("c", {"n": n, "pad": PIECE})

            await on(live, told())
            await slow.read_until(lambda raw: raw.numbers()[-1:] == [count + 9])
            assert "gap" in [each.get("type") for each in slow.said()]
        await until(lab.empty)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_goodbye_to_a_stalled_reader_is_not_waited_for_longer_than_its_limit(wire: str) -> None:
    """Though it has been behind for a while already, and has a minute to read on."""
    lab = Lab(Limits(write_deadline=600, goodbye_timeout=0.2))
    with served(lab, "direct", socket_options=SMALL) as live:
        async with raw(live, f"/{wire}/c", small=True) as deaf:
            await stall(live, lab, deaf)
            (connection,) = lab.channels.open
            live.submit(said_goodbye(connection))
            await until(lab.empty)
            await until(lambda: not live.submit(connected(connection)).result())


async def said_goodbye(connection: Any) -> None:
    connection.close((1012, "retry=1", 1.0))


async def connected(connection: Any) -> bool:
    """Return whether its server still counts it: uvicorn waits for those before it ends."""
    return connection in connection.connections


# ---- readers who leave


@pytest.mark.parametrize("wire", WIRES)
@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["replay", "burst", "idle", "stalled"])
async def test_who_leaves_leaves_nothing_behind(wire: str, how: str, when: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 22, write_deadline=60))
    chosen, made = recorded(options("direct", lab.limits))
    with start(lab.app, name="realtime", socket_options=SMALL, **chosen) as live:
        if when == "replay":
            for first in range(0, 900, 100):
                await publish(live, lab, *many(first, first + 100))
        async with raw(
            live, f"/{wire}/c" + ("?after=e-0&user=u" if when == "replay" else "?user=u"), small=True
        ) as client:
            await client.opened()
            if when == "replay":
                await until(lambda: lab.channels.hub._held)
                assert lab.channels.open == set()
            elif when == "burst":
                live.submit(bursts(lab))
                await client.read_until(lambda raw: len(raw.numbers()) > 100)
            elif when == "stalled":
                await stall(live, lab, client)
            if how == "reset":
                client.reset()
            else:
                client.sock.close()
        await until(lab.empty)
        await until(lambda: not alive(made))
    assert live.errors() == []


async def bursts(lab: Lab) -> None:
    for first in range(0, 2000, 50):
        for value in many(first, first + 50):
            await lab.channels.publish("c", value)
        await asyncio.sleep(0)


async def test_who_leaves_before_the_first_byte_leaves_nothing_behind() -> None:
    """The endpoint holds back until its client has left; nothing is written to anybody."""
    lab = Lab()
    go, waiting = asyncio.Event(), []

    async def held(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "lifespan":
            waiting.append(scope["type"])
            await go.wait()
        await lab.app(scope, receive, send)

    chosen, made = recorded(options("direct", lab.limits))
    with start(held, name="realtime", **chosen) as live:
        for wire in WIRES:
            async with raw(live, f"/{wire}/c"):
                await until(lambda wire=wire: len(waiting) == WIRES.index(wire) + 1)
        await until(lambda: live.submit(count_connections(made)).result() == 0)
        live.submit(set_event(go))
        await until(lambda: lab.entered and lab.empty())
        await until(lambda: not alive(made))


async def set_event(event: asyncio.Event) -> None:
    event.set()


async def count_connections(made: list[Any]) -> int:
    here = [protocol for each in made if (protocol := each()) is not None and hasattr(protocol, "connections")]
    return max((len(protocol.connections) for protocol in here), default=0)


@pytest.mark.parametrize("order", ["stream first", "stream second"])
async def test_pipelined_requests_hide_nobody_who_leaves(order: str) -> None:
    """Behind a stream uvicorn reads no more; that its reader has left shows when something is written."""
    lab = Lab()
    lab.app.router.routes.append(Route("/", lambda request: PlainTextResponse("other")))
    stream, other = "GET /sse/c HTTP/1.1\r\nHost: a\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    chosen, made = recorded(options("direct", lab.limits))
    with start(lab.app, name="realtime", **chosen) as live:
        async with raw(live, "/sse/c") as client:
            await client.opened()
            await client.send(other.encode())
            await publish(live, lab, {"n": 1})
            await client.read_until(lambda raw: raw.numbers() == [1])
        await written_until_empty(live, lab)
        reader, writer = await asyncio.open_connection(live.host, live.port)
        writer.write(((stream + other) if order == "stream first" else (other + stream)).encode())
        await reader.readuntil(b"event: start")
        await publish(live, lab, {"n": 2})
        await reader.readuntil(b'"n":2')
        writer.transport.abort()
        await written_until_empty(live, lab)
        await until(lambda: not alive(made))


async def written_until_empty(live: LiveServer, lab: Lab) -> None:
    async with asyncio.timeout(10):
        while not lab.empty():
            await publish(live, lab, {"n": 0})
            await asyncio.sleep(0.01)


# ---- order on the wire


async def interleave(websocket: WebSocket, lab: Lab, count: int, size: int) -> None:
    """Send what is odd by an ordinary send, what is even through the hub."""
    line = direct(websocket.scope)
    async with lab.channels.subscribe("c") as subscription:
        await subscription.enter(line)  # type: ignore[arg-type]
        for n in range(count):
            if n % 2:
                await websocket.send_text(dumps({"data": {"n": n, "pad": "y" * size}}))
            else:
                await lab.channels.publish("c", {"n": n, "pad": "y" * size})
        await websocket.receive()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def tls(authority: trustme.CA, tmp_path: Any) -> tuple[dict[str, Any], ssl.SSLContext]:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return {"ssl_certfile": str(tmp_path / "cert.pem"), "ssl_keyfile": str(tmp_path / "key.pem")}, context


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("way", ["plain", "TLS", "deflate"])
async def test_ordinary_sends_and_deliveries_arrive_in_the_order_they_were_made(
    way: str, loop: str, tls: tuple[dict[str, Any], ssl.SSLContext]
) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 26))
    more: dict[str, Any] = {"TLS": tls[0], "deflate": {"ws_per_message_deflate": True}}.get(way, {})

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await interleave(websocket, lab, 3000, 500)

    app = Starlette(routes=[WebSocketRoute("/ws", endpoint)], lifespan=lab.channels.lifespan)
    with served(lab, "direct", app, loop=loop, socket_options=SMALL, **more) as live:
        compression = "deflate" if way == "deflate" else None
        context = {"ssl": tls[1]} if way == "TLS" else {}
        async with connect(f"{live.ws_url}/ws", compression=compression, **context) as websocket:  # type: ignore[arg-type]
            assert json.loads(await websocket.recv())["type"] == "start"
            async with asyncio.timeout(60):
                numbers = [json.loads(await websocket.recv())["data"]["n"] for _ in range(3000)]
        assert numbers == list(range(3000))
    assert live.errors() == []


async def test_deflated_frames_are_the_same_for_all_who_share_a_window_and_hold_what_was_published() -> None:
    lab = Lab()
    offers = {12: "permessage-deflate", 10: "permessage-deflate; server_max_window_bits=10", 0: None}
    with served(lab, "direct", ws_per_message_deflate=True) as live:
        clients = [Taps(live, offer) for offer in offers.values() for _ in range(2)]
        for client in clients:
            await client.open()
        await until(lambda: lab.channels.hub.connections("c") == 6)
        assert set(lab.channels.hub._fans["c"]) == {12, 10, "ws"}
        await publish(live, lab, {"n": 1, "pad": PIECE})
        frames = [await client.frame() for client in clients]
        for client in clients:
            client.writer.transport.abort()
        await until(lab.empty)
    for one, other, bits in zip(frames[::2], frames[1::2], offers, strict=True):
        assert one == other
        first, payload = one
        text = zlib.decompressobj(-bits).decompress(payload + b"\0\0\xff\xff") if bits else payload
        assert first == (0xC1 if bits else 0x81)
        assert json.loads(text)["data"] == {"n": 1, "pad": PIECE}
        assert (len(payload) < 200) is bool(bits)


async def test_a_window_that_zlib_can_not_make_harms_nobody() -> None:
    """RFC 7692 allows 8 bits, zlib does not."""
    lab = Lab()
    with served(lab, "direct", ws_per_message_deflate=True) as live:
        odd = Taps(live, "permessage-deflate; server_max_window_bits=8")
        await odd.open()
        async with raw(live, "/ws/c") as other:
            await other.opened()
            await publish(live, lab, *({"n": n, "pad": PIECE} for n in range(200)))
            await other.read_until(lambda raw: raw.numbers() == list(range(200)))
        odd.writer.transport.abort()
        await until(lab.empty)
    assert live.errors() == []


class Taps:
    """A WebSocket client that looks at the frames' own bytes."""

    def __init__(self, live: LiveServer, offer: str | None) -> None:
        self.live, self.offer = live, offer

    async def open(self) -> None:
        self.reader, self.writer = await asyncio.open_connection(self.live.host, self.live.port)
        head = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        head += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        head += f"Sec-WebSocket-Extensions: {self.offer}\r\n" if self.offer else ""
        self.writer.write(f"GET /ws/c HTTP/1.1\r\nHost: a\r\n{head}\r\n".encode())
        async with asyncio.timeout(10):
            self.answer = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            await self.frame()

    async def frame(self) -> tuple[int, bytes]:
        async with asyncio.timeout(10):
            first, size = await self.reader.readexactly(2)
            if size == 126:
                size = int.from_bytes(await self.reader.readexactly(2))
            return first, await self.reader.readexactly(size)


def test_deflate_is_off_unless_asked_for() -> None:
    assert protocols()["ws_per_message_deflate"] is False


async def test_no_frame_follows_a_close_frame() -> None:
    """What a client said before it was closed is still in the queue; it is not answered any more."""
    lab = Lab()
    with served(lab, "direct") as live:
        async with raw(live, "/ws/c?publish") as client:
            await client.opened()
            (connection,) = lab.channels.open

            async def meanwhile() -> None:
                frames = b""
                for n in range(50):
                    client.protocol.send_text(json.dumps({"type": "publish", "data": {"n": n}}).encode())
                    frames += b"".join(client.protocol.data_to_send())
                connection.data_received(frames)  # type: ignore[attr-defined]  # as if it had come in this very turn
                await said_goodbye(connection)
                await lab.channels.publish("c", {"n": -1})

            await on(live, meanwhile())
            await client.read_until(lambda raw: any(frame.opcode == 8 for frame in raw.frames))
            await until(lab.empty)
            client.sock.shutdown(1)
            await client.read_all()
            assert [frame.opcode for frame in client.frames][-1] == 8
            assert client.data.endswith(b"\x88\x09\x03\xf4retry=1")
        await until(lab.empty)


async def test_a_stream_says_that_its_connection_ends_with_it_and_it_does() -> None:
    lab = Lab()
    with served(lab, "direct") as live:
        async with raw(live, "/sse/c") as client:
            await client.opened()
            (connection,) = lab.channels.open
            live.submit(said_goodbye(connection))
            await client.read_all()
            assert b"connection: close\r\n" in client.data
            assert client.data.endswith(b"0\r\n\r\n")
            assert client.said()[-1]["type"] == "drain"
            await until(lab.empty)


# ---- readers who are slow, and read


async def test_who_reads_slowly_is_waited_for_to_the_end_of_a_response() -> None:
    """Each deadline passes several times while the reader takes a little; only taking nothing would end it."""
    body = b"x" * (4 << 20)

    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(body, headers={"connection": "close"})

    limits = Limits(write_deadline=0.4, goodbye_timeout=0.1)
    app = Starlette(routes=[Route("/page", page)])
    with start(app, name="slow", socket_options=SMALL, **protocols(limits)) as live:
        async with raw(live, "/page", small=True) as reader:
            loop, began, got = asyncio.get_running_loop(), asyncio.get_running_loop().time(), 0
            while await reader.more():
                if len(reader.data) - got > 1 << 18:
                    got = len(reader.data)
                    await asyncio.sleep(0.15)  # slower than the deadlines, faster than nothing
            assert loop.time() - began > limits.write_deadline
            assert reader.data.endswith(body)
    assert live.errors() == []


async def test_who_takes_nothing_of_a_response_is_cut_off() -> None:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse(b"x" * (8 << 20), headers={"connection": "close"})

    app, limits = Starlette(routes=[Route("/page", page)]), Limits(write_deadline=0.2)
    with start(app, name="deaf", socket_options=SMALL, **protocols(limits)) as live:
        async with raw(live, "/page", small=True) as reader:
            await reader.more()
            held = await on(live, _connections(live))
            await until(lambda: not held)
    assert live.errors() == []


async def _connections(live: LiveServer) -> Any:
    return live._runner._engine._server.server_state.connections  # type: ignore[attr-defined]
