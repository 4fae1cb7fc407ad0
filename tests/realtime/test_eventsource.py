"""The parser says of any bytes, cut anywhere, what the standard says of the whole (WHATWG HTML, 9.2.6)."""

import re
import tracemalloc
from collections.abc import Iterable
from itertools import pairwise, repeat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from labserver.realtime.eventsource import Block, EventSourceParser
from labserver.realtime.message import sse

BOM = "\ufeff".encode()
TOKENS = [
    b"data",
    b"event",
    b"id",
    b"retry",
    b":",
    b": ",
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\0",
    BOM,
    b"12",
    b"x",
    b" ",
]
TOKENS += [
    b"data: 1\n\n",
    b"id: 7\n",
    b"event: e\r\r",
    *("é", "€", "😀", "\u2028", "\x85", "\x0b"),
    b"\xff",
    b"\xe2\x82",
]
STREAMS = st.lists(
    st.sampled_from([each.encode() if isinstance(each, str) else each for each in TOKENS]) | st.binary(max_size=4)
).map(b"".join)


def expected(stream: bytes) -> tuple[list[Block], str, float]:
    """Read a whole stream as the standard has it, one step after the other: its events, last id and retry."""
    *lines, _ = re.split("\r\n|\r|\n", stream.removeprefix(BOM).decode(errors="replace"))
    events, last_id, retry = [], "", 0.0
    data, name, id = "", "", None
    for line in lines:
        field, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if line == "":
            last_id = last_id if id is None else id
            if data:
                events.append(Block(name or "message", data[:-1], id))
            data, name, id = "", "", None
        elif field == "data":
            data += value + "\n"
        elif field == "event":
            name = value
        elif field == "id" and "\0" not in value:
            id = value
        elif field == "retry" and re.fullmatch("[0-9]+", value):
            retry = int(value) / 1000
    return events, last_id, retry


def parsed(*pieces: bytes, **options: int) -> tuple[list[Block], str, float]:
    parser = EventSourceParser(**options)
    return [block for piece in pieces for block in parser.feed(piece)], parser.last_id, parser.retry


def read_all(parser: EventSourceParser, pieces: Iterable[bytes]) -> None:
    for piece in pieces:
        list(parser.feed(piece))


def cut(stream: bytes, at: list[int]) -> list[bytes]:
    return [stream[begin:end] for begin, end in pairwise([0, *sorted(each % (len(stream) + 1) for each in at), None])]


@given(STREAMS, st.lists(st.integers(min_value=0), max_size=8))
def test_any_split_gives_the_events_of_the_standard(stream: bytes, at: list[int]) -> None:
    assert parsed(stream) == parsed(*cut(stream, at)) == parsed(*(bytes([each]) for each in stream)) == expected(stream)


@given(STREAMS, st.lists(st.integers(min_value=0), max_size=8), st.integers(0, 30))
def test_any_split_meets_the_limit_after_the_same_events(stream: bytes, at: list[int], limit: int) -> None:
    def seen(pieces: list[bytes]) -> tuple[list[Block], bool]:
        parser, events = EventSourceParser(limit=limit), []
        try:
            for piece in pieces:
                for block in parser.feed(piece):
                    events.append(block)
        except ValueError:
            return events, True
        return events, False

    assert seen([stream]) == seen(cut(stream, at)) == seen([bytes([each]) for each in stream])


@given(st.text(), st.from_regex(r"[^\r\n]*", fullmatch=True), st.from_regex(r"[^\r\n\0]*", fullmatch=True))
def test_what_message_writes_comes_back(data: str, event: str, id: str) -> None:
    written = sse(data, event=event, id=id, retry=0.25)
    lines = "\n".join(re.split("\r\n|\r|\n", data))
    assert parsed(written) == ([Block(event or "message", lines, id)], id, 0.25)


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: YHOO\ndata: +2\ndata: 10\n\n", [Block("message", "YHOO\n+2\n10", None)]),  # the standard's examples
        (b": test\n\ndata: first\nid: 1\n\ndata:second\nid\n\ndata:  third\n\n", None),
        (b"data\n\ndata\ndata\n\ndata:", [Block("message", "", None), Block("message", "\n", None)]),
        (b"data:test\n\ndata: test\n\n", [Block("message", "test", None)] * 2),
        (BOM + b"data: 1\n\n" + BOM + b"data: 2\n\n", [Block("message", "1", None)]),  # a second one is part of a name
        (b"event: e\n\ndata: 1\n\n", [Block("message", "1", None)]),
        (b"Data: 1\n data: 2\n\n", []),
        (b"id: a\0b\ndata: 1\n\n", [Block("message", "1", None)]),
        (b"data: \xff\xe2\x82x\n\n", [Block("message", "\ufffd\ufffdx", None)]),
        (b"data: \xed\xa0\x80\n\n", [Block("message", "\ufffd" * 3, None)]),  # half a character
    ],
)
def test_the_forms_of_the_standard(stream: bytes, events: list[Block] | None) -> None:
    third = [Block("message", "first", "1"), Block("message", "second", ""), Block("message", " third", None)]
    assert parsed(stream)[0] == (third if events is None else events)


def test_an_event_is_there_with_the_byte_that_completes_it() -> None:
    parser = EventSourceParser()
    assert [*parser.feed(b"data: 1\r\r")] == [Block("message", "1", None)]
    assert [*parser.feed(b"\ndata: 2\r\n\r")] == [Block("message", "2", None)]
    assert [*parser.feed(b"\n")] == []


def test_an_id_holds_on_from_a_block_that_is_complete_and_no_earlier() -> None:
    assert parsed(b"id: 1\ndata: x\n\nid: 2\ndata: y\n")[1] == "1"
    assert parsed(b"id: 1\n\n")[1] == "1"
    assert parsed(b"id: 1\n\nid\n\n")[1] == ""
    assert EventSourceParser("7").last_id == "7"


@pytest.mark.parametrize(
    ("said", "seconds"), [("1500", 1.5), ("0", 0), ("1.5", 3), ("-1", 3), ("", 3), ("٣", 3), (" 1", 3)]
)
def test_retry_is_digits_alone(said: str, seconds: float) -> None:
    parser = EventSourceParser(retry=3.0)
    assert [*parser.feed(f"retry: {said}\n".encode())] == []
    assert parser.retry == seconds


def test_retry_of_any_length_is_a_number() -> None:
    assert parsed(b"retry: " + b"9" * 10_000 + b"\n")[2] == float("inf")


@pytest.mark.parametrize("endless", [b"x" * 100, b"data: 12345\n"], ids=["a line", "an event"])
def test_what_does_not_end_is_an_error_and_not_kept(endless: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="100000 characters"):
        read_all(EventSourceParser(limit=100_000), repeat(endless, 1_000_000))
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_comments_and_events_without_end_are_no_line_without_end() -> None:
    parser = EventSourceParser(limit=20)
    assert sum(1 for _ in range(1000) for _ in parser.feed(b": keepalive\ndata: 12345\n\n:\n")) == 1000
