"""A page from elsewhere, in a real Chromium, gets nothing readable from any pattern of the lab: by no transport.

The visitor is logged in, and the browser sends the cookie along where it would. Each script is first seen to work from
the lab's own page, or against a twin: so a test that could not fail would show.
"""

import re
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, APIWebSocketRoute
from pages import FETCH, LOGIN, OPEN, READ_EVENTS, blank_app, chromium_at, page_of
from playwright.async_api import Browser, Page
from starlette.routing import BaseRoute

from labserver.stage import LiveServer, start
from labserver.stage.lab import lab_app
from labserver.stage.parts import find

pytestmark = pytest.mark.asyncio(loop_scope="module")

PARAMETERS = {"user_id": "ana", "name:path": "hello.txt", "name": "hello.txt", "id": "1"}
QUERIES = {"channels": "news", "id": "1"}  # of those that an endpoint demands


def routes(app: FastAPI) -> Iterator[BaseRoute]:
    """Yield the routes of the app itself and of the routers it includes; not those of apps mounted in it."""
    for route in app.routes:
        included = getattr(route, "original_router", None)
        yield from [route] if included is None else included.routes


def demanded(dependant: Dependant) -> Iterator[str]:
    """Yield the query parameters without which an endpoint, or what it depends on, answers nobody."""
    yield from (field.alias for field in dependant.query_params if field.field_info.is_required())
    for other in dependant.dependencies:
        yield from demanded(other)


def filled(route: APIRoute | APIWebSocketRoute) -> str:
    """Return a path that the route answers when no origin is in the way."""
    path = re.sub(r"\{([^}]+)\}", lambda match: PARAMETERS.get(match[1], "x"), route.path)
    query = "&".join(f"{name}={QUERIES[name]}" for name in dict.fromkeys(demanded(route.dependant)))
    return f"{path}?{query}" if query else path


SOCKETS = [filled(route) for route in routes(lab_app()) if isinstance(route, APIWebSocketRoute)]
GETS = [filled(route) for route in routes(lab_app()) if isinstance(route, APIRoute) and "GET" in (route.methods or ())]

#: url: whether a WebSocket opens.
OPENS = """(url) => new Promise((done) => {
  const socket = new WebSocket(url);
  socket.onopen = () => { done(true); socket.close(); };
  socket.onclose = () => done(false);
})"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser(require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with chromium_at(find("chromium").detail) as running:
        yield running


@pytest.fixture(scope="module")
def live() -> Iterator[LiveServer]:
    with start(name="foreign origin") as live:
        yield live


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[LiveServer]:
    with start(blank_app(), name="elsewhere") as live:
        yield live


@pytest_asyncio.fixture(loop_scope="module")
async def own_page(browser: Browser, live: LiveServer) -> AsyncIterator[Page]:
    """A page of the lab; Ana is logged in."""
    async with page_of(browser, f"{live.url}/online") as page:
        assert await page.evaluate(LOGIN, "/login") == 200
        yield page


@pytest_asyncio.fixture(loop_scope="module", params=["127.0.0.1", "elsewhere.example"])
async def foreign_page(own_page: Page, elsewhere: LiveServer, request: pytest.FixtureRequest) -> Page:
    """The same window, on a page of another origin: of the same site (another port), or of another site."""
    await own_page.goto(f"http://{request.param}:{elsewhere.port}/")
    return own_page


async def test_there_are_routes_of_each_kind() -> None:
    assert {"/ws", "/ws/ana", "/ws/auth/cookie"} <= set(SOCKETS)
    assert {"/online", "/events"} <= set(GETS)


async def test_no_websocket_opens_for_a_foreign_page(foreign_page: Page, live: LiveServer) -> None:
    got = {path: await foreign_page.evaluate(OPEN, [live.ws_url + path, None]) for path in SOCKETS}
    assert {path for path, each in got.items() if each["events"] != ["error", "close"] or each["messages"]} == set()
    assert {each["code"] for each in got.values()} == {1006}


async def test_no_fetch_and_no_event_source_is_read_by_a_foreign_page(foreign_page: Page, live: LiveServer) -> None:
    read = {path: await foreign_page.evaluate(FETCH, live.url + path) for path in GETS}
    assert {path for path, answer in read.items() if answer is not None} == set()
    heard = {path: await foreign_page.evaluate(READ_EVENTS, live.url + path) for path in GETS}
    assert {path for path, data in heard.items() if data is not None} == set()


async def test_the_same_scripts_read_from_the_labs_own_page(own_page: Page, live: LiveServer) -> None:
    assert (await own_page.evaluate(OPEN, [f"{live.ws_url}/ws", None]))["messages"] == ["hello"]
    private = await own_page.evaluate(OPEN, [f"{live.ws_url}/ws/auth/cookie", None])
    assert "door code 4711" in private["messages"][0]
    assert (await own_page.evaluate(FETCH, f"{live.url}/online")).startswith("200 ")
    assert await own_page.evaluate(READ_EVENTS, f"{live.url}/events") == "one"


async def test_every_route_answers_the_labs_own_page(own_page: Page, live: LiveServer) -> None:
    """So what refuses the foreign page is its origin, and nothing that the address lacks."""
    assert [path for path in SOCKETS if not await own_page.evaluate(OPENS, live.ws_url + path)] == []
    answers = {path: await own_page.evaluate(FETCH, live.url + path) for path in GETS}
    assert {path for path, answer in answers.items() if answer is None or answer.startswith(("422", "500"))} == set()


async def test_a_foreign_page_reads_from_the_twin_without_the_check(
    own_page: Page, live: LiveServer, elsewhere: LiveServer
) -> None:
    prefix = "/broken/no_origin_check"
    assert await own_page.evaluate(LOGIN, f"{prefix}/login") == 200
    await own_page.goto(f"{elsewhere.url}/")
    stolen = await own_page.evaluate(OPEN, [f"{live.ws_url}{prefix}/ws/auth/cookie", None])
    assert "door code 4711" in stolen["messages"][0]
