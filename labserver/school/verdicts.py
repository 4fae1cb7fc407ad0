"""What a run of checks says: one `CheckResult` per check, one `Report` per answer, and their JSON.

Values only; nothing here runs, draws or prints. Points are whole numbers. Seconds are measured and therefore never part
of a compared text.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

__all__ = [
    "ATTEMPTED",
    "CheckResult",
    "CheckVerdict",
    "Report",
    "ReportVerdict",
    "summarise",
]

CheckVerdict = Literal["passed", "failed", "unstable", "error", "never ran", "timeout"]
"""How one check ended. `unstable`: some repetitions passed and some failed, which is a race in the answer; `error`: the
check itself broke, which is our fault; `timeout`: its deadline passed; `never ran`: the run ended before its turn."""

ReportVerdict = Literal[
    "solved", "partial", "unstable", "wrong", "not attempted", "no answer", "crashed", "timed out", "not checked"
]
"""How one answer ended. `solved`: full marks; `partial`: some points; `unstable`: points were lost only to checks that
passed in one run and failed in another; `wrong`: none; `not attempted`: the starter;
`no answer`: no readable answer was found; `crashed`: it did not run or start; `timed out`: the whole deadline passed
before a check ended; `not checked`: we failed, and a teacher has to look."""

ATTEMPTED: frozenset[str] = frozenset({"solved", "partial", "unstable", "wrong", "crashed", "timed out"})
"""Verdicts of an answer somebody worked on."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """How one check of one answer ended.

    Attributes:
        name: the check's function without `check_`, words joined by `_`; the same on every run.
        title: one line in words, what the app must do.
        points: what it is worth.
        earned: `points` when passed, else 0.
        verdict: see `CheckVerdict`.
        seen: what came over the wire, as a sentence; may hold random payloads.
        expected: what should have come.
        hint: the check's own hint, one sentence.
        tape_text: the text twin of the failing exchange, "" when it passed.
        tape_svg: the same as a whole SVG document, "" when it passed or nothing was sent.
        seconds: how long it took, measured.
        guard: the hidden check that failed in place of this one, which is not in the notebook; else "".
    """

    name: str
    points: int
    earned: int
    verdict: CheckVerdict
    title: str = ""
    seen: str = ""
    expected: str = ""
    hint: str = ""
    tape_text: str = ""
    tape_svg: str = ""
    seconds: float = 0.0
    guard: str = ""

    @property
    def passed(self) -> bool:
        """Whether full points were given."""
        return self.verdict == "passed"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "CheckResult":
        """Build one from `to_json` data.

        Raises:
            ValueError: if a field is missing, unknown or of the wrong kind; the text names it.
        """
        known = _known(cls, data)
        if known["verdict"] not in get_args(CheckVerdict):
            raise ValueError(f"unknown check verdict {known['verdict']!r}")
        return cls(**known)


@dataclass(frozen=True, slots=True)
class Report:
    """How one answer to one exercise ended.

    Attributes:
        exercise: for instance `01_websocket_basics`.
        verdict: see `ReportVerdict`.
        reason: one sentence for anything but `solved`; "" when the checks say it all.
        points: the sum of what was earned.
        max_points: what there was to earn.
        checks: in the order of the exercise; empty when the answer never ran.
        misconception: the name of the known wrong answer whose failures are exactly these, else "".
        seed: repeats the same random payloads.
        hidden: how the checks ended that only graders have; what they took is part of `checks` already.
    """

    exercise: str
    verdict: ReportVerdict
    reason: str = ""
    points: int = 0
    max_points: int = 100
    checks: tuple[CheckResult, ...] = ()
    misconception: str = ""
    seed: int = 0
    hidden: tuple[CheckResult, ...] = ()

    @property
    def solved(self) -> bool:
        """Whether full marks were given."""
        return self.verdict == "solved"

    @property
    def failed(self) -> frozenset[str]:
        """The names of the checks that did not pass."""
        return frozenset(check.name for check in self.checks if not check.passed)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON data."""
        hidden = [check.to_json() for check in self.hidden]
        return {**asdict(self), "checks": [check.to_json() for check in self.checks], "hidden": hidden}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Report":
        """Build one from `to_json` data.

        Raises:
            ValueError: if a field is missing, unknown or of the wrong kind; the text names it.
        """
        known = _known(cls, data)
        if known["verdict"] not in get_args(ReportVerdict):
            raise ValueError(f"unknown verdict {known['verdict']!r}")
        for part in ("checks", "hidden"):
            known[part] = tuple(CheckResult.from_json(check) for check in known.get(part, ()))
        return cls(**known)


def summarise(
    exercise: str,
    checks: tuple[CheckResult, ...],
    *,
    seed: int = 0,
    reason: str = "",
    misconception: str = "",
    hidden: tuple[CheckResult, ...] = (),
) -> Report:
    """Add up the checks of an answer that ran: `solved`, `partial`, `unstable`, `wrong`, `timed out` when none ended.

    A check that never ran earns nothing and keeps the report from being `solved`.
    """
    points, most = sum(check.earned for check in checks), sum(check.points for check in checks)
    verdict: ReportVerdict
    if checks and all(check.verdict == "never ran" for check in checks):
        verdict = "timed out"
    elif checks and all(check.passed for check in checks):
        verdict = "solved"
    elif checks and all(check.verdict in ("passed", "unstable") for check in checks):
        verdict = "unstable"
    else:
        verdict = "partial" if points else "wrong"
    return Report(exercise, verdict, reason, points, most, checks, misconception, seed, hidden)


def _known(cls: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ValueError(f"{cls.__name__}: expected an object, got {type(data).__name__}")
    names = {field.name for field in fields(cls)}
    if unknown := sorted(set(data) - names):
        raise ValueError(f"{cls.__name__}: unknown field {unknown[0]!r}")
    required = {"CheckResult": ("name", "points", "earned", "verdict"), "Report": ("exercise", "verdict")}
    if missing := [name for name in required[cls.__name__] if name not in data]:
        raise ValueError(f"{cls.__name__}: missing field {missing[0]!r}")
    return dict(data)
