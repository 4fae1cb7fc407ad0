"""What a group works through: the three routes, and for each notebook and exercise its title and its minutes.

Minutes are what a notebook says of itself; a route's are their sum, without breaks and without questions.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain
from pathlib import Path

from labserver.errors import LabError
from labserver.school.catalogue import ROOT, exercise_ids

__all__ = ["Course", "Lesson", "Route", "course"]

_ONES = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_TENS = ("ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_NUMBERS = {word: n * unit for words, unit in ((_ONES, 1), (_TENS, 10)) for n, word in enumerate(words, 1)}


class Route(StrEnum):
    """How much time there is."""

    NINETY_MINUTES = "90min"
    HALF_A_DAY = "half-day"
    TWO_DAYS = "two-days"


_NOTEBOOKS = {
    Route.NINETY_MINUTES: "00 05",
    Route.HALF_A_DAY: "00 01 05 06 09",
    Route.TWO_DAYS: "00 01 02 03 04 05 06 07 08 09 10 11 12 14 15",
}
_EXERCISES = {Route.NINETY_MINUTES: "05", Route.HALF_A_DAY: "05 09", Route.TWO_DAYS: "01 05 09 12"}


@dataclass(frozen=True, slots=True)
class Lesson:
    """One notebook or one exercise.

    Attributes:
        path: from the root on, for instance `notebooks/05_server_sent_events.ipynb`.
        title: its heading.
        minutes: how long it says that it takes.
    """

    path: str
    title: str
    minutes: int

    @property
    def number(self) -> str:
        """The two digits it is called by."""
        return Path(self.path).name[:2]


@dataclass(frozen=True, slots=True)
class Course:
    """A route, or everything (then `route` is None): notebooks and exercises, each in their order."""

    route: Route | None
    notebooks: tuple[Lesson, ...]
    exercises: tuple[Lesson, ...]

    @property
    def lessons(self) -> tuple[Lesson, ...]:
        """All of it in the order of working: each exercise behind its notebook."""
        return tuple(
            sorted((*self.notebooks, *self.exercises), key=lambda lesson: (lesson.number, lesson.path[0] < "n"))
        )

    @property
    def minutes(self) -> int:
        """The sum."""
        return sum(lesson.minutes for lesson in self.lessons)

    @property
    def exercise_ids(self) -> tuple[str, ...]:
        """The ids of its exercises."""
        return tuple(Path(lesson.path).stem for lesson in self.exercises)


def course(route: Route | None = None) -> Course:
    """Return what a route consists of; everything without one.

    Raises:
        LabError: if one of its notebooks is missing, or does not say how long it takes.
    """
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    exercises = [f"{id}.ipynb" for id in exercise_ids()]
    if route is not None:
        notebooks = [_numbered(number, notebooks, "notebook") for number in _NOTEBOOKS[route].split()]
        exercises = [_numbered(number, exercises, "exercise") for number in _EXERCISES[route].split()]
    if not notebooks:
        raise LabError("There are no notebooks here: run this in a checkout of the lab's repository.")
    return Course(
        route,
        tuple(_lesson(f"notebooks/{name}", ROOT / "notebooks" / name) for name in notebooks),
        tuple(_lesson(f"exercises/{name}", ROOT / "labserver/school/starters" / name) for name in exercises),
    )


def _numbered(number: str, names: Iterable[str], kind: str) -> str:
    for name in names:
        if name.startswith(f"{number}_"):
            return name
    raise LabError(f"There is no {kind} {number} here, and the route needs it: restore it from the repository.")


def _lesson(path: str, source: Path) -> Lesson:
    try:
        cells = json.loads(source.read_text(encoding="utf-8"))["cells"]
    except (OSError, ValueError, KeyError) as error:
        raise LabError(
            f"{source.name} can't be read as a notebook ({error}): restore it from the repository."
        ) from None
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    headings = chain.from_iterable(re.findall(r"^# (.+)$", text, flags=re.MULTILINE) for text in texts)
    return Lesson(path, next(headings, source.stem), _minutes("\n".join(texts), source.name))


def _minutes(text: str, name: str) -> int:
    """The first number before the word "minutes", in words or in digits."""
    for written in re.findall(r"([\w-]+)\s+minutes\b", text):
        words = written.lower().split("-")
        if written.isdigit() or all(word in _NUMBERS for word in words):
            return int(written) if written.isdigit() else sum(_NUMBERS[word] for word in words)
    raise LabError(f"{name} does not say how many minutes it takes: write it under what you need.")
