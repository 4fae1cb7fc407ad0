"""The shapes of the lab's pictures: a mark for each kind of event, the band of an open connection, the measure."""

from collections.abc import Sequence

from labserver.stage.pictures.sheet import LEFT, WIDTH, Box, Sheet
from labserver.stage.pictures.words import width

__all__ = ["arrow_up", "band", "mark", "measure", "torn_edge"]


def mark(sheet: Sheet, kind: str, x: float, y: float, role: str = "ink") -> None:
    """Draw the mark of one event, its middle at `x`, `y`."""
    match kind:
        case "bytes" | "body":
            sheet.rect(x - 4.5, y - 4.5, 9, 9, role)
        case "comment" | "fields":
            sheet.circle(x, y, 2.75, "card", "mute")
        case "ping":
            sheet.path(_closed([(x, y - 5), (x - 5, y + 4), (x + 5, y + 4)]), fill="card", stroke=role, width=1.5)
        case "pong":
            sheet.path(_closed([(x, y + 5), (x - 5, y - 4), (x + 5, y - 4)]), fill="card", stroke=role, width=1.5)
        case "lost":
            sheet.circle(x, y, 4.5, "card", "mute", 1.25, "2 2")
        case "replay":
            sheet.circle(x, y, 4.5, "card", "hot", 2)
            sheet.circle(x, y, 1.75, "hot")
        case "error":
            _error(sheet, x, y)
        case _:
            sheet.circle(x, y, 5, role)


def _error(sheet: Sheet, x: float, y: float) -> None:
    sheet.path(_closed([(x, y - 8), (x + 8, y), (x, y + 8), (x - 8, y)]), fill="hot")
    sheet.line(x, y - 4, x, y + 1, "card", 2)
    sheet.circle(x, y + 3.8, 1.1, "card")


def arrow_up(sheet: Sheet, x: float, y: float) -> None:
    """Draw the arrow of something sent, leaving a band whose top is at `y`."""
    sheet.boxes.append(Box(x - 0.5, y - 15, x + 0.5, y))
    sheet.line(x, y + 2, x, y - 12)
    sheet.path(_closed([(x, y - 15), (x - 3.5, y - 8), (x + 3.5, y - 8)]), fill="ink")


def band(sheet: Sheet, x0: float, x1: float, y: float, height: float, torn: bool = False) -> None:
    """Draw an open connection from `x0` to `x1`; torn where it was cut."""
    if not torn:
        sheet.rect(x0, y, max(x1 - x0, 0.5), height, "band")
        return
    edge = "".join(f"L{x1 + (3 if tooth % 2 else -3):.1f} {y + tooth * height / 4:.1f}" for tooth in range(5))
    torn_edge(sheet, f"M{x0:.1f} {y + height:.1f}V{y:.1f}", edge)


def torn_edge(sheet: Sheet, rest: str, edge: str) -> None:
    """Fill a band whose outline is `rest` and a torn `edge`, and draw the edge."""
    sheet.path(f"{rest}{edge}Z", fill="band")
    sheet.path("M" + edge[1:], stroke="hot", width=2)


def measure(
    sheet: Sheet, x0: float, x1: float, y: float, text: str, hot: bool = False, left_first: bool = False
) -> bool:
    """Draw `|-- text --|`, the text beside it when it is too short; return False without room."""
    role, weight = ("hot", 600) if hot else ("mute", 400)
    inside = width(text, 12, weight=weight) + 32 <= x1 - x0
    box = _measure_box(sheet, x0, x1, y + 4, text, weight, inside, left_first)
    if box is None:
        return False
    for x in (x0, x1):
        sheet.line(x, y - 5, x, y + 5, role)
    for a, b in ((x0, box.x0 - 8), (box.x1 + 8, x1)) if inside else ((x0, x1),):
        sheet.line(a, y, b, y, role)
    sheet.text(box.x0, y + 4, text, role=role, weight=weight, halo=True)
    return True


def _measure_box(
    sheet: Sheet, x0: float, x1: float, y: float, text: str, weight: int, inside: bool, left_first: bool
) -> Box | None:
    """Return where the text of a measure has room: in its middle, or right or left of it."""
    if inside:
        box = sheet.box((x0 + x1) / 2, y, text, anchor="middle", weight=weight)
        return box if sheet.free(box) else None
    right = sheet.box(x1 + 8, y, text, weight=weight)
    left = sheet.box(x0 - 8, y, text, anchor="end", weight=weight)
    for box in (left, right) if left_first else (right, left):
        if box.x0 >= LEFT and box.x1 <= WIDTH - 24 and sheet.free(box):
            return box
    return None


def _closed(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points) + "Z"
