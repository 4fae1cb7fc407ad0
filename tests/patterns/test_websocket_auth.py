"""Five ways in, over real sockets: who is let in, who is refused, by which code and reason, and what stays open."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import jwt
import pytest
from fastapi import FastAPI
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from labserver.patterns import websocket_auth
from labserver.settings import Settings
from labserver.stage import LiveServer, start

SECRET = "a secret of thirty-two bytes or more"
WAYS = ["query", "cookie", "first message", "subprotocol", "ticket"]
BY_TOKEN = WAYS[:-1]
ANA = {"user": "ana", "note": "door code 4711"}


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    with start(name="auth", settings=Settings(secret=SECRET)) as live:
        yield live


@pytest.fixture
def live(server: LiveServer) -> Iterator[LiveServer]:
    """One server for all tests here; each of them fails when it leaves an exception in the log."""
    before = len(server.errors())
    yield server
    assert server.errors()[before:] == []


def login(live: LiveServer, user: str = "ana") -> str:
    response = httpx.post(f"{live.url}/login", json={"user": user})
    assert response.status_code == 200
    return str(response.json()["token"])


def ticket(live: LiveServer, token: str) -> str:
    answer = httpx.post(f"{live.url}/ticket", headers={"Authorization": f"Bearer {token}"})
    return str(answer.json().get("ticket", ""))


def token_of(**claims: Any) -> str:
    """Return a token signed with the server's secret; a claim of None is left out."""
    whole = {"sub": "ana", "aud": "labserver", "exp": int(time.time()) + 60} | claims
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, SECRET, "HS256")


@asynccontextmanager
async def bringing(live: LiveServer, way: str, token: str) -> AsyncIterator[ClientConnection]:
    """Connect and bring the token in one of the five ways."""
    path, options = f"/ws/auth/{way.replace(' ', '-')}", dict[str, Any]()
    if way == "query":
        path = str(httpx.URL("/ws/ana", params={"token": token}))
    elif way == "cookie":
        options["additional_headers"] = {"Cookie": f"session={token}"}
    elif way == "subprotocol":
        options["subprotocols"] = [Subprotocol("lab"), Subprotocol(f"token.{token}")]
    elif way == "ticket":
        path += f"?ticket={ticket(live, token)}"
    async with connect(live.ws_url + path, **options) as websocket:
        if way == "first message":
            await websocket.send(json.dumps({"token": token}))
        yield websocket


async def ending(websocket: ClientConnection) -> tuple[int | None, str | None]:
    """Return close code and reason; a message that comes before them fails the test."""
    with pytest.raises(ConnectionClosed):
        pytest.fail(f"received {await asyncio.wait_for(websocket.recv(), 5)!r}")
    return websocket.close_code, websocket.close_reason


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_lets_its_user_in(live: LiveServer, way: str) -> None:
    async with bringing(live, way, login(live)) as websocket:
        assert json.loads(await websocket.recv()) == ANA
        await websocket.send("anything")
        await websocket.send(b"anything")
        await (await websocket.ping())
    assert websocket.close_code == 1000


NO_TOKENS = {
    "none": "",
    "junk": "eyJh.b.c",
    "not ASCII": "näive",
    "of another server": jwt.encode({"sub": "ana", "aud": "labserver", "exp": 1 << 40}, "x" * 40, "HS256"),
    "unsigned": jwt.encode({"sub": "ana", "aud": "labserver", "exp": 1 << 40}, None, "none"),
    "for another audience": token_of(aud="another"),
    "expired": token_of(exp=int(time.time()) - 1),
    "without expiry": token_of(exp=None),
    "without audience": token_of(aud=None),
    "without subject": token_of(sub=None),
}


@pytest.mark.parametrize("way", BY_TOKEN)
async def test_no_way_lets_in_without_a_valid_token(live: LiveServer, way: str) -> None:
    in_a_header = way in ("cookie", "subprotocol")

    async def refused(token: str) -> tuple[int | None, str | None]:
        async with bringing(live, way, token) as websocket:
            return await ending(websocket)

    tokens = [token for token in NO_TOKENS.values() if token.isascii() or not in_a_header]
    said = {await each for each in [refused(token) for token in tokens]}
    assert said == {(4401, "no valid token for this path" if way == "query" else "no valid token")}


@pytest.mark.parametrize("name", [name for name in NO_TOKENS if name not in ("none", "not ASCII")])
def test_a_ticket_is_given_for_a_valid_token_alone(live: LiveServer, name: str) -> None:
    answer = httpx.post(f"{live.url}/ticket", headers={"Authorization": f"Bearer {NO_TOKENS[name]}"})
    assert (answer.status_code, answer.json()) == (401, {"detail": "no valid token"})
    assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer"}, {"Authorization": "Basic YTpi"}])
def test_a_ticket_is_given_for_a_bearer_token_alone(live: LiveServer, header: dict[str, str]) -> None:
    answer = httpx.post(f"{live.url}/ticket", headers=header)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_the_path_of_another_user_is_refused(live: LiveServer) -> None:
    async with connect(f"{live.ws_url}/ws/ana?token={login(live, 'ben')}") as websocket:
        assert await ending(websocket) == (4401, "no valid token for this path")


async def test_a_ticket_works_once(live: LiveServer) -> None:
    once = ticket(live, login(live))
    async with connect(f"{live.ws_url}/ws/auth/ticket?ticket={once}") as websocket:
        assert json.loads(await websocket.recv()) == ANA
        async with connect(f"{live.ws_url}/ws/auth/ticket?ticket={once}") as again:
            assert await ending(again) == (4401, "no valid ticket")


async def test_a_ticket_expires_and_the_oldest_gives_way() -> None:
    with start(name="auth too", settings=Settings(ticket_ttl=1e-9)) as live:
        async with bringing(live, "ticket", login(live)) as websocket:
            assert await ending(websocket) == (4401, "no valid ticket")
    with start(name="auth too", settings=Settings(tickets_max=2)) as live:
        first, *others = [ticket(live, login(live)) for _ in range(3)]
        async with connect(f"{live.ws_url}/ws/auth/ticket?ticket={first}") as websocket:
            assert await ending(websocket) == (4401, "no valid ticket")
        for each in others:
            async with connect(f"{live.ws_url}/ws/auth/ticket?ticket={each}") as websocket:
                assert json.loads(await websocket.recv()) == ANA


@pytest.mark.parametrize(
    "message",
    [
        "",
        "junk",
        "[]",
        "{}",
        "0",
        "null",
        '{"token": 5}',
        '{"token": null}',
        '"token"',
        "[" * 100_000,
        b"",
        b'{"token"',
    ],
)
async def test_a_first_message_of_another_shape_is_told(live: LiveServer, message: str | bytes) -> None:
    async with connect(f"{live.ws_url}/ws/auth/first-message") as websocket:
        await websocket.send(message)
        assert await ending(websocket) == (4401, 'the first message must be {"token": "..."}')


async def test_a_token_that_is_no_text_of_unicode_is_refused(live: LiveServer) -> None:
    async with connect(f"{live.ws_url}/ws/auth/first-message") as websocket:
        await websocket.send('{"token": "\\ud800"}')
        assert (await ending(websocket))[0] == 4401


async def test_silent_sockets_are_closed_at_the_deadline() -> None:
    with start(name="auth too", settings=Settings(first_message_timeout=0.5)) as live:
        began = time.monotonic()
        sockets = await asyncio.gather(*(connect(f"{live.ws_url}/ws/auth/first-message") for _ in range(30)))
        assert {await ending(websocket) for websocket in sockets} == {(4401, "too late")}
        assert time.monotonic() - began >= 0.5
        assert live.errors() == []


async def test_a_connection_ends_when_its_token_does() -> None:
    async def until_the_end(live: LiveServer, way: str, token: str) -> tuple[int | None, str | None]:
        async with bringing(live, way, token) as websocket:
            assert json.loads(await websocket.recv()) == ANA
            return await ending(websocket)

    with start(name="auth too", settings=Settings(token_ttl=2)) as live:
        token = login(live)
        ends = await asyncio.gather(*(until_the_end(live, way, token) for way in WAYS))
        assert set(ends) == {(4401, "the token expired")}
        assert live.errors() == []


@pytest.mark.parametrize("way", WAYS)
async def test_a_peer_that_vanishes_leaves_no_traceback(live: LiveServer, way: str) -> None:
    token = login(live)
    for _ in range(5):
        async with bringing(live, way, token) as websocket:
            websocket.transport.abort()
        async with bringing(live, way, token) as websocket:
            await websocket.recv()
            websocket.transport.abort()
        async with bringing(live, way, "junk") as websocket:
            websocket.transport.abort()
    async with bringing(live, way, token) as websocket:  # it is served as before
        await websocket.recv()


async def test_a_peer_that_vanishes_before_its_first_message_is_forgotten(live: LiveServer) -> None:
    for leave in (lambda socket: socket.transport.abort(), lambda socket: socket.transport.close()):
        websocket = await connect(f"{live.ws_url}/ws/auth/first-message")
        leave(websocket)
        await websocket.wait_closed()
    async with bringing(live, "first message", login(live)) as websocket:
        await websocket.recv()


@pytest.mark.parametrize(
    ("offered", "selected"), [(["lab", "token.x"], "lab"), (["token.x", "lab"], "lab"), (["token.x"], None), ([], None)]
)
async def test_the_server_selects_the_offered_subprotocol_and_never_the_token(
    live: LiveServer, offered: list[Subprotocol], selected: str | None
) -> None:
    async with connect(f"{live.ws_url}/ws/auth/subprotocol", subprotocols=offered or None) as websocket:
        assert websocket.subprotocol == selected
        assert await ending(websocket) == (4401, "no valid token")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(live: LiveServer) -> None:
    answer = httpx.post(f"{live.url}/login", json={"user": "ana"})
    name, *attributes = answer.headers["set-cookie"].split("; ")
    assert name == f"session={answer.json()['token']}"
    assert set(attributes) == {"HttpOnly", "SameSite=lax", "Path=/", "Max-Age=3600"}


@pytest.mark.parametrize("body", [{"user": "mallory"}, {"user": ["ana"]}, {}, [], "ana", None])
def test_only_the_demonstrations_users_can_log_in(live: LiveServer, body: object) -> None:
    assert httpx.post(f"{live.url}/login", json=body).status_code == 422


@pytest.mark.parametrize("path", ["/login", "/ticket"])
def test_a_foreign_page_gets_neither_token_nor_ticket(live: LiveServer, path: str) -> None:
    token = login(live)
    headers = {"Origin": "https://elsewhere.example", "Authorization": f"Bearer {token}"}
    answer = httpx.post(live.url + path, json={"user": "ana"}, headers=headers)
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize("way", WAYS)
async def test_a_foreign_page_is_refused_before_its_token_is_looked_at(live: LiveServer, way: str) -> None:
    path = "/ws/ana" if way == "query" else f"/ws/auth/{way.replace(' ', '-')}"
    with pytest.raises(InvalidStatus) as refused:
        await connect(live.ws_url + path, origin="https://elsewhere.example")
    assert refused.value.response.status_code == 403


def test_tokens_of_one_server_are_nothing_to_another(live: LiveServer) -> None:
    with start(name="auth too") as other:
        token = login(other)
        assert ticket(other, token)
        assert not ticket(live, token)


async def test_without_a_secret_nobody_is_let_in() -> None:
    app = FastAPI()
    app.include_router(websocket_auth.router)
    with start(app, name="auth too") as live:
        async with httpx.AsyncClient(base_url=live.url) as client:
            assert (await client.post("/login", json={"user": "ana"})).status_code == 503
            assert (await client.post("/ticket", headers={"Authorization": "Bearer x"})).status_code == 503
        for way in BY_TOKEN:
            async with bringing(live, way, token_of()) as websocket:
                with pytest.raises(ConnectionClosed):
                    await websocket.recv()
