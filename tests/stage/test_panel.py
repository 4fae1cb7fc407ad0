"""Live panels, asked for over real sockets; `tests/real` shows them in a real JupyterLab."""

import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from html.parser import HTMLParser
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from starlette.middleware.gzip import GZipMiddleware

from labserver.errors import LabError
from labserver.stage import LiveServer, Picture, page, panel, start
from labserver.stage.rich import Html

PICTURE = Picture("<svg/>", alt="The feed, drawn.", twin="the feed\n")


def feed() -> FastAPI:
    app = FastAPI()

    @app.get("/{path:path}")
    async def everything(path: str) -> PlainTextResponse:
        return PlainTextResponse(f"the app's own {path}")

    return app


@pytest.fixture
def live() -> Iterator[LiveServer]:
    with start(feed(), name="panels") as server:
        yield server


class Outputs(HTMLParser):
    """What a reader gets: the elements outside scripts, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self._script = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._script = tag == "script"

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        self.words += "" if self._script else data


def address(shown: Html) -> str:
    """Return where the panel in a cell's output is served."""
    box = Outputs(shown.html).tags[0][1]
    return f"{box['data-url']}/{box['data-path']}"


def test_the_server_itself_serves_the_page(live: LiveServer) -> None:
    answer = httpx.get(address(page("<b id=mine>one</b>", live, title="A <feed> & more")))
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<b id=mine>one</b>" in answer.text
    assert "<title>A &lt;feed&gt; &amp; more</title>" in answer.text


def test_relative_addresses_in_the_page_are_the_servers_under_any_prefix(live: LiveServer) -> None:
    where = address(page("", live, title="A feed"))
    (base,) = re.findall('<base href="(.*)">', httpx.get(where).text)
    assert urljoin(urljoin(where, base), "events") == f"{live.url}/events"
    behind = where.replace(live.url, f"https://hub.example/user/ana/proxy/{live.port}")
    assert urljoin(urljoin(behind, base), "ws") == f"https://hub.example/user/ana/proxy/{live.port}/ws"


def test_the_page_stands_before_routes_that_take_everything_and_leaves_them_alone(live: LiveServer) -> None:
    shown = page("<i>mine</i>", live, title="A feed")
    assert "<i>mine</i>" in httpx.get(address(shown)).text
    assert httpx.get(f"{live.url}/events").text == "the app's own events"
    assert "_panel" not in str(live.app.openapi())


def test_a_notebook_on_another_port_may_ask_for_it(live: LiveServer) -> None:
    answer = httpx.get(address(page("", live, title="A feed")), headers={"Origin": "http://127.0.0.1:8888"})
    assert answer.headers["access-control-allow-origin"] == "*"


def test_running_the_cell_again_replaces_its_page(live: LiveServer) -> None:
    first, again = (page("one", live, title="A feed") for _ in range(2))
    assert address(first) == address(again)
    changed = page("two", live, title="A feed")
    other = page("one", live, title="Another feed")
    assert [httpx.get(address(shown)).status_code for shown in (first, changed, other)] == [404, 200, 200]
    assert [type(route).__name__ for route in live.app.router.routes].count("_Panels") == 1


def test_an_unknown_panel_is_a_plain_404(live: LiveServer) -> None:
    page("", live, title="A feed")
    answer = httpx.get(f"{live.url}/_panel/unknown/")
    assert answer.status_code == 404
    assert answer.text == "There is no such panel (any more): run its cell again."


def test_a_panel_ends_with_its_server_also_when_the_app_is_served_again(live: LiveServer) -> None:
    shown = page("", live, title="A feed")
    with start(live.app, name="panels") as next_one:
        path = address(shown).removeprefix(live.url)
        assert not live.alive
        assert httpx.get(next_one.url + path).status_code == 404
        assert httpx.get(address(page("", next_one, title="A feed"))).status_code == 200


def test_two_servers_of_one_app_keep_their_own_pages(live: LiveServer) -> None:
    with start(live.app, name="beside") as beside:
        one, two = page("one", live, title="A feed"), page("two", beside, title="A feed")
        assert "one" in httpx.get(address(one)).text
        assert "two" in httpx.get(address(two)).text


def test_pages_from_many_threads_while_requests_run_are_all_served(live: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool, httpx.Client(base_url=live.url) as client:
        asked = [pool.submit(client.get, "/events") for _ in range(24)]
        shown = list(pool.map(lambda number: page(str(number), live, title=f"feed {number}"), range(24)))
        assert {answer.result().status_code for answer in asked} == {200}
        assert {answer.status_code for answer in pool.map(lambda one: client.get(address(one)), shown)} == {200}
    assert [type(route).__name__ for route in live.app.router.routes].count("_Panels") == 1


def test_middleware_around_the_app_is_looked_through() -> None:
    with start(GZipMiddleware(feed()), name="panels", factory=False) as live:
        assert httpx.get(address(page("", live, title="A feed"))).status_code == 200


def test_a_root_path_does_not_hide_it() -> None:
    with start(feed(), name="panels", root_path="/behind/a/proxy") as live:
        assert httpx.get(address(page("", live, title="A feed"))).status_code == 200


def test_the_text_twin_names_the_panel_and_holds_no_port(live: LiveServer) -> None:
    assert page("", live, title="A feed").twin == "live panel: A feed"
    shown = page("", live, title="A feed", picture=PICTURE)
    assert shown.twin == "live panel: A feed\nthe feed"
    assert str(live.port) in shown.html


def test_without_trust_a_sentence_says_what_would_be_shown(live: LiveServer) -> None:
    outputs = Outputs(page("<b>inside</b>", live, title="A <feed>").html)
    assert outputs.words.strip() == "A live panel stands here while this notebook runs: A <feed>."
    assert [tag for tag, _ in outputs.tags] == ["div", "p", "script"]


def test_without_trust_a_picture_stands_in(live: LiveServer) -> None:
    outputs = Outputs(page("", live, title="A feed", picture=PICTURE).html)
    assert [attributes["alt"] for tag, attributes in outputs.tags if tag == "img"] == ["The feed, drawn."]


def test_a_title_can_not_leave_its_attribute(live: LiveServer) -> None:
    title = """a "feed" 'of' <script>alert(1)</script>"""
    shown = page("", live, title=title)
    tags = Outputs(shown.html).tags
    assert tags[0][1]["data-title"] == title
    assert [tag for tag, _ in tags].count("script") == 1
    assert "<script>alert" not in httpx.get(address(shown)).text


def test_braces_and_every_language_arrive_unchanged(live: LiveServer) -> None:
    html = "<style>p { color: red }</style><p>{title} naïve 日本</p>"
    assert html in unescape(httpx.get(address(page(html, live, title="A feed"))).text)


def test_a_stopped_server_is_one_sentence(live: LiveServer) -> None:
    live.stop()
    with pytest.raises(LabError, match="'panels' is stopped: run the cell that starts it, then this one"):
        page("", live, title="A feed")


def test_a_child_process_is_one_sentence() -> None:
    with (
        start("labserver.service.app:create_app", name="panels", process=True) as live,
        pytest.raises(LabError, match="start it without process=True to show a panel"),
    ):
        page("", live, title="A feed")


def test_an_app_without_routes_is_one_sentence() -> None:
    async def bare(scope: dict, receive: object, send: object) -> None: ...

    with (
        start(bare, name="panels", lifespan="off") as live,
        pytest.raises(LabError, match="serve a FastAPI or Starlette app to show one"),
    ):
        page("", live, title="A feed")


def test_a_blocked_server_is_one_sentence(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel, "PATIENCE", 0.1)
    blocked, free = threading.Event(), threading.Event()

    async def block() -> None:
        blocked.set()
        free.wait(10)

    live.submit(block())
    assert blocked.wait(5)
    try:
        with pytest.raises(LabError, match="'panels' is blocked by its own code"):
            page("", live, title="A feed")
        assert not free.is_set()
    finally:
        free.set()
