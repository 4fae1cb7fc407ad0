"""The lanes: a band per connection, cuts and silences measured, many events folded, nothing on top of anything."""

import re
from collections.abc import Callable

import pytest

from labserver.stage import wire
from labserver.stage.pictures import lanes, twin
from labserver.stage.rich import Picture
from labserver.stage.wire import WireEvent

LIGHT_HOT = "#b8390e"


def draw(*panels: tuple[str, list[WireEvent]], name: str = "SSE", **more: object) -> Picture:
    found = [(head, wire.lanes(events)) for head, events in panels]
    return lanes.draw(name, found, twin.text(name, found), **more)  # type: ignore[arg-type]


def events(
    count: int, gap: float = 0.3, first: int = 1, start: float = 0.0, comment: bool = False
) -> list[tuple[float, str]]:
    out = []
    for n in range(count):
        out.append((start + 0.004 + gap * n, f'id: {first + n}\ndata: {{"n": {first + n}}}\n\n'))
        if comment:
            out.append((start + 0.004 + gap * (n + 0.5), ": keepalive\n\n"))
    return out


def torn(picture: Picture) -> int:
    return len(re.findall(r'<path fill="none" stroke="#b8390e"[^>]*stroke-width="2"', picture.svg))


def test_a_clean_stream(record, well_made) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream(events(5), (1.6, "clean"))))
    well_made(picture)
    assert picture.alt.startswith("5 events arrive, then the stream ends cleanly. One lane, 0 to 1.6 s.")
    assert ">clean end<" in picture.svg
    assert torn(picture) == 0
    assert picture.svg.count("<circle") == 5


def test_a_cut_is_torn_and_its_silence_measured(record, well_made) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream(events(2), (2.304, "cut"))))
    well_made(picture)
    assert torn(picture) == 1
    assert ">2.0 s silent<" in picture.svg
    assert "x cut       cut  (no last chunk)" in picture.twin


def test_two_panels_share_an_axis_and_an_idle_clock(record, well_made) -> None:  # type: ignore[no-untyped-def]
    alive = record.stream(events(3, 1.6, comment=True), (5.0, "leaves"))
    dead = record.stream(events(1), (2.4, "cut"))
    picture = draw(("", alive), ("", dead), idle_limit=2.0)
    well_made(picture)
    assert picture.svg.count(">2 s limit<") == 2
    assert ">0.8 s, the longest silence<" in picture.svg or "800 ms, the longest silence" in picture.svg
    assert ">2.4 s silent<" in picture.svg
    assert picture.svg.count(">seconds<") == 1


def test_a_resumed_stream_is_one_lane(record, well_made) -> None:  # type: ignore[no-untyped-def]
    first = record.stream(events(3), (1.0, "cut"))
    second = record.stream(events(3, 0.0005, 4, 3.4), (5.0, "clean"), start=3.4, last="3")
    picture = draw(("", [*first, *second]))
    well_made(picture)
    assert ">cut, 2.4 s offline<" in picture.svg
    assert ">Last-Event-ID: 3<" in picture.svg
    assert picture.svg.count('class="f-card s-hot"') == 3, "three replays"
    assert "> open      Last-Event-ID: 3" in picture.twin


@pytest.mark.parametrize("count", [1, 9, 41, 200, 2000])
def test_any_number_of_events_fits(record, well_made, count: int) -> None:  # type: ignore[no-untyped-def]
    picture = draw(("", record.stream(events(count, 2.0 / count), (2.1, "clean"))))
    well_made(picture)
    assert len(picture.svg) < 60_000
    if count > 40:
        assert f"{count} events, one every" in picture.svg or count == 2000


def test_rows_in_batches_are_bars(record, well_made) -> None:  # type: ignore[no-untyped-def]
    batches = [(0.1 * (n + 1), "".join(f'{{"id": {n * 50 + k}}}\n' for k in range(50))) for n in range(5)]
    picture = draw(
        (
            "",
            record.stream(
                [*batches, (0.68, '{"error": "row 251: bad date"}\n')], (0.681, "clean"), kind="application/x-ndjson"
            ),
        )
    )
    well_made(picture)
    assert picture.alt.startswith("250 rows arrive, then an error record ends the stream")
    assert ">201\u2013250<" in picture.svg
    assert "error: {&quot;error&quot;" in picture.svg


def test_a_body_in_many_pieces(record, well_made) -> None:  # type: ignore[no-untyped-def]
    for count in (1, 2, 30, 800):
        pieces = [(1.0 * n / count, "x" * (n % 7 + 1)) for n in range(count)]
        well_made(draw(("", record.stream(pieces, (1.05, "clean"), kind="text/plain"))))


def test_a_crowd_is_dense(record, well_made) -> None:  # type: ignore[no-untyped-def]
    found = [
        event
        for n in range(9)
        for event in record.stream(events(4), (1.3, "cut" if n == 2 else "clean"), start=0.001 * n)
    ]
    picture = draw(("", found))
    well_made(picture)
    assert picture.svg.count(">4 messages<") == 8
    assert picture.alt.startswith("9 clients, 36 messages to them; 1 connection cut")
    many = [event for n in range(100) for event in record.stream(events(2), (1.0, "clean"), start=0.001 * n)]
    picture = draw(("", many))
    well_made(picture)
    assert ">… 77 more<" in picture.svg


def test_panels_of_several_lanes_have_heads(record, well_made) -> None:  # type: ignore[no-untyped-def]
    def three() -> list[WireEvent]:
        return [e for n in range(3) for e in record.stream(events(3), (1.0, "clean"), start=0.001 * n)]

    for broken in (three(), [e for _ in range(3) for e in three()]):
        picture = draw(("An outbox per client", three()), ("One send after the other", broken))
        well_made(picture)
        assert "== An outbox per client ==\n\nclient 1..3 (each)\n" in picture.twin


def test_failures_and_odd_labels(record, well_made) -> None:  # type: ignore[no-untyped-def]
    well_made(
        draw(
            (
                "",
                record.stream(
                    [(0.1, '{"detail":"Not Found"}')], (0.1, "clean"), kind="application/json", status="404 Not Found"
                ),
            )
        )
    )
    odd = ["日本語" * 30, "a&<b>\x01", "x" * 500, "👍🏽" * 30]
    pieces = [(0.1 * n, f"event: e\ndata: {text}\n\n") for n, text in enumerate(odd)]
    pieces.append((0.5, "event: error\nid: 7\ndata: overloaded\n\n"))
    well_made(draw(("", record.stream(pieces, (0.5, "clean"), path="/" + "p" * 300))))
    well_made(draw(("", record.stream([(0.0, "data: 1\n\n")] * 8, (0.0, "clean")))))
    well_made(draw(("", record.stream([], (0.0, "cut")))))
    well_made(draw(("", record.stream([(0.1, "data: 1")], (0.2, "cut")))))
    well_made(draw(("", [])))


def test_sockets_in_lanes(record, well_made: Callable[[Picture], None]) -> None:  # type: ignore[no-untyped-def]
    steps = [(0.01 + 0.004 * n, ("client", "server")[n % 2], f"m{n}") for n in range(12)]
    well_made(draw(("", [*record.websocket(steps), *record.websocket(steps, "cut", start=0.002)])))
    assert "m0" in draw(("", record.websocket(steps))).svg


def test_an_error_is_named_even_where_it_is_narrow(record) -> None:  # type: ignore[no-untyped-def]
    lost = record.stream(events(3), (1.0, "cut"))
    gone = record.stream([(3.5, "x")], (3.6, "clean"), start=3.4, last="3", kind="text/plain", status="410 Gone")
    assert ">410 Gone<" in draw(("", [*lost, *gone])).svg
    alone = record.stream([(0.1, "x")], (0.1, "clean"), kind="text/plain", status="404 Not Found")
    assert ">404 Not Found<" in draw(("", alone)).svg
