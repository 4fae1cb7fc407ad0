"""A run that leaves anything behind has failed: no process, no listening socket, no temporary file, no thread.

Every process of a run looks at its own end, whatever was run in it, notebooks included: a worker (`-n 2`) after its
last test, and the one that you started after all workers. What a look finds is one more failed test of the run.

A process is ours when it descends from this one or names its private world in its environment, so that an orphan is
found too; the world of a worker lies in the world of the run (`conftest.py`).
"""

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

DEADLINE = 10.0
"""Seconds until what is ending must have ended."""
HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")  # Python's own, they end with us


def _ours(process: psutil.Process, world: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return any(world in value for value in process.environ().values())
    return False


def processes() -> list[str]:
    """Return the command lines of our living descendants and orphans."""
    me = psutil.Process()
    world = os.environ["LABSERVER_TESTS_WORLD"]
    kin = {me.pid, *(parent.pid for parent in me.parents())}
    mine = {child.pid: child for child in me.children(recursive=True)}
    mine |= {other.pid: other for other in psutil.process_iter() if other.pid not in kin and _ours(other, world)}
    found = []
    for process in mine.values():
        with contextlib.suppress(psutil.Error):
            command = " ".join(" ".join(process.cmdline()).split())
            if process.status() != psutil.STATUS_ZOMBIE and not any(helper in command for helper in HELPERS):
                found.append(command or process.name())
    return sorted(found)


def sockets() -> list[str]:
    """Return the addresses that this process still listens on."""
    connections = psutil.Process().net_connections(kind="inet")
    return sorted(f"{c.laddr.ip}:{c.laddr.port}" for c in connections if c.status == psutil.CONN_LISTEN)


def files() -> list[str]:
    """Return what is in our private temporary folder, but for pytest's own folder and what an exercise made.

    An exercise's cell may make a folder that Python removes at its exit. nbval kills its kernels, so there it stays.
    """
    own = ("pytest-of-", "exercise-")
    return sorted(path.name for path in Path(tempfile.gettempdir()).iterdir() if not path.name.startswith(own))


def threads() -> list[str]:
    """Return the threads that would keep this process from ending."""
    return sorted(t.name for t in threading.enumerate() if not t.daemon and t is not threading.main_thread())


LOOKS: dict[str, Callable[[], list[str]]] = {
    "a process": processes,
    "a listening socket": sockets,
    "a temporary file": files,
    "a thread": threads,
}


def left_behind() -> list[str]:
    """Look until there is nothing left, or the deadline has passed; return what there is then, a line each."""
    end = time.monotonic() + DEADLINE
    while (left := [f"{what}: {each}" for what, look in LOOKS.items() for each in look()]) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def _fail(config: pytest.Config, who: str, left: list[str]) -> None:
    place = ("nothing left", None, f"what {who} left behind")
    config.hook.pytest_runtest_logreport(
        report=pytest.TestReport(f"nothing left by {who}", place, {}, "failed", "\n".join(left), "call")
    )


@pytest.hookimpl(trylast=True)  # behind pytest-xdist's, which ends the workers
def pytest_sessionfinish(session: pytest.Session) -> None:
    left = left_behind()
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left behind"] = left
    elif left:
        _fail(session.config, "the run", left)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """A worker has ended; one that crashed says nothing, and has failed its test."""
    if left := getattr(node, "workeroutput", {}).get("left behind"):
        _fail(node.config, f"worker {node.gateway.id}", left)
