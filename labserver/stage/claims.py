"""Claims and predictions: a sentence about what was seen, checked where it stands.

What is printed is compared with the stored output of the notebook, so nothing here prints a measured value: a claim
that holds prints its sentence, and one that does not raises an error which names both values. A prediction prints what
the reader guessed and what the author says happened; give `reveal` facts that are the same on each run.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from labserver.errors import LabError

__all__ = ["Bound", "ClaimError", "at_least", "at_most", "between", "claim", "predict", "reveal"]


class ClaimError(AssertionError):
    """A claim that is not true, with the value that was observed and the one that was expected.

    Attributes:
        text: the claim's sentence.
        observed: the value that was seen.
        expected: the value or `Bound` that was claimed.
    """

    def __init__(self, text: str, observed: object, expected: object) -> None:
        self.text, self.observed, self.expected = text, observed, expected
        super().__init__(f"Not true: {text}. Observed {_short(observed)}, expected {_short(expected)}.")

    def __reduce__(self) -> tuple[type["ClaimError"], tuple[str, object, object]]:
        return type(self), (self.text, self.observed, self.expected)


@dataclass(frozen=True, slots=True)
class Bound:
    """A range of values that a claim accepts, both ends included.

    Attributes:
        low: smallest accepted value, or None for no lower end.
        high: largest accepted value, or None for no upper end.
    """

    low: Any = None
    high: Any = None

    def holds(self, value: Any) -> bool:
        """Say whether `value` lies in the range; a value that can't be compared with its ends does not."""
        try:
            return (self.low is None or bool(self.low <= value)) and (self.high is None or bool(value <= self.high))
        except TypeError:
            return False

    def __repr__(self) -> str:
        if self.high is None:
            return f"at least {self.low!r}"
        if self.low is None:
            return f"at most {self.high!r}"
        return f"between {self.low!r} and {self.high!r}"


def at_least(low: Any) -> Bound:
    """Accept `low` and everything above it."""
    return Bound(low=low)


def at_most(high: Any) -> Bound:
    """Accept `high` and everything below it."""
    return Bound(high=high)


def between(low: Any, high: Any) -> Bound:
    """Accept everything from `low` to `high`, both included.

    Raises:
        LabError: if `low` is above `high`: nothing could be between them.
    """
    if low > high:
        raise LabError(f"between({low!r}, {high!r}) accepts nothing: give the smaller value first.")
    return Bound(low, high)


def claim(text: str, observed: object, expected: object) -> None:
    """Print `✓ text` when `observed` is what was expected; the values themselves are never printed.

    Args:
        text: a sentence without measured numbers; it is compared on every run.
        observed: the value that this run saw.
        expected: the value it must equal, or a `Bound` (`at_least`, `at_most`, `between`) it must lie in.

    Raises:
        ClaimError: if it is not so; the error names both values.
    """
    if not _fits(observed, expected):
        raise ClaimError(text, observed, expected)
    print(f"✓ {text}")


@dataclass(frozen=True, slots=True)
class _Prediction:
    question: str
    guess: object


_last: _Prediction | None = None


def predict(question: str, guess: object) -> None:
    """Note the reader's guess before the experiment runs; `reveal` compares it with what happened.

    Args:
        question: what is asked, as a sentence.
        guess: a value, a `Bound`, or `...` when the reader does not want to guess.
    """
    global _last
    _last = _Prediction(question, guess)
    print(f"? {question}\n  Your guess: {_guessed(guess)}")


def reveal(actual: object, explanation: str = "") -> None:
    """Print the last prediction beside what happened, whether the two agree, and why it is so.

    Args:
        actual: what happened, the same on each run: a value, or a `Bound` around a measured one.
        explanation: one or two sentences about the reason.

    Raises:
        LabError: if nothing was predicted before.
    """
    if _last is None:
        raise LabError("Nothing was predicted yet: run the cell with predict(...) above this one first.")
    print(f"? {_last.question}\n  Your guess: {_guessed(_last.guess)}")
    print(f"  What happened: {_plain(actual)}{_verdict(_last.guess, actual)}")
    if explanation:
        print(f"  {explanation}")


def _verdict(guess: object, actual: object) -> str:
    if guess is ...:
        return ""
    agrees = guess == actual or (_fits(actual, guess) if isinstance(guess, Bound) else _fits(guess, actual))
    return " (as you guessed)" if agrees else " (not as you guessed)"


def _fits(observed: object, expected: object) -> bool:
    return expected.holds(observed) if isinstance(expected, Bound) else bool(observed == expected)


def _guessed(guess: object) -> str:
    return "none" if guess is ... else _plain(guess)


_WORDS: dict[type, Callable[[Any], str]] = {
    bool: lambda value: "yes" if value else "no",
    str: str,
    type(None): lambda _: "nothing",
}


def _plain(value: object) -> str:
    value = value.value if isinstance(value, Enum) else value
    return _WORDS.get(type(value), repr)(value)


def _short(value: object, most: int = 300) -> str:
    words = repr(value)
    return words if len(words) <= most else f"{words[:most]}... ({len(words)} characters)"
