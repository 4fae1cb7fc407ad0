"""A class with every kind of answer: each gets its verdict and its reason, no other is harmed, nothing is left."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import classroom as room
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from labserver import posix
from labserver.errors import LabError
from labserver.school import grade as grading
from labserver.school import judge as judging
from labserver.school import report
from labserver.school.catalogue import exercise
from labserver.school.submissions import Submission
from labserver.settings import get_settings

MARK = f"grade-test-{os.getpid()}"
OUTLIVE = f"""
import subprocess, sys
for _ in range(3):
    command = [sys.executable, "-c", "import time; time.sleep(600)", {MARK!r}]
    subprocess.Popen(command, start_new_session=True)
for _ in range(50):
    print("x" * 100_000)
"""


@dataclass
class Graded:
    """One graded class, for all tests that only look."""

    data: dict[str, Any]
    out: Path
    console: str
    temp: Path

    def answer(self, student: str) -> dict[str, Any]:
        (found,) = [item for item in self.data["students"] if item["student"] == student]
        return next(answer for answer in found["answers"] if answer["source"])


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Graded:
    folder, out = tmp_path_factory.mktemp("class"), tmp_path_factory.mktemp("results")
    hand_in, notebook = room.hand_in, room.notebook
    hand_in(folder, "right/01.ipynb", notebook(room.RIGHT))
    hand_in(folder, "wrong/hw/01.ipynb", notebook((room.WRONG / "tutorial_loop.py").read_text(encoding="utf-8")))
    hand_in(folder, "crashing__01.ipynb", notebook(room.RIGHT + "\nundefined_name\n"))
    hand_in(folder, "hanging/01.ipynb", notebook(room.RIGHT + "\nwhile True: pass\n"))
    hand_in(folder, "blocking/01.ipynb", notebook(room.in_handler("while True: pass")))
    hand_in(folder, "exiting/01.ipynb", notebook("import os\nos._exit(3)"))
    hand_in(folder, "dying/01.ipynb", notebook(room.in_handler("import os; os._exit(4)")))
    hand_in(folder, "empty/01.ipynb", room.starter())
    hand_in(folder, "lost/01.ipynb", room.without_answer_cell())
    hand_in(folder, "word/01.ipynb", b"PK\x03\x04 this is no notebook")
    hand_in(folder, "loud/01.ipynb", notebook(OUTLIVE + room.RIGHT))
    hand_in(folder, "right/.ipynb_checkpoints/01-checkpoint.ipynb", "junk")
    hand_in(folder, ".DS_Store", "junk")
    (folder / "absent").mkdir()
    with pytest.MonkeyPatch.context() as patch, (out / "console.txt").open("w") as file:
        patch.setenv("ANTHROPIC_API_KEY", "sk-secret")
        temp = tmp_path_factory.mktemp("temp")
        patch.setattr(tempfile, "tempdir", str(temp))
        marks = grading.grade_folder(folder, out, jobs=2, seed=1, console=Console(file=file, width=200))
    report.write(marks, out)
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    return Graded(data, out, (out / "console.txt").read_text(), temp)


@pytest.mark.parametrize(
    ("student", "verdict", "points", "reason"),
    [
        ("right", "solved", 100, r"^$"),
        ("wrong", "partial", 40, r"^$"),
        ("crashing", "crashed", 0, r"NameError: name 'undefined_name' is not defined \(line \d+: undefined_name\)"),
        ("hanging", "timed out", 0, f"did not serve within {get_settings().answer_start_timeout:g} s"),
        ("blocking", "wrong", 0, "no longer answers anything"),
        ("exiting", "crashed", 0, "ended by itself with exit code 3 before it served"),
        ("dying", "crashed", 0, "ended by itself with exit code 4 during the checks"),
        ("empty", "not attempted", 0, "still the starter"),
        ("lost", "no answer", 0, "exercises reset 01"),
        ("word", "no answer", 0, "not a notebook|not UTF-8"),
        ("loud", "solved", 100, r"^$"),
    ],
)
def test_each_answer_gets_its_verdict_and_reason(
    graded: Graded, student: str, verdict: str, points: int, reason: str
) -> None:
    answer = graded.answer(student)
    assert (answer["verdict"], answer["points"]) == (verdict, points), answer["reason"]
    assert re.search(reason, answer["reason"])


def test_a_student_without_a_file_is_listed(graded: Graded) -> None:
    (absent,) = [item for item in graded.data["students"] if item["student"] == "absent"]
    assert [answer["verdict"] for answer in absent["answers"]] == ["not handed in"]


def test_known_wrong_answers_are_named_and_no_others(graded: Graded) -> None:
    assert graded.answer("wrong")["misconception"] == "tutorial_loop"
    assert {graded.answer(student)["misconception"] for student in ("right", "dying", "blocking", "exiting")} == {""}


def test_what_an_answer_printed_and_left_is_told(graded: Graded) -> None:
    notes = " ".join(graded.answer("loud")["notes"])
    assert "left 3 processes running" in notes
    assert "the middle was dropped" in notes
    assert len(graded.answer("loud")["output"]) < 5000


def test_no_process_and_no_file_is_left(graded: Graded) -> None:
    _wait_for(lambda: not [line for line in _commands() if MARK in line or str(graded.temp) in line], 5)
    assert list(graded.temp.iterdir()) == []


def _commands() -> list[str]:
    """The command lines of all processes of this host but this one."""
    found = []
    for process in posix.processes():
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_text(errors="replace")
        except OSError:
            continue
        if process.pid != os.getpid() and process.state != "Z":
            found.append(line)
    return found


def test_the_csv_has_a_row_for_each_check(graded: Graded) -> None:
    rows = list(csv.DictReader((graded.out / "results.csv").read_text(encoding="utf-8").splitlines()))
    checks = [check.name for check in exercise(room.ID).checks]
    for student in ("right", "crashing", "empty", "lost", "absent"):
        assert [row["check"] for row in rows if row["student"] == student] == checks
    assert {row["verdict"] for row in rows if row["student"] == "empty"} == {"not attempted"}
    assert sum(int(row["points"]) for row in rows) == 240


def test_each_failure_of_a_student_has_its_picture(graded: Graded) -> None:
    page = (graded.out / "students" / "wrong.html").read_text(encoding="utf-8")
    failed = [check for check in graded.answer("wrong")["checks"] if check["verdict"] != "passed"]
    assert page.count("data:image/svg+xml;base64,") == len(failed) == 5


def test_no_page_shows_the_source_of_a_check_or_a_path_of_this_machine(graded: Graded) -> None:
    hidden = [line.strip() for line in exercise(room.ID).check_file.read_text(encoding="utf-8").splitlines()]
    code = [line for line in hidden if re.match(r"(async )?(def|with|for)|await |raise |return |assert ", line)]
    assert len(code) > 20
    for path in graded.out.rglob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not [line for line in code if line in text]
        assert "labserver-answer-" not in text
        assert "sk-secret" not in text
        assert str(Path(__file__).parents[2]) not in text


def test_without_a_terminal_there_is_a_line_per_answer(graded: Graded) -> None:
    said, *lines = graded.console.splitlines()
    assert said.startswith("Each answer runs with a bare environment, limits and a deadline")
    assert len(lines) == 11
    assert [line.partition("]")[0] for line in lines] == [f"[{n}/11" for n in range(1, 12)]
    assert any("right, 01_websocket_basics: solved, 100 points" in line for line in lines)


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(force_terminal=True, width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    with grading._progress(console, 2) as tell:
        tell(judging._refused(Submission("ann", "ann/[x].ipynb", Path("x")), "", "no answer", "Lost."))
    console.file.close()
    assert "grading" in console.export_text()


def one(folder: Path, answer: str, *, seed: int = 1) -> Any:
    path = room.hand_in(folder, "ann/01.ipynb", room.notebook(answer))
    return judging.judge(Submission("ann", "ann/01.ipynb", path), seed=seed)


def test_the_same_seed_gives_the_same_marks_and_payloads(tmp_path: Path) -> None:
    source = (room.WRONG / "tutorial_loop.py").read_text(encoding="utf-8")
    first, again = (one(tmp_path, source, seed=5).report for _ in range(2))

    def told(found: Any) -> list[tuple[str, ...]]:
        return [(check.name, check.verdict, check.expected, check.tape_text) for check in found.checks]

    assert told(first) == told(again)
    assert first.seed == 5


ONCE = """
messages = iter(range(1000))
whole = added
def added(text):
    return whole(text) + (next(messages) == 0)
"""


def test_an_answer_that_fails_once_is_called_unstable(tmp_path: Path) -> None:
    report = one(tmp_path, room.RIGHT + ONCE).report
    assert report.verdict == "unstable", report
    assert {check.verdict for check in report.checks} == {"passed", "unstable"}
    assert report.points == sum(check.points for check in report.checks if check.passed)
    assert report.misconception == ""


def test_the_same_folder_twice_has_the_same_marks_and_resume_judges_only_what_is_new(tmp_path: Path) -> None:
    for name in ("tutorial_loop", "no_cleanup"):
        source = (room.WRONG / f"{name}.py").read_text(encoding="utf-8")
        room.hand_in(tmp_path, f"class/{name}/01.ipynb", room.notebook(source))
    room.hand_in(tmp_path, "class/right/01.ipynb", room.notebook(room.RIGHT))

    def run(out: str, *, resume: bool = False) -> tuple[list[Any], str]:
        with (tmp_path / "said.txt").open("w") as file:
            console = Console(file=file, width=200)
            marks = grading.grade_folder(
                tmp_path / "class", tmp_path / out, jobs=2, seed=3, console=console, resume=resume
            )
        told = [
            (graded.student, graded.report.verdict, graded.report.points, sorted(graded.report.failed))
            for graded in marks.graded
        ]
        return told, (tmp_path / "said.txt").read_text()

    first, _ = run("one")
    assert run("two")[0] == first
    kept = (tmp_path / "one" / "graded.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(kept) == 3
    (tmp_path / "one" / "graded.jsonl").write_text("\n".join([*kept[:2], kept[2][:100]]), encoding="utf-8")
    room.hand_in(tmp_path, "class/late/01.ipynb", room.starter())
    again, said = run("one", resume=True)
    assert "2 of 4 answers are known already" in said
    assert [told for told in again if told[0] != "late"] == first
    room.hand_in(tmp_path, "class/late/01.ipynb", room.notebook("changed = 1"))
    assert "3 of 4 answers are known already" in run("one", resume=True)[1]


@pytest.mark.parametrize(
    ("announced", "reason"),
    [('{"port": "x"}', "ended by itself"), ("[" * 2000, "ended by itself"), ('{"port": 70000}', "ended by itself")],
)
def test_an_answer_that_forges_its_announcement_has_crashed(tmp_path: Path, announced: str, reason: str) -> None:
    graded = one(tmp_path, f"import os\nopen('announce.json', 'w').write({announced!r})\nos._exit(0)")
    assert graded.report.verdict == "crashed"
    assert reason in graded.report.reason


@pytest.mark.parametrize(
    ("variables", "source", "reason"),
    [
        ({"ANSWER_START_TIMEOUT": "1"}, "while True: pass", "did not serve within 1 s"),
        (
            {"ANSWER_TASKS": "20"},
            "import os, time\nfor _ in range(6): os.fork()\ntime.sleep(60)",
            "more than 20 processes and threads before it served",
        ),
        ({"ANSWER_MEMORY_BYTES": str(100 << 20)}, "import time\nx = b'x' * (115 << 20)\ntime.sleep(60)", "100 MiB"),
    ],
)
def test_limits_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], source: str, reason: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"LABSERVER_{name}", value)
    get_settings.cache_clear()
    try:
        assert reason in one(tmp_path, source).report.reason
    finally:
        get_settings.cache_clear()


def test_a_setting_that_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    room.hand_in(tmp_path, "class/ann/01.ipynb", room.starter())
    done = subprocess.run(
        command(str(tmp_path / "class"), "--out", str(tmp_path / "out")),
        env={**os.environ, "LABSERVER_CHECKS_TIMEOUT": "long"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "LABSERVER_CHECKS_TIMEOUT" in done.stderr


def test_a_fault_of_ours_is_no_fault_of_the_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("disc full")

    monkeypatch.setattr(judging, "run_checks", broken)
    graded = one(tmp_path, room.RIGHT)
    assert graded.report.verdict == "not checked"
    assert "RuntimeError: disc full" in graded.report.reason


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["missing"], "There is no folder"),
        (["empty"], "no submissions in"),
        (["class", "--jobs", "0"], "--jobs is the number of answers at once: 1 or more"),
        (["class", "--jobs", "-3"], "--jobs is the number of answers at once: 1 or more"),
        (["class", "--out", "class/ann/01.ipynb/out"], "choose another --out"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    room.hand_in(tmp_path / "class", "ann/01.ipynb", room.starter())
    app = typer.Typer()
    app.command()(grading.grade)
    result = CliRunner().invoke(app, arguments if "--out" in arguments else [*arguments, "--out", "out"])
    assert isinstance(result.exception, LabError)
    assert sentence in str(result.exception)
    assert "\n" not in str(result.exception)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "labserver", "grade", *arguments]


def test_the_command_exits_with_2_on_bad_input(tmp_path: Path) -> None:
    done = subprocess.run(
        command(str(tmp_path / "no"), "--out", str(tmp_path / "out")), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "There is no folder" in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_command_grades_and_its_help_says_what_the_sandbox_is_not(tmp_path: Path) -> None:
    room.hand_in(tmp_path, "class/ann/01.ipynb", room.starter())
    out = tmp_path / "out"
    done = subprocess.run(
        command(str(tmp_path / "class"), "--out", str(out)), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "not attempted" in done.stdout
    assert (out / "index.html").exists()
    told = subprocess.run(
        command("--help"), capture_output=True, text=True, timeout=60, env={**os.environ, "COLUMNS": "100"}
    )
    words = re.sub(r"[\s│]+", " ", told.stdout)
    assert "elsewhere it can read every file that you can read" in words
    assert "not an attacker: grade strangers in a container" in words


def test_an_interrupt_ends_all_and_keeps_what_is_graded(tmp_path: Path) -> None:
    for name in "abc":
        source = OUTLIVE.replace(MARK, f"{MARK}-interrupt") + "while True: pass"
        room.hand_in(tmp_path, f"class/{name}/01.ipynb", room.notebook(source))
    temp, out = tmp_path / "temp", tmp_path / "out"
    temp.mkdir()
    process = subprocess.Popen(
        command(str(tmp_path / "class"), "--out", str(out), "--jobs", "2"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temp)},
        start_new_session=True,
    )

    def outliving() -> bool:
        return any(f"{MARK}-interrupt" in line for line in _commands())

    _wait_for(outliving, 90)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "Stopped. What was graded is kept: the same command with --resume goes on.\n"
    assert list(temp.iterdir()) == []
    assert not (out / "results.json").exists()
    _wait_for(lambda: not outliving(), 5)


def _wait_for(condition: Callable[[], bool], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.02)
