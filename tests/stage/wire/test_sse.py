"""Event streams as WHATWG HTML 9.2 reads them, and what an event is called."""

import pytest

from labserver.stage.wire import parse
from labserver.stage.wire.sse import SseFields, sse_blocks

GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"

STREAM = (
    '\ufeff: hello\n\nid: 1\ndata: {"a": 1}\n\nevent: tick\r\ndata: one\r\ndata: two\r\n\r\n'
    "id: 2\nretry: 500\n\n:\n\ndata\n\nevent: done\ndata: \n\nid: 9\ndata: unfin"
).encode()


def test_an_event_stream_is_read_as_the_standard_says(talk, answer) -> None:  # type: ignore[no-untyped-def]
    events = parse(talk(GET, answer("text/event-stream; charset=utf-8", STREAM)))
    body = [(event.kind, event.id, event.name, event.data) for event in events if event.kind not in ("open", "close")]
    assert body == [
        ("comment", None, "", "hello"),
        ("event", "1", "message", '{"a": 1}'),
        ("event", None, "tick", "one\ntwo"),
        ("fields", "2", "message", ""),
        ("comment", None, "", ""),
        ("event", None, "message", ""),
        ("event", None, "done", ""),
        ("lost", None, "", b"id: 9\ndata: unfin"),
    ]
    assert b"".join(event.raw for event in events[2:-1]) == STREAM.removeprefix(b"\xef\xbb\xbf")


def test_blocks_are_the_stream_without_a_gap() -> None:
    blocks = list(sse_blocks(STREAM))
    assert [block.whole for block in blocks] == [True] * 7 + [False]
    assert [block.comment for block in blocks if block.comment is not None] == [": hello", ":"]
    assert b"".join(STREAM[block.start : block.stop] for block in blocks) == STREAM[3:]


def test_fields_that_the_standard_ignores() -> None:
    (block,) = sse_blocks(b"id: a\0b\nretry: 5s\nretry:\nevent\nunknown: 1\ndata\n\n")
    assert block.fields == SseFields(data=("",))
    (block,) = sse_blocks(b"event: tick\nevent:\nid\ndata:  two\n\n")
    assert block.fields == SseFields(data=(" two",), id=""), "only one space goes"


def test_label_and_note_say_each_thing_once() -> None:
    said = {
        SseFields(("7",), id="7"): ("id 7", ""),
        SseFields(("x",), "tick", "7", "500"): ("id 7", "x, event: tick, retry: 500"),
        SseFields(("x",), "tick"): ("x", "event: tick"),
        SseFields(("",), "done"): ("done", "empty data"),
        SseFields(("",)): ("message", "empty data"),
        SseFields((), retry="500"): ("retry 500", "retry: 500, no data: never dispatched"),
        SseFields((), "tick"): ("event: tick", "event: tick, no data: never dispatched"),
    }
    for fields, words in said.items():
        assert (fields.label, fields.note) == words


@pytest.mark.timeout(30)
def test_a_long_line_that_breaks_off_takes_no_longer_than_a_whole_one() -> None:
    (block,) = sse_blocks(b"data: " + b"x" * (4 << 20))
    assert (block.whole, len(block.lines[0][1])) == (False, 6 + (4 << 20))
