"""A channel over a WebSocket: what a client may say, what it is answered, with which code it is sent away."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
from realtime.wire import KINDS, Lab, publish, raw, served, until
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from labserver.realtime.codes import CODES, may_reconnect
from labserver.realtime.engines.base import EngineDown
from labserver.realtime.engines.memory import MemoryEngine
from labserver.realtime.limits import Limits

pytestmark = [pytest.mark.usefixtures("no_collector"), pytest.mark.parametrize("kind", KINDS)]


@asynccontextmanager
async def client(lab: Lab, kind: str, path: str = "/ws/c?publish") -> AsyncIterator[ClientConnection]:
    """Serve, connect, and read how the channel begins; nothing is left afterwards, and nothing was logged."""
    with served(lab, kind) as live:
        async with connect(f"{live.ws_url}{path}", compression=None) as websocket:
            assert (await said(websocket))["type"] == "start"
            yield websocket
        await until(lab.empty)
    assert live.errors() == []


async def said(websocket: ClientConnection) -> dict[str, Any]:
    async with asyncio.timeout(10):
        return json.loads(await websocket.recv())


async def closed(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Read to the end; return the close code and the reason."""
    async with asyncio.timeout(10):
        with suppress(ConnectionClosed):
            async for _ in websocket:
                pass
    return websocket.close_code, websocket.close_reason


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\x00", 1003),
        (b'{"type": "pong"}', 1003),
        ("", 1007),
        ("{", 1007),
        ("NaN", 1007),
        ('{"type": "publish", "data": "\\ud800"}', 1007),
        ("[" * 5000, 1007),
        ("1", 4400),
        ("[]", 4400),
        ("{}", 4400),
        ('{"type": "nothing"}', 4400),
        ('{"type": ["publish"]}', 4400),
        ('{"type": null}', 4400),
        ('{"type": "__init__"}', 4400),
        ('{"type": "publish"}', 4400),
        ('{"type": "publish", "data": 1, "event": 5}', 4400),
        ('{"type": "publish", "data": 1, "event": ""}', 4400),
        ('{"type": "publish", "data": 1, "event": "a\\nb"}', 4400),
        ('{"type": "publish", "data": 1, "event": "done"}', 4400),
        ('{"type": "publish", "data": 1, "key": 5}', 4400),
        ('{"type": "publish", "data": 1, "key": ""}', 4400),
        (json.dumps({"type": "publish", "data": 1, "key": "k" * 129}), 4400),
        ('{"type": "renew", "token": "x"}', 4400),
        ('{"type": "publish", "data": "' + "x" * 3000 + '"}', 1009),
        ('{"type": "publish", "data": "' + "\u20ac" * 700 + '"}', 1009),
    ],
    ids=lambda value: repr(value)[:40],
)
async def test_what_is_wrong_is_answered_by_its_code(kind: str, sent: str | bytes, code: int) -> None:
    lab = Lab(Limits(message_max_bytes=2000) if code == 1009 else None)
    async with client(lab, kind) as websocket:
        await websocket.send(sent)
        got, reason = await closed(websocket)
    assert got == code
    assert reason or code == 1009
    assert not may_reconnect(code)
    assert lab.channels.counts.published == 0


async def test_text_that_is_no_utf8_is_1007(kind: str) -> None:
    lab = Lab()
    with served(lab, kind) as live:
        async with raw(live, "/ws/c?publish") as bad:
            await bad.opened()
            await bad.send(b"\x81\x82\0\0\0\0\xff\xfe")
            await bad.read_until(lambda raw: raw.frames[-1].opcode == 8)
            assert bad.frames[-1].data[:2] == b"\x03\xef"
        await until(lab.empty)


async def test_a_message_is_published_and_acknowledged_and_comes_to_its_publisher(kind: str) -> None:
    lab = Lab()
    async with client(lab, kind) as websocket:
        big = 12345678901234567890123
        await websocket.send(json.dumps({"type": "publish", "data": {"n": big, "t": "\u20ac\n\U0001f600"}, "key": "k"}))
        got = [await said(websocket), await said(websocket)]
        message = {"id": "e-1", "channel": "c", "event": "message", "data": {"n": big, "t": "\u20ac\n\U0001f600"}}
        assert sorted(got, key=len) == [{"type": "ack", "id": "e-1", "key": "k"}, message]
        await websocket.send('{"type": "publish", "data": 2, "key": "k"}')
        assert await said(websocket) == {"type": "ack", "id": "e-1", "key": "k"}
        await websocket.send('{"type": "pong"}')
        await websocket.send('{"type": "publish", "data": null, "event": "named"}')
        got = [await said(websocket), await said(websocket)]
        assert {"id": "e-2", "channel": "c", "event": "named", "data": None} in got
        assert {"type": "ack", "id": "e-2"} in got


async def test_without_the_right_to_publish_there_is_an_error_and_the_socket_stays(kind: str) -> None:
    lab = Lab()
    async with client(lab, kind, "/ws/c") as websocket:
        await websocket.send('{"type": "publish", "data": 1, "key": "k"}')
        got = await said(websocket)
        assert (got["type"], got["code"], got["key"]) == ("error", 4403, "k")
        await websocket.send('{"type": "pong"}')
        await websocket.send('{"type": "publish", "data": 1}')
        assert (await said(websocket)).keys() == {"type", "code", "reason"}
    assert lab.channels.counts.published == 0


async def test_a_flood_is_4429_and_who_is_within_the_rate_is_not(kind: str) -> None:
    lab = Lab(Limits(rate=0.1, rate_burst=5))
    async with client(lab, kind) as websocket:
        for _ in range(5):
            await websocket.send('{"type": "publish", "data": 1}')
        for _ in range(10):
            await said(websocket)
        await websocket.send('{"type": "pong"}')
        assert await closed(websocket) == (4429, CODES[4429].reason)
    assert lab.channels.counts.published == 5
    assert may_reconnect(4429)


class Down(MemoryEngine):
    """An engine that stores nothing."""

    down = "publish"

    async def publish(self, channel: str, event: str, data: str, key: str | None = None) -> str:
        raise EngineDown("the broker is away")


async def test_an_engine_that_is_down_is_an_error_and_the_socket_stays(kind: str) -> None:
    lab = Lab(engine=Down())
    async with client(lab, kind) as websocket:
        for _ in range(2):
            await websocket.send('{"type": "publish", "data": 1, "key": "k"}')
            expected = {"type": "error", "code": 1013, "reason": "the broker is away", "key": "k"}
            assert await said(websocket) == expected


class Deaf(MemoryEngine):
    """An engine that can't be asked."""

    async def attach(self, channel: str) -> None:
        raise EngineDown("the broker is away")


class Forgetful(MemoryEngine):
    """An engine whose history can't be asked."""

    async def history(self, *args: Any, **kw: Any) -> Any:
        raise EngineDown("the broker is away")


@pytest.mark.parametrize("engine", [Deaf, Forgetful])
async def test_who_comes_while_the_engine_is_down_is_told_to_try_later(kind: str, engine: type[MemoryEngine]) -> None:
    lab = Lab(engine=engine())
    with served(lab, kind) as live:
        async with connect(f"{live.ws_url}/ws/c?after=e-0") as websocket:
            assert await closed(websocket) == (1013, "the broker is away")
        async with httpx.AsyncClient(timeout=20) as made:
            got = await made.get(f"{live.url}/sse/c?after=e-0")
            assert got.status_code == (503 if engine is Deaf else 200)
            assert "retry-after" in got.headers or "event: drain" in got.text
        await until(lab.empty)
    assert live.errors() == []


async def test_the_end_of_a_token_is_4401_and_renewal_moves_it(kind: str) -> None:
    lab = Lab()
    async with client(lab, kind, "/ws/c?ttl=0.3") as websocket:
        assert await closed(websocket) == (4401, "the token expired")
    async with client(lab, kind, "/ws/c?ttl=60") as websocket:
        await websocket.send('{"type": "renew", "token": "3600"}')
        got = await said(websocket)
        assert got["type"] == "renewed"
        await websocket.send('{"type": "renew", "token": "0.3"}')
        assert (await said(websocket))["expires"] < got["expires"]
        assert await closed(websocket) == (4401, "the token expired")
    async with client(lab, kind, "/ws/c?ttl=60") as websocket:
        await websocket.send('{"type": "renew", "token": "bad"}')
        assert await closed(websocket) == (4401, CODES[4401].reason)
    async with client(lab, kind, "/ws/c?ttl=60") as websocket:
        await websocket.send('{"type": "renew", "token": 5}')
        assert (await closed(websocket))[0] == 4400
    with served(lab, kind) as live:
        async with httpx.AsyncClient(timeout=20) as made:
            text = (await made.get(f"{live.url}/sse/c?ttl=0.3")).text
        assert json.loads(text.rpartition("event: error\ndata: ")[2]) == {"code": 4401, "reason": "the token expired"}
        await until(lab.empty)


async def test_a_token_that_was_renewed_outlives_one_that_was_not(kind: str) -> None:
    lab = Lab()
    with served(lab, kind) as live:
        async with (
            connect(f"{live.ws_url}/ws/c?ttl=1&publish") as one,
            connect(f"{live.ws_url}/ws/c?ttl=1.2") as other,
        ):
            await said(one)
            await one.send('{"type": "renew", "token": "3600"}')
            assert (await said(one))["type"] == "renewed"
            assert (await closed(other))[0] == 4401
            await one.send('{"type": "publish", "data": 1}')
            assert (await said(one)).keys() & {"id"}
        await until(lab.empty)


async def test_one_connection_too_many_is_4409_or_429_and_makes_room_when_one_leaves(kind: str) -> None:
    lab = Lab(Limits(connections_per_user=2))
    with served(lab, kind) as live:
        async with raw(live, "/ws/c?user=u") as one, raw(live, "/sse/d?user=u") as two:
            await one.opened()
            await two.opened()
            async with connect(f"{live.ws_url}/ws/c?user=u") as websocket:
                code, reason = await closed(websocket)
                assert (code, reason) == (4409, "u has 2 connections: close one of them first")
            async with httpx.AsyncClient(timeout=20) as made:
                assert (await made.get(f"{live.url}/sse/c?user=u")).status_code == 429
            async with raw(live, "/ws/c?user=v") as other, raw(live, "/ws/c") as nobody:
                await other.opened()
                await nobody.opened()
                assert await presence(lab) == {"u": 1, "v": 1}
        await until(lab.empty)
        async with raw(live, "/ws/c?user=u") as again:
            await again.opened()
        await until(lab.empty)
    assert live.errors() == []


async def presence(lab: Lab) -> dict[str, int]:
    return await lab.channels.engine.presence("c")


@pytest.mark.parametrize("cursor", ["x", "e-", "-1", "e-1-", "e%0A-1"])
async def test_a_cursor_that_is_none_is_4400(kind: str, cursor: str) -> None:
    lab = Lab()
    with served(lab, kind) as live:
        async with connect(f"{live.ws_url}/ws/c?after={cursor}") as websocket:
            assert (await closed(websocket))[0] == 4400
        await until(lab.empty)
    assert live.errors() == []


async def test_a_cursor_of_another_life_is_a_gap_and_one_of_this_life_a_resume(kind: str) -> None:
    lab = Lab(Limits(history_messages=3))
    with served(lab, kind) as live:
        await publish(live, lab, *({"n": n} for n in range(5)))
        for after, opening, numbers in (
            ("e-3", {"type": "resume", "id": "e-3"}, [3, 4]),
            ("e-5", {"type": "resume", "id": "e-5"}, []),
            ("e-1", {"type": "gap", "id": "e-2"}, [2, 3, 4]),
            ("f-3", {"type": "gap", "id": "e-2"}, [2, 3, 4]),
            ("e-9", {"type": "gap", "id": "e-2"}, [2, 3, 4]),
        ):
            async with connect(f"{live.ws_url}/ws/c?after={after}") as websocket:
                assert await said(websocket) == opening
                assert [(await said(websocket))["data"]["n"] for _ in numbers] == numbers
        await until(lab.empty)


async def test_a_client_that_does_not_read_its_answers_is_not_read_from(kind: str) -> None:
    lab = Lab(Limits(outbox_bytes=1 << 20, write_deadline=60))
    with served(lab, kind, socket_options=[(1, 7, 1 << 14)]) as live:
        async with raw(live, "/ws/c?publish", small=True) as deaf:
            await deaf.opened()
            await until(lambda: lab.channels.open)
            (connection,) = lab.channels.open
            sending = asyncio.create_task(flood(deaf))
            counts = lab.channels.counts
            last = -1
            async with asyncio.timeout(20):
                while last != counts.published or not last:
                    last = counts.published
                    await asyncio.sleep(0.2)
            assert not sending.done()
            assert connection.outbox is None or connection.outbox.size < 1 << 20
            sending.cancel()
        await until(lab.empty)
    assert lab.metric("cut") == 0


async def flood(client: Any) -> None:
    for _ in range(100_000):
        await client.say({"type": "publish", "data": "x" * 1000})
