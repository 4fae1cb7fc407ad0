"""WebSocket frames of every kind into messages, and what a socket's end is called."""

import pytest
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, PerMessageDeflate
from websockets.frames import Close, Frame, Opcode
from websockets.uri import parse_uri

from labserver.stage.wire import End, WireEvent, close_name, parse

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n"


def test_frames_become_messages(talk, conversation) -> None:  # type: ignore[no-untyped-def]
    events = parse(talk(*conversation))
    client = [event for event in events if event.sender == "client"]
    kinds = ["open", "text", "bytes", "ping", "text", "bytes", "text", "close"]
    assert [event.kind for event in client] == kinds
    assert client[1].note == "text, 6 bytes: ï takes 2"
    assert client[4].data == "hello"
    assert len(client[4].frames) == 2
    assert client[5].size == 70_000
    assert "not UTF-8" in client[6].note
    assert b"".join(event.raw for event in client[:4])[: len(UPGRADE)] == UPGRADE


def test_deflated_frames_are_read_with_the_negotiated_parameters(talk) -> None:  # type: ignore[no-untyped-def]
    coder = PerMessageDeflate(False, False, 12, 12)
    head = SWITCH % b"Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=12\r\n"
    texts = ["again and again and again"] * 3
    frames = [Frame(Opcode.TEXT, text.encode()).serialize(mask=False, extensions=[coder]) for text in texts]
    events = parse(talk(UPGRADE, head + b"".join(frames)))
    assert [event.data for event in events if event.kind == "text"] == texts
    assert events[-1].note == "text, 25 bytes, deflated"
    assert len(events[-1].raw) < len(events[2].raw), "context takeover makes the third frame smaller"


def test_a_real_clients_handshake_is_understood(talk) -> None:  # type: ignore[no-untyped-def]
    client = ClientProtocol(parse_uri("ws://x/ws"), extensions=[ClientPerMessageDeflateFactory()])
    client.send_request(client.connect())
    events = parse(talk(b"".join(client.data_to_send()), b""))
    assert [(event.kind, event.label) for event in events] == [("open", "GET /ws, Upgrade: websocket")]


BYE = Frame(Opcode.CLOSE, Close(1000, "").serialize())
LEFT, GONE = End(9.0, "client", "eof"), End(9.5, "server", "eof")


@pytest.mark.parametrize(
    ("client", "server", "ends", "last"),
    [
        (True, True, (LEFT, GONE), ("close", "1000", "close, echoed: both ends know")),
        (True, False, (LEFT, GONE), ("cut", "1006", "close 1006: the close was not answered")),
        (False, False, (LEFT, GONE), ("cut", "", "no close frame sent")),
        (False, False, (GONE,), ("cut", "1006", "close 1006: no close frame came")),
    ],
)
def test_an_end_says_what_each_side_knew(talk, client, server, ends, last) -> None:  # type: ignore[no-untyped-def]
    sent = UPGRADE + BYE.serialize(mask=True) * client
    events = parse(talk(sent, SWITCH % b"" + BYE.serialize(mask=False) * server, *ends))
    assert (events[-1].kind, events[-1].name, events[-1].note) == last


def test_an_answer_that_ended_before_is_no_close_frame(talk, answer) -> None:  # type: ignore[no-untyped-def]
    before = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = before + UPGRADE + BYE.serialize(mask=True)
    events: list[WireEvent] = parse(talk(sent, answer("text/plain", b"x") + SWITCH % b""))
    assert [event.note for event in events if event.kind == "close"] == [
        "close, 2 bytes: normal",
        "by the server, last chunk",
    ]


def test_half_a_frame_and_half_a_message_are_lost(talk) -> None:  # type: ignore[no-untyped-def]
    for raw, note in ((b"\x81\x05he", "half a frame"), (b"\x01\x01h", "1 frame of a message that never ended")):
        events = parse(talk(UPGRADE, SWITCH % b"" + raw, GONE))
        assert [(event.kind, event.note, event.raw) for event in events[2:-1]] == [("lost", note, raw)]
        assert len(parse(talk(UPGRADE, SWITCH % b"" + raw))) == 2, "the rest may still come"


def test_codes_have_names() -> None:
    names = [close_name(code) for code in (1000, 1005, 1099, 3000, 4401)]
    assert names == ["normal", "no code", "unknown code", "a registered code", "the application's own"]
