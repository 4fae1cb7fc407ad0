"""A tape that is told what is published, with real clients on a real server, behind a real proxy where one cuts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
import websockets
from fastapi import FastAPI, Header, WebSocket
from fastapi.responses import StreamingResponse
from websockets.asyncio.client import ClientConnection, connect

from labserver.stage.rich import Picture
from labserver.stage.server import LiveServer, start
from labserver.stage.tape import Tape, tapes

Check = Callable[[Picture], None]
LATE = 0.3  # seconds; what is held comes 0.6 s late, all else in some ms

ROOM = """room

published
  > event     m1..m3

ana
  < text      m1..m2
  < text      m3  late

ben
  < text      m1
  < text      m3  late
  . lost      m2

cleo
  < text      m1
  < close     close 1013 too slow  (close, 10 bytes: try again later)
  . lost      m2..m3
"""

FEED = """feed

client
  > open      GET /feed
  < event     e-1..e-2
  > close     client leaves
  > open      Last-Event-ID: e-2
  < replay    e-3..e-4
  < event     e-5
  > close     client leaves

published
  > event     e-1..e-5
"""


class Room:
    """Sockets by name, and a log of events that a stream goes on from."""

    def __init__(self) -> None:
        self.members: dict[str, WebSocket] = {}
        self.log: list[str] = []
        self.changed = asyncio.Condition()


def make_app() -> FastAPI:
    app = FastAPI()
    room = Room()

    @app.websocket("/ws/room/{name}")
    async def join(ws: WebSocket, name: str) -> None:
        await ws.accept()
        room.members[name] = ws
        with contextlib.suppress(Exception):
            while True:
                await ws.receive_text()

    @app.post("/say/{text}")
    async def say(text: str, to: str, hold: float = 0.0, away: str = "") -> None:
        if away:
            await room.members[away].close(1013, "too slow")
        await asyncio.sleep(hold)
        for name in to.split(","):
            await room.members[name].send_json({"text": f"{text} and more", "n": 1})

    @app.post("/feed")
    async def publish() -> None:
        async with room.changed:
            room.log.append(f"id: e-{len(room.log) + 1}\ndata: x\n\n")
            room.changed.notify_all()

    @app.get("/feed")
    async def feed(last_event_id: str = Header("e-0")) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            at = int(last_event_id[2:])
            while True:
                async with room.changed:
                    while len(room.log) == at:
                        await room.changed.wait()
                yield room.log[at]
                at += 1

        return StreamingResponse(stream(), media_type="text/event-stream")

    @app.get("/prices")
    async def prices(alive: bool = False) -> StreamingResponse:
        async def stream() -> AsyncIterator[str]:
            yield "id: 1\ndata: 1\n\n"
            for _ in range(6):
                await asyncio.sleep(0.3)
                if alive:
                    yield ": keepalive\n\n"
            yield "id: 2\ndata: 2\n\n"

        return StreamingResponse(stream(), media_type="text/event-stream")

    return app


@pytest.fixture
def live() -> Iterator[LiveServer]:
    with start(make_app(), name="published-tests") as server:
        yield server


async def record_room(live: LiveServer) -> Tape:
    """Three in a room: m2 is not sent to ben, cleo is sent away before m2, m3 is held back."""
    async with (
        live.tape("room") as tape,
        httpx.AsyncClient(base_url=tape.url) as http,
        contextlib.AsyncExitStack() as all_,
    ):
        sockets: dict[str, ClientConnection] = {}
        for name in ("ana", "ben", "cleo"):
            sockets[name] = await all_.enter_async_context(connect(f"{tape.ws_url}/ws/room/{name}", compression=None))
        for label, query in (
            ("m1", {"to": "ana,ben,cleo"}),
            ("m2", {"to": "ana", "away": "cleo"}),
            ("m3", {"to": "ana,ben", "hold": 2 * LATE}),
        ):
            tape.published(label)
            assert (await http.post(f"/say/{label}", params=query)).status_code == 200
            await sockets["ana"].recv()
        with contextlib.suppress(websockets.ConnectionClosed):
            await sockets["cleo"].recv()
            await sockets["cleo"].recv()
        await sockets["ben"].recv()
        await sockets["ben"].recv()
    return tape


async def test_late_lost_and_sent_away_in_a_room(live: LiveServer, well_made: Check) -> None:
    tape = await record_room(live)
    options = {"names": ["ana", "ben", "cleo"], "paths": ("/ws/",), "late": LATE}
    picture = tape.show(**options)  # type: ignore[arg-type]
    well_made(picture)
    assert tape.text(**options) == picture.twin == ROOM  # type: ignore[arg-type]
    assert ">close 1013, 2 lost<" in picture.svg
    assert tape.show().twin.count("POST /say") == 3, "without paths= the publisher's requests are lanes too"
    lanes = {lane.name: lane for lane in tape.lanes(**options)}  # type: ignore[arg-type]
    assert [event.label for event in lanes["cleo"].missed] == ["m2", "m3"]
    assert [event.label for event in lanes["ana"].events if event.fate == "late"] == ["m3"]
    both = tapes("Two rooms", ("one (again)", tape), ("two", tape), **options)  # type: ignore[arg-type]
    well_made(both)
    assert both.twin.count("published\n  > event     m1..m3\n") == 2


async def test_a_feed_resumed_replays_what_was_published_meanwhile(live: LiveServer, well_made: Check) -> None:
    async with live.tape("feed") as tape, httpx.AsyncClient(base_url=live.url) as http:

        async def publish(*labels: str) -> None:
            for label in labels:
                tape.published(label)
                await http.post("/feed")

        async def listen(*labels: str, last: str = "") -> None:
            """Publish `labels` once it listens, and leave with the last of them."""
            headers = {"Last-Event-ID": last} if last else {}
            async with (
                httpx.AsyncClient(base_url=tape.url) as client,
                client.stream("GET", "/feed", headers=headers) as answer,
            ):
                await publish(*labels)
                async for line in answer.aiter_lines():
                    if line == f"id: {labels[-1]}":
                        break

        await listen("e-1", "e-2")
        await publish("e-3", "e-4")
        await listen("e-5", last="e-2")
    picture = tape.show()
    well_made(picture)
    assert picture.twin == FEED
    named = tapes("A feed", ("resumes (by its id)", tape))
    well_made(named)
    assert "\nresumes (by its id)\n  > open      GET /feed\n" in named.twin
    assert named.twin.endswith("published\n  > event     e-1..e-5\n")


def test_published_before_the_first_byte_and_by_an_own_match(live: LiveServer) -> None:
    with live.tape("early") as tape:
        tape.published("first")
        httpx.get(f"{tape.url}/prices?alive=1")
    texts = [tape.text(), tape.text(match=lambda label, event: event.id == "1")]
    assert ["replay    first" in text for text in texts] == [False, True]


@pytest.mark.parametrize(("alive", "words"), [(True, "stays below"), (False, "reaches")])
async def test_an_idle_clock_of_a_real_proxy(
    live: LiveServer, well_made: Check, require: Callable[[str], None], alive: bool, words: str
) -> None:
    require("nginx")
    from labserver.stage.proxies.nginx import nginx

    with nginx(live, read_timeout=1.0, name="idle clock") as proxy:
        async with proxy.tape("idle") as tape, httpx.AsyncClient() as client:
            with contextlib.suppress(httpx.HTTPError):
                await client.get(f"{tape.url}/prices?alive={alive:d}")
    picture = tape.show(idle_limit=1.0)
    well_made(picture)
    assert f"  ~ measure   silence {words} the limit\n" in picture.twin
    assert ("x cut" in picture.twin) == (not alive)
    assert picture.svg.count(">1 s limit<") == 1
    assert ("s silent<" in picture.svg) == (not alive)
