"""What somebody handed in: a notebook's bytes become the one module that is served, or one sentence on why not.

The notebook's metadata says which exercise it is, never its file name. Cells tagged `given` and `answer`, in order,
form the module; no other cell is looked at. Nothing is executed here.
"""

import ast
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from labserver.errors import LabError
from labserver.school.catalogue import exercise, exercise_ids

__all__ = ["Answer", "Cell", "NoAnswer", "NotAnExercise", "cells_of", "parse_answer", "read_answer", "same_code"]

Role = Literal["given", "answer", ""]
_MAGIC = re.compile(r"^(\s*)(?:%|!).*$", re.MULTILINE)


class NoAnswer(LabError):
    """An exercise in which no answer was found; one sentence that says what to do."""


class NotAnExercise(NoAnswer):
    """Not a notebook, or one that belongs to no exercise."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: its id, its part in the graded module, its kind (`code`, `markdown`, `raw`) and its text."""

    id: str
    role: Role
    kind: str
    source: str


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to one exercise.

    Attributes:
        exercise: its id.
        object: the name that the module has to define.
        source: the module: cells tagged `given` and `answer`, in order.
        attempted: False when the answer's syntax tree is the starter's (comments and blanks do not count).
    """

    exercise: str
    object: str
    source: str
    attempted: bool


def read_answer(path: Path) -> Answer:
    """Read the answer in a notebook file.

    Raises:
        NoAnswer: with one sentence that says what to do.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NotAnExercise(f"{path.name} can't be read: {error.strerror}.") from None
    return parse_answer(data, path.name)


def parse_answer(data: bytes, name: str = "The file") -> Answer:
    """Find the answer in a notebook's bytes.

    Args:
        data: the file as it was handed in.
        name: what to call it in a sentence.

    Raises:
        NotAnExercise: if it is no notebook, or belongs to no exercise of ours.
        NoAnswer: if an answer cell is lost or there are too many.
    """
    notebook = _notebook(data, name)
    id = _exercise_of(notebook, name)
    starter = _starter(id)
    cells = cells_of(notebook, {cell.id: cell.role for cell in starter})
    answers = _answers(cells, starter, id, name)
    given = [cell for cell in cells if cell.role == "given" and cell.kind == "code"]
    if not given:
        given = [cell for cell in starter if cell.role == "given"]
        parts = [*given, *answers]
    else:
        parts = [cell for cell in cells if cell in given or cell in answers]
    source = "\n\n\n".join(_plain(cell.source).strip("\n") for cell in parts) + "\n"
    shipped = [cell.source for cell in starter if cell.role == "answer"]
    attempted = not same_code("\n".join(cell.source for cell in answers), "\n".join(shipped))
    return Answer(id, exercise(id).object, source, attempted)


def cells_of(notebook: dict[str, Any], roles: dict[str, Role] | None = None) -> list[Cell]:
    """Return a notebook's cells; one whose tags are lost takes the role that its id has in `roles`."""
    found = []
    for cell in notebook["cells"]:
        if not isinstance(cell, dict):
            continue
        metadata, source = cell.get("metadata"), cell.get("source", "")
        tags = metadata.get("tags", []) if isinstance(metadata, dict) else []
        id = str(cell.get("id", ""))
        role: Role = "answer" if "answer" in tags else "given" if "given" in tags else (roles or {}).get(id, "")
        text = "".join(map(str, source)) if isinstance(source, list) else str(source)
        found.append(Cell(id, role, str(cell.get("cell_type")), text))
    return found


def same_code(one: str, other: str) -> bool:
    """Whether two sources have the same syntax tree: comments, blanks and quotes do not count."""
    try:
        return ast.dump(ast.parse(_plain(one))) == ast.dump(ast.parse(_plain(other)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return one == other


def _notebook(data: bytes, name: str) -> dict[str, Any]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise NotAnExercise(f"{name} is not UTF-8 text: save the notebook in JupyterLab and hand that in.") from None
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError):
        raise NotAnExercise(f"{name} is not a notebook: it holds no JSON. Save it in JupyterLab again.") from None
    if not isinstance(notebook, dict) or not isinstance(notebook.get("cells"), list):
        raise NotAnExercise(f"{name} is not a notebook: it has no cells. Save it in JupyterLab again.")
    return notebook


def _exercise_of(notebook: dict[str, Any], name: str) -> str:
    metadata = notebook.get("metadata")
    ours = metadata.get("labserver") if isinstance(metadata, dict) else None
    id = ours.get("exercise") if isinstance(ours, dict) else None
    if not isinstance(id, str):
        raise NotAnExercise(
            f"{name} does not say which exercise it answers: put your answer into a copy of the exercise as shipped "
            "(`labserver exercises reset` makes one)."
        )
    if id not in exercise_ids():
        raise NotAnExercise(f"{name} answers {id!r}, and there is no such exercise here.")
    return id


@lru_cache(maxsize=64)
def _starter(id: str) -> tuple[Cell, ...]:
    path = exercise(id).starter
    if not path.exists():
        raise LabError(f"The starter of {id} is missing: run `labserver exercises build`.")
    return tuple(cells_of(json.loads(path.read_text(encoding="utf-8"))))


def _answers(cells: list[Cell], starter: Iterable[Cell], id: str, name: str) -> list[Cell]:
    """The answer cells, as many as were shipped; a spare copy of the untouched starter does not count."""
    shipped = [cell for cell in starter if cell.role == "answer"]
    found = [cell for cell in cells if cell.role == "answer" and cell.kind == "code"]
    restore = f"`labserver exercises reset {exercise(id).number}`"
    if len(found) < len(shipped):
        changed = any(cell.role == "answer" and cell.kind != "code" for cell in cells)
        lost = "the answer cell is no longer a code cell" if changed else "the answer cell is gone"
        raise NoAnswer(f"No answer in {name}: {lost}. Restore it with {restore}; your other cells are kept.")
    if len(found) > len(shipped):
        worked_on = [cell for cell in found if not any(same_code(cell.source, other.source) for other in shipped)]
        if len(worked_on) == len(shipped):
            return worked_on
        raise NoAnswer(
            f"{len(found)} answers in {name}, and it takes {len(shipped)}: delete the cells tagged `answer` that are "
            "not to count, or take that tag from them."
        )
    return found


def _plain(source: str) -> str:
    """Python without the lines that only a notebook understands (`%time`, `!ls`); line numbers stay."""
    try:
        ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return _MAGIC.sub(r"\1pass", source)
    return source
