"""The marks of one class: every graded answer, and what they add up to. Values and sums only; nothing is written here.

Of several answers of one student to one exercise the best counts; of equal ones the first by the name of its file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from labserver.school.submissions import Skipped
from labserver.school.verdicts import ATTEMPTED, CheckResult, Report

__all__ = ["NOT_HANDED_IN", "Assignment", "Failure", "Graded", "Marks"]

NOT_HANDED_IN = "not handed in"
"""The verdict of an exercise that others handed in and this student did not."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """What is needed of an exercise to show its marks: its points by check, in order, and what is known to go wrong.

    Attributes:
        id: for instance `01_websocket_basics`.
        title: in words.
        checks: name and points.
        misconceptions: by name, what to say about it and where the lab shows it.
    """

    id: str
    title: str
    checks: tuple[tuple[str, int], ...] = ()
    misconceptions: tuple[tuple[str, str, str], ...] = ()

    @property
    def number(self) -> str:
        """The two digits it is called by."""
        return self.id.partition("_")[0]

    @property
    def max_points(self) -> int:
        """What there is to earn."""
        return sum(points for _, points in self.checks)

    def misconception(self, name: str) -> tuple[str, str]:
        """Return what to say about a known wrong answer and where to read on; ("", "") if it is not known."""
        return next(((says, see) for known, says, see in self.misconceptions if known == name), ("", ""))


@dataclass(frozen=True, slots=True)
class Graded:
    """One notebook that was graded.

    Attributes:
        student: whose it is.
        source: which file, relative to the folder of submissions.
        report: its verdict; `exercise` is "" when the notebook does not say which exercise it answers.
        notes: further sentences for the student: left processes, a limit that was hit.
        output: what the answer printed, shortened.
        seconds: how long grading took, measured.
    """

    student: str
    source: str
    report: Report
    notes: tuple[str, ...] = ()
    output: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Failure:
    """One check of an exercise and who failed it: those whose answers ran."""

    check: CheckResult
    students: tuple[str, ...]
    ran: int


@dataclass(frozen=True, slots=True)
class Marks:
    """Everything that was graded in one run.

    Attributes:
        students: all, sorted.
        assignments: every exercise that anybody handed in, sorted.
        graded: by student, then by file.
        skipped: files that could not be given to a student.
        seed: repeats the same random payloads.
        walls: what kept answers from files that are not theirs, as a sentence.
    """

    students: tuple[str, ...]
    assignments: tuple[Assignment, ...]
    graded: tuple[Graded, ...]
    skipped: tuple[Skipped, ...] = ()
    seed: int = 0
    walls: str = ""

    @property
    def max_points(self) -> int:
        """What one student could earn."""
        return sum(assignment.max_points for assignment in self.assignments)

    def of(self, student: str, exercise: str) -> Graded | None:
        """Return the answer that counts, None if there is none."""
        mine = [graded for graded in self.graded if (graded.student, graded.report.exercise) == (student, exercise)]
        return max(mine, key=_merit, default=None)

    def spare(self, student: str) -> list[Graded]:
        """Return the student's files that do not count: without an exercise, or with a better one beside them."""
        counts = {id(self.of(student, assignment.id)) for assignment in self.assignments}
        return [graded for graded in self.graded if graded.student == student and id(graded) not in counts]

    def points(self, student: str) -> int:
        """Return the sum of the student's points."""
        return sum(
            graded.report.points for assignment in self.assignments if (graded := self.of(student, assignment.id))
        )

    def counting(self, exercise: str) -> list[Graded]:
        """Return the answers to one exercise that count, by student."""
        return [graded for student in self.students if (graded := self.of(student, exercise))]

    def verdicts(self) -> Counter[str]:
        """Count the verdicts of all answers that count, and of those that were not handed in."""
        return Counter(
            graded.report.verdict if (graded := self.of(student, assignment.id)) else NOT_HANDED_IN
            for student in self.students
            for assignment in self.assignments
        )

    def failures(self, exercise: str) -> list[Failure]:
        """Return the failed checks of one exercise, the most frequent first; of equal ones in the exercise's order."""
        ran = [graded for graded in self.counting(exercise) if graded.report.verdict in ATTEMPTED]
        ran = [graded for graded in ran if graded.report.checks]
        failed: dict[str, list[tuple[str, CheckResult]]] = {}
        for graded in ran:
            for check in graded.report.checks:
                failed.setdefault(check.name, []).extend([] if check.passed else [(graded.student, check)])
        found = [
            Failure(_sample(check for _, check in who), tuple(student for student, _ in who), len(ran))
            for who in failed.values()
            if who
        ]
        return sorted(found, key=lambda failure: -len(failure.students))

    def misconceptions(self, exercise: str) -> list[tuple[str, tuple[str, ...]]]:
        """Return the known wrong answers that were handed in, the most frequent first, and whose they are."""
        who: dict[str, list[str]] = {}
        for graded in self.counting(exercise):
            if graded.report.misconception:
                who.setdefault(graded.report.misconception, []).append(graded.student)
        return sorted(((name, tuple(names)) for name, names in who.items()), key=lambda item: (-len(item[1]), item[0]))


def _merit(graded: Graded) -> tuple[int, bool]:
    # max() keeps the first of equals, and `graded` is sorted by file
    return graded.report.points, graded.report.verdict in ATTEMPTED


def _sample(checks: Iterable[CheckResult]) -> CheckResult:
    """The first that has a picture, else the first."""
    found = list(checks)
    return next((check for check in found if check.tape_svg), found[0])
