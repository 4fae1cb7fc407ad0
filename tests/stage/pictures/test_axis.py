"""The axis of time: few round numbers, all of them on the plot."""

import pytest

from labserver.stage.pictures.axis import Axis
from labserver.stage.pictures.sheet import RIGHT


@pytest.mark.parametrize("span", [1e-4, 0.003, 0.0077, 0.2, 0.9, 1.9, 2.0, 7.9, 61.0, 3600.0])
def test_an_axis_has_few_round_ticks_inside_the_plot(span: float) -> None:
    axis = Axis(span)
    ticks = axis.ticks()
    assert 3 <= len(ticks) <= 8
    assert all(axis.x(at) <= RIGHT + 0.01 for at, _ in ticks)
    assert len({label for _, label in ticks}) == len(ticks)
    unit = axis.unit[1]
    assert all(float(label) == pytest.approx(at / unit) for at, label in ticks)
