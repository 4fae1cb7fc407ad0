"""The words in a plot: each series is named beside its last point, the hot one's peak has its value. None overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from itertools import pairwise

from labserver.stage.pictures.curves import role
from labserver.stage.pictures.scale import Scale, number
from labserver.stage.pictures.series import Panel, Point, Series
from labserver.stage.pictures.sheet import LEFT, Box, Sheet
from labserver.stage.pictures.words import fit, width

__all__ = ["Labels", "room"]

_MOST = 168  # px of a label at the right
_CELL = 4  # px, how exactly it is known where marks are
_ROW = 16  # px between labels at the right


def room(series: Series, across: Scale) -> float:
    """Return the room that a series' label needs right of the plot, px: none when it ends well before."""
    points = series.points
    if not points or across.at(points[-1][0]) < across.start + 0.8 * (across.stop - across.start):
        return 0.0
    return min(width(series.label, weight=600), _MOST) + 14 - 24


@dataclass(slots=True)
class Labels:
    """Sets labels in the plot of one panel.

    Attributes:
        points: where marks are, px; no label covers one.
    """

    sheet: Sheet
    points: InitVar[Sequence[Point]]
    across: Scale
    upward: Scale
    _cells: set[tuple[int, int]] = field(init=False)

    def __post_init__(self, points: Sequence[Point]) -> None:
        self._cells = {(int(x) // _CELL, int(y) // _CELL) for x, y in points}

    def draw(self, panel: Panel, drawn: Sequence[tuple[Series, list[Point]]], unit: str) -> None:
        """Name each series beside its last point, right of the plot if it ends there, and say how high the hot goes."""
        found = [(series, order, places[-1]) for order, (series, places) in enumerate(drawn) if places]
        named = found if len(panel.series) > 1 else []
        self._set_right([each for each in named if room(each[0], self.across)])
        for series, _, _ in found:
            if series.hot:
                x, y = max(series.points, key=lambda point: point[1])
                self.beside((self.across.at(x), self.upward.at(y)), f"{number(y)} {unit}", "hot", 600)
        for series, order, last in named:
            if not room(series, self.across):
                self.beside(last, fit(series.label, _MOST), role(series, order), 600 if series.hot else 400)

    def beside(self, place: Point, text: str, colour: str, weight: int = 400) -> None:
        """Set a text near a point, over no mark if that can be, joined to it when it had to go far."""
        box = self._find(place, text, weight)
        if box is None:
            return
        x, y = min(max(place[0], box.x0), box.x1), min(max(place[1], box.y0), box.y1)
        if abs(x - place[0]) + abs(y - place[1]) > 24:
            self.sheet.line(place[0], place[1], x, y, "mute", 1)
        self.sheet.text(box.x0, box.y1 - 0.24 * 12, text, role=colour, weight=weight, halo=self._covers(box))

    # --- right of the plot

    def _set_right(self, found: Sequence[tuple[Series, int, Point]]) -> None:
        """Set labels one below the other, each as near to its last point as the others let it."""
        ordered = sorted(found, key=lambda item: item[2][1])
        places = _spread([last[1] for _, _, last in ordered], self.upward.stop + 4, self.upward.start - 2)
        for (series, order, last), y in zip(ordered, places, strict=True):
            x = self.across.stop + 12
            colour, weight = role(series, order), 600 if series.hot else 400
            if abs(y - last[1]) > 6:
                self.sheet.line(last[0] + 4, last[1], x - 2, y, "mute", 1)
            self.sheet.text(x, y + 4, fit(series.label, _MOST, weight=weight), role=colour, weight=weight)

    # --- in the plot

    def _places(self, place: Point, text: str, weight: int) -> Iterator[Box]:
        """Yield where a label may stand: beside its point, then further and further off, always in the plot."""
        x, y = place
        tries = [(x + 9, y + 4, "start"), (x - 9, y + 4, "end"), (x, y - 9, "middle"), (x, y + 18, "middle")]
        top, bottom = self.upward.stop, self.upward.start
        far = [(at, row, "start") for row in _range(top + 12, bottom - 8, 14) for at in _range(LEFT + 8, 800, 16)]
        far.sort(key=lambda item: abs(item[0] - x) + 2 * abs(item[1] - y))
        for at, row, anchor in [*tries, *far]:
            box = self.sheet.box(at, row, text, anchor=anchor, weight=weight)
            if box.x0 >= LEFT + 2 and box.x1 <= max(self.across.stop, 808) and top - 6 <= box.y0 and box.y1 <= bottom:
                yield box

    def _find(self, place: Point, text: str, weight: int) -> Box | None:
        """Return the nearest place that is free of texts and marks, else the nearest free of texts."""
        second = None
        for box in self._places(place, text, weight):
            if self.sheet.free(box):
                if not self._covers(box):
                    return box
                second = second or box
        return second

    def _covers(self, box: Box) -> bool:
        rows = range(int(box.y0 - 3) // _CELL, int(box.y1 + 3) // _CELL + 1)
        columns = range(int(box.x0 - 4) // _CELL, int(box.x1 + 4) // _CELL + 1)
        return any((column, row) in self._cells for row in rows for column in columns)


def _range(start: float, stop: float, step: float) -> list[float]:
    return [start + step * n for n in range(max(int((stop - start) / step), 0) + 1)]


def _spread(wanted: Sequence[float], top: float, bottom: float) -> list[float]:
    """Return places at least a row apart, near the wanted ones, which ascend."""
    places = [min(max(y, top), bottom) for y in wanted]
    for index, (a, b) in enumerate(pairwise(range(len(places)))):
        places[index + 1] = max(places[b], places[a] + _ROW)
    over = places[-1] - bottom if places else 0.0
    if over > 0:
        places[-1] = bottom
        for index in range(len(places) - 2, -1, -1):
            places[index] = min(places[index], places[index + 1] - _ROW)
    return places
