"""Put an exercise back as it was shipped: whole, or only the answer cells that were lost. Nothing is lost by it.

What is replaced is kept beside it first, as `NN_name.backup-1.ipynb`.
"""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labserver.errors import LabError
from labserver.school.answer import NoAnswer, NotAnExercise, cells_of, read_answer
from labserver.school.catalogue import Exercise

__all__ = ["Reset", "has_answer", "reset"]


@dataclass(frozen=True, slots=True)
class Reset:
    """What was done, as one sentence, and the backup if one was made."""

    said: str
    backup: Path | None = None


def has_answer(known: Exercise) -> bool:
    """Whether the exercise on disk holds an answer that somebody worked on."""
    try:
        return known.notebook.exists() and read_answer(known.notebook).attempted
    except NoAnswer:
        return False


def reset(known: Exercise, *, whole: bool = False) -> Reset:
    """Restore an exercise.

    Args:
        known: which one.
        whole: put back the whole notebook, also when an answer is in it. Otherwise only what is missing: the file, a
            lost answer cell (the other cells are kept), or all of it when it is no notebook any more.

    Raises:
        LabError: if the starter is missing, the files can't be written, or only the person can decide what to keep.
    """
    if not known.starter.exists():
        raise LabError(f"The starter of {known.id} is missing: run `labserver exercises build`.")
    name = f"exercises/{known.notebook.name}"
    if not known.notebook.exists():
        _put(known.notebook, known.starter.read_bytes())
        return Reset(f"{name} was missing: it is back as shipped.")
    if whole:
        kept = _back_up(known.notebook)
        _put(known.notebook, known.starter.read_bytes())
        return Reset(f"{name} is back as shipped; what it was is in {kept.name}.", kept)
    try:
        attempted = read_answer(known.notebook).attempted
    except NotAnExercise:
        kept = _back_up(known.notebook)
        _put(known.notebook, known.starter.read_bytes())
        return Reset(
            f"{name} could not be read as this exercise: it is back as shipped, and kept in {kept.name}.", kept
        )
    except NoAnswer:
        return _restore_cells(known, name)
    state = "its answer is there" if attempted else "it is as shipped"
    return Reset(f"{name} needs nothing: {state}. `--all` puts the whole notebook back.")


def _restore_cells(known: Exercise, name: str) -> Reset:
    """Put each lost answer cell back behind the cell it was shipped behind."""
    starter = json.loads(known.starter.read_text(encoding="utf-8"))
    notebook = json.loads(known.notebook.read_text(encoding="utf-8-sig"))
    roles = {cell.id: cell.role for cell in cells_of(starter)}
    present = {cell.id for cell in cells_of(notebook, roles) if cell.role == "answer" and cell.kind == "code"}
    lost = [n for n, cell in enumerate(starter["cells"]) if roles[cell["id"]] == "answer" and cell["id"] not in present]
    if not lost:
        raise LabError(f"{name} has more than one answer: delete those that are not to count.")
    kept = _back_up(known.notebook)
    for n in lost:
        cell = starter["cells"][n]
        _free_id(notebook["cells"], cell["id"])
        notebook["cells"].insert(_place(notebook["cells"], starter["cells"][:n]), cell)
    _put(known.notebook, (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode())
    return Reset(f"{name} has its answer cell again; your other cells are kept, and a copy is in {kept.name}.", kept)


def _free_id(cells: list[dict[str, Any]], id: str) -> None:
    """Rename a cell that holds the id (the answer turned into text): an id is unique, and what it says is kept."""
    for cell in cells:
        if cell.get("id") == id:
            cell["id"] = f"{id}-before"
            tags = cell.get("metadata", {}).get("tags", [])
            cell.setdefault("metadata", {})["tags"] = [tag for tag in tags if tag != "answer"]


def _place(cells: list[dict[str, Any]], before: list[dict[str, Any]]) -> int:
    """Behind the nearest of the cells that were shipped before it; else at the end."""
    at = {cell.get("id"): n for n, cell in enumerate(cells)}
    return next((at[cell["id"]] + 1 for cell in reversed(before) if cell["id"] in at), len(cells))


def _back_up(path: Path) -> Path:
    n = 1
    while (kept := path.with_name(f"{path.stem}.backup-{n}.ipynb")).exists():
        n += 1
    try:
        shutil.copy2(path, kept)
    except OSError as error:
        raise LabError(f"No copy of {path.name} could be made, so nothing was changed: {error.strerror}.") from None
    return kept


def _put(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise LabError(f"{path} can't be written: {error.strerror}.") from None
