"""Bodies: lines, content coding undone, and the halves that are of no use."""

import gzip

import pytest

from labserver.stage.wire import End, WireEvent, parse
from labserver.stage.wire import body as body_module

GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


def told(events: list[WireEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.label) for event in events]


def test_lines_of_a_stream_cut_in_the_middle(talk, answer) -> None:  # type: ignore[no-untyped-def]
    rows = b'{"id": 1}\n{"id": 2}\n{"error": "bad row"}\n{"id'
    gone = End(2.0, "server", "eof")
    events = parse(talk(GET, answer("application/x-ndjson", rows, end=False), gone))
    assert told(events)[2:] == [
        ("line", '{"id": 1}'),
        ("line", '{"id": 2}'),
        ("line", '{"error": "bad row"}'),
        ("lost", '{"id'),
        ("cut", "cut"),
    ]
    assert events[4].shown == "error"
    assert events[-1].note == "no last chunk"


def test_gzip_is_undone(talk, answer) -> None:  # type: ignore[no-untyped-def]
    zipped = answer("text/event-stream", gzip.compress(b"data: 1\n\ndata: 2\n\n"), more="Content-Encoding: gzip\r\n")
    events = parse(talk(GET, zipped))
    assert [event.data for event in events if event.kind == "event"] == ["1", "2"]


def test_a_body_that_inflates_without_end_is_cut_short(talk, answer, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(body_module, "_MOST", 5000)
    zipped = answer("text/plain", gzip.compress(bytes(1_000_000)), chunk=100, more="Content-Encoding: gzip\r\n")
    assert [event.size for event in parse(talk(GET, zipped)) if event.kind == "body"] == [5000]


def test_a_fault_in_the_coding_costs_only_what_follows(talk, answer) -> None:  # type: ignore[no-untyped-def]
    raw = bytearray(gzip.compress(b"data: 1\n\n"))
    raw[-6] ^= 1  # the checksum
    good = parse(talk(GET, answer("text/event-stream", bytes(raw), chunk=1, more="Content-Encoding: gzip\r\n")))
    assert [event.data for event in good if event.kind == "event"] == ["1"]


def test_a_coding_that_cannot_be_undone_says_so(talk, answer) -> None:  # type: ignore[no-untyped-def]
    events = parse(talk(GET, answer("text/event-stream", b"data: 1\n\n", more="Content-Encoding: br\r\n")))
    assert [event.label for event in events if event.kind == "body"] == ["coded"]
