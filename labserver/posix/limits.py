"""What one untrusted process may use, and the namespaces and the user it runs in."""

import contextlib
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labserver.posix.processes import processes

__all__ = [
    "Limits",
    "adopt_orphans",
    "allow_open_files",
    "apply_limits",
    "become",
    "die_with_parent",
    "is_root",
    "own_namespaces",
    "own_shared_memory",
    "owner",
    "run_before_others",
]

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWPID, _CLONE_NEWNS = 0x10000000, 0x20000000, 0x00020000  # linux/sched.h
_MS_NOSUID, _MS_NODEV, _MS_REC, _MS_PRIVATE = 2, 4, 1 << 14, 1 << 18  # linux/mount.h
_SPARE_TASKS = (
    1024  # RLIMIT_NPROC counts all processes of the user: room for the other answers that run beside this one
)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one untrusted process and all that it starts may use together.

    Attributes:
        seconds: wall clock until all are killed.
        cpu_seconds: of one process (RLIMIT_CPU).
        memory_bytes: resident memory of the whole tree, without what forks share with us; one process may reserve twice
            as much (RLIMIT_DATA).
        tasks: processes and threads of the whole tree.
        file_bytes: size of one file (RLIMIT_FSIZE).
        open_files: of one process (RLIMIT_NOFILE).
        folder_bytes: all files in its folder, as far as the disc gave room for them.
        folder_files: files and folders in its folder.
        output_bytes: of stdout and stderr that are kept, half from the begin and half from the end.
    """

    seconds: float = 90.0
    cpu_seconds: int = 60
    memory_bytes: int = 1 << 30
    tasks: int = 256
    file_bytes: int = 64 << 20
    open_files: int = 1024
    folder_bytes: int = 256 << 20
    folder_files: int = 20_000
    output_bytes: int = 64 << 10


def apply_limits(limits: Limits, user: int | None = None) -> None:
    """Limit the calling process and what it starts. A limit that the system lacks, or that is already lower, stays.

    `RLIMIT_NPROC` does not bind root; `RLIMIT_DATA` is ignored by macOS. The supervisor also counts by itself.

    Args:
        limits: what it may use.
        user: the id of the user that it will become; None: it stays who it is.
    """
    import resource

    whose = os.getuid() if user is None else user
    tasks = sum(process.threads for process in processes() if _owned(process.pid, whose)) + _SPARE_TASKS
    for name, value in (
        ("RLIMIT_CORE", 0),
        ("RLIMIT_CPU", limits.cpu_seconds),
        ("RLIMIT_DATA", 2 * limits.memory_bytes),  # reserved, not used: the stack of a thread counts 8 MiB
        ("RLIMIT_FSIZE", limits.file_bytes),
        ("RLIMIT_NOFILE", limits.open_files),
        ("RLIMIT_NPROC", tasks),
    ):
        kind = getattr(resource, name, None)
        if kind is None:
            continue
        _, hard = resource.getrlimit(kind)
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))


def allow_open_files() -> int:
    """Let the calling process have as many open files as it may at all; return how many: a socket is one."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has a limit of its own below an infinite one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def adopt_orphans() -> bool:
    """Make the calling process the parent of every descendant whose own parent dies (Linux); return whether it is."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """Have the kernel kill the calling process when the thread that started it ends (Linux); return whether it will."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def own_namespaces() -> bool:
    """Have the next child be process 1 of a namespace of process ids and mounts (Linux); return whether it will be.

    Root may do so; others need a user namespace, in which they keep their own id, and which some systems forbid. The
    end of that process kills all that it and its offspring started. Call it in a process without threads.
    """
    if not sys.platform.startswith("linux"):
        return False
    trial = (
        os.fork()
    )  # some systems grant a user namespace and then nothing in it: try it in a child that is thrown away
    if trial == 0:
        try:
            os._exit(0 if _unshare() and os.waitstatus_to_exitcode(os.waitpid(_nothing(), 0)[1]) == 0 else 1)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(trial, 0)[1]) == 0 and _unshare()


def run_before_others() -> bool:
    """Have this process run whenever it can, whatever a fork bomb does (root only); its children are as usual."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except (AttributeError, OSError):
        return False
    return True


def _unshare() -> bool:
    libc = _libc()
    if libc.unshare(_CLONE_NEWPID | _CLONE_NEWNS) != 0:
        user, group = os.getuid(), os.getgid()
        if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID | _CLONE_NEWNS) != 0:
            return False
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            Path("/proc/self", name).write_text(text)
    return True


def own_shared_memory() -> bool:
    """Mount a /dev/shm of 64 MiB for the processes of this mount namespace alone; return whether it is there.

    Only after `own_namespaces` said yes: elsewhere it would be that of the whole host.
    """
    libc = _libc()
    if libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) != 0:
        return False
    return bool(libc.mount(b"shm", b"/dev/shm", b"tmpfs", _MS_NOSUID | _MS_NODEV, b"size=64m") == 0)


def owner(name: str) -> tuple[int, int]:
    """Return the ids of a user and of the user's first group.

    Raises:
        KeyError: if there is no such user.
    """
    import pwd

    entry = pwd.getpwnam(name)
    return entry.pw_uid, entry.pw_gid


def is_root() -> bool:
    """Whether this process may do whatever it likes here."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def become(user: int, group: int) -> None:
    """Become another user for good (root only)."""
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)


def _nothing() -> int:
    if child := os.fork():
        return child
    os._exit(0)


def _prctl(option: int, value: int) -> bool:
    return sys.platform.startswith("linux") and bool(_libc().prctl(option, value, 0, 0, 0) == 0)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


def _owned(pid: int, user: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == user
    except OSError:
        return False
