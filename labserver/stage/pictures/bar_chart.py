"""The comparison: horizontal bars from one zero line, each value printed at its bar's end."""

from collections.abc import Sequence
from dataclasses import dataclass

from labserver.stage.pictures.scale import number
from labserver.stage.pictures.series import Bar
from labserver.stage.pictures.sheet import LEFT, MARGIN, RIGHT, WIDTH, Sheet
from labserver.stage.pictures.words import fit, width, wrap
from labserver.stage.rich import Picture

__all__ = ["BarPanel", "draw"]

_BAR, _PITCH = 20, 36  # px
_NAME_ROOM = LEFT - MARGIN - 12


@dataclass(frozen=True, slots=True)
class BarPanel:
    """Bars of one unit under a head, which may be empty."""

    head: str
    unit: str
    rows: tuple[Bar, ...]


def draw(name: str, panels: Sequence[BarPanel], twin: str, title: str, note: str) -> Picture:
    """Draw panels of bars, one below the other, each with a scale of its own that begins at zero."""
    sheet = Sheet(name, title)
    sheet.head(note or ("Each panel has a scale of its own, from zero." if len(panels) > 1 else ""))
    top = 88.0 if note or len(panels) > 1 else 68.0
    for panel in panels:
        if panel.head:
            sheet.text(MARGIN, top + 4, fit(panel.head, WIDTH - 48, 13, weight=600), size=13, weight=600)
            top += 20
        top = _panel(sheet, panel, top) + 28
    sheet.desc = describe(panels)
    return Picture(sheet.svg(top - 4), sheet.alt, twin)


def _panel(sheet: Sheet, panel: BarPanel, top: float) -> float:
    """Draw the bars of a panel; return where they end."""
    most = max((bar.value for bar in panel.rows), default=0.0) or 1.0
    wide = _widest(panel, most)
    y = top
    for bar in panel.rows:
        lines = wrap(bar.label, _NAME_ROOM, 2, 13, 600)
        first = y + _BAR / 2 + 4 - 8 * (len(lines) - 1)
        for row, line in enumerate(lines):
            sheet.text(MARGIN, first + 16 * row, line, size=13, weight=600)
        colour = "hot" if bar.hot else "ink"
        long = max(wide * bar.value / most, 1.5)
        sheet.rect(LEFT, y, long, _BAR, colour)
        said = sheet.text(LEFT + long + 8, y + 14, _value(bar, panel.unit), role=colour, weight=600)
        sheet.text(said.x1 + 10, y + 14, bar.note, role="mute")
        y += _PITCH
    sheet.line(LEFT, top - 6, LEFT, y - _PITCH + _BAR + 6, "mute", 1)
    return y - _PITCH + _BAR


def _widest(panel: BarPanel, most: float) -> float:
    """Return how long the longest bar may be so that each value and note has room behind its bar."""
    rooms = [RIGHT - LEFT]
    for bar in panel.rows:
        behind = width(_value(bar, panel.unit), weight=600) + 8 + (width(bar.note) + 10 if bar.note else 0)
        if bar.value > 0:
            rooms.append(int((WIDTH - 12 - LEFT - behind) * most / bar.value))
    return max(min(rooms), 40)


def _value(bar: Bar, unit: str) -> str:
    return f"{number(bar.value)} {unit}".strip()


def describe(panels: Sequence[BarPanel]) -> str:
    """Return the alternative text: each bar with its value."""
    parts = ["Bar chart."]
    for panel in panels:
        said = [f"{bar.label} {_value(bar, panel.unit)}" + (f" ({bar.note})" if bar.note else "") for bar in panel.rows]
        parts.append((f"{panel.head}: " if panel.head else "") + "; ".join(said) + ".")
    return " ".join(parts)
