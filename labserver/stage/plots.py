"""Plots of what was measured: series over time, bars side by side. The picture has the numbers, its text the finding.

What a plot's text says is written by its author, in words that a claim of the notebook has proved, so that it is the
same in every run. The numbers stand in the picture and in its alternative text.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from labserver.errors import LabError
from labserver.stage.pictures import bar_chart, chart
from labserver.stage.pictures.bar_chart import BarPanel
from labserver.stage.pictures.chart import Mark, Units
from labserver.stage.pictures.series import Band, Bar, Panel, Series
from labserver.stage.rich import Picture

__all__ = ["Band", "Bar", "Series", "Words", "bars", "plot"]

Words = Mapping[str, str | Sequence[str]] | Sequence[str]
"""Lines of a plot's text: by series or panel (its label or head), or a plain sequence for all of it."""

_LINE = re.compile(r"(?:([~=!<>x.]) )?(.*)", re.DOTALL)


def plot(
    name: str,
    series: Sequence[Series] | Sequence[tuple[str, Sequence[Series]] | tuple[str, Sequence[Series], Sequence[Band]]],
    *,
    headline: str,
    note: str = "",
    x: str = "seconds",
    y: str = "ms",
    bands: Sequence[Band] = (),
    marks: Sequence[Mark] = (),
    twin: Words = (),
    log_y: bool = False,
) -> Picture:
    """Return a plot of one panel, or of several, one below the other on the same axes: broken above mended.

    Args:
        name: the figure's name, the first line of its text.
        series: the series of the only panel, or per panel its head, its series and, if they are its own, its bands.
        headline: the finding as a sentence.
        note: the line under it: what was done, or how to read it.
        x, y: what the axes count, a unit: "seconds", "ms".
        bands: marked intervals, in every panel that has none of its own.
        marks: `(x, label)` for a line through the plot, `(x, y, label)` for a label beside a point.
        twin: what the text says beside names: lines such as "~ delay  every event within the bound", by series label
            or panel head, or a sequence for the whole. Words that a claim has proved, never a measured number.
        log_y: draw powers of ten equally far apart.

    Raises:
        LabError: if there is no series, xs and ys differ in number, or two series of a panel are hot.
    """
    panels = _panels(series, tuple(bands))
    _check(panels)
    heads = [(panel.head, [each.label for each in panel.series]) for panel in panels]
    return chart.draw(name, panels, _text(name, heads, twin), headline, note, Units(x, y, log_y), marks)


def bars(
    name: str,
    rows: Sequence[Bar] = (),
    *,
    headline: str,
    note: str = "",
    unit: str = "",
    panels: Sequence[tuple[str, str, Sequence[Bar]]] = (),
    twin: Words = (),
) -> Picture:
    """Return horizontal bars, each with its value at its end; all begin at zero.

    Args:
        name: the figure's name, the first line of its text.
        rows: the bars, top to bottom, in `unit`.
        headline, note, twin: see `plot`; `twin` goes by bar label or panel head.
        unit: what is counted: "MB/s".
        panels: instead of `rows`, several groups: head, unit, bars. Each has a scale of its own.

    Raises:
        LabError: if there is no bar, or a value is negative or not finite.
    """
    found = [BarPanel(head, of, tuple(each)) for head, of, each in panels] or [BarPanel("", unit, tuple(rows))]
    if not all(panel.rows for panel in found):
        raise LabError("There is nothing to compare: give bars(...) at least one Bar in each panel.")
    for bar in (bar for panel in found for bar in panel.rows):
        if not 0 <= bar.value < float("inf"):
            raise LabError(f"The bar {bar.label!r} has the value {bar.value}: a bar begins at zero and ends somewhere.")
    heads = [(panel.head, [bar.label for bar in panel.rows]) for panel in found]
    return bar_chart.draw(name, found, _text(name, heads, twin), headline, note)


def _panels(series: Iterable[object], bands: tuple[Band, ...]) -> list[Panel]:
    found = list(series)
    if all(isinstance(each, Series) for each in found):
        return [Panel("", tuple(each for each in found if isinstance(each, Series)), bands)]
    panels = []
    for each in found:
        if not isinstance(each, tuple) or len(each) not in (2, 3):
            raise LabError("A plot takes a list of Series, or a list of panels: (head, [Series, ...]).")
        own = tuple(each[2]) if len(each) == 3 else bands
        panels.append(Panel(each[0], tuple(each[1]), own))
    return panels


def _check(panels: Sequence[Panel]) -> None:
    if not panels or not all(panel.series for panel in panels):
        raise LabError("There is nothing to plot: give plot(...) at least one Series in each panel.")
    for panel in panels:
        if sum(each.hot for each in panel.series) > 1:
            raise LabError("At most one series of a panel is hot: the one thing to see.")
        for each in panel.series:
            if len(each.xs) != len(each.ys):
                raise LabError(f"The series {each.label!r} has {len(each.xs)} xs and {len(each.ys)} ys.")


# --- the text


def _text(name: str, panels: Sequence[tuple[str, Sequence[str]]], words: Words) -> str:
    """Return the text twin: names, heads, labels, and under each what its author says of it."""
    said = words if isinstance(words, Mapping) else {}
    rest = [] if isinstance(words, Mapping) else _lines(words)
    known = {label for head, labels in panels for label in (head, *labels)}
    if unknown := [key for key in said if key not in known]:
        raise LabError(f"The text speaks of {unknown[0]!r}, which is no label and no head of this plot.")
    out = [name, ""]
    for head, labels in panels:
        out += [f"== {head} ==", ""] if head else []
        out += _blocks(labels, said, _lines(said.get(head, ())) if head else [])
    if rest:
        out = out[:-1] if sum(len(labels) for _, labels in panels) == 1 else out
        out += rest
    return "\n".join(line.rstrip() for line in out).rstrip() + "\n"


def _blocks(labels: Sequence[str], said: Mapping[str, str | Sequence[str]], own: Sequence[str]) -> list[str]:
    """Return a block per label that has words; labels without come first, before what is said of the panel."""
    silent = [label for label in labels if not said.get(label)]
    out = [*silent, *own, ""] if silent else [*own, ""] if own else []
    for label in labels:
        if said.get(label):
            out += [label, *_lines(said[label]), ""]
    return out


def _lines(words: str | Sequence[str]) -> list[str]:
    return [_line(line) for line in ([words] if isinstance(words, str) else words)]


def _line(words: str) -> str:
    """Lay out `SIGN KIND  what`; a line without a sign is a measure in words."""
    match = _LINE.fullmatch(words.strip())
    sign, rest = (match.group(1) or "~", match.group(2)) if match else ("~", words)
    kind, gap, what = re.sub(r"\s{2,}", "  ", rest.strip()).partition("  ")
    return f"  {sign} {kind:<9} {what}" if gap else f"  {sign} {kind}"
