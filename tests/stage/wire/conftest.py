"""What the tests of the parser share: an answer as it goes over the wire, and a recording cut in any way."""

import random
from collections.abc import Callable

import pytest
from websockets.frames import Close, Frame, Opcode

from labserver.stage.wire import Conversation, End, Read

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n%s\r\n"


@pytest.fixture
def answer() -> Callable[..., bytes]:
    """Return `make_answer`."""
    return make_answer


@pytest.fixture
def talk() -> Callable[..., Conversation]:
    """Return `make_talk`."""
    return make_talk


def make_answer(kind: str, body: bytes, *, chunk: int = 7, end: bool = True, more: str = "") -> bytes:
    """A chunked answer, `chunk` bytes of body a chunk."""
    pieces = [body[at : at + chunk] for at in range(0, len(body), chunk)]
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n{more}\r\n".encode()
    return head + chunks + (b"0\r\n\r\n" if end else b"")


def make_talk(client: bytes, server: bytes, *ends: End, seed: int | None = None, full: bool = False) -> Conversation:
    """A recording of both directions: each in one read, or cut at random by `seed`."""
    found = Conversation(1, ends=list(ends), full=full)
    rng = random.Random(seed)
    for at, (sender, data) in enumerate((("client", client), ("server", server))):
        while data:
            count = len(data) if seed is None else rng.choice([1, 2, 3, 7, 50, 999])
            found.reads.append(Read(at + 0.0, sender, data[:count]))  # type: ignore[arg-type]
            data = data[count:]
    return found


@pytest.fixture
def conversation() -> tuple[bytes, bytes]:
    """Both directions of a WebSocket with every kind of frame: fragments, a ping between them, long ones, a close."""
    frames = [
        Frame(Opcode.TEXT, "naïve".encode()),
        Frame(Opcode.BINARY, bytes(range(200))),
        Frame(Opcode.TEXT, b"he", fin=False),
        Frame(Opcode.PING, b"beat"),
        Frame(Opcode.CONT, b"llo"),
        Frame(Opcode.BINARY, bytes(70_000)),
        Frame(Opcode.TEXT, b"\xff\xfe"),
        Frame(Opcode.CLOSE, Close(1000, "").serialize()),
    ]
    client = UPGRADE + b"".join(frame.serialize(mask=True) for frame in frames)
    server = SWITCH % b"" + b"".join(frame.serialize(mask=False) for frame in frames)
    return client, server
