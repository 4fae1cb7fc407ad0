"""The names of bytes: what each part of a message is called, and what it says."""

from labserver.stage.pictures.parts import strips
from labserver.stage.wire import WireEvent


def named(kind: str, raw: bytes, **more: object) -> list[tuple[str, bytes]]:
    event = WireEvent(0.0, 1, 1, "server", kind, raw=raw, **more)  # type: ignore[arg-type]
    return [(part.name, part.raw) for strip in strips(event) for part in strip.parts]


def test_lines_of_an_event() -> None:
    assert named("event", b"id: 1\r\ndata: one\r\ndata:two\r\n\r\n") == [
        ("id", b"id: 1\r\n"),
        ("data", b"data: "),
        ("payload", b"one"),
        ("end of line", b"\r\n"),
        ("data", b"data:"),
        ("payload", b"two"),
        ("blank line", b"\r\n\r\n"),
    ]
    assert named("fields", b"retry: 5\n\n") == [("retry", b"retry: 5\n"), ("blank line", b"\n")]


def test_a_field_of_a_frame_is_what_the_standard_calls_it() -> None:
    long = b"\x82\x7e\x01\x2c" + bytes(300)
    assert [name for name, _ in named("bytes", long, frames=(long,))] == [
        "FIN, opcode",
        "MASK, length",
        "extended length",
        "payload",
    ]
    close = b"\x88\x05\x03\xebwhy"
    assert named("close", close, frames=(close,))[2:] == [("close code", b"\x03\xeb"), ("reason", b"why")]


def test_a_head_and_the_last_chunk() -> None:
    head = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
    assert named("open", head) == [("request line", b"GET / HTTP/1.1\r\n"), ("headers", b"Host: x\r\n\r\n")]
    assert named("chunk", b"0\r\n\r\n") == [("size", b"0\r\n"), ("end of body", b"\r\n")]
