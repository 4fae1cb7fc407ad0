"""Which exercises there are, and where their files lie: checks, starter, exercise, solution.

An exercise is its file of checks, `checks/NN_name.py`: `TITLE`, `OBJECT`, `HINTS`, `MISCONCEPTIONS` and the functions
marked by `@points`; `LESSON` where its notebook has another name. Nothing is run here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

from labserver.errors import LabError
from labserver.school.asgi import CLIENT
from labserver.school.checking import Check, Misconception, check_of

__all__ = [
    "CHECKS",
    "ROOT",
    "STARTERS",
    "Exercise",
    "Hidden",
    "checks_module",
    "exercise",
    "exercise_ids",
    "find_exercise",
    "hidden",
    "load_module",
]

ROOT = Path(__file__).resolve().parents[2]
"""The repository or the participants' copy: where `exercises/` and (if at all) `solutions/` lie."""
CHECKS = Path(__file__).resolve().parent / "checks"
STARTERS = Path(__file__).resolve().parent / "starters"
"""Exercises as shipped. Participants edit `exercises/` in place; what it was is needed to reset and to compare."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """One exercise.

    Attributes:
        id: for instance `01_websocket_basics`, also the stem of all its files.
        title: in words.
        object: the name that the answer defines.
        checks: in order; their points add up to 100.
        hints: three, each says more than the one before.
        misconceptions: known wrong answers by name.
        lesson_id: the notebook that it belongs to, by the stem of its file.
    """

    id: str
    title: str
    object: str
    checks: tuple[Check, ...]
    hints: tuple[str, str, str]
    misconceptions: dict[str, Misconception]
    lesson_id: str

    @property
    def client(self) -> bool:
        """Whether the answer is an async callable that follows a feed, and no app."""
        return self.object == CLIENT

    @property
    def number(self) -> str:
        """The two digits an exercise is called by."""
        return self.id.partition("_")[0]

    @property
    def max_points(self) -> int:
        """What there is to earn."""
        return sum(check.points for check in self.checks)

    @property
    def check_file(self) -> Path:
        """The file of checks."""
        return CHECKS / f"{self.id}.py"

    @property
    def starter(self) -> Path:
        """The exercise as shipped, kept inside the package."""
        return STARTERS / f"{self.id}.ipynb"

    @property
    def notebook(self) -> Path:
        """The exercise that a participant edits."""
        return ROOT / "exercises" / f"{self.id}.ipynb"

    @property
    def lesson(self) -> Path:
        """The notebook to read first; not every copy has all of them."""
        return ROOT / "notebooks" / f"{self.lesson_id}.ipynb"

    @property
    def solution(self) -> Path:
        """The one source of exercise and starter; absent from the participants' copy."""
        return ROOT / "solutions" / f"{self.id}.ipynb"

    def misconception_of(self, failed: frozenset[str]) -> str:
        """Return the name of the known wrong answer that fails exactly these checks, or ""."""
        return _misconception(self.misconceptions, failed)

    def only(self, name: str) -> "Exercise":
        """Return this exercise with one check.

        Raises:
            LabError: if it has none of that name.
        """
        chosen = tuple(check for check in self.checks if check.name == name)
        if not chosen:
            names = ", ".join(check.name for check in self.checks)
            raise LabError(f"Exercise {self.number} has no check {name!r}: choose one of {names}.")
        return replace(self, checks=chosen)


@dataclass(frozen=True, slots=True)
class Hidden:
    """The checks of one exercise that participants never get, in `solutions/hidden/`.

    Attributes:
        path: their file.
        checks: in order; each guards a visible one.
        misconceptions: wrong answers that pass every visible check, by name.
    """

    path: Path
    checks: tuple[Check, ...]
    misconceptions: dict[str, Misconception]

    def misconception_of(self, failed: frozenset[str]) -> str:
        """Return the name of the known wrong answer that fails exactly these hidden checks, or ""."""
        return _misconception(self.misconceptions, failed)


def _misconception(table: dict[str, Misconception], failed: frozenset[str]) -> str:
    return next((name for name, known in table.items() if failed and known.fails == failed), "")


def exercise_ids() -> tuple[str, ...]:
    """Return the ids of all exercises, in order."""
    return tuple(sorted(path.stem for path in CHECKS.glob("[0-9][0-9]_*.py")))


def find_exercise(name: str) -> str:
    """Return the id of the exercise called `01`, `1`, `01_websocket_basics` or a path that ends in it.

    Raises:
        LabError: if there is none.
    """
    stem = Path(name).stem
    number = stem.zfill(2)
    for known in exercise_ids():
        if stem == known or known.partition("_")[0] == number:
            return known
    raise LabError(f"There is no exercise {name!r}: choose one of {', '.join(exercise_ids())}.")


@lru_cache(maxsize=64)
def exercise(id: str) -> Exercise:
    """Return the exercise of that id.

    Raises:
        LabError: if there is none.
    """
    if id not in exercise_ids():
        raise LabError(f"There is no exercise {id!r}: choose one of {', '.join(exercise_ids())}.")
    module = load_module(CHECKS / f"{id}.py")
    checks = tuple(check for value in vars(module).values() if (check := check_of(value)))
    lesson = getattr(module, "LESSON", id)
    return Exercise(id, module.TITLE, module.OBJECT, checks, module.HINTS, module.MISCONCEPTIONS, lesson)


@lru_cache(maxsize=64)
def hidden(id: str) -> Hidden | None:
    """Return the hidden checks of an exercise, None where there are none: in a participant's copy there never are.

    Raises:
        LabError: if one of them guards no check of the exercise, or has the name of one.
    """
    path = ROOT / "solutions" / "hidden" / f"{id}.py"
    if not path.exists():
        return None
    module, visible = load_module(path), {check.name for check in exercise(id).checks}
    checks = tuple(check for value in vars(module).values() if (check := check_of(value)))
    for check in checks:
        if check.guards not in visible or check.name in visible:
            raise LabError(f"{path.name}: the hidden check {check.name!r} needs a name of its own and one to guard.")
    return Hidden(path, checks, getattr(module, "MISCONCEPTIONS", {}))


def checks_module(id: str) -> ModuleType:
    """Return an exercise's file of checks as a module: hidden checks use its clients and words."""
    return load_module(exercise(id).check_file)


def load_module(path: Path) -> ModuleType:
    """Execute a Python file whose name is no identifier, and return it as a module outside `sys.modules`."""
    spec = spec_from_file_location(f"labserver_file_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
