"""What a file of checks is written with: `@points`, `@guards`, `Failed`, and the table of known wrong answers.

No pytest and no network here, so that a notebook reads an exercise's checks, points and hints in a millisecond. The
checks themselves run in a process of their own (`plugin`, `run`).
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from inspect import getdoc
from typing import Any, TypeVar

__all__ = ["Check", "Failed", "Misconception", "check_of", "guards", "points"]

Function = TypeVar("Function", bound=Callable[..., Awaitable[None]])

_MARK = "__labserver_check__"


class Failed(AssertionError):
    """The answer does not do what a check asks.

    Attributes:
        seen: what came over the wire, as the end of the sentence "seen: ...".
        expected: what should have come.
    """

    def __init__(self, seen: str, expected: str) -> None:
        super().__init__(f"seen: {seen}; expected: {expected}")
        self.seen = seen
        self.expected = expected


@dataclass(frozen=True, slots=True)
class Check:
    """One check as its author declared it.

    Attributes:
        name: the function's name without `check_`.
        title: what the app must do, the first line of the docstring.
        points: whole points; those of one exercise add up to 100.
        hint: one sentence, shown beside the failure.
        repeat: how many times it runs, with fresh payloads, where a race could hide.
        deadline: seconds for one run.
        guards: of a hidden check: the name of the visible one whose points are lost when this one fails; else "".
    """

    name: str
    title: str
    points: int
    hint: str
    repeat: int
    deadline: float
    guards: str = ""


@dataclass(frozen=True, slots=True)
class Misconception:
    """A known wrong answer, recognised by the exact set of checks that it fails.

    Attributes:
        says: what the author of such an answer believes, and why it is not so; one or two sentences.
        fails: names of the checks.
        see: the place in the lab that shows it, as a path from the repository's root.
    """

    says: str
    fails: frozenset[str]
    see: str

    @classmethod
    def of(cls, says: str, fails: Iterable[str], see: str) -> "Misconception":
        """Build one from any iterable of names."""
        return cls(says, frozenset(fails), see)


def points(worth: int, *, hint: str, repeat: int = 1, deadline: float = 10.0) -> Callable[[Function], Function]:
    """Declare an `async def check_...(answer)` function as a check.

    Args:
        worth: points.
        hint: one sentence that leads on without giving the answer away.
        repeat: runs; all must pass. Some passed and some failed is `unstable`, which is not `failed`.
        deadline: seconds for one run.

    Raises:
        ValueError: if the function is not called `check_...` or has no docstring.
    """

    return lambda function: _declare(function, worth, hint, repeat, deadline)


def guards(name: str, *, hint: str, repeat: int = 1, deadline: float = 10.0) -> Callable[[Function], Function]:
    """Declare a hidden check: it asks what the visible check `name` asks, in a way that nobody can prepare for.

    It has no points of its own. When it fails, the answer loses those of the check that it guards, so that an exercise
    is worth the same in the notebook and in grading.

    Args:
        name: the visible check's name, without `check_`.
        hint: one sentence for the student.
        repeat: runs; all must pass.
        deadline: seconds for one run.

    Raises:
        ValueError: if the function is not called `check_...` or has no docstring.
    """
    return lambda function: _declare(function, 0, hint, repeat, deadline, name)


def _declare(function: Function, worth: int, hint: str, repeat: int, deadline: float, guarded: str = "") -> Function:
    name, title = getattr(function, "__name__", ""), (getdoc(function) or "").partition("\n")[0]
    if not name.startswith("check_") or not title:
        raise ValueError(f"{name}: a check is named check_... and its docstring says what the app must do")
    setattr(function, _MARK, Check(name.removeprefix("check_"), title, worth, hint, repeat, deadline, guarded))
    return function


def check_of(function: Any) -> Check | None:
    """Return what `@points` declared about a function, or None."""
    check = getattr(function, _MARK, None)
    return check if isinstance(check, Check) else None
