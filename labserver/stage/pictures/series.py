"""What a plot is made of: series of points, marked intervals, labelled bars; cleaned and thinned, not drawn."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from math import isfinite
from typing import Literal

__all__ = ["Band", "Bar", "Panel", "Point", "Series", "Style", "thinned"]

Style = Literal["dots", "line", "steps", "bars"]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points that belong together.

    Attributes:
        label: what they are called, in the picture and in its text.
        xs, ys: where they are, in the plot's units, as many ys as xs. What is not finite is left out.
        hot: the one thing to see; at most one of a panel.
        style: "dots" for single measurements, "line" for a course, "steps" for a state that lasts until it changes,
            "bars" for amounts.
    """

    label: str
    xs: Sequence[float]
    ys: Sequence[float]
    hot: bool = field(default=False, kw_only=True)
    style: Style = field(default="dots", kw_only=True)

    @property
    def points(self) -> list[Point]:
        """The points that can be drawn, by x; those of one x in their order."""
        pairs = zip(self.xs, self.ys, strict=True)
        found = [(float(x), float(y)) for x, y in pairs if isfinite(x) and isfinite(y)]
        return sorted(found, key=lambda point: point[0])


@dataclass(frozen=True, slots=True)
class Band:
    """A marked interval on the x axis, from `start` to `end` in the axis' unit: "loop blocked"."""

    start: float
    end: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with a name; `note` is a few words behind the value, in the picture alone."""

    label: str
    value: float
    hot: bool = field(default=False, kw_only=True)
    note: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class Panel:
    """Series over one axis under a head, which may be empty, with intervals of their own."""

    head: str
    series: tuple[Series, ...]
    bands: tuple[Band, ...] = ()


def thinned(points: Sequence[Point], least: float = 1.0) -> list[Point]:
    """Return points on the sheet, px, at most four per `least` px: the first, lowest, highest and last of each."""
    if len(points) < 1500:
        return list(points)
    return [point for _, group in groupby(points, key=lambda point: int(point[0] / least)) for point in _few(group)]


def _few(group: Iterable[Point]) -> Iterator[Point]:
    found = list(group)
    if len(found) <= 4:
        yield from found
        return
    chosen = {0, len(found) - 1}
    chosen |= {min(range(len(found)), key=lambda at: found[at][1]), max(range(len(found)), key=lambda at: found[at][1])}
    yield from (found[at] for at in sorted(chosen))
