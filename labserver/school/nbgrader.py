"""What nbgrader reads of an exercise's cells, by rule: which is the solution, which are locked, which one is graded.

The names are those of nbgrader's schema 3 (`nbgraderformat/v3.json`). Nothing of the lab reads them and no cell looks
different; whoever has nbgrader takes `solutions/` as its source. The points are the value of `notebook.check`.
"""

import os
from typing import Any

from labserver.errors import LabError
from labserver.school.verdicts import Report

__all__ = ["executing", "marked", "value_of"]

SCHEMA = 3


def marked(cell: dict[str, Any], points: int) -> dict[str, Any]:
    """Return the metadata of a cell with what nbgrader reads of it; a cell that is nothing to nbgrader has none.

    Args:
        cell: of a solution or an exercise, with its tags.
        points: what the exercise is worth.
    """
    metadata = {name: value for name, value in cell["metadata"].items() if name != "nbgrader"}
    part = _part(cell, points) if cell["cell_type"] == "code" else None
    return metadata if part is None else dict(sorted({**metadata, "nbgrader": part}.items()))


def executing() -> bool:
    """Whether nbgrader runs this kernel, to grade or to validate a notebook."""
    return bool(os.environ.get("NBGRADER_EXECUTION"))


def value_of(report: Report | None) -> int:
    """Return what nbgrader takes for the points of the cell whose value it is (its `determine_grade`).

    Raises:
        LabError: if the checks could not judge the answer: an instructor has to see that, and not a plain 0.
    """
    if report is not None and report.verdict == "not checked":
        raise LabError(report.reason)
    return report.points if report is not None else 0


def _part(cell: dict[str, Any], points: int) -> dict[str, Any] | None:
    tags, source, id = cell["metadata"].get("tags", []), "".join(cell["source"]), cell["id"]
    if "answer" in tags:
        return _schema(id, solution=True)
    if "school" in tags and source.startswith("check("):
        return _schema(id, grade=True, locked=True, points=points)
    if "given" in tags or ("school" in tags and "begin(" in source):
        return _schema(id, locked=True)
    return None


def _schema(id: str, **more: bool | int) -> dict[str, Any]:
    own = {"grade": False, "grade_id": id, "locked": False, "schema_version": SCHEMA, "solution": False, "task": False}
    return dict(sorted({**own, **more}.items()))
