"""The ladder: a row per frame, failures that catch the eye, nothing on top of anything."""

from collections.abc import Callable

import pytest

from labserver.stage.pictures import ladder, twin
from labserver.stage.rich import Picture
from labserver.stage.wire import Conversation, End, Read, lanes, parse

ECHO = [
    (0.004, "client", "hello"),
    (0.005, "server", "hello"),
    (0.009, "client", "naïve"),
    (0.010, "server", "naïve"),
    (0.014, "client", b"\x00\xff\x7f"),
    (0.015, "server", b"\x00\xff\x7f"),
]
TWIN = """WebSocket echo

client
  > open      GET /ws/echo, Upgrade: websocket  (HTTP request)
  < open      101 Switching Protocols  (from here on: frames)
  > text      hello  (text, 5 bytes, masked)
  < text      hello  (text, 5 bytes)
  > text      naïve  (text, 6 bytes: ï takes 2)
  < text      naïve  (text, 6 bytes)
  > bytes     00 ff 7f  (binary, 3 bytes, masked)
  < bytes     00 ff 7f  (binary, 3 bytes)
  > close     close 1000  (close, 2 bytes: normal)
  < close     close 1000  (close, echoed: both ends know)
"""


def draw(events: list, name: str = "WebSocket echo") -> Picture:  # type: ignore[type-arg]
    panels = [("", lanes(events))]
    return ladder.draw(name, panels, twin.text(name, panels))


def test_the_echo_is_the_designs(record, well_made) -> None:  # type: ignore[no-untyped-def]
    picture = draw(record.websocket(ECHO))
    well_made(picture)
    assert picture.twin == TWIN
    assert 'height="528"' in picture.svg
    assert '<circle fill="#1f2429" class="f-ink" cx="176" cy="220" r="5"/>' in picture.svg
    assert picture.alt.startswith("One handshake, then 3 messages each way. Sequence diagram")


@pytest.mark.parametrize(
    ("end", "headline", "hot"),
    [
        ("close", "One handshake, then 3 messages each way", False),
        ("cut", "No close frame: after 6 messages the client sees 1006", True),
        ("gone", "The client is gone without a close frame, after 6 messages", True),
        ("1003 send binary", "The server closes with 1003: send binary", False),
        ("1007", "The server closes with 1007: bad payload", False),
        ("4401 no token", "The server closes with 4401: no token", False),
        ("open", "One handshake, then 3 messages each way", False),
    ],
)
def test_each_end_has_its_shape(record, well_made, end: str, headline: str, hot: bool) -> None:  # type: ignore[no-untyped-def]
    picture = draw(record.websocket(ECHO, end))
    well_made(picture)
    assert picture.alt.startswith(headline)
    assert ("#b8390e" in picture.svg.partition("</style>")[2]) is hot
    assert (">still open<" in picture.svg) is (end == "open")


def test_many_frames_are_folded_in_the_middle(record, well_made) -> None:  # type: ignore[no-untyped-def]
    steps = [(0.01 * n, ("client", "server")[n % 2], f"message {n} " + "lorem ipsum " * (n % 9)) for n in range(60)]
    picture = draw(record.websocket(steps))
    well_made(picture)
    assert "… 44 more frames: 22 to the server, 22 to the client …" in picture.svg
    assert picture.svg.count("<text") < 100


def test_any_payload_stays_on_the_sheet(record, well_made) -> None:  # type: ignore[no-untyped-def]
    odd = [
        "日本語のテキスト" * 9,
        "שלום",
        "a\nb\r\n\x00\x1b[31m",
        "👍🏽" * 40,
        "<b>&amp;]]>",
        "x" * 9000,
        "",
        "\u202eabc",
    ]
    steps = [(0.01 * n, "client", text) for n, text in enumerate([*odd, b"", bytes(999)])]
    well_made(draw(record.websocket(steps, path="/ws/" + "long" * 60), "odd & <name>"))


def test_a_refused_handshake_and_a_dead_server(record, well_made) -> None:  # type: ignore[no-untyped-def]
    ask = b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    no = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
    refused = draw(parse(Conversation(1, [Read(0, "client", ask), Read(0.1, "server", no)])))
    dead = draw(parse(Conversation(1, [Read(0, "client", ask)], [End(0.1, "server", "refused")])))
    mute = draw(parse(Conversation(1, [Read(0, "client", ask)], [End(0.1, "server", "eof")])))
    for picture, words in (
        (refused, "The handshake is refused: 403"),
        (dead, "Nobody answers"),
        (mute, "never answered"),
    ):
        well_made(picture)
        assert words in picture.alt


def test_conversations_stand_one_below_the_other(record, well_made: Callable[[Picture], None]) -> None:  # type: ignore[no-untyped-def]
    first, second = record.websocket(ECHO[:2]), record.websocket(ECHO[:2], "cut", start=1.0)
    picture = draw([*first, *second])
    well_made(picture)
    assert picture.svg.count(">server<") == 2
    well_made(draw([]))
