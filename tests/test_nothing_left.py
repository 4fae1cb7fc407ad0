"""The last look of a run (`leftovers.py`): whatever any of its processes leaves behind fails it."""

import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from leftovers import LOOKS

ROOT = Path(__file__).resolve().parent.parent
AT_THE_END = """
import leftovers, test_leaves

leftovers.DEADLINE = 0.5

def pytest_unconfigure():
    shutil.rmtree(WORLD, ignore_errors=True)
    test_leaves.end.set()
"""
LEAVES = """
import os, socket, subprocess, sys, tempfile, threading

end, kept = threading.Event(), []

def test_leaves_what_it_is_told_to():
    what = os.environ["LEAVE"]
    if "file" in what:
        tempfile.mkstemp(prefix="left-behind-")
    if "socket" in what:
        kept.append(socket.create_server(("127.0.0.1", 0)))
    if "thread" in what:
        threading.Thread(target=end.wait, name="left-behind").start()
    if "process" in what:
        reader, writer = os.pipe()
        kept.append(writer)
        program = "import sys; sys.stdin.read()  # left behind"
        kept.append(subprocess.Popen([sys.executable, "-c", program], stdin=reader))

def test_of_another_file():
    pass
"""


def run(folder: Path, leave: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a project of one test that leaves something behind, under this project's `conftest.py`."""
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = . {ROOT / 'tests'}\n")
    (folder / "conftest.py").write_text((ROOT / "conftest.py").read_text() + AT_THE_END)
    (folder / "test_leaves.py").write_text(LEAVES)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "xdist.plugin", "--import-mode=importlib", *arguments],
        cwd=folder,
        env=os.environ | {"LEAVE": leave, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("workers", ["0", "2"])
def test_what_a_run_leaves_behind_fails_it(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, "file socket thread process", "-n", workers)
    assert done.returncode == 1, done.stdout + done.stderr
    for left in ("process: ", "a listening socket: 127.0.0.1:", "a temporary file: left-behind-", "a thread: left-be"):
        assert left in done.stdout
    assert "1 failed, 2 passed" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_run_that_leaves_nothing_behind_passes(tmp_path: Path, workers: str) -> None:
    done = run(tmp_path, "nothing", "-n", workers)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout.splitlines()[-1]


def test_what_is_left_would_be_seen() -> None:
    before = [look() for look in LOOKS.values()]
    program = "import sys; print(flush=True); sys.stdin.read()"
    go = threading.Event()
    keeper = threading.Thread(target=go.wait, name="keeper")
    keeper.start()
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        with socket.create_server(("127.0.0.1", 0)), tempfile.NamedTemporaryFile(prefix="left-behind-"):
            after = [look() for look in LOOKS.values()]
    finally:
        go.set()
        keeper.join()
        child.communicate(b"")
    assert [len(now) - len(then) for then, now in zip(before, after, strict=True)] == [1, 1, 1, 1]
    assert [name for name in after[2] if name.startswith("left-behind-")]


def test_the_run_is_private() -> None:
    world = os.environ["LABSERVER_TESTS_WORLD"]
    assert os.environ["TMPDIR"] == tempfile.gettempdir() == os.path.join(world, "tmp")
    assert os.environ["LABSERVER_HOME"].startswith(world)
