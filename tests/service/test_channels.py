"""Channels of the service over the wire: publish, live events, history, presence, and who may do what."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from labserver.realtime.direct import protocols
from labserver.realtime.engines.base import EngineDown
from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage.server import LiveServer, start

SETTINGS = Settings(first_message_timeout=0.5, message_max_bytes=2000, rate=1000, history_messages=50)


@pytest.fixture(scope="module", params=["direct", "plain"])
def live(request: pytest.FixtureRequest) -> Iterator[LiveServer]:
    """The service, on direct connections and on any server's."""
    options: dict[str, Any] = protocols(SETTINGS) if request.param == "direct" else {"ws": "websockets-sansio"}
    with start(create_app(open_login=True), name="service", settings=SETTINGS, **options) as server:
        yield server


def headers(live: LiveServer, user: str = "ana") -> dict[str, str]:
    token = httpx.post(f"{live.url}/auth/login", json={"user": user}).raise_for_status().json()["token"]
    return {"Authorization": f"Bearer {token}"}


def publish(live: LiveServer, channel: str, data: object, **more: str) -> str:
    url = f"{live.url}/channels/{channel}/messages"
    return str(httpx.post(url, json=data, headers=headers(live) | more).raise_for_status().json()["id"])


def socket(live: LiveServer, channel: str, user: str | None = "ana", query: str = "") -> Any:
    said = headers(live, user) if user else {}
    return connect(f"{live.ws_url}/ws/channels/{channel}{query}", additional_headers=said, compression=None)


async def heard(client: ClientConnection) -> dict[str, Any]:
    """Return the next frame that is no heartbeat."""
    async with asyncio.timeout(20):
        while (said := json.loads(await client.recv())).get("type") == "ping":
            pass
    return dict(said)


async def blocks(answer: httpx.Response) -> AsyncIterator[str]:
    """Yield the blocks of an event stream, comments left out."""
    held = ""
    async for piece in answer.aiter_text():
        *whole, held = (held + piece).split("\n\n")
        for block in whole:
            if not block.startswith(":"):
                yield block


async def test_what_is_published_reaches_sockets_and_event_streams(live: LiveServer) -> None:
    async with socket(live, "tea") as client, httpx.AsyncClient(timeout=20, headers=headers(live)) as reader:
        assert (await heard(client))["type"] == "start"
        async with reader.stream("GET", f"{live.url}/channels/tea/events") as answer:
            events = blocks(answer)
            assert "event: start" in await anext(events)
            id = await asyncio.to_thread(publish, live, "tea", {"n": 1}, Event="brew")
            assert await heard(client) == {"id": id, "channel": "tea", "event": "brew", "data": {"n": 1}}
            assert await anext(events) == f'id: {id}\nevent: brew\ndata: {{"n":1}}'


async def test_who_comes_back_misses_nothing_by_either_way(live: LiveServer) -> None:
    ids = [publish(live, "resumed", number) for number in range(5)]
    async with socket(live, "resumed", query=f"?after={ids[1]}") as client:
        assert await heard(client) == {"type": "resume", "id": ids[1]}
        assert [(await heard(client))["data"] for _ in range(3)] == [2, 3, 4]
    url, said = f"{live.url}/channels/resumed/events?after={ids[0]}", headers(live) | {"Last-Event-ID": ids[2]}
    async with httpx.AsyncClient(timeout=20) as reader, reader.stream("GET", url, headers=said) as answer:
        events = blocks(answer)
        assert "event: resume" in await anext(events)
        assert [await anext(events) for _ in range(2)] == [f"id: {ids[n]}\ndata: {n}" for n in (3, 4)]


async def test_a_trimmed_history_is_a_gap(live: LiveServer) -> None:
    url = f"{live.url}/channels/long/messages"
    async with httpx.AsyncClient(headers=headers(live)) as publisher:
        ids = [(await publisher.post(url, json=n)).json()["id"] for n in range(SETTINGS.history_messages + 3)]
    async with socket(live, "long", query=f"?after={ids[0]}") as client:
        assert await heard(client) == {"type": "gap", "id": ids[2]}
        assert [(await heard(client))["data"] for _ in ids[3:]] == list(range(3, len(ids)))


async def test_a_socket_publishes_and_learns_the_id(live: LiveServer) -> None:
    async with socket(live, "both") as client:
        await heard(client)
        big = 12345678901234567890123
        await client.send(json.dumps({"type": "publish", "data": {"big": big}, "key": "k1"}))
        message, ack = await heard(client), await heard(client)
        if "type" in message:  # under another server the answer may come first
            message, ack = ack, message
        assert message["data"] == {"big": big}
        assert ack == {"type": "ack", "id": message["id"], "key": "k1"}
        await client.send(json.dumps({"type": "publish", "data": "again", "key": "k1"}))
        assert (await heard(client))["id"] == message["id"]


def test_the_same_key_is_stored_once(live: LiveServer) -> None:
    first = publish(live, "once", 1, **{"Idempotency-Key": "a"})
    assert publish(live, "once", 1, **{"Idempotency-Key": "a"}) == first
    lines = httpx.get(f"{live.url}/channels/once/history", headers=headers(live)).text.splitlines()
    assert [json.loads(line).get("data") for line in lines] == [1, None]


def test_history_is_ndjson_with_a_terminal_record(live: LiveServer) -> None:
    ids = [publish(live, "past", number) for number in range(4)]
    url = f"{live.url}/channels/past/history"
    answer = httpx.get(url, params={"after": ids[0], "limit": 2}, headers=headers(live))
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    *records, last = map(json.loads, answer.text.splitlines())
    assert [each["id"] for each in records] == ids[1:3]
    assert last == {"done": True, "count": 2, "gap": False, "id": ids[2]}


async def test_presence_counts_connections_and_forgets_who_left(live: LiveServer) -> None:
    url, said = f"{live.url}/channels/hall/presence", headers(live)
    async with socket(live, "hall") as one, socket(live, "hall") as two, socket(live, "hall", "ben") as three:
        for client in (one, two, three):
            await heard(client)
        seen = (await asyncio.to_thread(httpx.get, url, headers=said)).json()
        assert seen == {"users": {"ana": 2, "ben": 1}, "connections": 3}
    async with asyncio.timeout(20):
        while (await asyncio.to_thread(httpx.get, url, headers=said)).json()["connections"]:
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    ("channel", "user", "status"),
    [("public.news", None, 200), ("tea", None, 401), ("user.ana", "ben", 403), ("user.ana", "ana", 200)],
)
def test_who_may_read_what(live: LiveServer, channel: str, user: str | None, status: int) -> None:
    said = headers(live, user) if user else {}
    for what in ("history", "presence"):
        assert httpx.get(f"{live.url}/channels/{channel}/{what}", headers=said).status_code == status
    with httpx.stream("GET", f"{live.url}/channels/{channel}/events", headers=said) as answer:
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("channel", "user", "status"),
    [("public.news", None, 401), ("user.ana", "ben", 403), ("tea", None, 401), ("public.news", "ben", 201)],
)
def test_who_may_publish_what(live: LiveServer, channel: str, user: str | None, status: int) -> None:
    said = headers(live, user) if user else {}
    assert httpx.post(f"{live.url}/channels/{channel}/messages", json=1, headers=said).status_code == status


async def test_a_socket_of_another_users_channel_is_refused(live: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(live, "user.ana", "ben") as client:
            await client.recv()
    assert refused.value.response.status_code == 403


async def test_a_public_channel_is_read_without_a_token_and_not_written(live: LiveServer) -> None:
    async with socket(live, "public.radio", None) as client:
        await heard(client)
        await client.send('{"type":"publish","data":1}')
        assert (await heard(client))["code"] == 4403


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"binary", 1003),
        ("{", 1007),
        ("[]", 4400),
        ('{"type":"shout"}', 4400),
        ('{"type":"publish"}', 4400),
        ('{"type":"publish","data":1,"event":"gap"}', 4400),
        ('{"type":"publish","data":1,"event":7}', 4400),
        ('{"type":"renew","token":"x.y.z"}', 4401),
        (json.dumps({"type": "publish", "data": "x" * 3000}), 1009),
        ("[" * 1500, 1007),
        ('{"type":"publish","data":"\\ud800"}', 1007),
        ('{"type":"publish","data":NaN}', 1007),
    ],
)
async def test_what_a_socket_may_not_say_closes_it_with_its_code(
    live: LiveServer, said: str | bytes, code: int
) -> None:
    async with socket(live, "rules") as client:
        await heard(client)
        await client.send(said)
        async with asyncio.timeout(20):
            await client.wait_closed()
    assert client.close_code == code


@pytest.mark.parametrize(
    ("body", "more", "status"),
    [
        (b"{", {}, 422),
        (b"", {}, 422),
        (b"NaN", {}, 422),
        (b"\xff", {}, 422),
        (b"1", {"Event": "done"}, 422),
        (b"1", {"Event": "a b"}, 422),
        (b"1", {"Idempotency-Key": "k" * 200}, 422),
        (b'"' + b"x" * 3000 + b'"', {}, 413),
        (b" [1,\r\n 2]\n", {}, 201),
    ],
)
def test_what_may_not_be_published_is_a_clear_4xx(
    live: LiveServer, body: bytes, more: dict[str, str], status: int
) -> None:
    said = headers(live) | more
    answer = httpx.post(f"{live.url}/channels/bodies/messages", content=body, headers=said)
    assert answer.status_code == status, answer.text
    assert status == 201 or answer.json()["detail"]


@pytest.mark.parametrize("after", ["x", "-1", "a-b", "1-2-3-4-5-6", "\n", "é-1"])
def test_a_cursor_that_is_none_is_refused(live: LiveServer, after: str) -> None:
    for what in ("events", "history"):
        url = f"{live.url}/channels/public.x/{what}"
        assert httpx.get(url, params={"after": after}).status_code == 422


async def test_a_cursor_that_is_none_is_told_a_socket(live: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        async with socket(live, "tea", query="?after=nonsense"):
            pass
    assert refused.value.response.status_code == 400


def test_readiness_and_metrics(live: LiveServer) -> None:
    assert httpx.get(f"{live.url}/readyz").json() == {"ready": True, "engine": "memory", "draining": False}
    publish(live, "counted", 1)
    text = httpx.get(f"{live.url}/metrics").text
    assert "realtime_published_total" in text
    assert "realtime_connections " in text
    assert live.errors() == []


async def test_a_ticket_that_the_engine_cannot_tell_of_is_answered_by_come_again(
    live: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def claim(key: str, seconds: float) -> bool:
        raise EngineDown("the engine is down")

    async with httpx.AsyncClient(timeout=20, base_url=live.url) as web:
        ticket = (await web.post("/auth/ticket", headers=headers(live))).json()["ticket"]
        monkeypatch.setattr(live.app.state.auth, "_claim", claim)
        answer = await web.get("/channels/tea/presence", params={"ticket": ticket})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    with pytest.raises(InvalidStatus) as refused:
        async with connect(f"{live.ws_url}/ws/channels/tea?ticket={ticket}"):
            pass
    assert refused.value.response.status_code == 503
    async with connect(f"{live.ws_url}/ws/channels/tea?ticket={ticket}", origin=Origin(live.url)) as page:
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(page.recv(), 20)
    assert page.close_code == 1013
    assert live.errors() == []
