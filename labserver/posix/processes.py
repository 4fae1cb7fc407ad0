"""The process table of this host, and the end of whole trees of processes."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "available", "kill", "kill_group", "kill_tree", "processes", "reap", "tree"]

_PROC = Path("/proc")
_KILL_TIMEOUT = 10.0  # seconds until a tree that will not die (uninterruptible sleep) is given up


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table: ids, state letter (`Z`: dead, not yet reaped), threads, resident bytes.

    `image` is the same for a process and its forks until they execute another program; 0 where that is not known.
    """

    pid: int
    parent: int
    group: int
    state: str
    threads: int
    resident: int
    image: int = 0


def available() -> bool:
    """Whether this system has process groups, limits and `SIGKILL`."""
    return os.name == "posix" and hasattr(os, "killpg")


def processes() -> list[Process]:
    """Return the process table of this host: from /proc where there is one, else from `ps`."""
    return list(_from_proc() if _PROC.joinpath("self/stat").exists() else _from_ps())


def _from_proc() -> Iterator[Process]:
    page = os.sysconf("SC_PAGE_SIZE")
    for name in os.listdir(_PROC):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # the name of the command may hold blanks and brackets: the fields begin behind its last bracket
            field = file.read().rpartition(b")")[2].split()
            # proc(5): the address of the stack is drawn anew for each program and kept by its forks
            parent, group, threads, pages, stack = (int(field[at]) for at in (1, 2, 17, 21, 25))
            yield Process(int(name), parent, group, field[0].decode(), threads, pages * page, stack)


def _from_ps() -> Iterator[Process]:
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,state=,rss="], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        pid, parent, group, state, kib = line.split()
        yield Process(int(pid), int(parent), int(group), state[0], 1, int(kib) * 1024)


def tree(root: int) -> list[Process]:
    """Return every descendant of the process `root`, without itself; dead ones count until they are reaped."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, todo = [], [root]
    while todo:
        kin = children.pop(todo.pop(), [])
        found += kin
        todo += [process.pid for process in kin]
    return found


def kill_tree(root: int, *, timeout: float = _KILL_TIMEOUT) -> int:
    """Kill every descendant of `root`, and look again until there is none; return how many live ones were found.

    Killing a whole group is one step for the kernel, so not even a fork bomb gets away within its group; what left the
    group is found by its parent. If `root` is the calling process, the dead are reaped; only then, and after
    `adopt_orphans`, is it certain that a child born in between is found as well.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    own_group = os.getpgid(0)
    while time.monotonic() < deadline:
        live = [process for process in tree(root) if process.state != "Z"]
        if root == os.getpid():
            reap()
        if not live:
            break
        for group in {process.group for process in live} - {own_group}:
            with contextlib.suppress(OSError):
                os.killpg(group, signal.SIGKILL)
        for process in live:
            kill(process.pid)
        killed |= {process.pid for process in live}
        time.sleep(0.002)  # lets the kernel take them down; the next look decides
    return len(killed)


def kill(pid: int) -> None:
    """Kill one process at once; none of that id is no error."""
    with contextlib.suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def kill_group(leader: int) -> None:
    """Kill at once what is left in the process group that `leader` led, also after its own end; none is no error."""
    with contextlib.suppress(OSError):
        os.killpg(leader, signal.SIGKILL)


def reap(*, block: bool = False) -> dict[int, int]:
    """Collect children that have ended: exit codes (negative: the signal's number) by process id.

    Args:
        block: wait for the next one; without children, until the end of time (an init whose work is done).
    """
    ended: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, 0 if block and not ended else os.WNOHANG)
            if pid == 0:
                break
            ended[pid] = os.waitstatus_to_exitcode(status)
    except ChildProcessError:
        if block and not ended:
            signal.pause()
    return ended
