"""What each simulated person runs: the cells of a notebook, then those of its exercise. Files are read, nothing is run.

The exercise is the solution where there is one. A participants' copy has none: people then run the starter, whose
checks say "not attempted" at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from labserver.errors import LabError
from labserver.school.catalogue import ROOT, Exercise, exercise, exercise_ids, find_exercise
from labserver.school.notebooks import read

__all__ = ["Cell", "Lesson", "Plan", "find_notebook", "make_plan"]

_MAY_FAIL = {"raises-exception", "nbval-raises-exception"}


@dataclass(frozen=True, slots=True)
class Cell:
    """One code cell: its id, its source, and whether it is meant to raise."""

    id: str
    source: str
    may_fail: bool


@dataclass(frozen=True, slots=True)
class Lesson:
    """The code cells of one notebook, and the folder in which JupyterLab would start its kernel."""

    name: str
    folder: Path
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One rehearsal.

    Attributes:
        people: how many come.
        notebook: what each runs first.
        exercise: what each opens then, in a kernel of its own; None when the notebook has none.
        expected: the verdict that its checks should give: "solved", or "not attempted" for a starter.
        pause: seconds that a person reads after each cell, give or take half of them.
        window: seconds within which all arrive.
        seconds: until the rehearsal ends, whoever is not through.
        keep_free: bytes of memory that stay free; the rehearsal ends where there is less.
    """

    people: int
    notebook: Lesson
    exercise: Lesson | None
    expected: str
    pause: float
    window: float
    seconds: float
    keep_free: int


def make_plan(
    people: int,
    notebook: str,
    exercise_name: str | None,
    *,
    pause: float,
    minutes: float,
    keep_free: int,
    root: Path = ROOT,
) -> Plan:
    """Read what people will run.

    Args:
        people: how many, 1 or more.
        notebook: a number such as `05`, or a path.
        exercise_name: as `find_exercise` takes it; None for that of the notebook, if it has one.
        pause: seconds after each cell, 0 or more.
        minutes: until the end, more than 0.
        keep_free: bytes, 0 or more.
        root: where `notebooks/` and `solutions/` lie.

    Raises:
        LabError: if a number does not fit, or there is no such notebook or exercise.
    """
    for option, value, least in (
        ("--people", people, "1 or more"),
        ("--minutes", minutes, "more than 0"),
    ):
        if not value > 0:
            raise LabError(f"{option} takes {least}, not {value:g}.")
    for option, amount in (("--pause", pause), ("--keep-free", keep_free)):
        if not amount >= 0:
            raise LabError(f"{option} takes 0 or more, not {amount:g}.")
    path = find_notebook(notebook, root)
    chosen = find_exercise(exercise_name) if exercise_name is not None else _exercise_of(path)
    known = exercise(chosen) if chosen else None
    solution = root / "solutions" / f"{chosen}.ipynb"
    return Plan(
        people,
        _lesson(f"notebook {path.stem[:2] if path.stem[:2].isdigit() else path.stem}", path, path.parent),
        _exercise(known, solution) if known else None,
        "solved" if solution.exists() else "not attempted",
        pause,
        float(people),  # one a second
        60 * minutes,
        keep_free,
    )


def find_notebook(name: str, root: Path = ROOT) -> Path:
    """Return the path of the notebook called `05`, `5`, `05_server_sent_events`, or by its path.

    Raises:
        LabError: if there is none.
    """
    if Path(name).suffix == ".ipynb" and Path(name).is_file():
        return Path(name)
    known = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    fits: Callable[[Path], bool] = lambda path: name in (path.stem, path.name) or path.stem[:2] == name.zfill(2)  # noqa: E731
    if found := next(filter(fits, known), None):
        return found
    numbers = ", ".join(path.stem[:2] for path in known)
    raise LabError(f"There is no notebook {name!r}: choose one of {numbers}, or give the path of one.")


def _exercise_of(path: Path) -> str:
    return path.stem if path.stem in exercise_ids() else ""


def _exercise(known: Exercise, solution: Path) -> Lesson:
    path = solution if solution.exists() else known.starter
    return _lesson(f"exercise {known.number}", path, known.notebook.parent)


def _lesson(name: str, path: Path, folder: Path) -> Lesson:
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if not code:
        raise LabError(f"{path} has no code cell to run: choose another notebook.")
    cells = tuple(Cell(cell.id, cell.source, bool(_MAY_FAIL & set(cell.metadata.get("tags", [])))) for cell in code)
    return Lesson(name, folder, cells)
