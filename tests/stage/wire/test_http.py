"""Requests and answers on one connection, how each answer ended, and what is no HTTP."""

from dataclasses import replace

import pytest

from labserver.stage.wire import End, parse

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n"
GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_cut_inside_a_chunk_says_so(talk, answer) -> None:  # type: ignore[no-untyped-def]
    whole = answer("text/event-stream", b"data: 1\n\n", chunk=9, end=False)
    events = parse(talk(GET, whole + b"9\r\ndata", End(2.0, "server", "reset")))
    assert [event.kind for event in events] == ["open", "open", "event", "lost", "cut"]
    assert events[-1].note == "inside a chunk"


def test_who_hung_up_first_is_told_apart(talk, answer) -> None:  # type: ignore[no-untyped-def]
    half = answer("text/event-stream", b"data: 1\n\n", end=False)
    client, server = End(2.0, "client", "eof"), End(3.0, "server", "eof")
    assert parse(talk(GET, half, client, server))[-1].label == "client leaves"
    assert parse(talk(GET, half, replace(server, at=1.0), client))[-1].label == "cut"
    assert parse(talk(GET, half))[-1].kind == "event", "an open stream has no end"


def test_several_requests_on_one_connection(talk) -> None:  # type: ignore[no-untyped-def]
    post = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]"
    nothing = b"HTTP/1.1 204 No Content\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    asked = post + GET + b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /old HTTP/1.1\r\nHost: x\r\n\r\n"
    events = parse(talk(asked, ok + nothing + head + b"HTTP/1.0 200 OK\r\n\r\nto the end", End(2, "server", "eof")))
    assert [event.exchange for event in events if event.kind == "open" and event.sender == "server"] == [1, 2, 3, 4]
    assert [event.data for event in events if event.kind == "body"] == [b"{}", b"[]", b"to the end"]
    assert sum(event.label == "clean end" for event in events) == 4


@pytest.mark.parametrize(
    ("client", "server", "label"),
    [
        (b"\x16\x03\x01\x02\x00", b"", "TLS, not HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", "HTTP/2"),
        (b"hello\r\n\r\n", b"", "not HTTP"),
        (GET, b"SSH-2.0-OpenSSH\r\n\r\n", "not HTTP"),
        (b"", b"220 ready\r\n", "not HTTP"),
        (GET, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (UPGRADE + b"\x81\x05hello", SWITCH % b"", "not a frame"),
        (UPGRADE, SWITCH % b"" + b"\xf1\x00", "not a frame"),
        (UPGRADE, SWITCH % b"" + b"\x82\xff" + b"\xff" * 8, "not a frame"),
    ],
)
def test_garbage_is_an_error_event(talk, client: bytes, server: bytes, label: str) -> None:  # type: ignore[no-untyped-def]
    errors = [event for event in parse(talk(client, server)) if event.kind == "error"]
    assert [event.label for event in errors] == [label]


@pytest.mark.parametrize(
    ("ends", "kind", "note"),
    [
        ((End(1.0, "server", "refused"),), "error", "nothing listens at the server's address"),
        ((End(1.0, "client", "eof"), End(2.0, "server", "eof")), "close", "before the answer"),
        ((End(1.0, "server", "eof"),), "cut", "the server hung up without an answer"),
    ],
)
def test_a_request_without_an_answer(talk, ends: tuple[End, ...], kind: str, note: str) -> None:  # type: ignore[no-untyped-def]
    last = parse(talk(GET, b"", *ends))[-1]
    assert (last.kind, last.note) == (kind, note)
    assert len(parse(talk(GET, b""))) == 1, "the answer may still come"
