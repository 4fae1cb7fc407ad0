"""The scale of a plot: from values to places on the sheet, round ticks, and numbers as a reader likes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

__all__ = ["Scale", "linear", "logarithmic", "number"]

_STEPS = (1, 2, 2.5, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Scale:
    """Values from `low` to `high` over the sheet from `start` to `stop`, px; what lies outside stands at the edge.

    Attributes:
        ticks: round values, and what to write there.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[tuple[float, str], ...]
    log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, px."""
        part = self._part(value)
        return self.start + (self.stop - self.start) * min(max(part, 0.0), 1.0)

    def _part(self, value: float) -> float:
        if not self.log:
            return (value - self.low) / (self.high - self.low)
        return log10(max(value, self.low) / self.low) / log10(self.high / self.low)


def linear(values: Sequence[float], start: float, stop: float, most: float, whole: bool = False) -> Scale:
    """Return a scale with at most about `most` intervals between round ticks.

    Args:
        values: what must fit. The scale begins at 0 unless that would leave more than half of it empty, or, with
            `whole`, always.
        whole: whether it ends at ticks, as a y axis does.
    """
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and (whole or low <= high / 2):
        low = 0.0
    elif whole and high < 0:
        high = 0.0
    if high <= low:
        high = low + (abs(low) or 1.0)
    step = _step(high - low, most, all(value == round(value) for value in values))
    if whole:  # what is a hair above the last tick needs no other
        low, high = floor(low / step + 1e-9) * step, max(ceil(high / step - 0.05) * step, high)
    elif ceil(high / step) * step - high < 0.03 * (high - low):
        high = ceil(high / step) * step
    return Scale(low, high, start, stop, _ticks(low, high, step))


def _step(span: float, most: float, counted: bool) -> float:
    """Return the least round step that makes no more than `most` intervals; of things counted a whole one."""
    power = 10.0 ** floor(log10(span / most))
    steps = [power * factor for factor in _STEPS if span / (power * factor) <= most]
    return next((step for step in steps if not counted or step == round(step)), 1.0)


def _ticks(low: float, high: float, step: float) -> tuple[tuple[float, str], ...]:
    digits = next((n for n in range(12) if abs(round(step, n) - step) < 1e-6 * step), 12)
    first, last = ceil(low / step - 1e-9), floor(high / step + 1e-9)
    return tuple((step * n, f"{step * n:,.{digits}f}" if n else "0") for n in range(first, last + 1))


def logarithmic(values: Sequence[float], start: float, stop: float) -> Scale:
    """Return a scale of powers of ten around the positive values; zero stands at its lower edge."""
    found = [value for value in values if value > 0]
    low, high = floor(log10(min(found, default=1.0)) + 1e-9), ceil(log10(max(found, default=10.0)) - 1e-9)
    high = max(high, low + 1)
    every = ceil((high - low) / 5)
    ticks = tuple((10.0**power, _power(power)) for power in range(low, high + 1, every))
    return Scale(10.0**low, 10.0**high, start, stop, ticks, log=True)


def _power(power: int) -> str:
    return f"{10**power:,}" if power >= 0 else f"{10.0**power:.{-power}f}"


def number(value: float) -> str:
    """Return a value for a reader: three digits that count, `1.45`, `12`, `1,450`."""
    size = abs(value)
    if size < 1e-9:
        return "0"
    if size >= 99.5:
        return f"{value:,.0f}"
    digits = min(2 - floor(log10(size)), 9)
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".")
