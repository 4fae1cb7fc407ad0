"""What all lanes of one picture share, and the heights of their bands."""

from dataclasses import dataclass

from labserver.stage.pictures.axis import Axis
from labserver.stage.pictures.sheet import Sheet

__all__ = ["BAND", "DENSE", "ROW", "TALL", "VERDICT", "Scene"]

BAND, DENSE, TALL = 24, 16, 56  # px: a band with labels, one of many, one with bars
ROW = 18  # px of a row of labels
VERDICT = 688  # where the words at the right of a dense lane begin


@dataclass(frozen=True, slots=True)
class Scene:
    """The sheet, its axis, whether lanes are dense, and after how many seconds of silence somebody hangs up."""

    sheet: Sheet
    axis: Axis
    dense: bool
    idle: float | None
