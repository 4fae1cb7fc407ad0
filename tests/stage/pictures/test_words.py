"""Widths, elision and numbers: what a text takes of a sheet."""

import pytest

from labserver.stage.pictures.words import duration, fit, kilo, width, wrap


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


def test_numbers_for_readers() -> None:
    assert [duration(value) for value in (0.0012, 0.25, 2.04)] == ["1.2 ms", "250 ms", "2.0 s"]
    assert [kilo(value) for value in (812, 999.7, 3120, 31_507_000)] == ["812 B", "1.0 kB", "3.1 kB", "31.5 MB"]
