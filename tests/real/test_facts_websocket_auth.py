"""What notebook 02 teaches about browsers, handshakes, cookies and logs: each test fails when it becomes untrue."""

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, HTTPException, Response, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.testclient import TestClient
from pages import LOGIN, OPEN, READ_EVENTS, blank_app, chromium_at, page_of
from playwright.async_api import Browser, Page
from starlette.websockets import WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Subprotocol

from labserver.settings import Settings
from labserver.stage import LiveServer, start
from labserver.stage.parts import find

in_one_browser = pytest.mark.asyncio(loop_scope="module")
JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbmEifQ.a-b_c"

CONSTRUCT = """([url, second, third]) => new Promise((done) => {
  try {
    const socket = new WebSocket(url, second, third);
    socket.onmessage = (event) => { done(event.data); socket.close(); };
    socket.onclose = (event) => done(`close ${event.code}`);
  } catch (error) { done(error.name); }
})"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with chromium_at(find("chromium").detail) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def page(browser: Browser, server: LiveServer) -> AsyncIterator[Page]:
    """A page of the server itself."""
    async with page_of(browser, f"{server.url}/") as page:
        yield page


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server that refuses in three ways, selects subprotocols as told, and says which headers came."""
    app = blank_app()

    @app.get("/cookies")
    async def set_cookies(response: Response) -> None:
        response.set_cookie("lax", "1", samesite="lax")
        response.set_cookie("strict", "1", samesite="strict")

    @app.websocket("/closed-before-accept")
    async def closed_before(websocket: WebSocket) -> None:
        await websocket.close(4401, "no token")

    @app.websocket("/denied")
    async def denied(websocket: WebSocket) -> None:
        raise HTTPException(401, "no token")

    @app.websocket("/closed-after-accept")
    async def closed_after(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close(4401, "no token")

    @app.websocket("/select")
    async def select(websocket: WebSocket, name: str | None = None) -> None:
        await websocket.accept(name)
        await websocket.send_text("hello")
        await websocket.receive()

    @app.websocket("/headers")
    async def headers(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_json(dict(websocket.headers) | {"cookies": sorted(websocket.cookies)})
        await websocket.receive()

    with start(app, name="facts") as live:
        yield live


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[LiveServer]:
    """Pages of another origin: on another port."""
    with start(blank_app(), name="elsewhere") as live:
        yield live


# --- headers and subprotocols


@in_one_browser
async def test_a_page_cannot_set_headers(page: Page, server: LiveServer) -> None:
    options = {"headers": {"Authorization": "Bearer x"}}
    url = f"{server.ws_url}/headers"
    assert await page.evaluate(CONSTRUCT, [url, options, None]) == "SyntaxError"
    headers = json.loads(await page.evaluate(CONSTRUCT, [url, [], options]))  # a third argument is ignored
    assert "authorization" not in headers
    assert headers["origin"] == server.url


@in_one_browser
@pytest.mark.parametrize("name", ["a b", "a=b", "a/b", "", "é"])
async def test_a_subprotocol_is_a_token_of_http(page: Page, server: LiveServer, name: str) -> None:
    assert await page.evaluate(CONSTRUCT, [f"{server.ws_url}/select?name=lab", ["lab", name], None]) == "SyntaxError"


@in_one_browser
@pytest.mark.parametrize(
    ("selected", "offered", "opens"),
    [
        ("lab", ["lab", f"token.{JWT}"], True),
        (None, ["lab", f"token.{JWT}"], False),
        ("other", ["lab"], False),
        ("lab", None, False),
        (None, None, True),
    ],
)
async def test_a_page_opens_only_with_a_subprotocol_that_it_offered(
    page: Page, server: LiveServer, selected: str | None, offered: list[str] | None, opens: bool
) -> None:
    query = f"?name={selected}" if selected else ""
    got = await page.evaluate(OPEN, [f"{server.ws_url}/select{query}", offered])
    if opens:
        assert (got["messages"], got["protocol"]) == (["hello"], selected or "")
    else:
        assert (got["events"], got["code"], got["messages"]) == (["error", "close"], 1006, [])


async def test_a_program_can_do_without_the_subprotocol_that_it_offered(server: LiveServer) -> None:
    async with connect(f"{server.ws_url}/select", subprotocols=[Subprotocol("lab")]) as websocket:
        assert await websocket.recv() == "hello"
        assert websocket.subprotocol is None


# --- refusals


@in_one_browser
async def test_only_a_close_after_accept_reaches_a_page(page: Page, server: LiveServer) -> None:
    for path in ("/closed-before-accept", "/denied"):
        got = await page.evaluate(OPEN, [server.ws_url + path, None])
        assert (got["events"], got["code"], got["reason"]) == (["error", "close"], 1006, "")
    got = await page.evaluate(OPEN, [f"{server.ws_url}/closed-after-accept", None])
    assert (got["events"], got["code"], got["reason"]) == (["open", "close"], 4401, "no token")


async def test_a_program_sees_403_or_the_denial_response_or_the_close(server: LiveServer) -> None:
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{server.ws_url}/closed-before-accept")
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"{server.ws_url}/denied")
    assert (refused.value.response.status_code, refused.value.response.body) == (401, b'{"detail":"no token"}')
    async with connect(f"{server.ws_url}/closed-after-accept") as websocket:
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
    assert (websocket.close_code, websocket.close_reason) == (4401, "no token")


def test_the_test_client_shows_a_close_code_that_no_real_client_sees(server: LiveServer) -> None:
    client = TestClient(server.app)
    with pytest.raises(WebSocketDisconnect) as closed, client.websocket_connect("/closed-before-accept"):
        pass
    assert closed.value.code == 4401


# --- cookies and origins


@in_one_browser
@pytest.mark.parametrize(
    ("host", "page_host", "cookies"),
    [
        ("127.0.0.1", "127.0.0.1", ["lax", "strict"]),  # another port
        ("api.site.example", "www.site.example", ["lax", "strict"]),  # another port and a sibling's name
        ("api.site.example", "another.example", []),  # another site
    ],
)
async def test_cookies_go_along_from_other_origins_of_the_same_site(
    browser: Browser, server: LiveServer, elsewhere: LiveServer, host: str, page_host: str, cookies: list[str]
) -> None:
    async with page_of(browser, f"http://{host}:{server.port}/cookies") as page:
        await page.goto(f"http://{page_host}:{elsewhere.port}/")
        got = await page.evaluate(OPEN, [f"ws://{host}:{server.port}/headers", None])
    said = json.loads(got["messages"][0])
    assert said["origin"] == f"http://{page_host}:{elsewhere.port}"
    assert said["cookies"] == cookies


@in_one_browser
@pytest.mark.parametrize("middleware", [False, True])
async def test_cors_holds_for_event_source_and_not_for_websockets(
    browser: Browser, elsewhere: LiveServer, middleware: bool
) -> None:
    app, asked = FastAPI(), list[str]()
    if middleware:
        app.add_middleware(CORSMiddleware, allow_origins=["https://allowed.example"], allow_credentials=True)

    @app.get("/cookie")
    async def set_cookie(response: Response) -> None:
        response.set_cookie("session", "ana", httponly=True, samesite="lax")

    @app.get("/events")
    async def events() -> Response:
        asked.append("events")
        return Response("data: private\n\n", media_type="text/event-stream")

    @app.websocket("/ws")
    async def private(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"private to {websocket.cookies.get('session')}")
        await websocket.receive()

    with start(app, name="cors") as live:
        async with page_of(browser, f"{live.url}/cookie") as page:
            await page.goto(f"{elsewhere.url}/")
            assert (await page.evaluate(OPEN, [f"{live.ws_url}/ws", None]))["messages"] == ["private to ana"]
            assert await page.evaluate(READ_EVENTS, f"{live.url}/events") is None
            assert asked == ["events"]  # it reached the endpoint: the browser kept only the answer from the page


@in_one_browser
async def test_a_foreign_page_reads_what_is_ana_s_from_the_twin_and_nothing_from_the_pattern(
    browser: Browser, elsewhere: LiveServer
) -> None:
    with start(name="origin") as live:
        async with page_of(browser, f"{live.url}/online") as page:
            for prefix in ("/broken/no_origin_check", ""):
                await page.goto(f"{live.url}/online")
                assert await page.evaluate(LOGIN, f"{prefix}/login") == 200
                path = f"{live.ws_url}{prefix}/ws/auth/cookie"
                ours = await page.evaluate(OPEN, [path, None])
                assert "door code 4711" in ours["messages"][0]
                await page.goto(f"{elsewhere.url}/")
                theirs = await page.evaluate(OPEN, [path, None])
                if prefix:
                    assert theirs["messages"] == ours["messages"]
                else:
                    assert (theirs["events"], theirs["messages"]) == (["error", "close"], [])


# --- logs


def test_uvicorn_logs_the_query_of_a_handshake_also_without_an_access_log(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "from fastapi import FastAPI, WebSocket\n"
        "app = FastAPI()\n"
        "@app.websocket('/accepted')\n"
        "async def accepted(websocket: WebSocket):\n"
        "    await websocket.accept()\n"
        "@app.websocket('/refused')\n"
        "async def refused(websocket: WebSocket):\n"
        "    await websocket.close(4401)\n"
    )
    command = [sys.executable, "-m", "uvicorn", "--app-dir", str(tmp_path), "--port", "0", "--no-access-log", "app:app"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        log = ""
        try:
            for line in process.stderr:
                log += line
                if port := re.search(r"running on http://127\.0\.0\.1:(\d+)", line):
                    asyncio.run(_knock(int(port[1])))
                    process.terminate()
        finally:
            process.kill()
    assert 'WebSocket /accepted?token=secret" [accepted]' in log
    assert 'WebSocket /refused?token=secret" 403' in log
    assert "over-http" not in log  # for HTTP the option holds


async def _knock(port: int) -> None:
    async with connect(f"ws://127.0.0.1:{port}/accepted?token=secret") as websocket:
        await websocket.wait_closed()
    with pytest.raises(InvalidStatus):
        await connect(f"ws://127.0.0.1:{port}/refused?token=secret")
    async with httpx.AsyncClient() as client:
        await client.get(f"http://127.0.0.1:{port}/?token=over-http")


# --- silence


async def test_silent_sockets_stay_open_unless_there_is_a_deadline() -> None:
    path, count = "/ws/auth/first-message", 300

    async def still_open(live: LiveServer, prefix: str) -> int:
        """Open sockets that say nothing; return how many are left after two of the pattern's deadlines."""
        sockets = await asyncio.gather(*(connect(f"{live.ws_url}{prefix}{path}") for _ in range(count)))
        for _ in range(2):
            async with connect(live.ws_url + path) as one:
                await one.wait_closed()
        ends = [asyncio.create_task(websocket.wait_closed()) for websocket in sockets]
        _, left = await asyncio.wait(ends, timeout=0.2 if prefix else 5)
        for websocket in sockets:
            websocket.transport.abort()
        await asyncio.wait(ends)
        return len(left)

    with start(name="silent", settings=Settings(first_message_timeout=0.5)) as live:
        assert await still_open(live, "/broken/no_deadline_for_first_message") == count
        assert await still_open(live, "") == 0
