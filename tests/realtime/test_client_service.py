"""The clients against the service itself: log in, publish, follow, come back after an expired token, read history."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import httpx
import pytest

from labserver.realtime.client import Ended, Event, Retry, events, records, socket
from labserver.realtime.direct import protocols
from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage import LiveServer, start

from .wire import DEADLINE

DIRECT = {"proxy": None}
QUICK = Retry(base=0.01, cap=0.02, attempts=500)


@pytest.fixture
def settings() -> Settings:
    return Settings(sse_retry=0.0)


@pytest.fixture
def live(settings: Settings) -> Iterator[LiveServer]:
    with start(create_app(settings, open_login=True), name="client", settings=settings, **protocols(settings)) as live:
        yield live


@pytest.fixture
def login(live: LiveServer) -> Callable[[], Awaitable[str]]:
    async def token() -> str:
        async with httpx.AsyncClient() as client:
            answer = await client.post(f"{live.url}/auth/login", json={"user": "ana"})
            return str(answer.raise_for_status().json()["token"])

    return token


async def test_what_a_socket_publishes_reaches_a_stream_and_stays_in_history(
    live: LiveServer, login: Callable[[], Awaitable[str]]
) -> None:
    url = f"{live.url}/channels/user.ana"
    async with (
        socket(f"{live.ws_url}/ws/channels/user.ana", token=login, dial=DIRECT) as line,
        asyncio.timeout(DEADLINE),
    ):
        first = await line.publish({"n": 1}, "greeting", key="k")
        assert await line.publish({"n": 1}, "greeting", key="k") == first
        async with events(f"{url}/events", token=login, after=first) as feed:
            second = await line.publish({"n": 2})
            assert await anext(feed) == Event(second, "", "message", {"n": 2})
        assert [(await anext(line)).id for _ in range(2)] == [first, second]
        async with records(f"{url}/history", token=login, by="id") as kept:
            assert [(each["id"], each["data"]) async for each in kept] == [(first, {"n": 1}), (second, {"n": 2})]


async def test_a_job_is_followed_to_its_end(live: LiveServer, login: Callable[[], Awaitable[str]]) -> None:
    token = await login()
    async with httpx.AsyncClient(base_url=live.url, headers={"Authorization": f"Bearer {token}"}) as client:
        begun = (await client.post("/jobs", json={"steps": 5})).raise_for_status().json()
        async with events(f"{live.url}{begun['events']}", client=client) as job, asyncio.timeout(DEADLINE):
            told = [(event.event, event.data) async for event in job]
    assert told == [*(("progress", {"step": n, "of": 5}) for n in range(6)), ("done", {"steps": 5})]


@pytest.mark.parametrize("settings", [Settings(token_ttl=2, sse_retry=0.0)])
@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_a_token_that_ends_is_replaced_and_nothing_is_lost(
    wire: str, live: LiveServer, login: Callable[[], Awaitable[str]]
) -> None:
    asked = 0

    async def token() -> str:
        nonlocal asked
        asked += 1
        return await login()

    path = "/ws/channels/user.ana" if wire == "ws" else "/channels/user.ana/events"
    async with socket(f"{live.ws_url}/ws/channels/user.ana", token=login, dial=DIRECT, retry=QUICK) as line:
        before = await line.publish("before")
        reader = (
            socket(f"{live.ws_url}{path}", token=token, retry=QUICK, after=before, dial=DIRECT)
            if wire == "ws"
            else events(f"{live.url}{path}", token=token, retry=QUICK, after=before)
        )
        async with reader as feed, asyncio.timeout(DEADLINE):
            seen: list[Event] = []
            while asked < 3:
                await line.publish(len(seen))
                seen.append(await anext(feed))
                await asyncio.sleep(0.02)
    assert [event.data for event in seen] == [*range(len(seen))]


@pytest.mark.parametrize(("path", "code"), [("user.ben", 403), ("news", 401), ("public.%20", 422)])
async def test_what_is_refused_ends(
    path: str, code: int, live: LiveServer, login: Callable[[], Awaitable[str]]
) -> None:
    token = await login() if code != 401 else None
    for client in (
        events(f"{live.url}/channels/{path}/events", token=token),
        records(f"{live.url}/channels/{path}/history", token=token),
    ):
        async with client as stream:
            with pytest.raises(Ended) as ended:
                await anext(stream)
        assert ended.value.code == code
    async with socket(f"{live.ws_url}/ws/channels/{path}", token=token, dial=DIRECT) as line:
        with pytest.raises(Ended) as ended:
            await anext(line)
    assert ended.value.code in (400, 401, 403, 4401)  # before the upgrade, or after it
