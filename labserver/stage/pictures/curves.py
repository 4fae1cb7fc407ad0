"""How the points of a series are drawn: as dots, a line, steps or bars. At most one series is hot."""

from collections.abc import Sequence
from itertools import pairwise
from math import ceil, hypot

from labserver.stage.pictures.series import Point, Series, thinned
from labserver.stage.pictures.sheet import Sheet

__all__ = ["BAR", "draw", "inked", "role"]

_ROLES = ("ink", "mute")
_DASHES = ("", "", "5 3", "2 3")  # of the first, second ... series that is not hot
BAR = 16.0  # px, the widest upright bar
_MANY = 300  # dots or bars of a series; more are one path
_STEMS = 60  # hot dots that stand on stems; more would be a carpet


def role(series: Series, order: int) -> str:
    """Return the colour role of the series that is number `order` of its panel, from 0."""
    return "hot" if series.hot else _ROLES[order % len(_ROLES)]


def draw(sheet: Sheet, series: Series, places: Sequence[Point], base: float, order: int) -> None:
    """Draw a series by the places of its points, px; `base` is where zero is."""
    found = thinned(places)
    if not found:
        return
    colour = role(series, order)
    match series.style:
        case "bars":
            _bars(sheet, found, base, colour)
        case "line" | "steps":
            d = _course(found) if series.style == "line" else _steps(found)
            dash = "" if series.hot else _DASHES[order % len(_DASHES)]
            sheet.path(d, stroke=colour, width=2 if series.hot else 1.5, dash=dash)
        case _:
            _dots(sheet, found, base, colour, hollow=order % 2 == 1 and not series.hot)


def _course(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _steps(places: Sequence[Point]) -> str:
    return f"M{places[0][0]:.1f} {places[0][1]:.1f}" + "".join(f"H{x:.1f}V{y:.1f}" for x, y in places[1:])


def _dots(sheet: Sheet, places: Sequence[Point], base: float, colour: str, hollow: bool) -> None:
    """Draw dots; few hot ones stand on stems, very many are points of one path."""
    if len(places) > _MANY:
        once = dict.fromkeys((round(x), round(y)) for x, y in places)
        sheet.path("".join(f"M{x - 1} {y - 1}h2v2h-2z" for x, y in once), fill=colour)
        return
    if colour == "hot" and len(places) <= _STEMS:
        for x, y in places:
            sheet.line(x, base, x, y, colour, 1)
    for x, y in places:
        if hollow:
            sheet.circle(x, y, 3, "card", colour, 1.25)
        else:
            sheet.circle(x, y, 3.5 if colour == "hot" else 3, colour)


def _bars(sheet: Sheet, places: Sequence[Point], base: float, colour: str) -> None:
    """Draw upright bars, as wide as the narrowest gap allows."""
    gap = min((b[0] - a[0] for a, b in pairwise(places) if b[0] > a[0]), default=BAR)
    wide = max(min(0.7 * gap, BAR), 1.0)
    if len(places) > _MANY:
        longest = {round(x): y for x, y in sorted(places, key=lambda place: abs(place[1] - base))}
        sheet.path("".join(f"M{x} {base:.1f}V{y:.1f}" for x, y in longest.items()), stroke=colour, width=1)
        return
    for x, y in places:
        sheet.rect(x - wide / 2, min(y, base), wide, max(abs(base - y), 1.0), colour)


# --- where a label would cover it


def inked(series: Series, places: Sequence[Point], base: float) -> list[Point]:
    """Return points that lie close together on all that is drawn of a series."""
    found = thinned(places)
    match series.style:
        case "bars":
            return [point for x, y in found for point in _between((x, y), (x, base))]
        case "line":
            return [point for a, b in pairwise(found) for point in _between(a, b)] + found[:1]
        case "steps":
            corners = [point for a, b in pairwise(found) for point in (a, (b[0], a[1]))] + found[-1:]
            return [point for a, b in pairwise(corners) for point in _between(a, b)]
    stems = series.hot and len(found) <= _STEMS
    return [*found, *(point for x, y in found for point in _between((x, y), (x, base)) if stems)]


def _between(a: Point, b: Point, gap: float = 5.0) -> list[Point]:
    """Return points on the line from `a` to `b`, both included."""
    count = max(ceil(hypot(b[0] - a[0], b[1] - a[1]) / gap), 1)
    return [(a[0] + (b[0] - a[0]) * n / count, a[1] + (b[1] - a[1]) * n / count) for n in range(count + 1)]
