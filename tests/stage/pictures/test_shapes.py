"""Marks told apart by their shape, and measures that stand where there is room."""

import re

import pytest

from labserver.stage.pictures.shapes import mark, measure
from labserver.stage.pictures.sheet import Sheet


def test_each_kind_has_its_own_shape_without_colour() -> None:
    shapes = set()
    kinds = ("text", "bytes", "comment", "ping", "pong", "lost", "replay", "error")
    for kind in kinds:
        sheet = Sheet("same", "same")
        mark(sheet, kind, 50, 50)
        body = sheet.svg(100).partition("</style>")[2]
        shapes.add(re.sub(r'#[0-9a-f]{6}|class="[^"]*"', "", body))
    assert len(shapes) == len(kinds)


@pytest.mark.parametrize(("x0", "x1", "place"), [(300, 600, 380), (300, 320, 328), (780, 800, 629)])
def test_a_measure_has_its_text_inside_right_or_left(x0: float, x1: float, place: float) -> None:
    sheet = Sheet("measure", "measure")
    assert measure(sheet, x0, x1, 50, "twenty letters long.")
    assert sheet.boxes[-1].x0 == pytest.approx(place, abs=3)


def test_a_measure_without_room_is_not_drawn() -> None:
    sheet = Sheet("measure", "measure")
    sheet.text(300, 54, "taken")
    assert not measure(sheet, 250, 500, 50, "in the very middle of it", hot=True)
    assert "|" not in sheet.svg(100)
    assert len(sheet.boxes) == 1
