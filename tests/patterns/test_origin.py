"""The Origin check against a real server: a program, the server's own pages, listed pages and all others."""

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from labserver.settings import Settings
from labserver.stage import LiveServer, start


async def echoed(live: LiveServer, origin: str | None) -> bool:
    async with connect(f"{live.ws_url}/ws", origin=origin) as websocket:
        await websocket.send("hello")
        return await websocket.recv() == "hello"


@pytest.fixture
def live():
    with start(name="origin", settings=Settings(origins=("https://listed.example",))) as live:
        yield live


async def test_programs_own_pages_and_listed_pages_connect(live: LiveServer) -> None:
    assert await echoed(live, None)
    assert await echoed(live, live.url)
    assert await echoed(live, "https://listed.example")


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://127.0.0.1",
        "http://127.0.0.1.evil.example",
        "",
        "https://listed.example.evil.example",
        "][",
    ],
)
async def test_pages_of_any_other_origin_do_not(live: LiveServer, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await echoed(live, origin)
    assert refused.value.response.status_code == 403
    assert b"may not connect" in refused.value.response.body
    assert live.errors() == []
