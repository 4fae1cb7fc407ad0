"""What notebook 06 teaches about asyncio, proxies and EventSource: each fails when a new version makes it untrue."""

import asyncio
import itertools
import ssl
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from statistics import mean

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from playwright.async_api import Browser, Page
from real_jupyter import browser

from labserver.settings import Settings
from labserver.stage import LiveServer, fault_proxy, nginx, start

TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
TIMEOUT = 10.0

pytestmark = pytest.mark.asyncio(loop_scope="module")

# --- how to wait for an event or a time-out


async def read(next_event: Callable[[], object], interval: float, seconds: float) -> list[object]:
    """Wait for events as a feed with keepalives does, for so many seconds; return what came."""
    clock = asyncio.get_running_loop().time
    ends, found = clock() + seconds, []
    while clock() < ends:
        try:
            found.append(await asyncio.wait_for(next_event(), interval))
        except TimeoutError:
            continue
    return found


async def publish(queue: asyncio.Queue[int], count: int, pause: float) -> None:
    for number in range(count):
        queue.put_nowait(number)
        await asyncio.sleep(pause)


async def test_wait_for_around_queue_get_loses_nothing() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(publish(queue, 300, 0.001))
        found = await read(queue.get, 0.001, 1.0)  # as many time-outs as events
    while not queue.empty():
        found.append(queue.get_nowait())
    assert found == list(range(300))


async def test_wait_for_around_a_get_with_two_awaits_loses_events() -> None:
    queue: asyncio.Queue[int] = asyncio.Queue()

    async def get_and_look_up() -> int:
        number = await queue.get()
        await asyncio.sleep(0.005)  # a second await: a time-out here drops what was taken out of the queue
        return number

    async with asyncio.TaskGroup() as group:
        group.create_task(publish(queue, 40, 0.013))
        found = await read(get_and_look_up, 0.01, 0.8)
    assert queue.empty()
    assert 0 < len(found) < 40


async def test_a_time_out_around_anext_ends_the_generator() -> None:
    async def source() -> AsyncIterator[int]:
        await asyncio.sleep(0.05)
        yield 1

    events = source()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(events), 0.01)
    with pytest.raises(StopAsyncIteration):
        await anext(events)


# --- over the wire


async def delays(url: str, readers: int, rounds: int, interval: float) -> list[float]:
    """Return the seconds that each reader waited for each event; the readers begin at different times."""
    published: list[float] = []
    found: list[float] = []

    async def listen(client: httpx.AsyncClient) -> None:
        async with client.stream("GET", f"{url}/events/prices") as response:
            seen = 0
            async for line in response.aiter_lines():
                if line.startswith('data: {"price"'):
                    found.append(time.monotonic() - published[seen])
                    seen += 1
                if seen == rounds:
                    return

    async with httpx.AsyncClient(verify=TLS, timeout=TIMEOUT) as client, asyncio.TaskGroup() as group:
        for _ in range(readers):
            group.create_task(listen(client))
            await asyncio.sleep(interval / readers)
        for number in range(rounds):
            published.append(time.monotonic())
            await client.post(f"{url}/events/prices", json={"price": number})
            await asyncio.sleep(interval * 1.3)
    return found


async def test_look_then_sleep_delays_events_by_half_its_interval_and_up_to_all_of_it_wait_for_by_nothing() -> None:
    interval = 0.3
    with start(name="facts", settings=Settings(sse_keepalive=interval)) as live:
        async with asyncio.timeout(2 * TIMEOUT):
            late = await delays(f"{live.url}/broken/keepalive_delays_events", 8, 4, interval)
            at_once = await delays(live.url, 8, 4, interval)
    assert len(late) == len(at_once) == 32
    assert 0.25 < mean(late) / interval < 1.0
    assert max(late) / interval > 0.75
    assert mean(at_once) < mean(late) / 3


@pytest.mark.real("nginx")
@pytest.mark.parametrize("keepalive", [30.0, 0.2])
async def test_nginx_cuts_a_quiet_stream_and_a_keepalive_holds_it(
    keepalive: float, require: Callable[[str], None]
) -> None:
    require("nginx")
    with (
        start(name="facts", settings=Settings(sse_keepalive=keepalive)) as live,
        nginx(live, read_timeout=0.6, name="facts") as proxy,
    ):
        began, ended = time.monotonic(), ""
        async with httpx.AsyncClient(verify=TLS, timeout=TIMEOUT) as client:
            try:
                async with (
                    asyncio.timeout(5.0 if keepalive > 1 else 1.5),
                    client.stream("GET", f"{proxy.url}/events/prices") as response,
                ):
                    async for _ in response.aiter_lines():
                        pass
            except httpx.RemoteProtocolError as error:
                ended = str(error)
            except TimeoutError:
                ended = "still open"
        took = time.monotonic() - began
    if keepalive > 1:
        assert "incomplete chunked read" in ended
        assert took > 0.5
    else:
        assert ended == "still open"


# --- EventSource, in a real browser


class Source:
    """A server whose answers are given, one per request; it notes when and with which id each request came.

    "cut" waits until the page has told that it heard: a browser may drop what came just before a connection broke.
    """

    def __init__(self, *answers: tuple[int, str, str]) -> None:
        self.answers = answers
        self.asked: list[str | None] = []
        self.at: list[float] = []
        self.app = FastAPI()
        self.app.add_api_route("/", lambda: Response("<!doctype html>", media_type="text/html"))
        self.app.add_api_route("/events", self.answer)
        self.app.add_api_route("/heard", self.hear)
        self.heard: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)

    async def hear(self, data: str) -> None:
        self.heard[data].set()

    async def answer(self, request: Request) -> Response:
        self.asked.append(request.headers.get("last-event-id"))
        self.at.append(time.monotonic())
        status, body, ending = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if status != 200:
            return Response(body, status)

        async def stream() -> AsyncIterator[str]:
            yield body
            if ending == "open":
                await asyncio.sleep(60)
            if ending == "cut":
                await asyncio.wait_for(self.heard[body.partition("data: ")[2].strip()].wait(), TIMEOUT)
                raise ConnectionError("cut")

        return StreamingResponse(stream(), media_type="text/event-stream")


LISTEN = """
() => {
  window.heard = [];
  window.source = new EventSource("events");
  source.onmessage = (event) => { heard.push(event.data); if (window.tell) fetch("heard?data=" + event.data); };
  source.addEventListener("start", () => heard.push("start"));
  source.addEventListener("done", (event) => { heard.push("done " + event.data); if (window.polite) source.close(); });
}
"""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def chrome(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


async def listen(chrome: Browser, live: LiveServer) -> Page:
    page = await chrome.new_page()
    await page.goto(live.url)
    await page.evaluate("() => { window.tell = true }")
    await page.evaluate(LISTEN)
    return page


in_chromium = pytest.mark.real("chromium")
CLOSED = "() => source.readyState === EventSource.CLOSED"


@in_chromium
async def test_event_source_says_what_it_saw_last_on_every_reconnect_and_obeys_retry(chrome: Browser) -> None:
    source = Source(
        (200, "retry: 50\ndata: no id\n\n", "clean"),
        (200, "id: a-1\ndata: one\n\n", "cut"),
        (200, "id: a-2\ndata: two\n\nid: a-3\ndata: never finished\n", "clean"),
        (200, "data: still no id\n\n", "cut"),
        (200, "id: 0\ndata: zero\n\n", "clean"),
        (200, "id\ndata: cleared\n\n", "clean"),
        (200, "id: a-4\nevent: gap\ndata: nobody listens\n\n", "clean"),
        (204, "", ""),
    )
    with start(source.app, name="facts") as live:
        page = await listen(chrome, live)
        await page.wait_for_function(CLOSED, timeout=TIMEOUT * 1000)
        assert source.asked == [None, None, "a-1", "a-2", "a-2", "0", None, "a-4"]
        assert await page.evaluate("heard") == ["no id", "one", "two", "still no id", "zero", "cleared"]
        assert source.at[-1] - source.at[0] < 3.0  # seven pauses, and not one of the default's three seconds


@in_chromium
async def test_done_is_dispatched_and_then_the_work_is_done_again_unless_page_or_server_says_no(
    chrome: Browser,
) -> None:
    with start(name="facts", settings=Settings(sse_retry=0.05, sse_interval=0.0)) as live:

        async def listen_until(condition: str, path: str, polite: bool) -> tuple[list[str], int]:
            """Return what a page hears of a countdown, and how often it asks."""
            visit = next(visits)
            page = await chrome.new_page()
            await page.goto(f"{live.url}/openapi.json")
            await page.evaluate(f"() => {{ window.polite = {str(polite).lower()} }}")
            await page.evaluate(LISTEN.replace('"events"', f'"{path}/events/countdown?visit={visit}"'))
            await page.wait_for_function(condition, timeout=TIMEOUT * 1000)
            await asyncio.sleep(0.3)  # six times the pause before a reconnect
            heard = await page.evaluate("heard")
            await page.close()
            return heard, sum(f"visit={visit} " in line for line in live.logs())

        visits = itertools.count()
        twin, once = "/broken/done_without_close", ["3", "2", "1", "done complete"]
        heard, requests = await listen_until("() => heard.length >= 16", twin, polite=False)
        assert heard[:16] == once * 4
        assert requests >= 4
        assert await listen_until(CLOSED, twin, polite=True) == (once, 1)
        assert await listen_until(CLOSED, "", polite=False) == (once, 2)  # the second is answered 204


@in_chromium
async def test_event_source_resumes_the_feed_with_nothing_lost_or_doubled(chrome: Browser) -> None:
    settings = Settings(sse_epoch="a", sse_retry=0.3)
    with start(name="facts", settings=settings) as live, fault_proxy(live, name="facts") as network:
        page = await chrome.new_page()
        await page.goto(f"{network.url}/openapi.json")
        await page.evaluate(LISTEN.replace('"events"', '"events/prices"'))
        await page.wait_for_function("() => heard.length == 1", timeout=TIMEOUT * 1000)
        async with httpx.AsyncClient(verify=TLS) as client:
            for number in range(1, 10):
                await client.post(f"{live.url}/events/prices", json={"price": number})
                if number % 3 == 1:  # while the browser is away, or here again, the next ones are published
                    await page.wait_for_function(f"() => heard.length == {number + 1}", timeout=TIMEOUT * 1000)
                    assert network.cut() >= 1
        await page.wait_for_function("() => heard.length >= 10", timeout=TIMEOUT * 1000)
        assert await page.evaluate("heard") == ["start", *(f'{{"price":{n}.0}}' for n in range(1, 10))]
