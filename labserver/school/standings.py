"""How far a participant has come: the best points of each exercise, in one small file under `settings.home`.

Written by a rename, so that a kernel killed in between leaves the old file. A damaged file counts as none.
"""

import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from labserver.school.catalogue import exercise, exercise_ids
from labserver.school.verdicts import Report
from labserver.settings import get_settings

__all__ = ["Standing", "next_up", "record", "standings"]


@dataclass(frozen=True, slots=True)
class Standing:
    """One exercise: best points so far, what there is to earn, how often it was checked."""

    exercise: str
    points: int
    max_points: int
    tries: int

    @property
    def solved(self) -> bool:
        """Whether full marks were reached once."""
        return self.points == self.max_points


def standings() -> tuple[Standing, ...]:
    """Return one standing per exercise, in order."""
    kept = _read()
    return tuple(kept.get(id, Standing(id, 0, exercise(id).max_points, 0)) for id in exercise_ids())


def record(report: Report) -> Standing:
    """Keep a report if it is the best so far, count the try, and return the standing.

    Raises:
        OSError: if the file can't be written.
    """
    kept = _read()
    before = kept.get(report.exercise, Standing(report.exercise, 0, report.max_points, 0))
    now = Standing(report.exercise, max(before.points, report.points), report.max_points, before.tries + 1)
    _write({**kept, report.exercise: now})
    return now


def next_up() -> Standing | None:
    """Return the first exercise without full marks, None when all have them."""
    return next((standing for standing in standings() if not standing.solved), None)


def _path() -> Path:
    return get_settings().home / "progress.json"


def _read() -> dict[str, Standing]:
    try:
        data = json.loads(_path().read_text(encoding="utf-8"))
        return {id: Standing(id, int(v["points"]), int(v["max_points"]), int(v["tries"])) for id, v in data.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(kept: dict[str, Standing]) -> None:
    path = _path()
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {id: {k: v for k, v in asdict(standing).items() if k != "exercise"} for id, standing in kept.items()}
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix="progress-", suffix=".partial")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(partial, path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
