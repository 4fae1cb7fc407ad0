"""The axis of time: where a moment stands, and round numbers under it."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log10

from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT, Sheet

__all__ = ["Axis"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Time to the right: from 0 to `span` seconds over the plot."""

    span: float
    right: float = RIGHT

    def x(self, at: float) -> float:
        """Return the place of a time, px."""
        return LEFT + (self.right - LEFT) * min(max(at / self.span, 0.0), 1.0)

    @property
    def unit(self) -> tuple[str, float]:
        """Name of the unit and seconds in it."""
        return ("seconds", 1.0) if self.span >= 2 else ("milliseconds", 1e-3)

    def ticks(self) -> list[tuple[float, str]]:
        """Return 3 to 7 round times, in seconds, and what to write there."""
        _, unit = self.unit
        span = self.span / unit
        power = 10.0 ** floor(log10(span / 5))
        step = next(power * factor for factor in (1, 2, 2.5, 5, 10, 20) if span / (power * factor) <= 6.5)
        digits = _digits(step)
        count = floor(span / step + 1e-9)
        return [(step * n * unit, f"{step * n:.{digits}f}" if n else "0") for n in range(count + 1)]

    def draw(self, sheet: Sheet, y: float, tops: Sequence[tuple[float, float]]) -> None:
        """Draw the axis at `y`, and its grid through each of `tops` (from y, to y)."""
        sheet.line(LEFT, y, self.right, y, "mute", 1)
        sheet.text(MARGIN, y + 20, self.unit[0], role="mute")
        for at, label in self.ticks():
            x = self.x(at)
            sheet.line(x, y, x, y + 5, "mute", 1)
            sheet.text(x, y + 20, label, role="mute", anchor="middle")
            if at:
                for top, bottom in tops:
                    sheet.line(x, top, x, bottom, "edge", 1, "1 5", under=True)


def _digits(step: float) -> int:
    """Return the decimals that a step needs."""
    if step >= 1 and step == round(step):
        return 0
    return max(1, ceil(-log10(step)) + ("25" in f"{step:g}"))
