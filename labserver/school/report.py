"""Writes the marks of a class: `results.json`, two CSV files, the HTML pages, and the summary for the terminal.

`results.json` (all texts UTF-8, points whole numbers; its order is fixed, and all but `seconds` and the random payloads
in `seen` and `tape_text` is the same on every run):

    schema      "labserver.grade/1"
    labserver   version that graded
    seed        repeats the same random payloads
    max_points  of one student
    exercises   [{id, title, max_points, checks: [{name, points}]}]
    students    [{student, page, points, max_points, answers}]
      answers   [{exercise, source, counts, verdict, reason, points, max_points, misconception, notes, output, seconds,
                checks}]: every notebook; `exercise` is "" if it names none; `counts` is false if a better one is there;
                an exercise that was not handed in has `source` "" and the verdict "not handed in"
      checks    [{name, title, points, earned, verdict, seen, expected, hint, tape_text, seconds, guard}]: `guard` names
                the hidden check that took the points, "" if none did
    skipped     [{source, reason}]: files that could not be given to a student

Verdicts are those of `verdicts.py`. `results.csv` has one row per student, exercise and check: `student, exercise,
check, points, verdict`, points being what was earned; the rows of a student add up to that student's points. An answer
whose checks never ran has its own verdict in each row; a file that names no exercise has one row without exercise and
check.

`marks.csv` is for a gradebook, one row per student: `student`, a column of points for each exercise under its id,
`total`, `max`. What was not handed in has 0. An answer that could not be checked, which is no fault of it, has nothing,
and neither has its student's total. `student` is what the roster says (`roster.py`), else the name of the submission.

Both are UTF-8 without a byte order mark. A text that a spreadsheet would take for a formula begins with `'`.
"""

import csv
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from labserver import __version__
from labserver.errors import LabError
from labserver.school.marks import NOT_HANDED_IN, Assignment, Graded, Marks
from labserver.school.pages import MADE_BY, SIGNS, index_page, key, page_names, short, student_page

__all__ = ["marks_csv", "prepare", "results_csv", "results_json", "summary", "write"]

SCHEMA = "labserver.grade/1"
COLUMNS = ("student", "exercise", "check", "points", "verdict")
_ODD_ROWS = 20  # answers that the summary names; the page names them all


def prepare(out: Path) -> None:
    """Make the folder for the results and try whether it can be written to, before an hour of grading.

    Raises:
        LabError: if it can't.
    """
    try:
        (out / "students").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out), tempfile.TemporaryFile(dir=out / "students"):
            pass
    except OSError as error:
        raise LabError(f"Results can't be written to {str(out)!r} ({error.strerror}): choose another --out.") from None


def write(marks: Marks, out: Path, roster: Mapping[str, str] | None = None) -> list[Path]:
    """Write all files, each in one step, and remove the pages of students that an earlier run wrote and this did not.

    Args:
        marks: of the class.
        out: the folder.
        roster: what marks.csv calls a student, by the name of the submission.

    Returns:
        The files for the instructor: results.json, results.csv, marks.csv, index.html.

    Raises:
        LabError: if the folder can't be written to.
    """
    prepare(out)
    names = page_names(marks.students)
    pages = {out / "students" / name: student_page(marks, student) for student, name in names.items()}
    files = {
        out / "results.json": json.dumps(results_json(marks), indent=2, ensure_ascii=False) + "\n",
        out / "results.csv": results_csv(marks),
        out / "marks.csv": marks_csv(marks, roster or {}),
        out / "index.html": index_page(marks),
    }
    try:
        for path, text in (pages | files).items():
            _replace(path, text)
        for path in (out / "students").glob("*.html"):
            if path not in pages and MADE_BY in path.read_text(encoding="utf-8", errors="replace")[:500]:
                path.unlink()
    except OSError as error:
        raise LabError(f"Results can't be written to {str(out)!r} ({error.strerror}): choose another --out.") from None
    return list(files)


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace", newline="")
    os.replace(partial, path)


def results_json(marks: Marks) -> dict[str, Any]:
    """Return the content of `results.json`."""
    pages = page_names(marks.students)
    return {
        "schema": SCHEMA,
        "labserver": __version__,
        "seed": marks.seed,
        "max_points": marks.max_points,
        "exercises": [_exercise(assignment) for assignment in marks.assignments],
        "students": [
            {
                "student": student,
                "page": f"students/{pages[student]}",
                "points": marks.points(student),
                "max_points": marks.max_points,
                "answers": list(_answers(marks, student)),
            }
            for student in marks.students
        ],
        "skipped": [{"source": skipped.source, "reason": skipped.reason} for skipped in marks.skipped],
    }


def _exercise(assignment: Assignment) -> dict[str, Any]:
    checks = [{"name": name, "points": points} for name, points in assignment.checks]
    return {"id": assignment.id, "title": assignment.title, "max_points": assignment.max_points, "checks": checks}


def _answers(marks: Marks, student: str) -> Iterator[dict[str, Any]]:
    for assignment in marks.assignments:
        if graded := marks.of(student, assignment.id):
            yield _answer(graded, counts=True)
        else:
            missing = {"exercise": assignment.id, "source": "", "counts": True, "verdict": NOT_HANDED_IN, "reason": ""}
            sums = {"points": 0, "max_points": assignment.max_points, "misconception": "", "notes": [], "output": ""}
            yield missing | sums | {"seconds": 0.0, "checks": []}
    for graded in marks.spare(student):
        yield _answer(graded, counts=False)


def _answer(graded: Graded, *, counts: bool) -> dict[str, Any]:
    report = graded.report
    checks = [check.to_json() for check in report.checks]
    for check in checks:
        check["seconds"] = round(check["seconds"], 3)
        del check["tape_svg"]  # stands in the student's page
    return {
        "exercise": report.exercise,
        "source": graded.source,
        "counts": counts,
        "verdict": report.verdict,
        "reason": report.reason,
        "points": report.points,
        "max_points": report.max_points,
        "misconception": report.misconception,
        "notes": list(graded.notes),
        "output": graded.output,
        "seconds": round(graded.seconds, 3),
        "checks": checks,
    }


def results_csv(marks: Marks) -> str:
    """Return the content of `results.csv`: RFC 4180, lines end in CR LF."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for student in marks.students:
        for assignment in marks.assignments:
            for check, points, verdict in _rows(marks.of(student, assignment.id), assignment):
                writer.writerow([_plain(student), _plain(assignment.id), _plain(check), points, verdict])
        for graded in marks.spare(student):
            if not graded.report.exercise:
                writer.writerow([_plain(student), "", "", 0, graded.report.verdict])
    return text.getvalue()


def _rows(graded: Graded | None, assignment: Assignment) -> Iterator[tuple[str, int, str]]:
    if graded and graded.report.checks:
        for check in graded.report.checks:
            yield check.name, check.earned, check.verdict
        return
    verdict = graded.report.verdict if graded else NOT_HANDED_IN
    for name, _ in assignment.checks:
        yield name, 0, verdict


def marks_csv(marks: Marks, roster: Mapping[str, str]) -> str:
    """Return the content of `marks.csv`: RFC 4180, lines end in CR LF."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["student", *(assignment.id for assignment in marks.assignments), "total", "max"])
    for student in marks.students:
        points = [_points(marks.of(student, assignment.id)) for assignment in marks.assignments]
        total = "" if "" in points else marks.points(student)
        writer.writerow([_plain(roster.get(student, student)), *points, total, marks.max_points])
    return text.getvalue()


def _points(graded: Graded | None) -> int | str:
    if graded and graded.report.verdict == "not checked":
        return ""
    return graded.report.points if graded else 0


def _plain(text: str) -> str:
    return f"'{text}" if text[:1] in tuple("=+-@\t\r") else text


def summary(marks: Marks) -> RenderableType:
    """Return the summary for the terminal: points of all, then what fails most, then what needs a look."""
    parts: list[RenderableType] = [_points_table(marks)]
    if len(marks.assignments) > 1:
        parts.append(Text(key(marks) + "\n", style="dim"))
    if any(marks.failures(assignment.id) for assignment in marks.assignments):
        parts.append(_failures_table(marks))
    if odd := list(_odd(marks)):
        parts.append(Text("Needs a look", style="bold"))
        parts += [Text.assemble(("  " + who, "bold"), f": {what}") for who, what in odd[:_ODD_ROWS]]
        if len(odd) > _ODD_ROWS:
            parts.append(Text(f"  ... and {len(odd) - _ODD_ROWS} more, see index.html"))
    return Group(*parts)


def _table(title: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD,
        title=title,
        title_justify="left",
        title_style="bold",
        pad_edge=False,
        collapse_padding=True,
    )


def _points_table(marks: Marks) -> Table:
    table = _table("Points")
    table.add_column("student", overflow="ellipsis", no_wrap=True, min_width=12)
    table.add_column(f"of {marks.max_points}", justify="right", no_wrap=True)
    single = len(marks.assignments) == 1
    for assignment in marks.assignments:
        table.add_column(assignment.id if single else assignment.number, no_wrap=True)
    for student in marks.students:
        cells = [_cell(marks.of(student, assignment.id), words=single) for assignment in marks.assignments]
        table.add_row(Text(student), str(marks.points(student)), *cells)
    return table


def _cell(graded: Graded | None, *, words: bool) -> Text:
    verdict = graded.report.verdict if graded else NOT_HANDED_IN
    style = {"solved": "green", "partial": "", NOT_HANDED_IN: "dim"}.get(verdict, "red")
    return Text(f"{SIGNS[verdict]} {verdict}" if words else short(graded), style=style)


def _failures_table(marks: Marks) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD, title="What fails most", title_justify="left", title_style="bold", pad_edge=False
    )
    for heading in ("exercise", "check", "failed", "say"):
        table.add_column(heading, overflow="fold")
    for assignment in marks.assignments:
        for failure in marks.failures(assignment.id)[:3]:
            count = f"{len(failure.students)} of {failure.ran}"
            table.add_row(assignment.number, Text(failure.check.name), count, Text(failure.check.hint))
    return table


def _odd(marks: Marks) -> Iterator[tuple[str, str]]:
    for graded in marks.graded:
        if graded.report.reason:
            yield graded.student, f"{graded.source}: {graded.report.verdict}. {graded.report.reason}".rstrip()
        for note in graded.notes:
            yield graded.student, f"{graded.source}: {note}"
    for skipped in marks.skipped:
        yield skipped.source, skipped.reason
