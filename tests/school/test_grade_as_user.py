"""`labserver grade --user`: answers run as a user who owns nothing, and can't read what that user can't.

The lab and its Python are copied to a place that everybody can read, as an instructor's are; a clone below somebody's
home is not. Root alone can run this.
"""

import importlib.metadata
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from labserver import posix
from labserver.school.catalogue import ROOT, exercise

ID = "07_ndjson"
USER = "nobody"
LOOK = """
import os
seen = []
for path in {paths!r}:
    try:
        seen.append(open(path).read(1))
    except OSError as error:
        seen.append(type(error).__name__)
print("user", os.getuid(), "groups", os.getgroups(), "saw", seen)
"""


@dataclass(frozen=True)
class Place:
    """A copy of the lab that everybody may read: its root, its Python."""

    root: Path
    python: Path

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        environment = {"PATH": os.defpath, "TMPDIR": str(self.root / "tmp"), "PYTHONPATH": str(self.root / "lab")}
        command = [str(self.python), *arguments]
        return subprocess.run(
            command, env=environment, cwd=self.root / "lab", capture_output=True, text=True, timeout=240
        )

    def grade(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return self.run(
            "-m", "labserver", "grade", str(self.root / "class"), "--out", str(self.root / "out"), *arguments
        )


def needed(*names: str) -> set[str]:
    """The names of these distributions and of all that they need, extras left out."""
    found: set[str] = set()
    todo = list(names)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        try:
            requires = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            todo += [re.split(r"[\s\[;<>=!~(]", each)[0] for each in requires if "extra ==" not in each]
            todo += [each for each in ("hiredis", "greenlet") if name in ("redis", "sqlalchemy")]
    return found


def copy_python(target: Path) -> Path:
    """Copy the interpreter, its library and what the lab needs of its packages; return the copy."""
    base, library = Path(sys.base_prefix), Path(sysconfig.get_path("stdlib"))
    inside = target / library.relative_to(base)
    leave_out = shutil.ignore_patterns("test", "tests", "idlelib", "turtledemo", "ensurepip", "site-packages", "*.pyc")
    shutil.copytree(library, inside, ignore=leave_out)
    for shared in (base / "lib").glob("libpython*.so*"):
        shutil.copy2(shared, target / "lib" / shared.name)
    python = target / "bin" / "python3"
    python.parent.mkdir()
    shutil.copy2(Path(sys.executable).resolve(), python)
    for name in needed("labserver", "pytest", "nbformat", "nbconvert"):
        for file in importlib.metadata.files(name) or []:
            source = Path(str(file.locate()))
            if name != "labserver" and ".." not in file.parts and file.suffix != ".pyc" and source.exists():
                (inside / "site-packages" / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, inside / "site-packages" / file)
    return python


def open_to_all() -> Path:
    """The nearest folder above our temporary one that everybody can reach."""
    for folder in Path(os.environ["TMPDIR"]).resolve().parents:
        if all(each.stat().st_mode & stat.S_IXOTH for each in (folder, *folder.parents)):
            return folder
    raise AssertionError("even / is closed")


@pytest.fixture(scope="module")
def place(demand: Callable[[str, bool, str], None]) -> Iterator[Place]:
    demand("root", posix.is_root(), "only root may run an answer as another user.")
    root = Path(tempfile.mkdtemp(prefix="labserver-as-user-", dir=open_to_all()))
    try:
        python = copy_python(root / "python")
        for part in ("labserver", "solutions"):
            shutil.copytree(ROOT / part, root / "lab" / part, ignore=shutil.ignore_patterns("__pycache__"))
        for folder in ("tmp", "class/ann"):
            (root / folder).mkdir(parents=True)
        for path in [root, *root.rglob("*")]:
            path.chmod(0o755 if path.is_dir() or path == python else 0o644)
        hand_in(root)
        yield Place(root, python)
    finally:
        shutil.rmtree(root)


def hand_in(root: Path) -> None:
    """An answer that is right, and looks around first."""
    notebook = json.loads(exercise(ID).solution.read_text(encoding="utf-8"))
    paths = [str(root / "lab" / "solutions" / "hidden" / f"{ID}.py"), str(root / "class" / "ann" / "07.ipynb")]
    cell = next(cell for cell in notebook["cells"] if "answer" in cell["metadata"].get("tags", []))
    cell["source"] = LOOK.format(paths=paths) + "".join(cell["source"])
    (root / "class" / "ann" / "07.ipynb").write_text(json.dumps(notebook), encoding="utf-8")


WITHOUT_LANDLOCK = """
from functools import partial
from pathlib import Path
from labserver.errors import LabError
from labserver.school import sandbox, walls
walls.Sandbox = partial(sandbox.Sandbox, readable=None)
try:
    print(walls.look_through([Path({folder!r})], user={user!r}).sentence)
except LabError as error:
    print("refused:", error)
"""


@pytest.mark.timeout(300)
def test_the_user_is_a_wall_by_itself_and_one_with_a_hole_is_refused(place: Place) -> None:
    script = WITHOUT_LANDLOCK.format(folder=str(place.root / "class"), user=USER)
    exposed = place.run("-c", script)
    solutions = place.root / "lab" / "solutions"
    assert (
        f"refused: The user 'nobody' can get at what no answer may see: chmod -R o-rwx {place.root}" in exposed.stdout
    )
    assert str(solutions) in exposed.stdout
    for folder in (place.root / "class", solutions):
        subprocess.run(["chmod", "-R", "o-rwx", str(folder)], check=True)
    try:
        closed = place.run("-c", script)
    finally:
        for folder in (place.root / "class", solutions):
            subprocess.run(["chmod", "-R", "o+rX", str(folder)], check=True)
    assert "as the user nobody" in closed.stdout, closed
    assert "can't read or write the solutions" in closed.stdout


@pytest.mark.timeout(300)
def test_an_answer_runs_as_the_user_and_sees_nothing(place: Place) -> None:
    for folder in (place.root / "class", place.root / "lab" / "solutions"):
        subprocess.run(["chmod", "-R", "o-rwx", str(folder)], check=True)
    done = place.grade("--user", USER, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    (student,) = json.loads((place.root / "out" / "results.json").read_text(encoding="utf-8"))["students"]
    (answer,) = student["answers"]
    saw = "saw ['PermissionError', 'PermissionError']"
    assert answer["output"].startswith(f"user {pwd.getpwnam(USER).pw_uid} groups [] {saw}"), answer["output"]
    assert answer["verdict"] == "solved", answer["reason"]
    assert list((place.root / "tmp").iterdir()) == []


def test_another_user_needs_root(place: Place) -> None:
    script = f"import os; os.setuid({pwd.getpwnam(USER).pw_uid}); from labserver.school.walls import look_through\n"
    done = place.run("-c", script + "look_through([], user='daemon')")
    assert "--user needs root" in done.stderr
