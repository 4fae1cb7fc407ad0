"""Solutions become exercises: the one source is `solutions/NN_name.ipynb`, everything else is made from it.

Lines between `# BEGIN SOLUTION` and `# END SOLUTION` become one `...`; cells tagged `solution` are left out. The result
lies twice: with outputs in `exercises/`, where participants edit it, and without in `starters/`, what it was. What
nbgrader reads of a cell is set by rule, in the solution too.
"""

import copy
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from labserver.errors import LabError
from labserver.school.catalogue import Exercise, exercise, exercise_ids
from labserver.school.nbgrader import marked

__all__ = ["BEGIN", "END", "build", "stale", "starter_of", "without_solution"]

BEGIN, END = "# BEGIN SOLUTION", "# END SOLUTION"
_METADATA = {"kernelspec": {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}}


def build(ids: Iterable[str] | None = None) -> list[Path]:
    """Write starters and exercises, the latter executed, mark solutions for nbgrader; return the files written.

    Raises:
        LabError: if a solution is missing or malformed.
    """
    written = []
    for known in map(exercise, ids or exercise_ids()):
        starter = starter_of(known)
        if _mark(solution := _read(known.solution), known):
            _write(known.solution, solution)
            written.append(known.solution)
        known.starter.parent.mkdir(parents=True, exist_ok=True)
        known.notebook.parent.mkdir(parents=True, exist_ok=True)
        _write(known.starter, starter)
        _write(known.notebook, starter)
        _execute(known.notebook)
        written += [known.starter, known.notebook]
    return written


def stale() -> list[str]:
    """Return one sentence per file that `build` would change. Outputs do not count: nbval compares those."""
    return [sentence for id in exercise_ids() for sentence in _stale(exercise(id))]


def starter_of(known: Exercise) -> dict[str, Any]:
    """Return the exercise that a solution makes, without outputs.

    Raises:
        LabError: if the solution is missing, is not valid, or names another exercise.
    """
    if not known.solution.exists():
        raise LabError(f"solutions/{known.solution.name} is missing: build exercises in a checkout of the repository.")
    notebook = _read(known.solution)
    named = notebook["metadata"].get("labserver", {})
    if named != {"exercise": known.id, "object": known.object}:
        raise LabError(f"{known.solution.name}: its metadata has to say {known.id!r} and {known.object!r}.")
    kept = [cell for cell in notebook["cells"] if "solution" not in cell["metadata"].get("tags", [])]
    cells = [_cell(cell, known) for cell in kept]
    if not any("answer" in cell["metadata"]["tags"] for cell in cells):
        raise LabError(f"{known.solution.name}: no cell is tagged `answer`.")
    if sum(cell["metadata"].get("nbgrader", {}).get("grade", False) for cell in cells) != 1:
        raise LabError(f"{known.solution.name}: it needs one cell tagged `school` that calls `check(...)`.")
    metadata = {**copy.deepcopy(_METADATA), "labserver": named}
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def without_solution(source: str, name: str = "the cell") -> str:
    """Replace each marked region by one `...` at its indentation.

    Raises:
        LabError: if a mark has no partner.
    """
    lines: list[str] = []
    inside = False
    for line in source.split("\n"):
        mark = line.strip()
        if mark == (BEGIN if inside else END):
            raise LabError(f"{name}: {mark!r} has no partner.")
        if mark == BEGIN:
            inside = True
            lines.append(line[: len(line) - len(line.lstrip())] + "...")
        elif mark == END:
            inside = False
        elif not inside:
            lines.append(line)
    if inside:
        raise LabError(f"{name}: {BEGIN!r} has no partner.")
    return "\n".join(lines)


def _cell(cell: dict[str, Any], known: Exercise) -> dict[str, Any]:
    tags = cell["metadata"].get("tags", [])
    id = cell.get("id", "")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,63}", id):
        raise LabError(f"{known.solution.name}: a cell's id is {id!r}; give it a word, for instance `answer`.")
    source = without_solution("".join(cell["source"]), f"{known.solution.name}, cell {id!r}")
    made = {"cell_type": cell["cell_type"], "id": id, "metadata": {"tags": tags}, "source": source.splitlines(True)}
    if cell["cell_type"] == "code":
        made |= {"execution_count": None, "outputs": []}
    made["metadata"] = marked(made, known.max_points)
    return made


def _mark(solution: dict[str, Any], known: Exercise) -> bool:
    """Write into a solution's cells what nbgrader reads of them; return whether that changed any."""
    before = [cell["metadata"] for cell in solution["cells"]]
    for cell in solution["cells"]:
        cell["metadata"] = marked(cell, known.max_points)
    return before != [cell["metadata"] for cell in solution["cells"]]


def _stale(known: Exercise) -> Iterator[str]:
    made = starter_of(known)
    for path in (known.starter, known.notebook):
        if not path.exists():
            yield f"{path.parent.name}/{path.name} is missing."
        elif _bare(_read(path)) != _bare(made):
            yield f"{path.parent.name}/{path.name} is not what its solution makes."
    if _mark(_read(known.solution), known):
        yield f"{known.solution.parent.name}/{known.solution.name} does not say what nbgrader reads of it."


def _bare(notebook: dict[str, Any]) -> list[Any]:
    """What a build decides: ids, kinds, tags, what nbgrader reads, sources and the exercise's name."""
    return [notebook["metadata"].get("labserver"), *map(_decided, notebook["cells"])]


def _decided(cell: dict[str, Any]) -> tuple[Any, ...]:
    metadata = cell["metadata"]
    parts = metadata.get("tags", []), metadata.get("nbgrader"), "".join(cell["source"])
    return cell.get("id"), cell["cell_type"], *parts


def _read(path: Path) -> dict[str, Any]:
    try:
        notebook = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise LabError(f"{path} can't be read: {error.strerror}.") from None
    except ValueError as error:
        raise LabError(f"{path} is not a notebook: {error}.") from None
    assert isinstance(notebook, dict)
    return notebook


def _write(path: Path, notebook: dict[str, Any]) -> None:
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _execute(path: Path) -> None:
    """Run it as the lab's notebooks are run, with a progress file of its own.

    Raises:
        LabError: if a cell raises.
    """
    with tempfile.TemporaryDirectory(prefix="labserver-build-") as home:
        command = [sys.executable, "-m", "labserver.school.notebooks", "run", str(path)]
        done = subprocess.run(command, env={**os.environ, "LABSERVER_HOME": home}, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip()).rpartition("\n")[2]
        raise LabError(f"exercises/{path.name} does not run: {last}")
