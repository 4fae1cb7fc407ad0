"""Scales: few round ticks that hold every value, and numbers in three digits."""

from itertools import pairwise

import pytest

from labserver.stage.pictures.scale import linear, logarithmic, number


@pytest.mark.parametrize("high", [1e-4, 0.003, 0.0077, 0.2, 0.9, 1.9, 2.0, 7.9, 61.0, 3600.0, 1e7])
def test_a_scale_has_few_round_ticks(high: float) -> None:
    across, upward = linear([0, high], 176, 808, 6.5), linear([0, high], 340, 108, 4.5, whole=True)
    assert (3 if high == 2 else 4) <= len(across.ticks) <= 8, "of 2, halves would be no things to count"
    assert 3 <= len(upward.ticks) <= 6
    assert upward.high >= high
    assert upward.ticks[-1][0] >= 0.98 * high, "a hair above the last tick is no reason for another"
    for scale in (across, upward):
        assert len({text for _, text in scale.ticks}) == len(scale.ticks)
        assert all(float(text.replace(",", "")) == pytest.approx(value) for value, text in scale.ticks)
        assert (scale.at(scale.low), scale.at(scale.high)) == (scale.start, scale.stop)


def test_what_is_counted_has_whole_ticks() -> None:
    assert [text for _, text in linear([0, 5, 10, 15], 0, 100, 6.5).ticks] == ["0", "5", "10", "15"]
    assert [text for _, text in linear([0, 5.5, 10, 15], 0, 100, 6.5).ticks][1] == "2.5"
    assert [text for _, text in linear([0, 1], 0, 100, 4.5, whole=True).ticks] == ["0", "1"]


def test_a_scale_begins_where_its_values_are_when_they_are_far_from_zero() -> None:
    assert linear([1000, 1010], 0, 100, 6.5).low == 1000
    assert linear([3, 10], 0, 100, 6.5).low == 0
    assert linear([900, 1000], 0, 100, 4.5, whole=True).low == 0, "a y axis does not cheat"


@pytest.mark.parametrize("values", [[], [0.0], [1.0], [3.0, 2500.0], [1e-4, 1e6]])
def test_powers_of_ten_hold_every_value(values: list[float]) -> None:
    scale = logarithmic(values, 100, 0)
    assert scale.low < scale.high
    assert 2 <= len(scale.ticks) <= 6
    places = [scale.at(value) for value, _ in scale.ticks]
    gaps = [a - b for a, b in pairwise(places)]
    assert gaps == pytest.approx([gaps[0]] * len(gaps))
    assert scale.at(0) == 100


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1450.4, "1,450"),
        (99.6, "100"),
        (12.34, "12.3"),
        (1.45, "1.45"),
        (2.0, "2"),
        (0.0344, "0.0344"),
        (-3.5, "-3.5"),
    ],
)
def test_numbers_have_three_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text
