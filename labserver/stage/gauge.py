"""What a process of the stage uses: memory, CPU time and unnamed files, once or as a series over time.

Asked about servers in a child process and about nginx, which are processes of their own. A server in a thread shares
its memory with the notebook, so nothing could be said about it alone. A series is taken by a thread, since the cell
that wants it may keep its own loop busy. (The module is not called `usage`, because a function of the stage is.)
"""

import os
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from labserver.errors import LabError
from labserver.stage.server import LiveServer

if TYPE_CHECKING:
    from labserver.stage.proxies.nginx import Nginx

__all__ = ["Samples", "Usage", "usage", "watch"]

SHORTEST = 0.01  # seconds between two looks: each costs some 0.1 ms, which is then 1 % of a core


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process uses at one moment.

    Attributes:
        memory: bytes of it that are in memory now (the resident set). What was freed may still count: allocators keep
            it for later.
        cpu: seconds of CPU time that it has used since its start, its own and the system's for it.
        files: bytes in files that it holds open and that have no name any more, such as those into which nginx puts
            what its client does not take. Linux; elsewhere 0.
    """

    memory: int
    cpu: float
    files: int = 0


@dataclass(slots=True)
class Samples:
    """A series that grows while it is watched; index n of each list belongs to one moment.

    The first sample is taken before the block begins and the last one at its end, so there are always two or more.

    Attributes:
        first: what it used at the start, in absolute terms.
        seconds: since the start; the first is 0.
        memory: bytes above the start; below zero when memory was given back.
        cpu: seconds of CPU time since the start.
        files: bytes in unnamed files above the start (see `Usage`).
    """

    first: Usage
    seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The most memory above the start that a sample saw, bytes."""
        return max(self.memory, default=0)

    def _add(self, seconds: float, now: Usage) -> None:
        self.seconds.append(seconds)
        self.memory.append(now.memory - self.first.memory)
        self.cpu.append(now.cpu - self.first.cpu)
        self.files.append(now.files - self.first.files)


def usage(live: "LiveServer | Nginx") -> Usage:
    """Return what a server in a child process, or an nginx, uses now: that process alone, not what it started.

    Args:
        live: of `start(..., process=True)`, or of `nginx(...)`.

    Raises:
        LabError: it runs in a thread, does not run any more, or psutil is missing.
    """
    return _look(_pid(live))


@asynccontextmanager
async def watch(live: "LiveServer | Nginx", every: float = 0.1) -> AsyncIterator[Samples]:
    """Sample what a process uses while the block runs: `async with watch(live) as samples: ...`.

    A process that ends meanwhile ends the series.

    Args:
        live: as for `usage`.
        every: seconds from one look to the next; a busy machine makes it longer, and `samples.seconds` says so.

    Raises:
        LabError: as `usage`, or `every` is too short.
    """
    if isinstance(every, bool) or not isinstance(every, int | float) or not SHORTEST <= every < 3600:
        raise LabError(f"every={every!r} can't be kept: pass seconds, {SHORTEST:g} or more, such as every=0.1.")
    pid = _pid(live)
    began, first = time.monotonic(), _look(pid)
    samples, over = Samples(first), threading.Event()
    samples._add(0.0, first)

    def sample() -> None:
        with suppress(LabError):  # it has ended
            while not over.wait(every):
                samples._add(time.monotonic() - began, _look(pid))
            samples._add(time.monotonic() - began, _look(pid))

    thread = threading.Thread(target=sample, name="labserver-watch", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        over.set()
        thread.join()


def _pid(live: "LiveServer | Nginx") -> int:
    if isinstance(live, LiveServer) and live.kind == "thread":
        raise LabError(
            "This server runs in a thread, so its memory and CPU time are the notebook's: "
            "start it with process=True to ask what it uses."
        )
    pid = getattr(live, "pid", None)
    if not isinstance(pid, int):
        raise LabError(f"Of {live!r} nobody can say what it uses: pass a server of start(process=True), or an nginx.")
    if not live.alive:
        raise LabError(f"{live!r} does not run: start it again to ask what it uses.")
    return pid


def _look(pid: int) -> Usage:
    try:
        import psutil  # type: ignore[import-untyped]
    except ImportError:
        raise LabError("psutil is missing, which measures processes: run `pip install psutil`.") from None
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            spent = process.cpu_times()
            return Usage(process.memory_info().rss, spent.user + spent.system, _unnamed(pid))
    except psutil.Error:  # gone, or dead and not reaped
        raise LabError("The process ended while it was measured: start it again to ask what it uses.") from None


def _unnamed(pid: int) -> int:
    """Count the bytes in files without a name that a process holds open."""
    total, folder = 0, Path(f"/proc/{pid}/fd")
    with suppress(OSError):
        for link in folder.iterdir():
            with suppress(OSError):  # closed meanwhile
                if os.readlink(link).startswith("/") and not (found := link.stat()).st_nlink:
                    total += found.st_size
    return total
