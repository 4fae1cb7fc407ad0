"""The text twin: order, names and counts, folded, and nothing that a second run would change."""

from dataclasses import replace

from labserver.stage.pictures import twin
from labserver.stage.wire import lanes


def text(events, **more) -> str:  # type: ignore[no-untyped-def]
    return twin.text("T", [("", lanes(events, more.pop("names", None)))], **more)


def numbered(count: int, data: bool) -> list[tuple[float, str]]:
    return [(0.1 * n, f"id: {n + 1}\ndata: {'x' if data else n + 1}\n\n") for n in range(count)]


def test_consecutive_ids_are_one_line_when_they_say_nothing_else(record) -> None:  # type: ignore[no-untyped-def]
    assert "  < event     id 1..id 3\n" in text(record.stream(numbered(3, data=False)))
    assert "  < event     id 2  (x)\n" in text(record.stream(numbered(3, data=True)))
    assert "  < event     id 1..id 20  (x)\n" in text(record.stream(numbered(20, data=True)))
    assert "  < event     id 1.. +\n" in text(record.stream(numbered(20, data=False)), counts=False)


def test_equal_and_many_neighbours(record) -> None:  # type: ignore[no-untyped-def]
    assert "  < event     tick x4\n" in text(record.stream([(0.1, "data: tick\n\n")] * 4))
    rows = "".join(f'{{"id": {n}}}\n' for n in range(1, 101))
    lines = text(record.stream([(0.1, rows)], kind="application/x-ndjson")).splitlines()
    assert lines[4:] == [
        '  < line      {"id": 1}',
        '  < line      {"id": 2}',
        '  < line      {"id": 3}',
        "  < …         96 more",
        '  < line      {"id": 100}',
    ]


def test_keepalives_are_told_once_or_between(record) -> None:  # type: ignore[no-untyped-def]
    pieces = [(0.1, ": ping 12:01\n\n"), (0.2, "data: a\n\n"), (0.3, ":\n\n:\n\n"), (0.4, "data: b\n\n: note\n\n")]
    events = record.stream(pieces)
    assert text(events).count("keepalive : +") == 1
    assert text(events, keepalives="between").count("keepalive : +") == 2
    assert "  < comment   : note\n" in text(events)
    assert "12:01" not in text(events)


def test_lanes_that_saw_the_same_are_told_once(record) -> None:  # type: ignore[no-untyped-def]
    same = [e for n in range(3) for e in record.stream([(0.1, "data: a\n\n")], (1, "clean"), start=0.01 * n)]
    other = record.stream([(0.1, "data: b\n\n")], (1, "clean"), start=0.03)
    assert "\nclient 1..3 (each)\n" in text([*same, *other])
    assert "\nclient 4\n" in text([*same, *other])
    assert "\nana, ben, cleo (each)\n" in text(same, names=["ana", "ben", "cleo"])


def test_times_and_reads_do_not_matter(record) -> None:  # type: ignore[no-untyped-def]
    one = text(record.stream([(0.1, "data: a\n\ndata: b\n\n")], (1, "clean")))
    two = text(record.stream([(0.1, "da"), (2.2, "ta: a\n\nd"), (3.0, "ata: b\n\n")], (9, "clean")))
    assert one == two


def test_the_size_of_an_unfinished_body_is_left_to_timing(record) -> None:  # type: ignore[no-untyped-def]
    assert "  < body      +\n" in text(record.stream([(0.1, "abc")], (1, "leaves"), kind="text/plain"))
    assert "  < body      abc  3 bytes\n" in text(record.stream([(0.1, "abc")], (1, "clean"), kind="text/plain"))


def test_how_many_pings_pass_is_timing(record) -> None:  # type: ignore[no-untyped-def]
    def told(beats: int) -> str:
        events = record.websocket([(0.1, "client", "hello"), (0.2, "server", "hello")])
        at = next(index for index, event in enumerate(events) if event.kind == "close")
        ping = replace(events[at - 1], kind="ping", label="ping", sender="server")
        pong = replace(ping, kind="pong", label="pong", sender="client")
        return text([*events[:at], *[ping, pong] * beats, *events[at:]], counts=False)

    assert told(2) == told(7)
    assert "  < ping      +\n  > pong      +\n  > close" in told(3)
