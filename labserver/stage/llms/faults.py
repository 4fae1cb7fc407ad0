"""What can go wrong with an answer, and the orders for it: by `next(...)`, or by the end of a prompt."""

import re
from collections import deque
from dataclasses import dataclass
from typing import Any

from labserver.errors import LabError

__all__ = ["MID_STREAM", "REFUSALS", "Fault", "Orders", "by_prompt", "fault", "number", "without_order"]

REFUSALS = {  # before the body: status and error type
    "overloaded": (529, "overloaded_error", "Overloaded"),
    "rate_limited": (429, "rate_limit_error", "This request would exceed your rate limit. Try again later."),
    "bad_request": (400, "invalid_request_error", "messages: this request is refused, as ordered"),
}
MID_STREAM = ("error", "truncated", "cut", "silent")
NAMES = (*REFUSALS, *MID_STREAM)
AFTER = 5  # tokens
_ORDER = re.compile(rf"#({'|'.join(NAMES)})(?::(\d{{1,6}}))?\s*$")


@dataclass(frozen=True, slots=True)
class Fault:
    """One answer's fault.

    Attributes:
        name: one of `NAMES`.
        after: tokens that are sent before it; without meaning for a refusal.
    """

    name: str
    after: int = AFTER


def fault(name: Any, after: Any = AFTER) -> Fault:
    """Return the fault of that name.

    Raises:
        LabError: there is none, or `after` is no number of tokens.
    """
    if name not in NAMES:
        raise LabError(f"There is no fault {name!r}; the faults are {', '.join(NAMES)}.")
    number("after", after, least=0, whole=True, example="tokens, such as 5")
    return Fault(name, after)


def number(name: str, value: Any, *, least: float, whole: bool, example: str) -> None:
    """Refuse what is no number of at least `least`.

    Raises:
        LabError: naming the argument, its value and an example.
    """
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < 1e9:
        raise LabError(f"{name}={value!r} can't be: pass {example}.")


class Orders:
    """Faults ordered for the answers to come, first come first served. Any thread may order and take."""

    def __init__(self) -> None:
        self._waiting: deque[Fault] = deque()

    def add(self, ordered: Fault, times: Any = 1) -> None:
        """Order a fault for the next `times` answers after those ordered before.

        Raises:
            LabError: `times` is no number of answers.
        """
        number("times", times, least=1, whole=True, example="answers, such as 2")
        self._waiting.extend([ordered] * times)

    def take(self) -> Fault | None:
        """Return what is ordered for the next answer, and forget it."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def clear(self) -> None:
        """Forget every order."""
        self._waiting.clear()


def by_prompt(prompt: str, attempt: int) -> Fault | None:
    """Return the fault that a prompt orders for its own answer.

    `#error` at its end is an error after `AFTER` tokens, `#error:2` after two. `#overloaded` refuses each attempt,
    `#overloaded:2` the first two.
    """
    if (found := _ORDER.search(prompt)) is None:
        return None
    name, count = found[1], found[2]
    if name in REFUSALS:
        return Fault(name) if count is None or attempt <= int(count) else None
    return Fault(name, AFTER if count is None else int(count))


def without_order(prompt: str) -> str:
    """Return the prompt without the fault that it orders: its answer begins as that to the plain prompt."""
    return _ORDER.sub("", prompt).rstrip()
