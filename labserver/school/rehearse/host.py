"""What the kernels take of this machine: memory and processor time by process tree, and how much memory is left.

Memory is counted as PSS where the system tells it (Linux): a page that several processes share is divided among them,
so that the sum is what they really take. Else it is each process's own memory (USS), else resident memory, which counts
shared pages each time. A limit of the control group (a container's, or a hub's for one user) counts as the size of the
machine.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

__all__ = ["Sample", "busy", "cores", "memory_free", "memory_kind", "memory_total", "take_sample"]

KINDS = {
    "pss": "PSS, shared pages divided among those who share them",
    "uss": "memory of their own, without shared pages",
    "rss": "resident memory, shared pages counted each time",
}
_GROUPS, _MINE = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at the room.

    Attributes:
        memory: bytes by person.
        cpu: processor seconds by person, of ended children too.
        free: bytes that the machine still has.
    """

    memory: dict[int, int]
    cpu: dict[int, float]
    free: int

    @property
    def total(self) -> int:
        """Bytes of all people together."""
        return sum(self.memory.values())


def memory_kind() -> str:
    """Return the most exact measure that this system has: `pss`, `uss` or `rss`."""
    with contextlib.suppress(psutil.Error, OSError):
        told = psutil.Process().memory_full_info()
        return next((kind for kind in ("pss", "uss") if getattr(told, kind, 0)), "rss")
    return "rss"


def memory_total() -> int:
    """Return the bytes of memory of this machine, or of the control group that this process is in."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits())])


def memory_free() -> int:
    """Return the bytes that can still be had without swapping."""
    return min([int(psutil.virtual_memory().available), *(max(0, limit - used) for limit, used in _limits())])


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def busy() -> float:
    """Return which percentage of the processors' time was used since the last call, by whatever runs on this host."""
    return float(psutil.cpu_percent())


def take_sample(people: Mapping[int, int], kind: str) -> Sample:
    """Look at every process below this one; some milliseconds for each.

    Args:
        people: whose a kernel is, by its process id.
        kind: see `memory_kind`.
    """
    memory = dict.fromkeys(people.values(), 0)
    cpu = dict.fromkeys(people.values(), 0.0)
    owner = dict(people)
    for process in psutil.Process().children(recursive=True):  # parents come before their children
        with contextlib.suppress(psutil.Error, OSError):
            who = owner.get(process.pid, owner.get(process.ppid()))
            if who is None:
                continue
            owner[process.pid] = who
            memory[who] += _memory(process, kind)
            cpu[who] += sum(process.cpu_times()[:4])  # user, system, and those of children that have ended
    return Sample(memory, cpu, memory_free())


def _memory(process: psutil.Process, kind: str) -> int:
    if kind != "rss":
        with contextlib.suppress(psutil.AccessDenied):
            return int(getattr(process.memory_full_info(), kind))
    return int(process.memory_info().rss)


def _limits() -> Iterator[tuple[int, int]]:
    """Yield limit and use of each control group above this process (Linux, cgroup v2), in bytes; cache is no use."""
    try:
        line = next(line for line in _MINE.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    place = _GROUPS / line[3:].strip("/")
    for group in (place, *place.parents):
        with contextlib.suppress(OSError, ValueError, StopIteration):
            limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
            rows = (row.split() for row in (group / "memory.stat").read_text().splitlines())
            yield limit, used - next(int(value) for name, value in rows if name == "inactive_file")
        if group == _GROUPS:
            return
