"""What a benchmark shows: its tables on a terminal, and its plot. What it says is computed from what was found."""

from collections.abc import Sequence
from statistics import median

from rich import box
from rich.table import Table

from labserver.bench.figures import Figure, Found, figures
from labserver.bench.rounds import ORDER
from labserver.errors import LabError
from labserver.stage import plots
from labserver.stage.pictures.scale import number
from labserver.stage.plots import Bar
from labserver.stage.rich import Picture

__all__ = ["costs", "picture", "remarks", "summary"]

STYLES = {"aim reached": "green", "reached": "green", "missed": "red", "not measured": "yellow", "no goal": "dim"}
DRAWN = ("fanout", "saturated", "sse", "memory", "ndjson", "download")  # rows that compare a server with others


def summary(every: Sequence[Found]) -> Table:
    """Return the table of goals: what was measured, what it must be, and whether it is."""
    table = _table("Goals: medians of interleaved rounds, lowest and highest", ("must", "aim"))
    table.add_column("")
    for found in every:
        for figure in figures(found):
            bounds = [_bound(figure, bound) for bound in (figure.goal.must, figure.goal.aim)]
            value = _values(figure.values, figure.goal.unit) if figure.values else ("", "")
            said = f"[{STYLES[figure.verdict]}]{figure.verdict}"
            table.add_row(found.row, figure.goal.label, *value, *bounds, said)
    return table


def costs(every: Sequence[Found]) -> Table:
    """Return the table of what each entry costs, in its row's unit."""
    table = _table("Costs: what a unit of work takes of a server's own process", ())
    for found in every:
        for label in found.entries:
            if found.row != ORDER:
                table.add_row(found.row, label, *_values(found.of(label), found.unit))
    return table


def _table(title: str, more: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("row")
    table.add_column("")
    for head in ("median", "spread", *more):
        table.add_column(head, justify="right", no_wrap=True)
    return table


def _values(values: Sequence[float], unit: str) -> tuple[str, str]:
    return f"{number(median(values))} {unit}", f"{number(min(values))}-{number(max(values))}"


def _bound(figure: Figure, bound: float | None) -> str:
    return "" if bound is None else f"{'>=' if figure.goal.at_least else '<='} {number(bound)}"


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
    """Return the plot: what a unit of work costs the lab's own server, hot, and others, a panel per row.

    Raises:
        LabError: no row was measured that compares servers.
    """
    panels = [(found.title, found.unit, _bars(found)) for found in every if found.entries and found.row in DRAWN]
    if not panels:
        raise LabError(f"There is nothing to plot: measure one of {', '.join(DRAWN)}.")
    return plots.bars(
        "bench",
        headline="What a unit of work costs each server",
        note="Measured on the server's own process, in one run; medians of interleaved rounds. Shorter is better.",
        panels=panels,
    )


def _bars(found: Found) -> list[Bar]:
    values = {label: median(found.of(label)) for label in found.entries}
    own = [label for label in found.ours if label in values]
    notes = {label: _note(value / values[own[0]]) for label, value in values.items()} if len(own) == 1 else {}
    return [
        Bar(label, values[label], hot=label in own, note="" if label in own else notes.get(label, ""))
        for label in sorted(values, key=values.__getitem__)
    ]


def _note(ratio: float) -> str:
    return f"{number(ratio)} times as much" if ratio >= 1 else f"{number(ratio)} of it"
