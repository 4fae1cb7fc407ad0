"""What became of what was published: the lane of its source, and the marks of late, lost and replayed events."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from labserver.stage.pictures.layout import View
from labserver.stage.pictures.scene import BAND, Scene
from labserver.stage.pictures.shapes import mark, measure
from labserver.stage.pictures.sheet import LEFT, MARGIN
from labserver.stage.pictures.words import duration, width
from labserver.stage.wire import Lane, WireEvent, elide

__all__ = ["beneath", "lateness", "measured", "missed", "source", "waiting", "worst"]

_BELOW = 100  # px from the top of the only client's band to the line of its source, at least
_NEAR = 9  # px: a ring nearer than that to its dot would touch it


def source(scene: Scene, lane: Lane, y: float, under: bool = False) -> None:
    """Draw the line of what was published at `y`, its labels above it or under it."""
    sheet, axis = scene.sheet, scene.axis
    sheet.text(MARGIN, y + 4, lane.name, size=13, weight=600)
    sheet.line(LEFT, y, axis.right, y, "edge", 1.5)
    for event in lane.published:
        x = axis.x(event.at)
        mark(sheet, "event", x, y)
        text, baseline = elide(event.label, 18), y + 21 if under else y - 16
        if sheet.free(sheet.box(x, baseline, text, anchor="middle", mono=True), 5):
            sheet.text(x, baseline, text, anchor="middle", mono=True)


def beneath(scene: Scene, lane: Lane, views: Sequence[View], top: float, bottom: float) -> float:
    """Draw the source of the only client's lane under it, each event joined to the moment it was published.

    Args:
        top, bottom: where the client's band begins, and where all that belongs to it ends.

    Returns: how far down the labels reach.
    """
    y = max(top + _BELOW, bottom + 36)
    for x, event in [] if scene.idle else [placed for view in views for placed in view.marks]:
        if event.due is not None:
            again, due = event.fate == "replay", scene.axis.x(event.due)
            x = due if event.fate == "late" else x  # its line in the band tells the rest
            scene.sheet.line(x, top + BAND, due, y - 5, "hot" if again else "mute", 1.5 if again else 1, under=True)
    source(scene, lane, y, under=True)
    return y + 26


def waiting(scene: Scene, view: View, middle: float) -> None:
    """Draw the wait of what came late, or again: a dashed ring where it was due, a hot line to where it came."""
    found = [(scene.axis.x(event.due), x, event) for x, event in view.marks if event.fate and event.due is not None]
    far = [(due, x) for due, x, event in found if x - due > _NEAR and (scene.dense or event.fate == "late")]
    for due, x in far:
        scene.sheet.line(due, middle, x, middle, "hot", 2)
    for due, _ in far:
        mark(scene.sheet, "lost", due, middle)


def missed(scene: Scene, lane: Lane, views: Sequence[View], top: float, height: float) -> None:
    """Draw a dashed ring for each event that never came, where it was due."""
    middle = top + height / 2
    edges = [view.x1 for view in views if view.exchange.ending is not None]
    places = []
    for event in lane.missed:
        x = scene.axis.x(event.at)
        x = next((edge + 10 for edge in edges if abs(edge - x) < 9), x)
        mark(scene.sheet, "lost", x, middle)
        places.append((x, elide(event.label, 18)))
    if not scene.dense:
        _labels(scene, places, top - 8)


def _labels(scene: Scene, places: Sequence[tuple[float, str]], y: float) -> None:
    """Name rings: "4 lost" where each has room for it, else "4"."""
    wide = [width(f"{text} lost", 12, True) + 8 for _, text in places]
    touch = any(b[0] - a[0] < wide[index + 1] for index, (a, b) in enumerate(pairwise(places)))
    for x, text in places:
        said = text if touch else f"{text} lost"
        for at, anchor in ((x, "middle"), (x + 10, "end")):
            if scene.sheet.free(scene.sheet.box(at, y, said, anchor=anchor, mono=True), 5):
                scene.sheet.text(at, y, said, role="mute", anchor=anchor, mono=True, halo=True)
                break


# --- how late


def worst(events: Iterable[WireEvent]) -> WireEvent | None:
    """Return the event that came latest after it was published, None if none was late."""
    found = [event for event in events if event.fate == "late" and event.due is not None]
    return max(found, key=lateness, default=None)


def lateness(event: WireEvent) -> float:
    """Return how long after its publication an event came, seconds."""
    return event.at - event.due if event.due is not None else 0.0


def measured(scene: Scene, lane: Lane, y: float) -> bool:
    """Measure at `y`, below a band, how late its latest event came; return whether there was room."""
    event = worst(lane.events)
    if event is None or event.due is None:
        return False
    x0, x1 = scene.axis.x(event.due), scene.axis.x(event.at)
    return measure(scene.sheet, x0, x1, y, f"{duration(lateness(event))} late", hot=True)
