"""The primitives: widths, elision, axes, and the document around a picture."""

from xml.etree import ElementTree

import pytest

from labserver.stage.drawing import RIGHT, Axis, Sheet, duration, fit, kilo, width, wrap


def test_widths_grow_with_what_is_seen() -> None:
    assert width("ab", 12, mono=True) == pytest.approx(2 * 12 * 0.61)
    assert width("日本") > width("ab")
    assert width("e\u0301") == width("e")


def test_fit_and_wrap_keep_to_their_room() -> None:
    assert fit("short", 100) == "short"
    assert width(fit("x" * 90, 100), 12) <= 100
    lines = wrap("a comment that is far too long for two lines of this narrow room", 120, 2)
    assert len(lines) == 2
    assert all(width(line) <= 120 for line in lines)
    assert lines[-1].endswith("…")
    assert wrap("every 0.25 s", 75, 2) == ["every", "0.25 s"]


@pytest.mark.parametrize("span", [1e-4, 0.003, 0.0077, 0.2, 0.9, 1.9, 2.0, 7.9, 61.0, 3600.0])
def test_an_axis_has_few_round_ticks_inside_the_plot(span: float) -> None:
    axis = Axis(span)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 8
    assert all(axis.x(at) <= RIGHT + 0.01 for at, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    unit = axis.unit[1]
    assert all(float(label) == pytest.approx(at / unit) for at, label in ticks)


def test_numbers_for_readers() -> None:
    assert [duration(value) for value in (0.0012, 0.25, 2.04)] == ["1.2 ms", "250 ms", "2.0 s"]
    assert [kilo(value) for value in (812, 3120, 31_507_000)] == ["812 B", "3.1 kB", "31.5 MB"]


def test_ids_differ_between_pictures_of_one_name() -> None:
    first, second = Sheet("same name", "one"), Sheet("same name", "two")
    ids = [ElementTree.fromstring(sheet.svg(100)).get("aria-labelledby") for sheet in (first, second)]
    assert ids[0] != ids[1]
    assert str(ids[0]).startswith("tape-same-name-")


def test_text_is_escaped_and_free_of_what_xml_forbids() -> None:
    sheet = Sheet("<&>", "a < b & c", "\x00")
    sheet.text(10, 20, 'x<y>&"\x01')
    root = ElementTree.fromstring(sheet.svg(50))
    assert [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")] == ['x<y>&"·']
