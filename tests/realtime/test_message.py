"""Forms on the wire, held against other people's parsers; JSON kept to the digit."""

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from realtime.stepped import Chunked, Events, Frames
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.protocol import State
from websockets.uri import parse_uri

from labserver.realtime.message import (
    RESERVED,
    Message,
    as_event,
    as_text,
    check_event,
    chunk,
    comment,
    compact,
    control,
    deflated,
    dumps,
    forms,
    frame,
    framed,
    json_text,
    json_value,
    line,
    opening,
    position,
    sse,
)

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 70000]  # where the length of a frame changes its form
CHARACTERS = st.characters(exclude_categories=["Cs"])
TEXT = st.text(CHARACTERS)
NAMES = st.from_regex(r"[A-Za-z0-9_.:-]{1,64}", fullmatch=True).filter(lambda name: name not in RESERVED)
JSON: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=10,
)
pure = settings(deadline=None, derandomize=True, database=None, max_examples=60)


def frames(data: bytes, *extensions: Any) -> list[Frame]:
    protocol = ClientProtocol(parse_uri("ws://test/"), state=State.OPEN, max_size=None)
    protocol.extensions = list(extensions)
    protocol.receive_data(data)
    assert protocol.parser_exc is None
    return [each for each in protocol.events_received() if isinstance(each, Frame)]


# ---- WebSocket


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_is_read_by_another_parser(size: int) -> None:
    payload = b"x" * size
    assert [(each.opcode, bytes(each.data)) for each in frames(frame(payload) + frame(payload, 0x82))] == [
        (1, payload),
        (2, payload),
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("bits", [9, 12, 15])
def test_a_deflated_frame_is_read_by_another_parser_whatever_came_before(size: int, bits: int) -> None:
    payloads = [bytes(number * step % 251 for number in range(size)) for step in (1, 7)]
    extension = PerMessageDeflate(True, True, bits, 15)
    read = frames(b"".join(deflated(payload, bits) for payload in payloads), extension)
    assert [bytes(each.data) for each in read] == payloads


@given(JSON, TEXT, NAMES)
@pure
def test_a_message_is_one_json_object_in_one_frame(data: Any, channel: str, event: str) -> None:
    message = Message("e-1", channel, json.dumps(data), event)
    said = {"id": "e-1", "channel": channel, "event": event, "data": data}
    assert json.loads(as_text(message)) == said
    for kind in ("ws", 12):
        burst = framed(kind, [forms(message), forms(message)])  # type: ignore[arg-type]
        assert list(Frames(kind == 12).feed(burst)) == [said, said]  # type: ignore[arg-type]
    assert framed("text", [forms(message)]) == [as_text(message)]


def test_what_is_about_the_connection_has_a_type() -> None:
    assert json.loads(control("ack", id="e-1", key='"')) == {"type": "ack", "id": "e-1", "key": '"'}


# ---- Server-Sent Events


def dispatched(data: bytes) -> list[tuple[str, str, str]]:
    """Return (last id, name, data) of each event, as WHATWG HTML 9.2.6 reads them."""
    found: list[tuple[str, str, str]] = []

    class Raw(Events):
        def _dispatched(self) -> dict[str, Any]:
            found.append((self.last_id, self.event or "message", "\n".join(self.data)))
            self.data, self.event = [], ""
            return {}

    list(Raw().feed(data))
    return found


@given(TEXT, NAMES)
@pure
def test_data_comes_back_whatever_it_holds_and_forges_nothing(data: str, event: str) -> None:
    lines = data.replace("\r\n", "\n").replace("\r", "\n")
    assert dispatched(sse(data, event=event, id="e-1")) == [("e-1", event, lines)]


@pytest.mark.parametrize(
    "data", ["", " two spaces", "a\nb", "a\r\nb\rc\n", "\n\n", "id: 1\n\nevent: x\n\ndata: y", ": no", "\u2028\x85\x0b"]
)
def test_each_line_is_a_field(data: str) -> None:
    lines = data.replace("\r\n", "\n").replace("\r", "\n")
    assert dispatched(sse(data)) == [("", "message", lines)]


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\r\ndata: c", "\n"])
def test_a_line_break_in_a_name_or_id_is_refused(field: str, value: str) -> None:
    with pytest.raises(ValueError, match="no line break"):
        sse("x", **{field: value})  # type: ignore[arg-type]


def test_nul_in_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="NUL"):
        sse("x", id="a\0b")


def test_a_comment_dispatches_nothing() -> None:
    assert comment() == b":\n\n"
    assert dispatched(comment("data: x\n\rid: 1\r\ndata: y") + sse("z")) == [("", "message", "z")]


def test_retry_is_in_whole_milliseconds_and_the_opening_says_where_it_goes_on() -> None:
    events = Events()
    assert list(events.feed(opening("gap", "e-7", 2.5))) == [{"type": "gap", "id": "e-7"}]
    assert (events.retry, events.last_id) == (2500, "e-7")


@given(st.lists(st.tuples(JSON, NAMES), max_size=4), st.integers(1, 50))
@pure
def test_events_in_chunks_come_back_however_they_are_cut(said: list[tuple[Any, str]], step: int) -> None:
    messages = [Message(f"e-{number}", "c", json.dumps(data), event) for number, (data, event) in enumerate(said, 1)]
    wire = framed("sse", map(forms, messages))
    assert isinstance(wire, bytes)
    reader = Chunked()
    read = [each for at in range(0, len(wire), step) for each in reader.feed(wire[at : at + step])]
    assert read == [{"id": f"e-{number}", "event": event, "data": data} for number, (data, event) in enumerate(said, 1)]
    assert framed("event", map(forms, messages)) == b"".join(map(as_event, messages))


@pytest.mark.parametrize("size", [1, 15, 16, 255, 4096])
def test_a_chunk_says_its_size_in_hexadecimal(size: int) -> None:
    assert chunk(b"x" * size) == f"{size:x}\r\n{'x' * size}\r\n".encode()


# ---- JSON


@given(JSON)
@pure
def test_text_means_the_same_on_one_line(value: Any) -> None:
    for indent in (None, 1):
        text = json_text(json.dumps(value, indent=indent, ensure_ascii=False))
        assert json.loads(text) == value
        assert "\n" not in text
        assert "\r" not in text
    assert json.loads(compact(value)) == value


@pytest.mark.parametrize("text", ["123456789012345678901234567890", "-9223372036854775809", "18446744073709551616"])
@pytest.mark.parametrize("form", ["{}", "[\n{}\n]"])
def test_whole_numbers_of_any_size_stay_whole(text: str, form: str) -> None:
    body = form.format(text)
    assert json_text(body) == body.replace("\n", "")
    assert json_text(body.encode()) == body.replace("\n", "")
    assert compact(json_value(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "NaN",
        "-Infinity",
        "1e400",
        "[1,]",
        "{a:1}",
        "'a'",
        "01",
        '"\\ud800"',
        '"\t"',
        '"a\nb"',
        "\ufeff1",
        "1 2",
        "[" * 5000 + "]" * 5000,
        "9" * 5000,
        "nul",
        b"\xff",
        b'"\xed\xa0\x80"',
    ],
    ids=lambda text: ascii(text)[:20],
)
def test_what_is_not_json_is_refused(text: str | bytes) -> None:
    for parse in (json_value, json_text):
        with pytest.raises(ValueError, match="not JSON"):
            parse(text)


@pytest.mark.parametrize("depth", [1, 100, 900])
def test_deep_nesting_is_kept_or_refused_and_never_a_crash(depth: int) -> None:
    text = "[\n" * depth + "]" * depth
    assert json_text(text) == text.replace("\n", "")


@pytest.mark.parametrize("depth", range(930, 1030))
def test_at_the_limit_of_nesting_it_is_a_value_error_or_nothing(depth: int) -> None:
    with suppress(ValueError):
        assert json_text("[\n" * depth + "]" * depth) == "[" * depth + "]" * depth


def test_of_keys_that_are_there_twice_the_text_is_kept_and_the_last_is_the_value() -> None:
    assert json_text('{"a": 1, "a": 2}') == '{"a": 1, "a": 2}'
    assert json_value('{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("value", ["\ud800", pytest.param(object(), id="object"), {1, 2}, 1 << 64], ids=ascii)
def test_a_value_that_is_not_json_is_refused(value: Any) -> None:
    for write in (dumps, line):
        with pytest.raises(ValueError, match="not JSON"):
            write(value)


@given(JSON)
@pure
def test_a_record_is_one_line(value: Any) -> None:
    try:
        record = line(value)
    except ValueError:  # a whole number beyond 64 bits
        return
    assert record.endswith(b"\n")
    assert b"\n" not in record[:-1]
    assert b"\r" not in record
    assert json.loads(record) == value


# ---- names


@pytest.mark.parametrize("name", ["message", "moved", "a.b:c-d_1", "x" * 64])
def test_a_name_for_an_event(name: str) -> None:
    assert check_event(name) == name


@pytest.mark.parametrize("name", [*sorted(RESERVED), "", "x" * 65, "a b", "a\n", "é", "a,b"])
def test_no_name_for_an_event(name: str) -> None:
    with pytest.raises(ValueError, match="an event has"):
        check_event(name)


def test_an_id_is_an_epoch_and_numbers() -> None:
    assert position("e-12") == ("e", (12,))
    assert position("0a-1-2-3") == ("0a", (1, 2, 3))
    assert position("e-9") < position("e-10")


@pytest.mark.parametrize(
    "id", ["", "e", "-1", "e-", "e-x", "e--1", "e-1\n", "é-1", "e-1-2-3-4", "e-" + "1" * 20, "e-\u0661"]
)
def test_no_id(id: str) -> None:
    with pytest.raises(ValueError, match="epoch-number"):
        position(id)
