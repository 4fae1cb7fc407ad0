"""What goes from a participant to the room: one `Verdict` for each check of an answer; no source, no output.

Its `id` is drawn once, before the first attempt to send it, so that the room keeps it once however often it arrives.
"""

import secrets
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from labserver.school.verdicts import Report, ReportVerdict

__all__ = ["NAME_MAX", "Verdict"]

NAME_MAX = 80  # characters of a participant's name: a row of the board has room for half of it
WORD_MAX = 80  # characters of an exercise's or a check's name
CHECKS_MAX = 50  # failed checks of one answer; no exercise has as many

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=NAME_MAX)]
Word = Annotated[str, StringConstraints(max_length=WORD_MAX)]


class Verdict(BaseModel):
    """How one check of one participant's answer ended.

    Attributes:
        id: the same whenever this verdict is sent, another for every other.
        name: whose it is; two people of one name share a row.
        exercise: for instance `05_server_sent_events`.
        verdict: as in the report.
        points: what was earned.
        failed: the names of the checks that did not pass, sorted.
        misconception: the name of the known wrong answer that this is, else "".
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{32}$")
    name: Name
    exercise: Word
    verdict: ReportVerdict
    points: int = Field(ge=0)
    failed: list[Word] = Field(max_length=CHECKS_MAX)
    misconception: Word = ""

    @classmethod
    def of(cls, report: Report, name: str) -> Self:
        """Make the verdict of a report, with an id of its own.

        Args:
            report: what the check said.
            name: of the participant; what no board can show is left out, and what is too long is cut.
        """
        return cls(
            id=secrets.token_hex(16),
            name=_shown(name),
            exercise=report.exercise,
            verdict=report.verdict,
            points=report.points,
            failed=sorted(report.failed)[:CHECKS_MAX],
            misconception=report.misconception,
        )


def _shown(name: str) -> str:
    """Return what can be shown of a name: on one line, whole characters, not too long."""
    words = "".join(letter if letter.isprintable() else " " for letter in name[: 100 * NAME_MAX]).split()
    return " ".join(words)[:NAME_MAX].strip() or "nobody"
