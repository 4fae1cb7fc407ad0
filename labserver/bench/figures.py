"""What a benchmark finds, as values: samples of rounds, figures with what they must reach, and their JSON."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Literal

__all__ = ["BUSY", "WRONG", "Figure", "Found", "Goal", "Sample", "Samples", "Verdict", "figures", "to_json"]

Sample = Mapping[str, float]
"""What one measurement of one entry gave; `cost` is what its row compares, in the row's unit."""

Samples = Mapping[str, Sample]
"""The samples of one round, by the entry's label."""

Verdict = Literal["aim reached", "reached", "missed", "no goal", "not measured"]

WRONG = ("lost", "doubled", "disordered")  # what may go wrong with a message, as the load generator counts it
BUSY = 0.9  # share of its core from which on the load generator counts as the bottleneck


@dataclass(frozen=True, slots=True)
class Goal:
    """One number that a row is after.

    Attributes:
        label: what it is.
        needs: the entries that it is made of.
        of: makes it of one round's samples.
        unit: "x" for a ratio, else "KiB", "ms", "us".
        must, aim: bounds, where there are any.
        at_least: whether they are lower bounds: "so many times faster".
    """

    label: str
    needs: tuple[str, ...]
    of: Callable[[Samples], float]
    unit: str = "x"
    must: float | None = None
    aim: float | None = None
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """A goal with what was measured, a value per round; none where `why` says so."""

    row: str
    goal: Goal
    values: tuple[float, ...]
    why: str = ""

    @property
    def value(self) -> float:
        """The median of the rounds."""
        return median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest round."""
        return min(self.values), max(self.values)

    @property
    def verdict(self) -> Verdict:
        """What the median reached."""
        if not self.values:
            return "not measured"
        if self.goal.must is None:
            return "no goal"
        if self.goal.aim is not None and self._within(self.goal.aim):
            return "aim reached"
        return "reached" if self._within(self.goal.must) else "missed"

    def _within(self, bound: float) -> bool:
        return self.value >= bound if self.goal.at_least else self.value <= bound


@dataclass(slots=True)
class Found:
    """What one row gave.

    Attributes:
        row, title, unit: the row's name, what it measures, the unit of its costs.
        goals: what it was after.
        ours: the entries that are the lab's own.
        rounds: samples by entry, a mapping per round.
        missing: entries that could not be measured, each with a sentence.
    """

    row: str
    title: str
    unit: str
    goals: tuple[Goal, ...]
    ours: tuple[str, ...] = ()
    rounds: list[dict[str, Sample]] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def entries(self) -> list[str]:
        """The labels of what was measured, in the row's order."""
        return list(dict.fromkeys(label for samples in self.rounds for label in samples))

    def of(self, label: str, key: str = "cost") -> list[float]:
        """Return one entry's values over the rounds."""
        return [samples[label][key] for samples in self.rounds if label in samples]

    def wrong(self, label: str) -> dict[str, int]:
        """Return how many messages one entry lost, doubled or swapped, and how many readers left it, in all rounds."""
        every = [samples[label] for samples in self.rounds if label in samples]
        return {name: int(sum(sample.get(name, 0) for sample in every)) for name in (*WRONG, "gone")}

    def bottlenecks(self) -> list[str]:
        """Return the entries whose load generator had as much to do as its core can, and more than the server."""
        return [label for label in self.entries if any(_held_back(s[label]) for s in self.rounds if label in s)]


def _held_back(sample: Sample) -> bool:
    busy = sample.get("load_busy", 0.0)
    return busy >= BUSY and busy > sample.get("server_busy", 1.0)


def figures(found: Found) -> list[Figure]:
    """Return each goal of a row with its values."""
    return [_figure(found, goal) for goal in found.goals]


def _figure(found: Found, goal: Goal) -> Figure:
    lacking = [label for label in goal.needs if label in found.missing]
    whole = [samples for samples in found.rounds if all(label in samples for label in goal.needs)]
    if lacking or not whole:
        why = f"{lacking[0]}: {found.missing[lacking[0]]}" if lacking else "it was not measured"
        return Figure(found.row, goal, (), why)
    return Figure(found.row, goal, tuple(goal.of(samples) for samples in whole))


def to_json(every: list[Found], **about: Any) -> dict[str, Any]:
    """Return all that was measured, and `about` it, as JSON values."""
    return {**about, "rows": [_row_json(found) for found in every]}


def _row_json(found: Found) -> dict[str, Any]:
    return {
        "row": found.row,
        "title": found.title,
        "unit": found.unit,
        "figures": [_figure_json(figure) for figure in figures(found)],
        "medians": {label: median(found.of(label)) for label in found.entries},
        "missing": found.missing,
        "bottlenecks": found.bottlenecks(),
        "rounds": [dict(samples) for samples in found.rounds],
    }


def _figure_json(figure: Figure) -> dict[str, Any]:
    goal = figure.goal
    said = {"label": goal.label, "unit": goal.unit, "must": goal.must, "aim": goal.aim, "at_least": goal.at_least}
    values = {"value": figure.value, "values": list(figure.values)} if figure.values else {"why": figure.why}
    return {**said, **values, "verdict": figure.verdict}
