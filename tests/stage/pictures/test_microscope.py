"""The microscope: each byte of a message has a name, and the text is the same in every run."""

from websockets.frames import Frame, Opcode

from labserver.stage.pictures import microscope, parts
from labserver.stage.wire import Conversation, Read, WireEvent, parse, parse_chunks

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
HELLO = bytes.fromhex("81 85 37 fa 21 3d 7f 9f 4d 51 58")


def frames(client: bytes = b"", server: bytes = b"") -> list[WireEvent]:
    talk = Conversation(1, [Read(0, "client", UPGRADE), Read(0, "server", SWITCH)])
    talk.reads += [Read(1, "client", client), Read(2, "server", server)]
    return [event for event in parse(talk) if event.kind != "open"]


def stream(kind: bytes, body: bytes) -> Conversation:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nTransfer-Encoding: chunked\r\n\r\n" % kind
    raw = head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    return Conversation(1, [Read(0, "client", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), Read(1, "server", raw)])


def body(kind: bytes, data: bytes) -> list[WireEvent]:
    return [event for event in parse(stream(kind, data)) if event.kind not in ("open", "close")]


def whole(events: list[WireEvent]) -> None:
    """The parts of each strip are the message, without a gap, in order."""
    for event in events:
        for strip in parts.strips(event):
            at = 0
            for part in strip.parts:
                assert part.offset == at
                at += len(part.raw)
        assert b"".join(part.raw for strip in parts.strips(event) for part in strip.parts) == event.raw


def test_a_masked_frame_is_named_as_in_the_design(well_made) -> None:  # type: ignore[no-untyped-def]
    events = frames(HELLO)
    picture = microscope.draw("Bytes on the wire", events)
    well_made(picture)
    whole(events)
    assert picture.twin == (
        "Bytes on the wire\n\nWebSocket frame, client to server: 11 bytes carry 5\n"
        "    0 +1   FIN, opcode        last, text\n        81\n"
        "    1 +1   MASK, length       yes, 5 bytes\n        85\n"
        "    2 +4   masking key        new in each frame\n        ?? ?? ?? ??\n"
        "    6 +5   payload            unmasked here\n        48 65 6c 6c 6f\n"
    )
    assert ">1 000 0001<" in picture.svg
    assert ">H<" in picture.svg
    assert ">7f<" in picture.svg


def test_an_event_is_named_as_in_the_design(well_made) -> None:  # type: ignore[no-untyped-def]
    events = body(b"text/event-stream", b'id: 7\nevent: order\ndata: {"n": 3}\n\n')
    picture = microscope.draw("Bytes", events)
    well_made(picture)
    whole(events)
    assert (
        "SSE event, server to client: 35 bytes carry 8\n    0 +6   id                 for Last-Event-ID" in picture.twin
    )
    assert "   25 +8   payload            JSON, on one line" in picture.twin
    assert picture.twin.endswith("   33 +2   blank line         dispatch now\n        0a 0a\n")


def test_a_chunk_is_named_as_in_the_design(well_made) -> None:  # type: ignore[no-untyped-def]
    chunks = parse_chunks(stream(b"application/x-ndjson", b'{"row": 17}\n'))
    picture = microscope.draw("Bytes", chunks)
    well_made(picture)
    whole(chunks)
    assert "HTTP/1.1 chunk, server to client: 17 bytes carry 12" in picture.twin
    assert "    3 +12  payload            one NDJSON row" in picture.twin
    assert "   15 +2   end of chunk       not part of the data" in picture.twin


def test_every_kind_of_frame(well_made) -> None:  # type: ignore[no-untyped-def]
    sent = [
        Frame(Opcode.TEXT, "日本語 naïve".encode()),
        Frame(Opcode.BINARY, bytes(300)),
        Frame(Opcode.TEXT, b"x" * 70_000),
        Frame(Opcode.TEXT, b"he", fin=False),
        Frame(Opcode.CONT, b"llo"),
        Frame(Opcode.PING, b"beat"),
        Frame(Opcode.TEXT, b""),
        Frame(Opcode.CLOSE, b"\x03\xebwhy"),
    ]
    events = frames(*(b"".join(frame.serialize(mask=mask) for frame in sent) for mask in (True, False)))
    whole(events)
    for event in events:
        well_made(microscope.draw("Bytes", [event]))
    picture = microscope.draw("Bytes", [event for event in events if len(event.frames) > 1])
    assert "WebSocket frame, 1 of 2, client to server: 8 bytes carry 2" in picture.twin
    assert "more follow, text" in picture.twin
    assert "last, continues" in picture.twin
    long = microscope.draw("Bytes", events[1:2])
    assert "extended length    300 bytes\n        01 2c" in long.twin
    assert ">1003, unsupported data<" in microscope.draw("Bytes", events[-1:]).svg


def test_other_messages(well_made) -> None:  # type: ignore[no-untyped-def]
    events = body(
        b"text/event-stream",
        b": hi\n\nid: 1\r\ndata: one\r\ndata:two\r\ndata\r\n\r\nretry: 500\n\n" + b"data: " + b"y" * 900 + b"\n\n",
    )
    events += body(b"application/x-ndjson", b'{"id": 1}\n[2]')
    events += body(b"text/plain", b"some text")
    whole(events)
    for event in events:
        well_made(microscope.draw("Bytes", [event]))
    assert "SSE comment" in microscope.draw("Bytes", events[:1]).twin
    well_made(microscope.draw("Bytes", events))
