"""The plot: values over time or over anything, panels on one x axis, labels beside their points instead of legends."""

from collections.abc import Sequence
from dataclasses import dataclass

from labserver.stage.pictures import chart_labels, curves
from labserver.stage.pictures.scale import Scale, linear, logarithmic, number
from labserver.stage.pictures.series import Panel, Series
from labserver.stage.pictures.shapes import measure
from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT, WIDTH, Sheet
from labserver.stage.pictures.words import fit, width, wrap
from labserver.stage.rich import Picture

__all__ = ["Mark", "Units", "draw"]

_HEIGHTS = {1: 232.0, 2: 148.0}  # px of a panel's plot by the number of panels
_TICKS_END = LEFT - 10  # where the words at the y axis end

Mark = tuple[float, str] | tuple[float, float, str]
"""x and a label on a line through the plot, or x, y and a label beside that point."""


@dataclass(frozen=True, slots=True)
class Units:
    """What the axes count, and whether y is logarithmic."""

    x: str
    y: str
    log_y: bool = False


def draw(
    name: str, panels: Sequence[Panel], twin: str, title: str, note: str, units: Units, marks: Sequence[Mark]
) -> Picture:
    """Draw panels of series, one below the other, on one x axis and with one y scale."""
    sheet = Sheet(name, title)
    sheet.head(note or f"In {units.y}, over {units.x}.")
    across = _across(panels, marks)
    top, bottom = 108.0, 108.0
    for panel in panels:
        if panel.head:
            sheet.text(MARGIN, top - 10, fit(panel.head, WIDTH - 48, 13, weight=600), size=13, weight=600)
        top += (16 if panel.head else 0) + (16 if panel.bands or _lined(marks) else 0)
        bottom = top + _HEIGHTS.get(len(panels), 112.0)
        _panel(sheet, panel, across, _upward(panels, units, marks, top, bottom), units, marks)
        top = bottom + 44
    _x_axis(sheet, across, bottom, units.x, len(panels))
    sheet.desc = describe(panels, units, across, marks)
    return Picture(sheet.svg(bottom + 44), sheet.alt, twin)


def _across(panels: Sequence[Panel], marks: Sequence[Mark]) -> Scale:
    """Return the x scale, which leaves room for the labels of the series that reach its end."""
    xs = [x for panel in panels for series in panel.series for x, _ in series.points]
    xs += [edge for panel in panels for band in panel.bands for edge in (band.start, band.end)]
    xs += [mark[0] for mark in marks]
    every = [series for panel in panels for series in panel.series]
    inset = curves.BAR / 2 + 2 if any(series.style == "bars" for series in every) else 0.0
    whole = linear(xs, LEFT + inset, RIGHT - inset, 6.5)
    labels = [chart_labels.room(series, whole) for panel in panels for series in panel.series if len(panel.series) > 1]
    return linear(xs, LEFT + inset, min(RIGHT - inset, RIGHT - max(labels, default=0.0)), 6.5)


def _upward(panels: Sequence[Panel], units: Units, marks: Sequence[Mark], top: float, bottom: float) -> Scale:
    ys = [y for panel in panels for series in panel.series for _, y in series.points]
    ys += [mark[1] for mark in marks if len(mark) == 3]
    if units.log_y:
        return logarithmic(ys, bottom, top)
    return linear(ys, bottom, top, 4.5, whole=True)


def _lined(marks: Sequence[Mark]) -> bool:
    return any(len(mark) == 2 for mark in marks)


# --- one panel


def _panel(sheet: Sheet, panel: Panel, across: Scale, upward: Scale, units: Units, marks: Sequence[Mark]) -> None:
    top = upward.stop
    _bands(sheet, panel, across, upward)
    _y_axis(sheet, across, upward, units.y)
    _name(sheet, panel, upward, units)
    for mark in marks:
        if len(mark) == 2:
            _line(sheet, across.at(mark[0]), top, upward.start, mark[1])
    drawn = [(each, [(across.at(x), upward.at(y)) for x, y in each.points]) for each in panel.series]
    base = upward.at(0) if upward.low < 0 else upward.start
    for order in sorted(range(len(drawn)), key=lambda at: (drawn[at][0].hot, drawn[at][0].style != "bars")):
        curves.draw(sheet, *drawn[order], base, order)
    inked = [place for series, places in drawn for place in curves.inked(series, places, base)]
    labels = chart_labels.Labels(sheet, inked, across, upward)
    labels.draw(panel, drawn, units.y)
    for mark in marks:
        if len(mark) == 3:
            labels.beside((across.at(mark[0]), upward.at(mark[1])), mark[2], "mute")


def _bands(sheet: Sheet, panel: Panel, across: Scale, upward: Scale) -> None:
    """Tint the marked intervals, each named above the plot."""
    hot = any(series.hot for series in panel.series)
    for band in panel.bands:
        x0, x1 = across.at(band.start), across.at(band.end)
        x1 = max(x1, x0 + 2)
        corners = f"M{x0:.1f} {upward.stop:.1f}H{x1:.1f}V{upward.start:.1f}H{x0:.1f}Z"
        sheet.path(corners, fill="band", under=True)
        if band.label:
            measure(sheet, x0, x1, upward.stop - 12, fit(band.label, 300), hot)


def _line(sheet: Sheet, x: float, top: float, bottom: float, label: str) -> None:
    """Draw a moment: a line through the plot, its label above, left of it where the right has no room."""
    sheet.line(x, top - 4, x, bottom, "mute", 1, "3 3")
    for at, anchor in ((x + 5, "start"), (x - 5, "end")):
        place = sheet.box(at, top - 8, label, anchor=anchor)
        if sheet.free(place):
            sheet.text(at, top - 8, label, role="mute", anchor=anchor)
            return


def _name(sheet: Sheet, panel: Panel, upward: Scale, units: Units) -> None:
    """Name a panel's only series beside the y axis, and under it a unit that is too long for a tick."""
    taken = max((width(label) for _, label in _labels(upward, units.y)), default=0)
    room = _TICKS_END - taken - 10 - MARGIN
    y = upward.stop + 4
    if len(panel.series) == 1 and panel.series[0].label != panel.head:
        for line in wrap(panel.series[0].label, room, 3, 13, 600):
            sheet.text(MARGIN, y, line, size=13, weight=600)
            y += 16
    if not _is_short(units.y):
        for line in wrap(units.y, room, 3):
            sheet.text(MARGIN, y, line, role="mute")
            y += 14


def _is_short(unit: str) -> bool:
    return width(unit) <= 34


def _labels(upward: Scale, unit: str) -> list[tuple[float, str]]:
    """Return the y ticks; the highest has the unit."""
    ticks = list(upward.ticks)
    value, text = ticks[-1]
    return [*ticks[:-1], (value, f"{text} {unit}" if _is_short(unit) else text)]


def _y_axis(sheet: Sheet, across: Scale, upward: Scale, unit: str) -> None:
    for value, text in _labels(upward, unit):
        y = upward.at(value)
        sheet.line(LEFT - 5, y, LEFT, y, "mute", 1)
        sheet.text(_TICKS_END, y + 4, text, role="mute", anchor="end")
        if abs(y - upward.start) > 1:
            sheet.line(LEFT, y, across.stop, y, "edge", 1, "1 5", under=True)
    base = upward.at(0) if upward.low < 0 else upward.start
    sheet.line(LEFT, base, across.stop, base, "mute", 1)


def _x_axis(sheet: Sheet, across: Scale, y: float, unit: str, panels: int) -> None:
    sheet.line(LEFT, y, across.stop, y, "mute", 1)
    sheet.text(MARGIN, y + 20, fit(unit, LEFT - MARGIN - 20), role="mute")
    for value, text in across.ticks:
        x = across.at(value)
        sheet.line(x, y, x, y + 5, "mute", 1)
        sheet.text(x, y + 20, text, role="mute", anchor="middle")


# --- in words


def describe(panels: Sequence[Panel], units: Units, across: Scale, marks: Sequence[Mark]) -> str:
    """Return the alternative text of a plot: its axes, and for each series how many points and what range."""
    scale = " (logarithmic)" if units.log_y else ""
    parts = [f"Plot in {units.y}{scale}, over {number(across.low)} to {number(across.high)} {units.x}."]
    for panel in panels:
        parts += [f"{panel.head}:"] if panel.head else []
        parts += [_series_words(series, units) for series in panel.series]
        parts += [
            f"Marked: {band.label}, {number(band.start)} to {number(band.end)} {units.x}." for band in panel.bands
        ]
    parts += [f"At {number(mark[0])} {units.x}: {mark[-1]}." for mark in marks]
    return " ".join(parts)


def _series_words(series: Series, units: Units) -> str:
    points = series.points
    if not points:
        return f"{series.label}: no points."
    if len(points) == 1:
        return f"{series.label}: {number(points[0][1])} {units.y} at {number(points[0][0])} {units.x}."
    ys = [y for _, y in points]
    high = max(points, key=lambda point: point[1])
    words = f"{series.label}: {len(points):,} points, {number(min(ys))} to {number(max(ys))} {units.y}"
    return f"{words}, highest at {number(high[0])} {units.x}, last {number(ys[-1])}."
