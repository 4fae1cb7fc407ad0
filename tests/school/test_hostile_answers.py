"""Answers that mean harm, accidentally or not: each gets a verdict with a reason, no other is harmed, nothing is left.

All of them are one class and are graded in one run, by the command that an instructor types. What walls hold is part of
what is tested: Landlock where the kernel has it, `--user` where a test may be root.
"""

import csv
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classroom as room
import pytest

from labserver import posix
from labserver.school.catalogue import CHECKS, ROOT, exercise
from labserver.school.walls import look_through
from labserver.settings import get_settings

MARK = f"hostile-{os.getpid()}"
CHECK_FILE = exercise(room.ID).check_file
HIDDEN = ROOT / "solutions" / "hidden" / f"{room.ID}.py"

FORK_BOMB = """
import os, time
for _ in range(12):
    os.fork()
time.sleep(600)
"""
MEMORY_HOG = """
hoard = []
while True:
    hoard.append(bytearray(32 << 20))
    hoard[-1][::4096] = b"x" * (8 << 10)
"""
ENDLESS_PRINTER = """
while True:
    print("x" * 100_000)
"""
SOCKET_HOARDER = """
import socket
kept = []
for _ in range(1200):
    kept.append(socket.socket())
"""
DISK_FILLER = """
n = 0
while True:
    with open(f"file{n}", "wb") as file:
        file.write(bytes(32 << 20))
    n += 1
"""
READER = f"""
found = []
for path in ({str(HIDDEN)!r}, {str(exercise(room.ID).solution)!r}):
    try:
        found.append(open(path).read(1))
    except OSError as error:
        found.append(type(error).__name__)
print("read:", found)
"""
PARENT_KILLER = f"""
import os, signal, sys
told = []
for pid in (os.getppid(), {os.getpid()}):
    try:
        os.kill(pid, signal.SIGKILL)
        told.append("killed")
    except OSError as error:
        told.append(type(error).__name__)
print("signals:", told)
"""
NEVER_BINDS = """
import time
time.sleep(600)
"""
GARBAGE = """
import random
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    noise = random.Random(1).randbytes(200)
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": noise})
        await send({"type": "websocket.close", "code": 4999})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": noise})
"""
PATCHER = f"""
import labserver.school.checking, labserver.school.verdicts, labserver.school.run, pytest
labserver.school.checking.Failed.__init__ = lambda *_: None
labserver.school.run.run_checks = lambda *_, **__: None
pytest.main = lambda *_: 0
try:
    with open({str(CHECK_FILE)!r}, "a") as file:
        file.write("raise SystemExit\\n")
    print("patched")
except OSError as error:
    print("refused:", type(error).__name__)
"""
LEAVES_PROCESSES = f"""
import subprocess, sys
for _ in range(3):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {MARK!r}], start_new_session=True)
"""
NEVER_AWAITED = """
async def forgotten():
    pass

forgotten()
"""
LONG_CLOSE = """
import atexit, time
atexit.register(time.sleep, 600)
"""


def with_two_answers() -> dict[str, Any]:
    """The exercise with two answer cells, each worked on."""
    made = room.notebook(room.RIGHT)
    cell = next(cell for cell in made["cells"] if "answer" in cell["metadata"].get("tags", []))
    made["cells"].append({**cell, "id": "second", "source": room.RIGHT + "\nother = 1\n"})
    return made


@dataclass
class Class:
    """The graded class: what the command said, what it wrote, how long it took (seconds)."""

    data: dict[str, Any]
    out: Path
    console: str
    temp: Path
    seconds: float

    def answer(self, student: str) -> dict[str, Any]:
        (found,) = [item for item in self.data["students"] if item["student"] == student]
        return next(answer for answer in found["answers"] if answer["source"])


ANSWERS: dict[str, Any] = {
    "fork bomb": room.notebook(FORK_BOMB),
    "memory hog": room.notebook(MEMORY_HOG),
    "endless printer": room.notebook(ENDLESS_PRINTER),
    "socket hoarder": room.notebook(SOCKET_HOARDER),
    "disk filler": room.notebook(DISK_FILLER),
    "reader": room.notebook(READER + room.RIGHT),
    "parent killer": room.notebook(PARENT_KILLER + room.RIGHT),
    "never binds": room.notebook(NEVER_BINDS),
    "garbage": room.notebook(GARBAGE),
    "patcher": room.notebook(PATCHER + (room.WRONG / "tutorial_loop.py").read_text(encoding="utf-8")),
    "leaves processes": room.notebook(LEAVES_PROCESSES + room.RIGHT),
    "never awaited": room.notebook(NEVER_AWAITED + room.RIGHT),
    "long close": room.notebook(LONG_CLOSE + room.RIGHT),
    "no notebook": b"%PDF-1.7 my answer",
    "two answers": with_two_answers(),
    "utf-16": json.dumps(room.notebook(room.RIGHT)).encode("utf-16"),
    "right": room.notebook(room.RIGHT),
    "Müller, Jörg; =1+1": room.notebook(room.RIGHT),
}
SLASHED = "last%2Ffirst\\u002fx,y"


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Class:
    folder, out, temp = (tmp_path_factory.mktemp(name) for name in ("class", "results", "temp"))
    for student, content in ANSWERS.items():
        room.hand_in(folder, f"{student}/01.ipynb", content)
    room.hand_in(folder, f"{SLASHED}__01.ipynb", room.notebook(room.RIGHT))
    began = time.monotonic()
    environment = {
        **os.environ,
        "TMPDIR": str(temp),
        "LABSERVER_ANSWER_START_TIMEOUT": "20",
        "LABSERVER_ANSWER_MEMORY_BYTES": str(400 << 20),
        "LABSERVER_ANSWER_TASKS": "60",
    }
    done = subprocess.run(
        [sys.executable, "-m", "labserver", "grade", str(folder), "--out", str(out), "--jobs", "3"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return Class(data, out, done.stdout, temp, time.monotonic() - began)


@pytest.mark.timeout(660)
@pytest.mark.parametrize(
    ("student", "verdict", "reason"),
    [
        ("fork bomb", "crashed", "more than 60 processes and threads"),
        ("memory hog", "crashed", "more than 400 MiB of memory|MemoryError"),
        ("endless printer", "timed out", "did not serve within 20 s"),
        ("socket hoarder", "crashed", "Too many open files"),
        ("disk filler", "crashed", "wrote more than 256 MiB or 20000 files"),
        ("never binds", "timed out", "did not serve within 20 s"),
        ("garbage", "wrong", ""),
        ("patcher", "partial", ""),
        ("no notebook", "no answer", "not UTF-8|not a notebook"),
        ("two answers", "no answer", "2 answers in 01.ipynb, and it takes 1"),
        ("utf-16", "no answer", "not UTF-8 text: save the notebook in JupyterLab"),
        ("reader", "solved", ""),
        ("parent killer", "solved", ""),
        ("leaves processes", "solved", ""),
        ("never awaited", "solved", ""),
        ("long close", "solved", ""),
        ("right", "solved", ""),
        ("Müller, Jörg; =1+1", "solved", ""),
        (SLASHED, "solved", ""),
    ],
)
def test_each_gets_its_verdict_with_a_reason(graded: Class, student: str, verdict: str, reason: str) -> None:
    answer = graded.answer(student)
    assert re.fullmatch(verdict, answer["verdict"]), answer
    assert re.search(reason, answer["reason"]), answer["reason"]


@pytest.mark.timeout(660)
def test_each_ends_in_time(graded: Class) -> None:
    chosen = get_settings()
    for item in graded.data["students"]:
        assert item["answers"][0]["seconds"] < 20 + chosen.checks_timeout + 30, item["student"]


@pytest.mark.timeout(660)
def test_no_process_and_no_file_of_them_is_left(graded: Class) -> None:
    assert list(graded.temp.iterdir()) == []
    lines = []
    for process in posix.processes():
        if process.state != "Z":
            try:
                lines.append(Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace"))
            except OSError:
                continue
    assert [line for line in lines if MARK in line] == []
    assert [line for line in lines if str(graded.temp) in line] == []


@pytest.mark.timeout(660)
def test_every_name_has_one_row_for_each_check_and_a_page(graded: Class) -> None:
    with (graded.out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["student"] for row in rows} >= {"Müller, Jörg; =1+1", SLASHED}
    for item in graded.data["students"]:
        page = graded.out / item["page"]
        assert page.parent == graded.out / "students"
        assert page.exists()


@pytest.mark.timeout(660)
def test_what_landlock_forbids_did_not_happen(graded: Class) -> None:
    if not posix.landlock_abi():
        assert "puts no wall around files" in graded.console
        pytest.skip("this kernel has no Landlock: the command says so, which was checked")
    assert "can't read or write the solutions, the submissions and the results" in graded.console
    assert "read: ['PermissionError', 'PermissionError']" in graded.answer("reader")["output"]
    assert "refused: PermissionError" in graded.answer("patcher")["output"]
    assert "raise SystemExit" not in CHECK_FILE.read_text(encoding="utf-8").splitlines()
    if posix.landlock_abi() >= 6:
        assert "killed" not in graded.answer("parent killer")["output"]


def test_the_walls_are_tried_and_told() -> None:
    walls = look_through([CHECKS])
    if posix.landlock_abi():
        # the package may be read, as an answer imports it; it may not be written to
        assert walls.writable == ()
        assert [path for path in walls.readable if "solutions" in path] == []
    else:
        assert "puts no wall around files" in walls.sentence
