"""The feed over real sockets: its bytes, its headers, its ending, and what bad input gets."""

from collections.abc import Iterator

import httpx
import pytest

from labserver.patterns.server_sent_events import encode
from labserver.settings import Settings
from labserver.stage import LiveServer, start

PATHS = ["/events", "/events/native"]


@pytest.fixture(scope="module")
def lab() -> Iterator[LiveServer]:
    """One server for all tests of this feed: it keeps nothing."""
    with start(name="tests", settings=Settings(sse_interval=0.01)) as live:
        yield live


def parse(body: str) -> list[dict[str, str]]:
    """Split a stream into its events, as WHATWG HTML 9.2.6 does; only for bodies without comments."""
    events = []
    for block in body.split("\n\n")[:-1]:
        event: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            event[name] = f"{event[name]}\n{value}" if name in event else value
        events.append(event)
    return events


@pytest.mark.parametrize("path", PATHS)
def test_the_feed_is_numbered_and_ends_with_done(lab: LiveServer, path: str) -> None:
    response = httpx.get(lab.url + path)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-cache"
    assert response.headers["x-accel-buffering"] == "no"
    assert parse(response.text) == [
        {"id": "1", "data": "one"},
        {"id": "2", "data": "two"},
        {"id": "3", "data": "three"},
        {"event": "done", "data": "complete"},
    ]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "text", ["a\nb", "a\r\nb", "a\rb", "a\n\ndata: forged\n\n", "\n", "naïve 🌊", "", "a\u2028b\x0bc"]
)
def test_text_arrives_whole_whatever_line_breaks_it_has(lab: LiveServer, path: str, text: str) -> None:
    body = httpx.get(lab.url + path, params={"say": text}).text
    sent, done = parse(body)
    assert sent == {"id": "1", "data": text.replace("\r\n", "\n").replace("\r", "\n")}
    assert done["event"] == "done"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("after", [0, 1, 2])
def test_a_source_that_breaks_ends_the_feed_with_error(lab: LiveServer, path: str, after: int) -> None:
    events = parse(httpx.get(lab.url + path, params={"fail_after": after}).text)
    assert len(events) == after + 1
    assert events[-1] == {"event": "error", "data": "the source went away"}
    assert lab.errors() == []


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("query", ["fail_after=-1", "fail_after=x", "fail_after=1.5", "&".join(["say=x"] * 101)])
def test_bad_input_is_a_422_and_no_stream(lab: LiveServer, path: str, query: str) -> None:
    response = httpx.get(f"{lab.url}{path}?{query}")
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/json"


def test_encode_writes_the_fields_in_order() -> None:
    assert encode("a\nb", event="news", id=0) == "id: 0\nevent: news\ndata: a\ndata: b\n\n"
