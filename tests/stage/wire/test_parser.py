"""Bytes in, events out: every wire format the lab speaks, cut in every way, and garbage."""

import gzip
import random
from dataclasses import replace

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from labserver.stage.wire import Conversation, End, Read, WireEvent, elide, parse, parse_chunks

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n"
GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"


def answer(kind: str, body: bytes, *, chunk: int = 7, end: bool = True, more: str = "") -> bytes:
    """A chunked answer, `chunk` bytes of body a chunk."""
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()
    return head + chunks + (b"0\r\n\r\n" if end else b"")


def talk(client: bytes, server: bytes, *ends: End, seed: int | None = None, full: bool = False) -> Conversation:
    """A recording of both directions: each in one read, or cut at random by `seed`."""
    found = Conversation(1, ends=list(ends), full=full)
    rng = random.Random(seed)
    for at, (sender, data) in enumerate((("client", client), ("server", server))):
        while data:
            count = len(data) if seed is None else rng.choice([1, 2, 3, 7, 50, 999])
            found.reads.append(Read(at + 0.0, sender, data[:count]))  # type: ignore[arg-type]
            data = data[count:]
    return found


def meaning(events: list[WireEvent]) -> list[WireEvent]:
    """The events without what depends on the reads: times and arrivals; each direction in its own order."""
    bare = [replace(event, at=0.0, arrivals=()) for event in events]
    return sorted(bare, key=lambda event: event.sender)


def told(events: list[WireEvent]) -> list[tuple[str, str]]:
    return [(event.kind, event.label) for event in events]


def close(code: int, reason: str = "") -> bytes:
    return Close(code, reason).serialize()


def websocket() -> tuple[bytes, bytes]:
    """A conversation with every kind of frame: fragments with a ping between them, long ones, a close."""
    frames = [
        Frame(Opcode.TEXT, "naïve".encode()),
        Frame(Opcode.BINARY, bytes(range(200))),
        Frame(Opcode.TEXT, b"he", fin=False),
        Frame(Opcode.PING, b"beat"),
        Frame(Opcode.CONT, b"llo"),
        Frame(Opcode.BINARY, bytes(70_000)),
        Frame(Opcode.TEXT, b"\xff\xfe"),
        Frame(Opcode.CLOSE, close(1000)),
    ]
    client = UPGRADE + b"".join(frame.serialize(mask=True) for frame in frames)
    server = SWITCH % b"" + b"".join(frame.serialize(mask=False) for frame in frames)
    return client, server


def test_frames_become_messages() -> None:
    events = parse(talk(*websocket()))
    client = [event for event in events if event.sender == "client"]
    kinds = ["open", "text", "bytes", "ping", "text", "bytes", "text", "close"]
    assert [event.kind for event in client] == kinds
    assert client[1].note == "text, 6 bytes: ï takes 2"
    assert client[4].data == "hello"
    assert len(client[4].frames) == 2
    assert client[5].size == 70_000
    assert "not UTF-8" in client[6].note
    assert b"".join(event.raw for event in client[:4])[: len(UPGRADE)] == UPGRADE


def test_deflated_frames_are_read_with_the_negotiated_parameters() -> None:
    coder = PerMessageDeflate(False, False, 12, 12)
    head = SWITCH % b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n"
    texts = ["again and again and again"] * 3
    frames = [Frame(Opcode.TEXT, text.encode()).serialize(mask=False, extensions=[coder]) for text in texts]
    events = parse(talk(UPGRADE, head + b"".join(frames)))
    assert [event.data for event in events if event.kind == "text"] == texts
    assert events[-1].note == "text, 25 bytes, deflated"
    assert len(events[-1].raw) < len(events[2].raw), "context takeover makes the third frame smaller"


def test_a_real_clients_handshake_is_understood() -> None:
    client = ClientProtocol(parse_uri("ws://x/ws"), extensions=[ClientPerMessageDeflateFactory()])
    client.send_request(client.connect())
    events = parse(talk(b"".join(client.data_to_send()), b""))
    assert told(events) == [("open", "GET /ws, Upgrade: websocket")]


STREAM = (
    '\ufeff: hello\n\nid: 1\ndata: {"a": 1}\n\nevent: tick\r\ndata: one\r\ndata: two\r\n\r\n'
    "id: 2\nretry: 500\n\n:\n\ndata\n\nevent: done\ndata: \n\nid: 9\ndata: unfin"
).encode()


def test_an_event_stream_is_read_as_the_standard_says() -> None:
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


def test_lines_of_a_stream_cut_in_the_middle() -> None:
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


def test_a_cut_inside_a_chunk_says_so() -> None:
    whole = answer("text/event-stream", b"data: 1\n\n", chunk=9, end=False)
    events = parse(talk(GET, whole + b"9\r\ndata", End(2.0, "server", "reset")))
    assert [event.kind for event in events] == ["open", "open", "event", "lost", "cut"]
    assert events[-1].note == "inside a chunk"


def test_who_hung_up_first_is_told_apart() -> None:
    half = answer("text/event-stream", b"data: 1\n\n", end=False)
    client, server = End(2.0, "client", "eof"), End(3.0, "server", "eof")
    assert parse(talk(GET, half, client, server))[-1].label == "client leaves"
    assert parse(talk(GET, half, replace(server, at=1.0), client))[-1].label == "cut"
    assert parse(talk(GET, half))[-1].kind == "event", "an open stream has no end"


def test_gzip_is_undone() -> None:
    zipped = answer("text/event-stream", gzip.compress(b"data: 1\n\ndata: 2\n\n"), more="Content-Encoding: gzip\r\n")
    events = parse(talk(GET, zipped))
    assert [event.data for event in events if event.kind == "event"] == ["1", "2"]


def test_several_requests_on_one_connection() -> None:
    post = b"POST /publish HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: application/json\r\n\r\n[]"
    nothing = b"HTTP/1.1 204 No Content\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
    asked = post + GET + b"HEAD /x HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /old HTTP/1.1\r\nHost: x\r\n\r\n"
    events = parse(talk(asked, ok + nothing + head + b"HTTP/1.0 200 OK\r\n\r\nto the end", End(2, "server", "eof")))
    assert [event.exchange for event in events if event.kind == "open" and event.sender == "server"] == [1, 2, 3, 4]
    assert [event.data for event in events if event.kind == "body"] == [b"{}", b"[]", b"to the end"]
    assert sum(event.label == "clean end" for event in events) == 4


def test_chunks_are_exact_bytes() -> None:
    body = b'{"id": 1}\n{"id": 2}\n'
    raw = answer("application/x-ndjson", body, chunk=10)
    chunks = parse_chunks(talk(GET, raw))
    assert [chunk.data for chunk in chunks] == [body[:10], body[10:], b""]
    assert raw.endswith(b"".join(chunk.raw for chunk in chunks))


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
def test_garbage_is_an_error_event(client: bytes, server: bytes, label: str) -> None:
    errors = [event for event in parse(talk(client, server)) if event.kind == "error"]
    assert [event.label for event in errors] == [label]


def test_random_bytes_never_raise() -> None:
    rng = random.Random(7)
    client, server = websocket()
    for _ in range(150):
        broken = bytearray(server[:600])
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        sent = bytearray(client[: rng.randrange(400)])
        if sent:
            sent[rng.randrange(len(sent))] = rng.randrange(256)
        parse(talk(bytes(sent), bytes(broken), End(2.0, "server", "reset"), seed=rng.randrange(99)))


@pytest.mark.parametrize("seed", range(6))
def test_events_do_not_depend_on_the_reads(seed: int) -> None:
    lines = b"".join(b'{"id": %d, "name": "\xc3\xa4"}\n' % number for number in range(40))
    half = answer("text/event-stream", STREAM, end=False)
    zipped = answer("application/x-ndjson", gzip.compress(lines), more="Content-Encoding: gzip\r\n")
    cut = (End(9.0, "server", "eof"),)
    cases = [
        (*websocket(), ()),
        (GET, answer("text/event-stream", STREAM), ()),
        (GET, half, cut),
        (GET + GET, answer("application/x-ndjson", lines) + zipped, ()),
        (GET, answer("text/plain", lines, chunk=4000)[:-3], cut),
        (UPGRADE, websocket()[1][:-40], cut),
    ]
    for client, server, ends in cases:
        whole = parse(talk(client, server, *ends))
        assert len(whole) > 2
        assert meaning(parse(talk(client, server, *ends, seed=seed))) == meaning(whole)


def test_a_full_tape_is_not_taken_for_a_cut() -> None:
    gone = End(2.0, "server", "eof")
    half = answer("text/event-stream", b"data: 1\n\ndata: 2", end=False)
    assert [event.kind for event in parse(talk(GET, half, gone, full=True))] == ["open", "open", "event", "full"]
    assert [event.kind for event in parse(talk(GET, half))] == ["open", "open", "event"], "the rest may still come"
    assert [event.kind for event in parse(talk(GET, half, gone))] == ["open", "open", "event", "lost", "cut"]


def test_elide_keeps_a_line_a_line() -> None:
    assert elide("a\nb\x00\u202ec", 20) == "a\\nb··c"
    assert elide("x" * 50, 10) == "x" * 9 + "…"
