"""The tape with real clients on a real server: what it saw, how it ended, and the same text each time."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
import websockets
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse

from labserver.errors import LabError
from labserver.stage import background
from labserver.stage.server import LiveServer, start
from labserver.stage.tape import Tape, tapes

ECHO = """WebSocket echo

client
  > open      GET /ws/echo, Upgrade: websocket  (HTTP request)
  < open      101 Switching Protocols  (from here on: frames)
  > text      hello  (text, 5 bytes, masked)
  < text      hello  (text, 5 bytes)
  > text      naïve  (text, 6 bytes: ï takes 2)
  < text      naïve  (text, 6 bytes)
  > bytes     00 ff 7f  (binary, 3 bytes, masked)
  < bytes     00 ff 7f  (binary, 3 bytes)
  > close     close 1000  (close, 2 bytes: normal)
  < close     close 1000  (close, echoed: both ends know)
"""


def make_app() -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws/echo")
    async def echo(ws: WebSocket) -> None:
        await ws.accept()
        while (message := await ws.receive())["type"] == "websocket.receive":
            match message.get("text"):
                case "crash":
                    raise RuntimeError("crash")
                case "close":
                    return await ws.close(4401, "no token")
                case None:
                    await ws.send_bytes(message["bytes"])
                case text:
                    await ws.send_text(text)
        return None

    @app.websocket("/ws/no")
    async def refuse(ws: WebSocket) -> None:
        await ws.close(4401)

    @app.get("/events")
    async def events(after: int = 0, count: int = 3, crash: bool = False) -> StreamingResponse:
        async def body() -> AsyncIterator[str]:
            for number in range(after + 1, after + count + 1):
                yield f"id: {number}\ndata: {number}\n\n"
                await asyncio.sleep(0.01)
            if crash:
                raise RuntimeError("crash")

        return StreamingResponse(body(), media_type="text/event-stream")

    return app


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with start(make_app(), name="tape-tests") as server:
        yield server


async def talk(tape: Tape, *messages: str | bytes, compression: str | None = None) -> None:
    async with websockets.connect(tape.ws_url + "/ws/echo", compression=compression) as ws:
        for message in messages:
            await ws.send(message)
            with contextlib.suppress(websockets.ConnectionClosed):
                await ws.recv()


async def test_a_websocket_echo(live: LiveServer, well_made) -> None:  # type: ignore[no-untyped-def]
    async with live.tape("WebSocket echo") as tape:
        await talk(tape, "hello", "naïve", b"\x00\xff\x7f")
    assert tape.text() == repr(tape) == tape.show().twin == ECHO
    assert tape.messages("server") == ["hello", "naïve", b"\x00\xff\x7f"]
    assert (tape.close_code, tape.ended, tape.status, tape.connections) == (1000, "closed", 101, 1)
    well_made(tape.show())
    well_made(tape.show(layout="lanes"))
    assert set(tape._repr_mimebundle_()) == {"text/html", "text/plain"}
    assert tape.show(headline="A finding", note="what was done").alt.startswith("A finding. ")


async def test_the_text_is_the_same_each_time(live: LiveServer) -> None:
    texts = set()
    for _ in range(3):
        async with live.tape() as tape:
            await talk(tape, *["x" * 300] * 5, compression="deflate")
        texts.add(tape.text() + tape.bytes(0).twin.replace("??", ""))
        assert tape.messages("client") == ["x" * 300] * 5
        assert "deflated" in tape.text()
    assert len({text.partition("\nWebSocket frame")[0] for text in texts}) == 1


@pytest.mark.parametrize(
    ("message", "code", "ended", "line"),
    [
        ("crash", 1006, "cut", "x cut       cut  (close 1006: no close frame came)"),
        ("close", 4401, "closed", "< close     close 4401 no token  (close, 10 bytes: the application's own)"),
    ],
)
async def test_how_a_socket_ends(live: LiveServer, message: str, code: int, ended: str, line: str) -> None:
    async with live.tape() as tape:
        await talk(tape, message)
    assert (tape.close_code, tape.ended) == (code, ended)
    assert line in tape.text()


async def test_a_refused_handshake(live: LiveServer) -> None:
    async with live.tape() as tape:
        with pytest.raises(websockets.InvalidStatus):
            await websockets.connect(tape.ws_url + "/ws/no")
    assert (tape.close_code, tape.status, tape.ended) == (None, 403, "clean")
    assert "< open      403 Forbidden" in tape.text()


def test_a_blocking_client_in_the_cell(live: LiveServer) -> None:
    with live.tape("resume") as tape:
        with httpx.stream("GET", tape.url + "/events?count=99") as answer:
            next(answer.iter_lines())
        httpx.get(tape.url + "/events?after=3", headers={"Last-Event-ID": "3"})
    assert tape.ended == "clean"
    assert tape.messages()[-3:] == ["4", "5", "6"]
    text = tape.text()
    assert "  > close     client leaves\n  > open      Last-Event-ID: 3\n  < event     id 4..id 6\n" in text


async def test_a_crash_in_a_stream_and_a_comparison(live: LiveServer, well_made) -> None:  # type: ignore[no-untyped-def]
    found = []
    for crash in (0, 1):
        async with live.tape("SSE") as tape, httpx.AsyncClient() as client:
            with contextlib.suppress(httpx.HTTPError):
                await client.get(f"{tape.url}/events?crash={crash}")
        found.append(tape)
    assert [tape.ended for tape in found] == ["clean", "cut"]
    picture = tapes("Only one of them is whole", ("mended (as it should be)", found[0]), ("broken", found[1]))
    well_made(picture)
    assert picture.twin == (
        "SSE\n\nmended (as it should be)\n  > open      GET /events?crash=0\n  < event     id 1..id 3\n"
        "  < close     clean end  (by the server, last chunk)\n\nbroken\n  > open      GET /events?crash=1\n"
        "  < event     id 1..id 3\n  x cut       cut  (no last chunk)\n"
    )
    assert found[0].bytes(-1).twin.startswith("SSE\n\nSSE event, server to client: 15 bytes carry 1")
    assert found[0].bytes(-1, chunk=True).twin.endswith("not part of the data\n        0d 0a\n")


async def test_sockets_compared_are_ladders(live: LiveServer, well_made) -> None:  # type: ignore[no-untyped-def]
    found = []
    for message in ("hello", "crash"):
        async with live.tape() as tape:
            await talk(tape, message)
        found.append((f"says {message}", tape))
    picture = tapes(None, *found)
    well_made(picture)
    assert picture.svg.count(">server<") == 2
    assert "== says crash ==" in picture.twin


async def test_nobody_answers() -> None:
    async with Tape("127.0.0.1", 9, "down") as tape, httpx.AsyncClient() as client:
        with pytest.raises(httpx.HTTPError):
            await client.get(tape.url + "/x")
    assert tape.ended == "cut"
    assert "< error     connection refused  (nothing listens at the server's address)" in tape.text()


async def test_wrong_use_is_a_sentence(live: LiveServer) -> None:
    tape = live.tape()
    with pytest.raises(LabError, match="does not record yet"):
        _ = tape.url
    async with tape:
        pass
    with pytest.raises(LabError, match="already used"):
        tape.open()
    with pytest.raises(LabError, match="no such message"):
        tape.bytes(3)
    assert tape.text() == "tape\n\n(nothing passed)\n"
    assert (tape.close_code, tape.status, tape.ended, tape.messages()) == (None, None, "open", [])


async def test_events_are_there_while_it_records(live: LiveServer) -> None:
    async with live.tape() as tape, websockets.connect(tape.ws_url + "/ws/echo") as ws:
        await ws.send("one")
        assert await ws.recv() == "one"
        assert tape.messages() == ["one", "one"]
        assert (tape.ended, tape.close_code) == ("open", None)
    assert background.loop().is_running()
