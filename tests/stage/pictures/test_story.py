"""Headlines and alternative texts, computed from the events alone."""

import pytest

from labserver.stage.pictures import story
from labserver.stage.wire import lanes


def head(events) -> str:  # type: ignore[no-untyped-def]
    return story.headline(lanes(events))


@pytest.mark.parametrize(
    ("pieces", "end", "sentence"),
    [
        (["data: 1\n\n"], "clean", "1 event arrives, then the stream ends cleanly"),
        (["data: 1\n\n"] * 3, "cut", "3 events arrive, then the connection is cut"),
        (["data: 1\n\n"] * 2, "leaves", "2 events arrive, then the client leaves"),
        (["data: 1\n\n", "event: error\ndata: x\n\n"], "clean", "1 event arrives, then an error event ends the stream"),
        (["data: 1\n\n"], None, "1 event arrives, and the stream is still open"),
    ],
)
def test_a_stream_in_a_sentence(record, pieces: list[str], end: str | None, sentence: str) -> None:  # type: ignore[no-untyped-def]
    events = [(0.1 * n, piece) for n, piece in enumerate(pieces)]
    assert head(record.stream(events, (1.0, end) if end else None)) == sentence


def test_other_findings(record) -> None:  # type: ignore[no-untyped-def]
    assert head([]) == "Nothing passed"
    lost = record.stream([(0.1, "data: 1\n\n")], (0.5, "cut"))
    again = record.stream([(0.7, "data: 2\n\n")], (0.9, "clean"), start=0.6, last="1")
    assert head([*lost, *again]) == "The stream ends early; the client resumes with Last-Event-ID: 1"
    missing = record.stream([(0.1, "gone")], (0.2, "clean"), kind="text/plain", status="410 Gone")
    assert head(missing) == "The server answers 410 Gone: gone"
    up = record.websocket([(0.1, "client", "a"), (0.2, "client", "b"), (0.3, "server", "c")])
    assert head(up) == "One handshake, then 2 messages to the server and 1 back"


def test_the_description_tells_what_happened_in_order(record) -> None:  # type: ignore[no-untyped-def]
    events = record.stream([(0.1, "id: 1\ndata: 1\n\n"), (0.4, "id: 2\ndata: 2\n\n: ping\n\n")], (2.4, "cut"))
    assert story.describe(lanes(events), 2.4) == (
        "One lane, 0 to 2.4 s. Client: GET /events at 0 ms, 2 events (id 1 to id 2) at 100 ms to 400 ms, "
        "1 keepalive, cut at 2.4 s (no last chunk)."
    )
