"""Each twin of the authentication fails as it says, where a real client can see it, and the pattern does not."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from labserver.settings import Settings
from labserver.stage import LiveServer, start

ANA = {"user": "ana", "note": "door code 4711"}
PATTERN = ""


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveServer]:
    with start(name="auth twins", settings=Settings(first_message_timeout=0.5)) as live:
        yield live


def login(lab: LiveServer, user: str) -> str:
    return str(httpx.post(f"{lab.url}/login", json={"user": user}).json()["token"])


def twin(name: str) -> str:
    return f"/broken/{name}"


async def told(websocket: ClientConnection) -> Any:
    """Return the first message as a value, or code and reason of the close that came in its place."""
    try:
        return json.loads(await asyncio.wait_for(websocket.recv(), 5))
    except ConnectionClosed:
        return websocket.close_code, websocket.close_reason


async def answer(lab: LiveServer, path: str, **options: Any) -> Any:
    """Connect and return what was told; the status when the handshake was refused."""
    try:
        async with connect(lab.ws_url + path, **options) as websocket:
            return await told(websocket)
    except InvalidStatus as refused:
        return refused.response.status_code


async def test_no_auth(lab: LiveServer) -> None:
    for query in ("", "?token=", "?token=junk"):
        assert await answer(lab, f"{twin('no_auth')}/ws/ana{query}") == ANA
        assert await answer(lab, f"{PATTERN}/ws/ana{query}") == (4401, "no valid token for this path")


async def test_user_id_from_path(lab: LiveServer) -> None:
    ben = login(lab, "ben")
    assert await answer(lab, f"{twin('user_id_from_path')}/ws/ana?token={ben}") == ANA
    assert await answer(lab, f"{PATTERN}/ws/ana?token={ben}") == (4401, "no valid token for this path")
    assert await answer(lab, f"{twin('user_id_from_path')}/ws/ana?token=junk") == (4401, "no valid token for this path")


REFUSED: dict[str, tuple[dict[str, Any], tuple[int, str]]] = {
    "/ws/ana?token=junk": ({}, (4401, "no valid token for this path")),
    "/ws/auth/cookie": ({"additional_headers": {"Cookie": "session=junk"}}, (4401, "no valid token")),
    "/ws/auth/subprotocol": ({"subprotocols": [Subprotocol("lab"), Subprotocol("token.x")]}, (4401, "no valid token")),
    "/ws/auth/ticket?ticket=junk": ({}, (4401, "no valid ticket")),
}


@pytest.mark.parametrize("path", REFUSED)
async def test_close_before_accept(lab: LiveServer, path: str) -> None:
    options, expected = REFUSED[path]
    assert await answer(lab, twin("close_before_accept") + path, **options) == 403
    assert await answer(lab, PATTERN + path, **options) == expected


async def test_no_origin_check(lab: LiveServer) -> None:
    foreign = {"additional_headers": {"Cookie": f"session={login(lab, 'ana')}"}, "origin": "https://elsewhere.example"}
    assert await answer(lab, f"{twin('no_origin_check')}/ws/auth/cookie", **foreign) == ANA
    assert await answer(lab, f"{PATTERN}/ws/auth/cookie", **foreign) == 403


async def test_token_in_log(lab: LiveServer) -> None:
    async def again(prefix: str) -> tuple[Any, Any]:
        """Connect with a ticket, then with what the log says of it."""
        bearer = {"Authorization": f"Bearer {login(lab, 'ana')}"}
        async with httpx.AsyncClient(base_url=lab.url) as client:
            ticket = (await client.post(f"{prefix}/ticket", headers=bearer)).json()["ticket"]
        first = await answer(lab, f"{prefix}/ws/auth/ticket?ticket={ticket}")
        read = next(found for line in reversed(lab.logs()) if (found := re.search(r"\?ticket=([^ \"]+)", line)))
        return first, await answer(lab, f"{prefix}/ws/auth/ticket?ticket={read[1]}")

    assert await again(twin("token_in_log")) == (ANA, ANA)
    assert await again(PATTERN) == (ANA, (4401, "no valid ticket"))


async def test_no_deadline_for_first_message(lab: LiveServer) -> None:
    path = "/ws/auth/first-message"
    async with connect(lab.ws_url + twin("no_deadline_for_first_message") + path) as silent:
        async with connect(lab.ws_url + PATTERN + path) as websocket:
            assert await told(websocket) == (4401, "too late")
        async with connect(lab.ws_url + PATTERN + path) as websocket:
            assert await told(websocket) == (4401, "too late")
        await silent.send(json.dumps({"token": login(lab, "ana")}))  # two deadlines later it is still listened to
        assert await told(silent) == ANA


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("{}", "KeyError"),
        ("[]", "TypeError"),
        ("junk", "JSONDecodeError"),
        ("", "JSONDecodeError"),
        (b"{}", "KeyError"),
    ],
)
async def test_a_first_message_of_another_shape_crashes(lab: LiveServer, message: str | bytes, error: str) -> None:
    path, before = "/ws/auth/first-message", len(lab.errors())
    async with connect(lab.ws_url + PATTERN + path) as websocket:
        await websocket.send(message)
        assert await told(websocket) == (4401, 'the first message must be {"token": "..."}')
    assert lab.errors()[before:] == []
    async with connect(lab.ws_url + twin("no_deadline_for_first_message") + path) as websocket:
        await websocket.send(message)
        assert (await told(websocket))[0] == 1006
    assert lab.errors()[before].startswith(error)
