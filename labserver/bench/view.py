"""What a benchmark shows: its tables on a terminal, and its plot. What it says is computed from what was found."""

from collections.abc import Sequence
from statistics import median

from rich.table import Table

from labserver.bench.figures import Figure, Found, figures
from labserver.stage import plots
from labserver.stage.pictures.scale import number
from labserver.stage.plots import Bar
from labserver.stage.rich import Picture

__all__ = ["costs", "picture", "remarks", "summary"]

STYLES = {"aim reached": "green", "reached": "green", "missed": "red", "not measured": "yellow", "no goal": "dim"}
SIGNS = {"aim reached": "++", "reached": "+", "missed": "-", "not measured": "?", "no goal": ""}
SHOWN = 8  # bars of a panel at most: the rest is in the table


def summary(every: Sequence[Found]) -> Table:
    """Return the table of goals: what was measured, what it must be, and whether it is."""
    table = Table(title="Goals: medians of interleaved rounds, with the lowest and the highest", title_justify="left")
    for head in ("row", "figure"):
        table.add_column(head)
    for head in ("median", "lowest - highest", "must", "aim"):
        table.add_column(head, justify="right")
    table.add_column("")
    for found in every:
        for figure in figures(found):
            goal = figure.goal
            said = f"{SIGNS[figure.verdict]} {figure.verdict}".strip()
            if not figure.values:
                table.add_row(found.row, goal.label, "", "", "", "", f"[{STYLES[figure.verdict]}]{said}")
                continue
            low, high = (number(value) for value in figure.spread)
            bounds = [_bound(figure, bound) for bound in (goal.must, goal.aim)]
            value = f"{number(figure.value)} {goal.unit}"
            table.add_row(found.row, goal.label, value, f"{low} - {high}", *bounds, f"[{STYLES[figure.verdict]}]{said}")
    return table


def _bound(figure: Figure, bound: float | None) -> str:
    return "" if bound is None else f"{'>=' if figure.goal.at_least else '<='} {number(bound)}"


def costs(every: Sequence[Found]) -> Table:
    """Return the table of what each entry costs, in its row's unit."""
    table = Table(title="Costs: what a server's own process takes, medians", title_justify="left")
    table.add_column("row")
    table.add_column("entry")
    for head in ("median", "lowest - highest"):
        table.add_column(head, justify="right")
    table.add_column("unit")
    for found in every:
        for label in found.entries:
            values = found.of(label)
            low, high = number(min(values)), number(max(values))
            table.add_row(found.row, label, number(median(values)), f"{low} - {high}", found.unit)
    return table


def remarks(every: Sequence[Found], *, quick: bool, cores: bool, program: bool) -> list[str]:
    """Return sentences that belong to the tables: what could not be measured, and what to distrust.

    Args:
        every: what was found.
        quick: whether the load was less than the goals are for.
        cores: whether server and load each had a core of their own.
        program: whether the load generator is the compiled one.
    """
    said = [f"{found.row}: {label} was not measured: {why}." for found in every for label, why in found.missing.items()]
    for found in every:
        if slow := found.bottlenecks():
            said.append(f"{found.row}: the load generator was the bottleneck beside {', '.join(slow)}.")
        said += [line for label in found.entries if (line := _wrong(found, label))]
    if quick:
        said.append("This was --quick: less load than the goals are for. See whether it works, not how fast it is.")
    if not cores:
        said.append("Server and load share their cores here: the figures are noisier than with a core each.")
    if not program:
        said.append("The load generator is the one in Python, which is slower than some servers: there is no compiler.")
    return said


def _wrong(found: Found, label: str) -> str:
    counted = {what: count for what, count in found.wrong(label).items() if count}
    words = {"lost": "lost", "doubled": "doubled", "disordered": "out of order", "gone": "readers sent away"}
    return f"{found.row}: {label}: {', '.join(f'{count} {words[what]}' for what, count in counted.items())}." * bool(
        counted
    )


def picture(every: Sequence[Found]) -> Picture:
    """Return the plot: what a unit of work costs the lab's own server, hot, and its peers, a panel per row."""
    panels = [(found.title, found.unit, _bars(found)) for found in every if found.entries and found.row != "order"]
    return plots.bars(
        "bench",
        headline="What a unit of work costs each server",
        note="CPU of the server's own process in one run; medians of interleaved rounds. Shorter is better.",
        panels=panels,
    )


def _bars(found: Found) -> list[Bar]:
    values = {label: median(found.of(label)) for label in found.entries}
    own = next((label for label in found.ours if label in values), "")
    labels = sorted(values, key=values.__getitem__)[:SHOWN]
    return [Bar(label, values[label], hot=label == own, note=_note(values, own, label)) for label in labels]


def _note(values: dict[str, float], own: str, label: str) -> str:
    if not values.get(own) or label == own:
        return ""
    return f"x {number(values[label] / values[own])}"
