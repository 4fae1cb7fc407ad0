"""What came of a rehearsal: how far each person came, what it took of the machine, and whether the room fits.

Values and sums only; `view` tells them, `record` writes them.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from labserver.school.rehearse.plan import Plan

__all__ = ["Findings", "Host", "Outcome", "Step", "Summary"]

State = Literal["not come", "unfinished", "failed", "done"]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that one person waited for: a cell of a lesson, or with `cell` "" the start of its kernel."""

    lesson: str
    cell: str
    seconds: float


@dataclass(slots=True)
class Outcome:
    """How far one person came.

    Attributes:
        number: from 1 on.
        state: "failed": a cell or the kernel did, or the verdict was not the expected one; "unfinished": cut short.
        problem: one sentence when failed.
        verdict: of the checks, "" before them.
        checks_seconds: what the checks themselves took.
        steps: in order.
        peak: most bytes of memory that were seen at once, all kernels of the person.
        cpu: processor seconds.
    """

    number: int
    state: State = "not come"
    problem: str = ""
    verdict: str = ""
    checks_seconds: float = 0.0
    steps: list[Step] = field(default_factory=list)
    peak: int = 0
    cpu: float = 0.0


@dataclass(frozen=True, slots=True)
class Host:
    """The machine before anybody came: processors, bytes of memory, of these free, and how memory is counted."""

    cores: int
    memory: int
    free: int
    kind: str


@dataclass(frozen=True, slots=True)
class Summary:
    """One step of all people: what half of them waited at most, what the slowest waited, and who that was."""

    what: str
    half: float
    worst: float
    who: int

    @classmethod
    def of(cls, what: str, seconds: Iterable[tuple[float, int]]) -> "Summary | None":
        """Sum up (seconds, person) pairs; None if there are none."""
        found = list(seconds)
        if not found:
            return None
        worst, who = max(found)
        return cls(what, median(value for value, _ in found), worst, who)


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that was seen in one rehearsal.

    Attributes:
        plan: what people were to do.
        host: on which machine.
        people: by number.
        stopped: why it ended before everybody was through, "" if it did not.
        took: seconds.
        peak: most bytes of all kernels together.
        busy: percentage of the processors' time that was used, by whatever runs on the host.
    """

    plan: Plan
    host: Host
    people: tuple[Outcome, ...]
    stopped: Literal["", "memory", "deadline"]
    took: float
    peak: int
    busy: float

    @property
    def fits(self) -> bool:
        """Whether everybody came through with the expected verdict."""
        return not self.stopped and all(person.state == "done" for person in self.people)

    @property
    def cpu(self) -> float:
        """Processor seconds of all."""
        return sum(person.cpu for person in self.people)

    @property
    def share(self) -> float:
        """Percentage of the processors' time that the kernels used."""
        return 100 * self.cpu / (self.took * self.host.cores)

    @property
    def came(self) -> int:
        """How many had come when it ended."""
        return sum(person.state != "not come" for person in self.people)

    def count(self, state: State) -> int:
        """How many are in that state."""
        return sum(person.state == state for person in self.people)

    @property
    def each(self) -> int:
        """Bytes that one person takes: the median of those who are through, else the most that anybody took."""
        through = [person.peak for person in self.people if person.state in ("done", "failed") and person.peak]
        return int(median(through)) if through else max((person.peak for person in self.people), default=0)

    @property
    def carries(self) -> int | None:
        """About how many people the memory carries; None if nobody was measured."""
        if not self.each:
            return None
        room = max(0, self.host.free - self.plan.keep_free) // self.each
        return min(room, self.came - 1) if self.stopped == "memory" else max(room, self.came)

    def steps(self) -> list[Summary]:
        """Sum up what people waited for: kernels, whole lessons, the slowest cell of each, the checks."""
        lessons = [lesson for lesson in (self.plan.notebook, self.plan.exercise) if lesson]
        rows = [Summary.of("a kernel starts", self._seconds(lambda step: not step.cell))]
        for lesson in lessons:
            cells = {step.cell for step in self._steps() if step.lesson == lesson.name} - {""}
            whole = [
                (sum(step.seconds for step in person.steps if step.lesson == lesson.name and step.cell), person.number)
                for person in self.people
                if {step.cell for step in person.steps if step.lesson == lesson.name} >= cells | {""}
            ]
            rows.append(Summary.of(f"{lesson.name}, all cells", whole if cells else ()))
            each = [self._cell(lesson.name, cell) for cell in cells]
            rows.append(max(filter(None, each), key=lambda row: (row.half, row.worst), default=None))
        checked = [(person.checks_seconds, person.number) for person in self.people if person.checks_seconds]
        rows.append(Summary.of("of that, the checks themselves", checked))
        return [row for row in rows if row]

    def slowest(self) -> Summary | None:
        """The one cell or start of a kernel that took longest for half of the people."""
        single = [row for row in self.steps() if "all cells" not in row.what and "of that" not in row.what]
        return max(single, key=lambda row: row.half, default=None)

    def _steps(self) -> list[Step]:
        return [step for person in self.people for step in person.steps]

    def _cell(self, lesson: str, cell: str) -> Summary | None:
        return Summary.of(
            f"{lesson}, cell {cell}", self._seconds(lambda step: (step.lesson, step.cell) == (lesson, cell))
        )

    def _seconds(self, wanted: Callable[[Step], bool]) -> list[tuple[float, int]]:
        return [(step.seconds, person.number) for person in self.people for step in person.steps if wanted(step)]
