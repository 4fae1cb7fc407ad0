"""Bars on a band: what arrived at once, as tall as its bytes, with sizes and rows under them."""

from collections.abc import Sequence
from itertools import pairwise

from labserver.stage.pictures import labels
from labserver.stage.pictures.layout import Bars, View
from labserver.stage.pictures.scene import TALL, Scene
from labserver.stage.pictures.shapes import mark
from labserver.stage.pictures.sheet import LEFT, MARGIN, WIDTH, Box, Sheet
from labserver.stage.pictures.words import kilo

__all__ = ["draw"]

_TALLEST = 48  # px


def draw(scene: Scene, views: Sequence[View], top: float) -> float:
    """Draw the bars of a lane; return how far down their labels reach."""
    tallest = max((bar.size for view in views if view.bars for bar in view.bars.bars), default=1)
    bottom = top + TALL
    for number, view in enumerate(views):
        labels.request(scene, view, top, again=number > 0)
        if view.bars is not None:
            _draw(scene.sheet, view.bars, top, tallest)
            if len(views) == 1:
                bottom = _sizes(scene.sheet, view.bars, bottom)
    return bottom


def _draw(sheet: Sheet, found: Bars, top: float, tallest: int) -> None:
    for bar in found.bars:
        tall = max(_TALLEST * bar.size / tallest, 1.5)
        sheet.rect(bar.x, top + TALL - tall, found.wide, tall, "ink")
    for x, event in found.marks:
        mark(sheet, event.shown, x, top + TALL / 2)
        if event.shown == "error":
            labels.error(sheet, event, x, top)
        else:
            labels.above(sheet, labels.texts(event, False), x, top, "mute", "middle")


def _sizes(sheet: Sheet, found: Bars, bottom: float) -> float:
    """Set sizes and rows under the bars where all of them have room, else their sum."""
    if not found.bars:
        return bottom
    middles = [bar.x + found.wide / 2 for bar in found.bars]
    sizes = [kilo(bar.size) for bar in found.bars]
    rows = [bar.rows for bar in found.bars]
    places = [sheet.box(x, 0, size, anchor="middle", mono=True) for x, size in zip(middles, sizes, strict=True)]
    below = [sheet.box(x, 0, row, anchor="middle") for x, row in zip(middles, rows, strict=True)]
    if _touch(places) or _touch(below) or places[-1].x1 > WIDTH - 8:
        total = sum(bar.size for bar in found.bars)
        sheet.text(LEFT, bottom + 18, f"{kilo(total)} in {len(found.bars)} pieces", role="mute")
        return bottom + 18
    _line(sheet, "size", middles, sizes, bottom + 18, mono=True)
    if not rows[0]:
        return bottom + 18
    _line(sheet, "rows", middles, rows, bottom + 34, role="mute")
    return bottom + 34


def _touch(places: Sequence[Box]) -> bool:
    return any(b.x0 < a.x1 + 6 for a, b in pairwise(places))


def _line(
    sheet: Sheet,
    head: str,
    places: Sequence[float],
    said: Sequence[str],
    y: float,
    role: str = "ink",
    mono: bool = False,
) -> None:
    sheet.text(MARGIN, y, head, role="mute")
    for x, text in zip(places, said, strict=True):
        sheet.text(x, y, text, role=role, mono=mono, anchor="middle")
