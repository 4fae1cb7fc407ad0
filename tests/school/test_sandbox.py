"""A sandbox ends whatever runs in it: hangs, floods, bombs, orphans, and what outlives even the grader."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from labserver import posix
from labserver.school.sandbox import Limits, Outcome, Sandbox, bare_environment

SLEEP = "import time; time.sleep(60)"


def run(source: str, limits: Limits | None = None, within: float = 20.0) -> tuple[Outcome, Path]:
    """Run a program until it ends; it must not take until `within`."""
    with Sandbox(limits or Limits(seconds=within)) as box:
        (box.folder / "program.py").write_text(source)
        box.start([sys.executable, "program.py"])
        assert box.ended(within), "it did not end"
        return box.finish(), box.folder


def running(mark: str) -> list[int]:
    """The processes whose command line holds `mark`."""
    found = []
    for process in posix.processes():
        try:
            line = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line and process.state != "Z" and process.pid != os.getpid():
            found.append(process.pid)
    return found


def wait_for(condition: Callable[[], object], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def test_a_program_runs_in_its_folder_and_tells_its_exit_code() -> None:
    outcome, folder = run("import os, sys; print(os.getcwd()); sys.exit(7)")
    assert (outcome.ended, outcome.code, outcome.escaped) == ("exited", 7, 0)
    assert outcome.output == f"{folder}\n"
    assert not folder.exists()


def test_a_signal_is_told_as_a_negative_code() -> None:
    outcome, _ = run("import ctypes; ctypes.string_at(0)")
    assert (outcome.ended, outcome.code) == ("exited", -11)


def test_a_command_that_does_not_exist_is_told() -> None:
    with Sandbox() as box:
        box.start(["/no/such/program"])
        assert box.ended(10)
        assert box.finish().code == 127


def test_the_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    monkeypatch.setenv("LABSERVER_SECRET", "x" * 40)
    monkeypatch.setenv("LABSERVER_LLM", "anthropic")
    outcome, folder = run("import os; print(dict(os.environ))")
    assert "sk-secret" not in outcome.output
    assert "LABSERVER_SECRET" not in outcome.output
    assert f"'HOME': '{folder}'" in outcome.output
    assert f"'TMPDIR': '{folder}'" in outcome.output
    assert "'LABSERVER_LLM': 'fake'" in outcome.output


def test_the_environment_is_a_short_known_list(tmp_path: Path) -> None:
    assert set(bare_environment(tmp_path)) == {
        *("PATH", "HOME", "TMPDIR", "LANG", "TZ", "LABSERVER_HOME", "LABSERVER_LLM"),
        *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONNOUSERSITE", "PYTHONUNBUFFERED"),
    }


def test_a_loop_ends_at_its_deadline() -> None:
    outcome, _ = run("while True: pass", Limits(seconds=1.0))
    assert (outcome.ended, outcome.code) == ("deadline", None)


def test_a_flood_is_kept_at_both_ends_only() -> None:
    source = "print('begin')\nfor _ in range(40): print('x' * 50_000)\nprint('end')"
    outcome, _ = run(source, Limits(seconds=20, output_bytes=2000))
    assert outcome.ended == "exited"
    assert outcome.output.startswith("begin\n")
    assert outcome.output.endswith("end\n")
    assert len(outcome.output) < 2100
    assert outcome.output_bytes == 10 + 40 * 50_001


def test_an_endless_flood_costs_little() -> None:
    began = time.process_time()
    outcome, _ = run("while True: print('x' * 100_000)", Limits(seconds=1.0))
    assert outcome.ended == "deadline"
    assert len(outcome.output) <= (64 << 10) + 100
    assert time.process_time() - began < 1.0


def test_memory_is_limited_for_one_process() -> None:
    outcome, _ = run("x = bytearray(1 << 40)", Limits(seconds=20, memory_bytes=1 << 28))
    assert outcome.code == 1
    assert "MemoryError" in outcome.output


def test_memory_is_limited_for_the_tree() -> None:
    source = "import os, time\nfor _ in range(4):\n    if os.fork() == 0: break\nx = b'x' * (60 << 20)\ntime.sleep(60)"
    outcome, _ = run(source, Limits(seconds=30, memory_bytes=200 << 20))
    assert outcome.ended == "memory"


def test_a_file_and_open_files_are_limited() -> None:
    outcome, _ = run("open('big', 'wb').write(bytes(3 << 20))", Limits(seconds=20, file_bytes=1 << 20))
    assert "File too large" in outcome.output
    outcome, _ = run("files = [open('f', 'w') for _ in range(100)]", Limits(seconds=20, open_files=50))
    assert "Too many open files" in outcome.output


def test_threads_are_limited() -> None:
    source = f"import threading\nfor _ in range(60): threading.Thread(target=exec, args=({SLEEP!r},)).start()"
    outcome, _ = run(source, Limits(seconds=20, tasks=40))
    assert outcome.ended == "tasks"


@pytest.mark.parametrize("leave_group", [False, True], ids=["in its group", "leaving its group"])
def test_a_fork_bomb_ends(leave_group: bool) -> None:
    # bounded, so that a sandbox that does not work costs a test and not the machine
    leave = "os.setsid()" if leave_group else "pass"
    source = f"import os, time\nfor _ in range(9):\n    if os.fork() == 0: {leave}\ntime.sleep(60)"
    outcome, folder = run(source, Limits(seconds=30, tasks=50))
    assert outcome.ended == "tasks"
    assert outcome.escaped > 40
    assert not running("program.py")
    assert not folder.exists()


def test_what_outlives_its_parent_is_ended_and_counted(tmp_path: Path) -> None:
    mark = f"outlive-{tmp_path.name}-{os.getpid()}"
    orphan = "import os, subprocess, sys\n" + (
        f"command = [sys.executable, '-c', {SLEEP!r}, {mark!r}]\n"
        "subprocess.Popen(command)\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: os.execv(command[0], command)\n    os._exit(0)\n"
        "os.wait()\n"
    )
    outcome, _ = run(orphan)
    assert (outcome.ended, outcome.code, outcome.escaped) == ("exited", 0, 3)
    assert not running(mark)


def test_a_folder_that_resists_is_removed() -> None:
    source = "import os\nos.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0)\n"
    deep = "for _ in range(1500):\n    os.mkdir('d')\n    os.chdir('d')\n"
    outcome, folder = run(source + deep)
    assert outcome.code == 0
    assert not folder.exists()


def test_ready_is_waited_for() -> None:
    with Sandbox() as box:
        box.start([sys.executable, "-c", f"open('ready', 'w').close(); {SLEEP}"])
        assert box.wait((box.folder / "ready").exists, 20) is True
        assert not box.ended()
        outcome = box.finish()
        assert (outcome.ended, outcome.code) == ("stopped", None)
        assert box.finish() is outcome
        assert box.ended()


def test_waiting_ends_with_the_process_or_the_time() -> None:
    with Sandbox() as box:
        box.start([sys.executable, "-c", "pass"])
        assert box.wait(lambda: None, 20) is None
        assert box.ended()
    with Sandbox() as box:
        box.start([sys.executable, "-c", SLEEP])
        assert box.wait(lambda: None, 0.1) is None
        assert not box.ended()


def test_standard_input_is_silent_and_never_ends() -> None:
    outcome, _ = run("import sys; sys.stdin.read()", Limits(seconds=1.0))
    assert outcome.ended == "deadline"


def test_a_sandbox_without_a_process_leaves_nothing() -> None:
    with Sandbox() as box:
        assert box.folder.is_dir()
    assert not box.folder.exists()
    assert box.ended()


def test_an_abort_from_outside_ends_all(tmp_path: Path) -> None:
    mark = f"abort-{tmp_path.name}-{os.getpid()}"
    child = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}, {mark!r}], start_new_session=True)"
    )
    with Sandbox() as box:
        box.start([sys.executable, "-c", child])
        wait_for(lambda: running(mark))
        box.abort()
        assert box.ended(10)
        assert box.finish().ended == "stopped"
        assert not running(mark)


def test_the_death_of_the_grader_ends_all_and_removes_the_folder(tmp_path: Path) -> None:
    mark = f"orphaned-{tmp_path.name}-{os.getpid()}"
    child = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SLEEP!r}, {mark!r}], start_new_session=True)"
    )
    grader = (
        "import sys, time\nfrom labserver.school.sandbox import Sandbox\n"
        "box = Sandbox()\nprint(box.folder, flush=True)\n"
        f"box.start([sys.executable, '-c', {child!r}])\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", grader], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    wait_for(lambda: set(running(mark)) - {process.pid}, 60)  # a fork server of its own imports all first
    assert folder.is_dir()
    assert folder.name.startswith("labserver-answer-")
    process.kill()
    process.communicate()
    wait_for(lambda: not running(mark))
    wait_for(lambda: not folder.exists())
