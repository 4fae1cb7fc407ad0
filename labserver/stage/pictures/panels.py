"""From panels of lanes to a picture and its text: which layout tells them best, and what a panel is called."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from labserver.stage.pictures import ladder, lanes, twin
from labserver.stage.rich import Picture
from labserver.stage.wire import Lane

__all__ = ["Layout", "picture"]

Layout = Literal["auto", "ladder", "lanes"]
Panels = Sequence[tuple[str, Sequence[Lane]]]


def picture(
    name: str,
    panels: Panels,
    headline: str | None,
    note: str | None,
    layout: Layout,
    counts: bool,
    keepalives: str,
    idle_limit: float | None,
) -> Picture:
    """Return the picture of panels, each a head (empty for one without) and its lanes."""
    if _is_ladder(layout, panels):
        words = twin.text(name, panels, counts=counts, keepalives=keepalives)
        return ladder.draw(name, [(head, _clients(panel)) for head, panel in panels], words, headline, note)
    named = [_named(head, panel) for head, panel in panels]
    words = twin.text(name, named, counts=counts, keepalives=keepalives, idle_limit=idle_limit)
    return lanes.draw(name, named, words, headline, note, idle_limit)


def _is_ladder(layout: Layout, panels: Panels) -> bool:
    """Choose the ladder for WebSockets one after the other, each with a single lane."""
    if layout != "auto":
        return layout == "ladder"
    single = all(len(panel) == 1 for _, panel in panels)
    return single and all(each.upgrade for _, panel in panels for lane in panel for each in lane.exchanges)


def _clients(panel: Sequence[Lane]) -> list[Lane]:
    return [lane for lane in panel if not lane.published]


def _named(head: str, panel: Sequence[Lane]) -> tuple[str, Sequence[Lane]]:
    """Let a panel's head be the name of its only client."""
    if not head or len(_clients(panel)) != 1:
        return head, panel
    title, _, sub = head.partition(" (")
    sub = sub.removesuffix(")")
    return "", [lane if lane.published else replace(lane, name=title, sub=sub) for lane in panel]
