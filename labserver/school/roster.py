"""Reads what a gradebook calls the students: a CSV file `submission,id`, a row for each name that submissions have.

A learning management system knows students by an email address, a number or a login; the folders that it packs carry
other names. UTF-8, with commas or, as some spreadsheets save it, semicolons.
"""

import csv
import io
from pathlib import Path

from labserver.errors import LabError
from labserver.school.submissions import student_name

__all__ = ["read_roster"]

HEADING = ["submission", "id"]


def read_roster(path: Path) -> dict[str, str]:
    """Return the id by the name of the submission.

    Raises:
        LabError: if it can't be read, has another shape, or gives one name or one id twice.
    """
    roster: dict[str, str] = {}
    for number, row in _rows(path):
        if len(row) != len(HEADING) or not all(row):
            raise LabError(f"{path.name}, line {number}: expected the name of a submission and an id.")
        name, id = student_name(row[0]), row[1]
        if name in roster:
            raise LabError(f"{path.name}, line {number}: {name!r} has an id already.")
        if id in roster.values():
            raise LabError(f"{path.name}, line {number}: the id {id!r} is another student's already.")
        roster[name] = id
    return roster


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """The rows below the heading, each with its line; empty ones left out."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise LabError(f"The roster {str(path)!r} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise LabError(f"The roster {path.name} is not UTF-8 text: save it as `CSV UTF-8`.") from None
    delimiter = ";" if ";" in text.partition("\n")[0] else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(row)]
    except csv.Error as error:
        raise LabError(f"{path.name}, line {reader.line_num}: {error}.") from None
    if not rows or [cell.lower() for cell in rows[0][1]] != HEADING:
        raise LabError(f"The roster {path.name} has to begin with the line `submission,id`.")
    return rows[1:]
