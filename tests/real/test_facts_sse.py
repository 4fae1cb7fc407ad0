"""What notebooks 05 and 06 teach about EventSource, in a real browser: each test fails when it becomes untrue.

A scripted feed answers each connection in its own way; the page in the browser keeps what its EventSource dispatched.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import pytest_asyncio
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from playwright.async_api import Browser, Page
from real_jupyter import browser
from starlette.middleware.cors import CORSMiddleware

from labserver.stage import start

pytestmark = [pytest.mark.real("chromium"), pytest.mark.asyncio(loop_scope="module")]

PATIENCE = 10_000  # milliseconds until an event that is due in some tens of them is given up
FAST = "retry: 50\n"

# `feeds[name]` keeps what the page's EventSource dispatched, and its state at each error: 0 connecting, 2 closed.
LISTEN = """([name, url, options]) => {
  const source = new EventSource(url, options);
  const feed = { source, events: [], errors: [], opened: 0 };
  const keep = event => feed.events.push([event.type, event.data, event.lastEventId]);
  for (const type of ["message", "news", "done"]) source.addEventListener(type, keep);
  source.onopen = () => feed.opened += 1;
  source.onerror = event => {
    feed.errors.push(source.readyState);
    feed.told = [event.data, event.message, event.status, event.reason].filter(each => each !== undefined);
  };
  (window.feeds ??= {})[name] = feed;
}"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@dataclass(frozen=True)
class Answer:
    """What one connection to a feed gets; `stays` leaves it open until the client goes."""

    body: str = ""
    status: int = 200
    kind: str = "text/event-stream"
    ends: Literal["clean", "cut", "stays"] = "clean"


class Feeds:
    """An app with a page at `/` and feeds at `/NAME`: connection n gets answer n, later ones the last."""

    def __init__(self, **answers: list[Answer]) -> None:
        self.app = FastAPI()
        self.answers = answers
        self.asked: dict[str, list[dict[str, str]]] = {name: [] for name in answers}
        self.times: dict[str, list[float]] = {name: [] for name in answers}
        self.app.get("/")(lambda: HTMLResponse("<!doctype html><title>a page</title>"))
        self.app.get("/{name}")(self.answer)

    async def answer(self, name: str, request: Request) -> Response:
        self.times[name].append(time.monotonic())
        self.asked[name].append(dict(request.headers))
        answer = self.answers[name][min(len(self.asked[name]), len(self.answers[name])) - 1]
        if answer.status != 200:
            return Response(None if answer.status == 204 else answer.body, answer.status)
        return StreamingResponse(stream(answer), media_type=answer.kind)

    def last_ids(self, name: str) -> list[str | None]:
        """The `Last-Event-ID` of each connection, None where there was none."""
        return [headers.get("last-event-id") for headers in self.asked[name]]


async def stream(answer: Answer) -> AsyncIterator[str]:
    yield answer.body
    if answer.ends == "cut":
        raise ConnectionError("cut on purpose")
    if answer.ends == "stays":
        await asyncio.Event().wait()


@asynccontextmanager
async def opened(chrome: Browser, url: str) -> AsyncIterator[Page]:
    """A page at `url`, in a window without cookies; its EventSources end with it."""
    window = await chrome.new_context()
    try:
        shown = await window.new_page()
        await shown.goto(url)
        yield shown
    finally:
        await window.close()


async def listen(page: Page, name: str, url: str | None = None, **options: bool) -> None:
    await page.evaluate(LISTEN, [name, url or name, options])


async def until(page: Page, name: str, condition: str) -> dict[str, Any]:
    """Wait until `condition` holds for the feed; return what was kept of it."""
    await page.wait_for_function(
        f"name => {{ const feed = feeds[name]; return {condition}; }}", arg=name, timeout=PATIENCE
    )
    kept = "name => { const { source, ...rest } = feeds[name]; return { ...rest, state: source.readyState }; }"
    found: dict[str, Any] = await page.evaluate(kept, name)
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def asked(feeds: Feeds, name: str, count: int) -> None:
    async with asyncio.timeout(PATIENCE / 1000):
        while len(feeds.asked[name]) < count:
            await asyncio.sleep(0.01)


# --- what is dispatched


async def test_only_events_with_a_data_line_are_dispatched_and_only_when_their_blank_line_came(chrome: Browser) -> None:
    body = (
        ": a comment\n\n"
        "id: 1\nevent: news\n\n"  # no data: never dispatched
        "data\n\n"  # a field without a colon: data, and empty
        "event: done\ndata: \n\n"
        "id: 2\nevent: news\ndata: first\ndata: second\n\n"
        "nonsense: x\rdata: by CR\r\r"
        "data:tight\r\n\r\n"
        "id: 3\ndata: unfinished\n"
    )
    feeds = Feeds(feed=[Answer(FAST + "\n" + body), Answer("data: again\n\n", ends="stays")])
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            await listen(page, "feed")
            kept = await until(page, "feed", "feed.opened === 2 && feed.events.at(-1)[1] === 'again'")
    assert kept["events"] == [
        ["message", "", "1"],
        ["done", "", "1"],
        ["news", "first\nsecond", "2"],
        ["message", "by CR", "2"],
        ["message", "tight", "2"],
        ["message", "again", "2"],
    ]
    assert feeds.last_ids("feed") == [None, "2"]  # the unfinished event was not remembered either


async def test_raw_text_forges_an_event_and_the_pattern_does_not(chrome: Browser) -> None:
    query = "events?say=hello%0A%0Aevent:%20done%0Adata:%20forged"
    with start(name="facts") as live:
        async with opened(chrome, f"{live.url}/online") as page:
            await listen(page, "broken", f"/broken/raw_newlines_forge_events/{query}")
            await listen(page, "mended", f"/{query}")
            broken = await until(page, "broken", "feed.events.length >= 3")
            mended = await until(page, "mended", "feed.events.length >= 2")
    assert broken["events"][:2] == [["message", "hello", "1"], ["done", "forged", "1"]]
    assert mended["events"][:2] == [
        ["message", "hello\n\nevent: done\ndata: forged", "1"],
        ["done", "complete", "1"],
    ]


async def test_an_event_named_error_reaches_the_listener_for_errors_and_is_the_one_with_data(chrome: Browser) -> None:
    feeds = Feeds(feed=[Answer("event: error\ndata: the source broke\n\n", ends="stays")])
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            await listen(page, "feed")
            kept = await until(page, "feed", "feed.errors.length === 1")
    assert (kept["told"], kept["state"]) == (["the source broke"], 1)  # 1: still open


# --- when it comes back


async def test_it_obeys_retry_and_waits_three_seconds_when_nothing_is_said(
    chrome: Browser, measured: Callable[[str], None]
) -> None:
    feeds = Feeds(told=[Answer(FAST + "data: x\n\n"), Answer()], untold=[Answer("data: x\n\n")])
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            await listen(page, "told")
            await listen(page, "untold")
            await asked(feeds, "untold", 2)
    first, second = feeds.times["untold"][:2]
    measured(f"EventSource came back after {second - first:.2f} s when no retry: was sent")
    assert 2.5 <= second - first <= 8.0
    assert (
        len([at for at in feeds.times["told"] if at < second]) >= 8
    )  # `retry:` also holds for the connections after it


async def test_it_comes_back_after_a_clean_end_and_after_a_cut(chrome: Browser) -> None:
    again = Answer("id: 2\ndata: again\n\n", ends="stays")
    feeds = Feeds(
        clean=[Answer(FAST + "id: 1\ndata: x\n\n"), again],
        cut=[Answer(FAST + "id: 1\ndata: x\n\n", ends="cut"), again],
    )
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            for name in ("clean", "cut"):
                await listen(page, name)
                kept = await until(page, name, "feed.events.length === 2")
                assert kept["errors"] == [0]  # connecting: the page learns no more, and not which of the two it was
                assert kept["told"] == []
                assert kept["events"] == [["message", "x", "1"], ["message", "again", "2"]]
                assert feeds.last_ids(name) == [None, "1"]


async def test_it_comes_back_to_a_server_that_was_dead(chrome: Browser) -> None:
    feeds = Feeds(feed=[Answer(FAST + "id: 7\ndata: x\n\n", ends="stays"), Answer("data: again\n\n", ends="stays")])
    port = free_port()  # named for both servers: only then may the second take it at once
    with start(feeds.app, name="facts", port=port) as live:
        async with opened(chrome, live.url) as page:
            await listen(page, "feed")
            await until(page, "feed", "feed.events.length === 1")
            live.stop()
            kept = await until(page, "feed", "feed.errors.length >= 3")
            assert set(kept["errors"]) == {0}
            with start(feeds.app, name="facts", port=port):
                kept = await until(page, "feed", "feed.events.length === 2")
    assert kept["events"][1] == ["message", "again", "7"]
    assert feeds.last_ids("feed") == [None, "7"]


async def test_id_0_is_sent_as_0_and_an_empty_id_clears_it(chrome: Browser) -> None:
    answers = [Answer(FAST + "id: 0\ndata: x\n\n"), Answer("id\ndata: y\n\n"), Answer("data: z\n\n", ends="stays")]
    feeds = Feeds(feed=answers)
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            await listen(page, "feed")
            kept = await until(page, "feed", "feed.events.length === 3")
    assert feeds.last_ids("feed") == [None, "0", None]
    assert [id for _, _, id in kept["events"]] == ["0", "", ""]


# --- when it does not


async def test_any_other_status_and_any_other_type_close_it_for_good(chrome: Browser) -> None:
    ends = {f"s{status}": Answer("no", status) for status in (204, 401, 404, 422, 500, 502, 503)}
    ends["type"] = Answer("data: x\n\n", kind="text/plain")
    feeds = Feeds(
        **{name: [Answer(FAST + "data: x\n\n"), end] for name, end in ends.items()},
        witness=[Answer(FAST + "data: x\n\n")],
    )
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            for name in ends:
                await listen(page, name)
                kept = await until(page, name, "feed.errors.length === 2")
                assert (name, kept["errors"], kept["state"]) == (name, [0, 2], 2)
                assert kept["told"] == []  # neither the status nor a reason reaches the page
            await listen(page, "witness")
            await asked(feeds, "witness", 8)  # time enough for the closed ones to come back, if they did
    assert {name: len(feeds.asked[name]) for name in ends} == dict.fromkeys(ends, 2)


# --- CORS


async def test_a_page_from_elsewhere_reads_nothing_though_the_request_reached_the_server(chrome: Browser) -> None:
    feeds = Feeds(feed=[Answer("data: secret\n\n")])
    with start(feeds.app, name="facts") as live, start(Feeds().app, name="elsewhere") as elsewhere:
        async with opened(chrome, elsewhere.url) as page:
            await listen(page, "feed", f"{live.url}/feed")
            kept = await until(page, "feed", "feed.errors.length === 1")
    assert (kept["opened"], kept["events"], kept["state"]) == (0, [], 2)
    assert [headers["origin"] for headers in feeds.asked["feed"]] == [elsewhere.url]


@pytest.mark.parametrize("allow_credentials", [False, True])
async def test_an_allow_list_lets_it_read_and_cookies_take_both_sides(chrome: Browser, allow_credentials: bool) -> None:
    feeds = Feeds(plain=[Answer("data: x\n\n", ends="stays")], cookie=[Answer("data: x\n\n", ends="stays")])
    with start(Feeds().app, name="elsewhere") as elsewhere:
        feeds.app.add_middleware(CORSMiddleware, allow_origins=[elsewhere.url], allow_credentials=allow_credentials)
        with start(feeds.app, name="facts") as live:
            async with opened(chrome, elsewhere.url) as page:
                await page.context.add_cookies([{"name": "session", "value": "s", "url": live.url}])
                await listen(page, "plain", f"{live.url}/plain")
                assert (await until(page, "plain", "feed.events.length === 1"))["errors"] == []
                await listen(page, "cookie", f"{live.url}/cookie", withCredentials=True)
                kept = await until(page, "cookie", "feed.events.length + feed.errors.length === 1")
    assert "cookie" not in feeds.asked["plain"][0]
    assert feeds.asked["cookie"][0]["cookie"] == "session=s"
    assert (len(kept["events"]), kept["errors"]) == ((1, []) if allow_credentials else (0, [2]))


async def test_it_sends_no_headers_of_the_pages_own(chrome: Browser) -> None:
    feeds = Feeds(feed=[Answer("data: x\n\n", ends="stays")])
    with start(feeds.app, name="facts") as live:
        async with opened(chrome, live.url) as page:
            await page.evaluate(
                "() => { window.source = new EventSource('feed', { headers: { Authorization: 'x' } }); }"
            )
            await asked(feeds, "feed", 1)
    (headers,) = feeds.asked["feed"]
    assert "authorization" not in headers
    assert headers["accept"] == "text/event-stream"
    assert "gzip" in headers["accept-encoding"]
