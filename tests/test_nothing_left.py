"""Runs last: what the whole run left behind. No process, no listening socket, no temporary file, no thread.

A process is ours when it descends from this one or names the run's private world in its environment, so that an orphan
is found too. `conftest.py` puts this file behind all others, notebooks included.
"""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

DEADLINE = 10.0  # seconds until what is ending must have ended
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, they end with us


def _ours(process: psutil.Process, world: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return any(world in value for value in process.environ().values())
    return False


def processes() -> list[str]:
    """Return the command lines of our living descendants and orphans."""
    me = psutil.Process()
    world = tempfile.gettempdir()
    kin = {me.pid, *(parent.pid for parent in me.parents())}
    mine = {child.pid: child for child in me.children(recursive=True)}
    mine |= {other.pid: other for other in psutil.process_iter() if other.pid not in kin and _ours(other, world)}
    found = []
    for process in mine.values():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not any(helper in command for helper in HELPERS):
                found.append(command or process.name())
    return sorted(found)


def sockets() -> list[str]:
    """Return the addresses that this process still listens on."""
    connections = psutil.Process().net_connections(kind="inet")
    return sorted(f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN)


def files() -> list[str]:
    """Return what is in the run's private temporary folder, but for pytest's own folder and what an exercise made.

    An exercise's cell may make a folder that Python removes at its exit. nbval kills its kernels, so there it stays.
    """
    own = ("pytest-of-", "exercise-")
    return sorted(path.name for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith(own))


def threads() -> list[str]:
    """Return the threads that would keep this process from ending."""
    return sorted(t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread())


def settled(look: Callable[[], list[str]]) -> list[str]:
    """Look until there is nothing left, or the deadline has passed; return what there is then."""
    end = time.monotonic() + DEADLINE
    while (left := look()) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def test_what_is_left_would_be_seen() -> None:
    before = (processes(), sockets(), files(), threads())
    program = "import sys; print(flush=True); sys.stdin.read()"
    go = threading.Event()
    keeper = threading.Thread(target=go.wait, name="keeper")
    keeper.start()
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()  # it runs
        with socket.create_server(("127.0.0.1", 0)), tempfile.NamedTemporaryFile(prefix="left-behind-"):
            after = (processes(), sockets(), files(), threads())
    finally:
        go.set()
        keeper.join()
        child.communicate(b"")
    assert [len(now) - len(then) for then, now in zip(before, after, strict=True)] == [1, 1, 1, 1]
    assert [name for name in after[2] if name.startswith("left-behind-")]


def test_the_run_is_private() -> None:
    assert os.environ["TMPDIR"] == tempfile.gettempdir()
    assert os.environ["LABSERVER_HOME"].startswith(str(Path(tempfile.gettempdir()).parent))


def test_no_process_is_left() -> None:
    assert settled(processes) == []


def test_no_socket_listens() -> None:
    assert settled(sockets) == []


def test_no_temporary_file_is_left() -> None:
    assert settled(files) == []


def test_no_thread_keeps_the_process() -> None:
    assert settled(threads) == []
