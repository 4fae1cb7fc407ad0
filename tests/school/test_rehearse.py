"""A rehearsal with real kernels: what it measures, how it ends, and that nothing of it stays, whatever ends it."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import nbformat
import psutil
import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from labserver import posix
from labserver.errors import LabError
from labserver.school.catalogue import ROOT
from labserver.school.rehearse import command, host, view
from labserver.school.rehearse.findings import Findings, Host, Outcome, Step
from labserver.school.rehearse.kernel import MARK, end_marked, environment
from labserver.school.rehearse.plan import Plan, find_notebook, make_plan
from labserver.school.rehearse.record import to_json
from labserver.school.rehearse.room import Room, rehearse

ID = "05_server_sent_events"
OUTLIVE = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
"""
HANG = OUTLIVE + "open(__import__('os').environ['TMPDIR'] + '/hangs', 'w').close()\ntime.sleep(600)"


def notebook(folder: Path, *cells: str, tags: tuple[str, ...] = ()) -> Path:
    """Write a notebook of these code cells, called c0, c1, ...; the last one has the tags."""
    made = nbformat.v4.new_notebook()
    made.cells = [nbformat.v4.new_code_cell(source, id=f"c{n}") for n, source in enumerate(cells)]
    made.cells[-1].metadata["tags"] = list(tags)
    path = folder / "tiny.ipynb"
    path.write_text(nbformat.writes(made), encoding="utf-8")
    return path


def plan_of(path: Path, people: int, exercise: str | None = None) -> Plan:
    made = make_plan(people, str(path), exercise, pause=0.05, minutes=2, keep_free=0)
    return replace(made, window=0.5)


def wait_for(condition: Callable[[], object], timeout: float = 30.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.05)


@dataclass
class Watched:
    """A rehearsal that is over: what it found, what was told meanwhile, and what it left."""

    found: Findings
    told: list[str]
    left: list[str]


def run(plan: Plan, meanwhile: Callable[[Room], None] = lambda room: None) -> Watched:
    told: list[str] = []

    def tell(room: Room) -> None:
        told.append(view.progress(room))
        meanwhile(room)

    before = set(Path(tempfile.gettempdir()).iterdir())
    found = rehearse(plan, tell)
    kin = [child for child in psutil.Process().children(recursive=True) if MARK in child.environ()]
    left = {path for path in Path(tempfile.gettempdir()).iterdir() if path.name.startswith("labserver-")} - before
    return Watched(found, told, [*map(str, left), *map(str, kin), *map(str, marked())])


def marked() -> list[int]:
    return [process.pid for process in psutil.process_iter() if _bears_a_mark(process)]


def _bears_a_mark(process: psutil.Process) -> bool:
    try:  # other rehearsals may run beside this one
        own = process.environ()
    except (psutil.Error, OSError):
        return False
    return MARK in own and own["TMPDIR"].startswith(tempfile.gettempdir())


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    cells = ("import time; print('x' * 10)", "time.sleep(0.5)", "1 / 0")
    path = notebook(tmp_path_factory.mktemp("notebook"), *cells, tags=("raises-exception",))
    return run(plan_of(path, 2, "05"))


def test_two_people_come_through_and_every_verdict_is_the_expected_one(watched: Watched) -> None:
    assert [(person.state, person.verdict) for person in watched.found.people] == [("done", "solved")] * 2
    assert watched.found.fits
    assert watched.told[-1].startswith("2 came, 2 through; memory: ")
    assert watched.left == []


def test_what_is_measured_is_plausible(watched: Watched) -> None:
    found = watched.found
    assert found.peak >= max(person.peak for person in found.people) > 20 << 20
    assert sum(person.peak for person in found.people) >= found.peak
    assert found.carries is not None
    assert found.carries > 0
    assert 0 < found.busy <= 100
    for person in found.people:
        assert 0.5 < person.cpu < found.took * found.host.cores
        assert [step.cell for step in person.steps[:5]] == ["", "c0", "c1", "c2", ""]
        seconds = {(step.lesson, step.cell): step.seconds for step in person.steps}
        assert seconds["notebook tiny", "c1"] >= 0.5
        assert 0 < person.checks_seconds < seconds["exercise 05", "check"]
        assert sum(seconds.values()) < found.took


def test_steps_say_half_worst_and_who(watched: Watched) -> None:
    rows = {row.what: row for row in watched.found.steps()}
    names = ("a kernel starts", "notebook tiny, all", "notebook tiny, cell c", "exercise 05, all", "exercise 05, cell")
    assert [what.startswith(name) for what, name in zip(rows, names, strict=False)] == [True] * 5
    assert list(rows)[5:] == ["of that, the checks themselves"]
    assert all(0 < row.half <= row.worst and row.who in (1, 2) for row in rows.values())


def test_the_json_holds_it_all(watched: Watched) -> None:
    data = json.loads(json.dumps(to_json(watched.found)))
    assert (data["schema"], data["fits"], data["stopped"]) == ("labserver.rehearsal/1", True, "")
    assert data["plan"]["exercise"] == "exercise 05"
    assert [person["verdict"] for person in data["people"]] == ["solved", "solved"]


def test_a_kernel_that_dies_and_a_cell_that_raises_cost_that_person_only(tmp_path: Path) -> None:
    kill = 'import os; home = os.environ["LABSERVER_HOME"]; "/02/" in home and os.kill(os.getpid(), 9)'
    path = notebook(tmp_path, kill, 'assert "/03/" not in home, "too slow"', OUTLIVE)
    seen = run(plan_of(path, 3))
    died, raised = seen.found.people[1:]
    assert [person.state for person in seen.found.people] == ["done", "failed", "failed"]
    assert "its kernel was killed or died (signal 9)" in died.problem
    assert raised.problem == "cell c1 raised AssertionError: too slow"
    assert not seen.found.fits
    assert seen.found.stopped == ""
    assert "3 people do not fit: 2 of them did not come through" in view.sentence(seen.found)
    assert seen.left == []


def test_a_person_whose_kernel_is_killed_from_outside_is_not_waited_for(tmp_path: Path) -> None:
    def kill(room: Room) -> None:
        if list(tmp_path.glob("ready")):
            for pid in room.people[0].kernels:
                posix.kill(pid)

    seen = run(plan_of(notebook(tmp_path, "open('ready', 'w').close()", HANG), 1), kill)
    assert seen.found.people[0].state == "failed"
    assert seen.left == []


def test_it_stops_before_memory_is_full(tmp_path: Path) -> None:
    plan = replace(plan_of(notebook(tmp_path, HANG), 3), keep_free=1 << 50, window=600)
    seen = run(plan)
    assert (seen.found.stopped, seen.found.came) == ("memory", 1)
    assert [person.state for person in seen.found.people] == ["unfinished", "not come", "not come"]
    assert view.sentence(seen.found).startswith("This host carries about 0: memory is full at 1 of 3 people")
    assert seen.left == []


@pytest.mark.parametrize("seconds", [0.3, 5.0])  # while the kernel starts, and while its cell hangs
def test_it_stops_at_its_deadline_and_leaves_nothing(tmp_path: Path, seconds: float) -> None:
    seen = run(replace(plan_of(notebook(tmp_path, HANG), 1), seconds=seconds))
    assert (seen.found.stopped, seen.found.people[0].state) == ("deadline", "unfinished")
    assert seen.found.took >= seconds
    assert "1 were not through" in view.sentence(seen.found)
    assert seen.left == []


def test_a_verdict_that_is_not_the_expected_one_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "notebooks").mkdir()
    path = notebook(tmp_path / "notebooks", "1")
    plan = make_plan(1, str(path), "05", pause=0, minutes=2, keep_free=0, root=tmp_path)
    assert plan.expected == "not attempted", "a participants' copy has no solutions"
    seen = run(replace(plan, expected="solved"))
    assert seen.found.people[0].problem == "the verdict was 'not attempted' and not 'solved'"
    assert not seen.found.fits


def labserver(*arguments: str, temp: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "labserver", "rehearse", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temp)},
        start_new_session=True,
    )


@pytest.fixture
def temp(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, short enough for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="t-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(tmp_path: Path, temp: Path, number: signal.Signals) -> None:
    process = labserver("--people", "2", "--notebook", str(notebook(tmp_path, HANG)), temp=temp)
    wait_for(lambda: len(list(temp.glob("labserver-rehearsal-*/0?/tmp/hangs"))) == 2, 60)
    process.send_signal(number)
    _, errors = process.communicate(timeout=40)
    assert (process.returncode, errors) == (130, "Stopped; every kernel is ended, nothing is left.\n")
    assert list(temp.iterdir()) == []
    assert marked() == []


def test_the_command_says_whether_it_fits_by_its_exit_code(tmp_path: Path, temp: Path) -> None:
    path, out = notebook(tmp_path, "raise OSError('no disc')"), tmp_path / "found.json"
    process = labserver("--people", "1", "--notebook", str(path), "--json", str(out), temp=temp)
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (1, "")
    assert "Person 1: cell c0 raised OSError: no disc." in said
    assert "Not simulated: browsers" in said
    assert json.loads(out.read_text())["people"][0]["state"] == "failed"
    assert list(temp.iterdir()) == []


def invoke(*arguments: str) -> str:
    app = typer.Typer()
    app.command()(command.rehearse)
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, LabError), result.output
    return str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--people", "0"], "--people takes 1 or more, not 0."),
        (["--people", "-3"], "--people takes 1 or more, not -3."),
        (["--minutes", "0"], "--minutes takes more than 0, not 0."),
        (["--minutes", "nan"], "--minutes takes more than 0, not nan."),
        (["--pause", "-1"], "--pause takes 0 or more, not -1."),
        (["--keep-free", "-1"], "--keep-free takes 0 or more"),
        (["--notebook", "99"], "There is no notebook '99': choose one of 00, 01"),
        (["--notebook", "no/such.ipynb"], "There is no notebook 'no/such.ipynb'"),
        (["--exercise", "99"], "There is no exercise '99'"),
        (["--json", "no/such/folder/x.json"], "--json can't be written to no/such/folder/x.json: No such file"),
    ],
)
def test_a_wrong_argument_is_one_sentence(arguments: list[str], sentence: str) -> None:
    said = invoke(*arguments)
    assert said.startswith(sentence)
    assert "\n" not in said


def test_without_ipykernel_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = command.importlib.util.find_spec
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None if name == "ipykernel" else real(name))
    assert invoke() == 'ipykernel is not installed here: run `pip install -e ".[lab,test]"`.'


def test_a_notebook_is_found_by_number_name_and_path(tmp_path: Path) -> None:
    lesson = ROOT / "notebooks" / f"{ID}.ipynb"
    assert {find_notebook(name) for name in ("05", "5", ID, f"{ID}.ipynb")} == {lesson}
    made = make_plan(3, "05", None, pause=1, minutes=1, keep_free=0)
    assert (made.notebook.name, made.exercise.name if made.exercise else "") == ("notebook 05", "exercise 05")
    assert make_plan(1, "00", None, pause=1, minutes=1, keep_free=0).exercise is None
    with pytest.raises(LabError, match="has no code cell"):
        make_plan(1, str(_empty(tmp_path)), None, pause=1, minutes=1, keep_free=0)


def _empty(folder: Path) -> Path:
    path = folder / "empty.ipynb"
    path.write_text(nbformat.writes(nbformat.v4.new_notebook()), encoding="utf-8")
    return path


def test_each_person_has_a_place_and_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABSERVER_ROOM", "http://127.0.0.1:1/#key")
    one, two = (environment(tmp_path / name, f"rehearsal {name}", "mark") for name in ("01", "02"))
    own = ("LABSERVER_HOME", "LABSERVER_NAME", "IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "TMPDIR")
    assert [name for name in own if one[name] == two[name]] == []
    assert one["LABSERVER_ROOM"] == "http://127.0.0.1:1/#key"
    assert one["LABSERVER_LLM"] == "fake"


def test_what_bears_the_mark_is_ended_and_nothing_else() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    ours, other = (subprocess.Popen(sleep, env={**os.environ, MARK: f"{os.getpid()}-{name}"}) for name in "ab")
    try:
        wait_for(lambda: psutil.Process(ours.pid).environ().get(MARK) == f"{os.getpid()}-a")
        assert end_marked(f"{os.getpid()}-a") == 1
        assert ours.wait(10) is not None
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_the_limit_of_a_control_group_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "user.slice" / "hub"
    own.mkdir(parents=True)
    for folder, limit in ((own, "max"), (own.parent, str(1 << 20))):
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{1 << 19}\n")
        (folder / "memory.stat").write_text(f"anon 5\ninactive_file {1 << 18}\n")
    (tmp_path / "mine").write_text("4:memory:/\n0::/user.slice/hub\n")
    monkeypatch.setattr(host, "_GROUPS", tmp_path)
    monkeypatch.setattr(host, "_MINE", tmp_path / "mine")
    assert host.memory_total() == 1 << 20
    assert host.memory_free() == (1 << 20) - (1 << 19) + (1 << 18)
    monkeypatch.setattr(host, "_MINE", tmp_path / "none")
    assert host.memory_total() == psutil.virtual_memory().total


GIB = 1 << 30


def findings(people: list[Outcome], stopped: str = "", *, busy: float = 50.0) -> Findings:
    plan = make_plan(len(people), "05", None, pause=1, minutes=10, keep_free=GIB)
    return Findings(plan, Host(2, 8 * GIB, 5 * GIB, "pss"), tuple(people), stopped, 60.0, 2 * GIB, busy)  # type: ignore[arg-type]


def outcome(number: int, state: str, seconds: float = 1.0) -> Outcome:
    steps = [Step("notebook 05", "", seconds / 2), Step("notebook 05", "crash", seconds)]
    return Outcome(number, state, peak=GIB // 2, cpu=10.0, steps=steps if state != "not come" else [])  # type: ignore[arg-type]


def test_a_room_that_fits_is_told_in_a_sentence() -> None:
    found = findings([outcome(n, "done") for n in (1, 2, 3)])
    assert found.carries == 8
    assert view.sentence(found) == (
        "3 people fit: all come through and every verdict is the expected one; the slowest step is notebook 05, cell "
        "crash, half of them wait 1 s or more. Its memory would carry about 8."
    )


def test_full_memory_is_told_with_how_many_it_carries() -> None:
    people = [*(outcome(n, "done") for n in range(1, 6)), outcome(6, "unfinished"), outcome(7, "not come")]
    assert view.sentence(findings(people, "memory")).startswith(
        "This host carries about 5: memory is full at 6 of 7 people (less than 1.0 GiB free); tell people to "
    )


def test_a_deadline_is_told_with_the_slowest_step() -> None:
    found = findings([outcome(1, "done"), outcome(2, "unfinished", 90.0), outcome(3, "unfinished", 80.0)], "deadline")
    assert view.sentence(found).startswith(
        "3 people do not fit: 2 were not through after 10 minutes; the slowest step is notebook 05, cell crash, half "
        "of them wait 80 s or more. Let them "
    )


def test_what_fails_on_a_busy_host_is_rehearsed_again_with_slower_readers() -> None:
    people = [outcome(1, "done"), *(outcome(n, "failed") for n in range(2, 8))]
    assert "something else kept the processors busy" in view.sentence(findings(people[:2], busy=97.0))
    assert "no matter of the room" in view.sentence(findings(people))
    assert "the processors had hardly a pause (97 % busy)" in view.sentence(findings(people, busy=97.0))
    assert view.sentence(findings(people, busy=97.0)).endswith("--pause 3.")


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_loses_no_word(width: int) -> None:
    found = findings([outcome(n, "done", n * 100.0) for n in range(1, 31)])
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(view.table(found))
    text = console.export_text()
    assert "…" not in text
    for words in ("notebook 05, cell crash", "person 30", "2.0 GiB at most, 25 % of 8.0 GiB", "30 through"):
        assert re.search(words.replace(" ", r"\s+"), text), words
    assert max(map(len, text.splitlines())) <= width
