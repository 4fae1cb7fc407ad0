"""Each twin of the SSE topic fails in the way that it says, where a real client can see it."""

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, start

INTERVAL = 0.15  # seconds between two messages: a read that takes both at once has waited for it


def test_raw_newlines_forge_events(lab: LiveServer) -> None:
    say = {"say": "hello\n\nevent: done\ndata: forged"}
    broken = httpx.get(f"{lab.url}/broken/raw_newlines_forge_events/events", params=say).text
    assert broken.startswith("id: 1\ndata: hello\n\nevent: done\ndata: forged\n\n")
    mended = httpx.get(f"{lab.url}/events", params=say).text
    assert mended.startswith("id: 1\ndata: hello\ndata: \ndata: event: done\ndata: data: forged\n\n")


def test_a_single_newline_loses_the_second_line(lab: LiveServer) -> None:
    broken = httpx.get(f"{lab.url}/broken/raw_newlines_forge_events/events", params={"say": "first\nsecond"}).text
    assert broken.startswith("id: 1\ndata: first\nsecond\n\n")  # "second" is an unknown field: ignored


def test_a_crash_in_fastapis_own_response_looks_like_the_end(lab: LiveServer) -> None:
    path = f"{lab.url}/broken/crash_looks_like_the_end/events/native"
    crashed = httpx.get(path, params={"fail_after": 2})
    complete = httpx.get(path, params={"say": ["one", "two"]})
    assert crashed.text == complete.text  # byte for byte: no client can tell
    assert lab.errors() == ["ConnectionError: the source went away"]


def test_a_crash_in_a_plain_response_cuts_the_body(lab: LiveServer) -> None:
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{lab.url}/broken/crash_looks_like_the_end/events", params={"fail_after": 2})


@pytest.mark.parametrize(
    ("path", "accepted", "held"),
    [
        ("/broken/gzip_holds_events/events", "gzip", True),  # everything at once, at the end
        ("/broken/gzip_holds_events/events", "identity", False),  # what curl asks for when nothing is said
        ("/events", "gzip", False),
    ],
)
def test_gzip_holds_events(path: str, accepted: str, held: bool) -> None:
    with start(name="tests", settings=Settings(sse_interval=INTERVAL)) as lab, lab.tape() as tape:
        ask = {"headers": {"Accept-Encoding": accepted}, "params": {"say": ["one", "two"]}}
        response = httpx.get(tape.url + path, **ask)
    events = [event for event in tape.events if event.kind == "event"]
    assert [event.data for event in events] == ["one", "two", "complete"]
    assert ("content-encoding" in response.headers) == held
    assert (len({event.at for event in events}) == 1) == held


def test_the_compressed_feed_is_whole_and_says_how_it_ended(lab: LiveServer) -> None:
    twin = f"{lab.url}/broken/gzip_holds_events/events"
    for params in ({}, {"fail_after": "1"}, {"say": "a\nb"}):
        assert httpx.get(twin, params=params).text == httpx.get(f"{lab.url}/events", params=params).text
