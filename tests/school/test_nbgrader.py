"""nbgrader takes the solutions as its source, releases the exercise as shipped, and gives the points of our checks.

It runs from an environment of its own, as it would beside a lab: the kernel alone is that of the lab.
"""

import json
import os
import runpy
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labserver.errors import LabError
from labserver.school import nbgrader
from labserver.school import notebook as kernel
from labserver.school.answer import cells_of, parse_answer
from labserver.school.catalogue import ROOT, exercise
from labserver.school.verdicts import Report

ROOM = runpy.run_path(str(Path(__file__).parents[1] / "classroom.py"))
ID = ROOM["ID"]
NAME = f"{ID}.ipynb"
KERNEL = {"argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"], "language": "python"}
DEADLINE = 300  # seconds for one command: it takes fifteen on a quiet machine
DROPPED = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")  # nbgrader starts Python often: compile once
EXPORT = runpy.run_path(str(ROOT / "tests/export.py"))
POINTS = """
SELECT student_id, auto_score FROM grade
JOIN submitted_notebook ON grade.notebook_id = submitted_notebook.id
JOIN submitted_assignment ON submitted_notebook.assignment_id = submitted_assignment.id
"""


@pytest.fixture(scope="module")
def tools(demand: Callable[[str, bool, str], None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of nbgrader's commands, in an environment made for it with the versions of the lock."""
    uv = EXPORT["uv"]()
    demand("uv", bool(uv), "install it, or run `make test`, which fetches it.")
    home = tmp_path_factory.mktemp("nbgrader")
    folder = home / ("Scripts" if os.name == "nt" else "bin")
    run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, home], cwd=home)
    install = [uv, "pip", "install", "--quiet", "--python", folder / "python", "-c", ROOT / "constraints.txt"]
    installed = run([*install, "nbgrader"], cwd=home, check=False)
    demand("nbgrader", installed.returncode == 0, f"it can't be installed: {installed.stderr.strip()}")
    return folder


def run(command: list[Any], *, cwd: Path, check: bool = True, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in DROPPED}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=environment | more, capture_output=True, text=True, timeout=DEADLINE
    )
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def course(tools: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Callable[..., Any]]:
    """A course with one released assignment, `01`, and what runs nbgrader in it."""
    folder = tmp_path_factory.mktemp("course")
    spec = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps(KERNEL | {"display_name": "Python 3", "env": {"PYTHONDONTWRITEBYTECODE": "1"}}))
    (folder / "source" / "01").mkdir(parents=True)
    shutil.copy(ROOT / "solutions" / NAME, folder / "source" / "01")
    shutil.copy(ROOT / "solutions" / "nbgrader_config.py", folder)
    private = {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "JUPYTER_PATH": str(folder / "jupyter"),
        "JUPYTER_CONFIG_DIR": str(folder / "config"),
    }

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        return run([tools / "nbgrader", *words], cwd=folder, **private)

    command("generate_assignment", "01")
    return folder, command


@pytest.mark.timeout(2 * DEADLINE)
def test_nbgrader_releases_the_exercise_as_shipped_and_gives_the_points_of_its_checks(
    course: tuple[Path, Callable[..., Any]],
) -> None:
    folder, command = course
    data = (folder / "release" / "01" / NAME).read_bytes()
    assert cells_of(json.loads(data)) == cells_of(json.loads(exercise(ID).starter.read_bytes()))
    assert not parse_answer(data).attempted

    noisy = ROOM["in_handler"]("import sys; print('an answer may say something here', file=sys.stderr)")
    partly = (ROOM["WRONG"] / "tutorial_loop.py").read_text(encoding="utf-8")
    submitted = {"ann": {"answer": noisy}, "bob": {"answer": partly}, "cheat": {"check": "100"}}
    for student, written in submitted.items():
        notebook = json.loads(data)
        for cell in notebook["cells"]:
            cell["source"] = written.get(cell["id"], cell["source"])
        place = folder / "submitted" / student / "01" / NAME
        place.parent.mkdir(parents=True)
        place.write_text(json.dumps(notebook), encoding="utf-8")
    command("autograde", "01")
    with sqlite3.connect(folder / "gradebook.db") as gradebook:
        points = dict(gradebook.execute(POINTS).fetchall())
    gradebook.close()
    known = exercise(ID)
    lost = known.misconceptions["tutorial_loop"].fails
    kept = sum(check.points for check in known.checks if check.name not in lost)
    assert points == {"ann": 100, "bob": kept, "cheat": 0}
    assert 0 < kept < 100


@pytest.mark.parametrize("points", [0, 35, 100])
def test_the_value_of_a_check_is_for_nbgrader_alone(points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    report = Report(ID, "partial", points=points)
    monkeypatch.setattr(kernel, "_check", lambda answer: report)
    monkeypatch.delenv("NBGRADER_EXECUTION", raising=False)
    assert kernel.check(...) is None
    for how in ("autograde", "validate"):
        monkeypatch.setenv("NBGRADER_EXECUTION", how)
        assert kernel.check(...) == points


def test_nothing_to_check_is_worth_nothing_and_a_grader_that_broke_says_so() -> None:
    assert nbgrader.value_of(None) == 0
    with pytest.raises(LabError, match="no fault of the answer"):
        nbgrader.value_of(Report(ID, "not checked", "The checks could not start, which is no fault of the answer."))


@pytest.mark.parametrize(
    ("kind", "tags", "source", "part"),
    [
        ("code", ["answer"], "app = ...", {"solution": True}),
        ("code", ["given"], "import json", {"locked": True}),
        ("code", ["school"], "from labserver.school import begin\n\nbegin('01')", {"locked": True}),
        ("code", ["school"], "check(app)", {"grade": True, "locked": True, "points": 60}),
        ("code", ["school"], "hint()", None),
        ("code", [], "print()", None),
        ("markdown", ["solution"], "check(", None),
    ],
)
def test_the_rule(kind: str, tags: list[str], source: str, part: dict[str, Any] | None) -> None:
    old = {"nbgrader": {"grade_id": "old"}, "tags": tags}
    made = nbgrader.marked({"cell_type": kind, "id": "one", "metadata": old, "source": [source]}, 60)
    none = {"grade": False, "grade_id": "one", "locked": False, "schema_version": 3, "solution": False, "task": False}
    assert made == ({"tags": tags} if part is None else {"tags": tags, "nbgrader": {**none, **part}})
