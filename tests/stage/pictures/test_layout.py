"""Where things stand in a lane: side by side, as ticks when they are many, as bars when sizes tell more."""

from itertools import pairwise

from labserver.stage.pictures.axis import Axis
from labserver.stage.pictures.layout import View, by_size, views
from labserver.stage.wire import WireEvent, lanes


def lay(events: list[WireEvent], span: float = 2.0, dense: bool = False) -> list[View]:
    lane = lanes(events)[0]
    return views(lane, Axis(span), by_size(lane), dense)


def test_marks_of_one_instant_stand_side_by_side_inside_the_band(record) -> None:  # type: ignore[no-untyped-def]
    (view,) = lay(record.stream([(0.5, "data: a\n\n" * 5)], (0.5, "clean")))
    places = [x for x, _ in view.marks]
    assert [b - a for a, b in pairwise(places)] == [14] * 4
    assert places[0] == Axis(2.0).x(0.5)
    assert view.x1 > places[-1]
    assert not view.crowded


def test_very_many_marks_become_ticks_but_errors_stay(record) -> None:  # type: ignore[no-untyped-def]
    pieces = [(0.01 * n, f"data: {n}\n\n") for n in range(100)] + [(1.5, "event: error\ndata: x\n\n")]
    (view,) = lay(record.stream(pieces, (1.6, "clean")))
    assert view.crowded
    assert [event.shown for _, event in view.marks] == ["error"]


def test_rows_that_came_at_once_are_one_bar(record) -> None:  # type: ignore[no-untyped-def]
    rows = [(0.2, '{"a": 1}\n{"a": 2}\n'), (0.4, '{"a": 3}\n')]
    (view,) = lay(record.stream(rows, (0.5, "clean"), kind="application/x-ndjson"))
    assert view.bars is not None
    assert [(bar.size, bar.rows) for bar in view.bars.bars] == [(18, "1\u20132"), (9, "3")]


def test_an_open_band_ends_where_its_reconnect_begins(record) -> None:  # type: ignore[no-untyped-def]
    (view,) = lay(record.stream([(0.1, "data: a\n\n")]))
    assert view.stop == 2.0
    lost = record.stream([(0.1, "data: a\n\n")], (0.4, "cut"))
    both = lay([*lost, *record.stream([(0.9, "data: b\n\n")], (1.0, "clean"), start=0.8)])
    assert [each.stop for each in both] == [0.4, 1.0]
