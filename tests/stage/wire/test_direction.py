"""When each byte of a direction passed."""

from labserver.stage.wire import Conversation, End, Read
from labserver.stage.wire.direction import Direction, Span

READS = [Read(0.1, "server", b"abc"), Read(0.2, "client", b"?"), Read(0.3, "server", b"de"), Read(0.4, "server", b"f")]


def test_a_byte_has_the_place_and_time_of_its_read() -> None:
    side = Direction(Conversation(1, READS), "server")
    assert side.data == b"abcdef"
    assert [side.stamp(end) for end in (0, 1, 3, 4, 6, 99)] == [
        (0, 0.1),
        (0, 0.1),
        (0, 0.1),
        (2, 0.3),
        (3, 0.4),
        (3, 0.4),
    ]
    assert Direction(Conversation(1), "client").stamp(5) == (0, 0.0)


def test_bytes_of_one_read_arrive_together() -> None:
    side = Direction(Conversation(1, READS), "server")
    assert side.arrivals([Span(1, 2, False), Span(2, 6, True)]) == ((0.1, 2), (0.3, 2), (0.4, 1))
    assert side.cut([Span(1, 2, False), Span(5, 6, True)]) == b"bf"


def test_the_end_is_not_known_of_a_recording_that_stopped_before() -> None:
    end = End(1.0, "server", "eof")
    assert Direction(Conversation(1, READS, [end]), "server").end is end
    assert Direction(Conversation(1, READS, [end], full=True), "server").end is None
