"""What only POSIX systems have: resource limits, process groups and trees, and the supervisor of one untrusted process.

This is the one module that may use `resource`, `prctl`, `os.fork`, `os.killpg` or `SIGKILL`; it imports them inside its
functions, so that it is importable (and `available()` says no) on Windows. It uses nothing of ours and nothing but the
standard library, because `sandbox.py` also runs this very file as a script: the supervisor, which starts in 20 ms.
"""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "Ended",
    "Limits",
    "Process",
    "adopt_orphans",
    "apply_limits",
    "available",
    "die_with_parent",
    "keeper_command",
    "kill",
    "kill_group",
    "kill_marked",
    "kill_tree",
    "marked",
    "own_process_ids",
    "processes",
    "reap",
    "remove",
    "run_before_others",
    "start_keeper",
    "supervisor_command",
    "tree",
    "unsent",
]

_PROC = Path("/proc")
_TICK = 0.2  # seconds between two looks at the tree: a look costs about 20 us per process of the host
_KILL_TIMEOUT = 10.0  # seconds until a tree that will not die (uninterruptible sleep) is given up
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h
_CLONE_NEWUSER, _CLONE_NEWPID = 0x10000000, 0x20000000  # linux/sched.h
_SPARE_TASKS = (
    1024  # RLIMIT_NPROC counts all processes of the user: room for the other answers that run beside this one
)

Ended = Literal["exited", "stopped", "deadline", "tasks", "memory", "lost"]
"""Why a process came to its end: by itself, told to, at its deadline, by a limit of its tree, or unknown (`lost`: the
supervisor itself was killed)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one untrusted process and all that it starts may use together.

    Attributes:
        seconds: wall clock until all are killed.
        cpu_seconds: of one process (RLIMIT_CPU).
        memory_bytes: resident memory of the whole tree; one process may reserve twice as much (RLIMIT_DATA).
        tasks: processes and threads of the whole tree.
        file_bytes: size of one file (RLIMIT_FSIZE).
        open_files: of one process (RLIMIT_NOFILE).
        output_bytes: of stdout and stderr that are kept, half from the begin and half from the end.
    """

    seconds: float = 90.0
    cpu_seconds: int = 60
    memory_bytes: int = 1 << 30
    tasks: int = 256
    file_bytes: int = 64 << 20
    open_files: int = 1024
    output_bytes: int = 64 << 10


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the process table: ids, state letter (`Z`: dead, not yet reaped), threads, resident bytes."""

    pid: int
    parent: int
    group: int
    state: str
    threads: int
    resident: int


def available() -> bool:
    """Whether this system has process groups, limits and `SIGKILL`."""
    return os.name == "posix" and hasattr(os, "killpg")


def apply_limits(limits: Limits) -> None:
    """Limit the calling process and what it starts. A limit that the system lacks, or that is already lower, stays.

    `RLIMIT_NPROC` does not bind root; `RLIMIT_DATA` is ignored by macOS. `supervise` also counts by itself.
    """
    import resource

    tasks = sum(process.threads for process in processes() if _owned(process.pid)) + _SPARE_TASKS
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


def adopt_orphans() -> bool:
    """Make the calling process the parent of every descendant whose own parent dies (Linux); return whether it is."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> bool:
    """Have the kernel kill the calling process when the thread that started it ends (Linux); return whether it will."""
    return _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def own_process_ids() -> bool:
    """Have the next child be process 1 of a namespace of its own (Linux); return whether it will be.

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
    if libc.unshare(_CLONE_NEWPID) == 0:
        return True
    user, group = os.getuid(), os.getgid()
    if libc.unshare(_CLONE_NEWUSER | _CLONE_NEWPID) != 0:
        return False
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        Path("/proc/self", name).write_text(text)
    return True


def _nothing() -> int:
    if child := os.fork():
        return child
    os._exit(0)


def _prctl(option: int, value: int) -> bool:
    return sys.platform.startswith("linux") and bool(_libc().prctl(option, value, 0, 0, 0) == 0)


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None)


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
            yield Process(
                int(name), int(field[1]), int(field[2]), field[0].decode(), int(field[17]), int(field[21]) * page
            )


def _from_ps() -> Iterator[Process]:
    done = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,pgid=,state=,rss="], capture_output=True, text=True)
    for line in done.stdout.splitlines():
        pid, parent, group, state, kib = line.split()
        yield Process(int(pid), int(parent), int(group), state[0], 1, int(kib) * 1024)


def _owned(pid: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.getuid()
    except OSError:
        return False


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


def marked(mark: str) -> list[int]:
    """Return the processes whose environment at their start held `mark` (Linux; elsewhere none)."""
    found, sought = [], mark.encode()
    for name in os.listdir(_PROC) if _PROC.joinpath("self/environ").exists() else ():
        if name.isdigit() and int(name) != os.getpid():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
                if sought in file.read():
                    found.append(int(name))
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


def kill_marked(mark: str, *, timeout: float = _KILL_TIMEOUT) -> int:
    """Kill every process whose environment holds `mark`, until there is none; return how many were found (Linux)."""
    killed: set[int] = set()
    deadline = time.monotonic() + timeout
    while (found := marked(mark)) and time.monotonic() < deadline:
        for pid in found:
            kill(pid)
        killed.update(found)
        time.sleep(0.002)
    return len(killed)


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


def unsent(sock: int) -> int:
    """Return how many bytes written to a TCP socket its peer has not acknowledged yet (Linux; elsewhere 0)."""
    if not sys.platform.startswith("linux"):
        return 0
    import fcntl
    import termios

    try:
        return int.from_bytes(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(4)), sys.byteorder)  # tcp(7): SIOCOUTQ
    except OSError:
        return 0


def _widen(pipe: int) -> None:
    import fcntl

    with contextlib.suppress(AttributeError, OSError):  # Linux; a user has some 16 MiB of pipes
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)


class _Output:
    """Keeps the begin and the end of what was written, and counts the rest, so that no flood costs memory."""

    def __init__(self, limit: int) -> None:
        self.half = limit // 2
        self.head, self.tail, self.total = b"", b"", 0

    def add(self, data: bytes) -> None:
        self.total += len(data)
        room = self.half - len(self.head)
        self.head += data[:room]
        self.tail = (self.tail + data[room:])[-self.half :]

    def kept(self) -> bytes:
        dropped = self.total - len(self.head) - len(self.tail)
        return self.head + (f"\n... {dropped} bytes left out ...\n".encode() if dropped else b"") + self.tail


class _Supervisor:
    """Runs one command and owns its whole tree; ends when the command does, at a limit, or when stdin is closed.

    Between the two stands a tiny `init`, which reaps orphans and, where the kernel lets us, is the first process of a
    process-id namespace: then its end is the end of all, and what runs inside can't even name a process outside.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.output = _Output(limits.output_bytes)
        self.peak = 0
        self.code: int | None = None
        self.orphaned = False  # our starter is dead and nobody will clean up after us

    def run(self, command: list[str]) -> dict[str, Any]:
        adopt_orphans()
        own_process_ids()
        run_before_others()
        output, output_end = os.pipe()
        _widen(output)
        status, status_end = os.pipe()
        if os.fork() == 0:
            self._init(command, output_end, status_end)
        os.close(output_end)
        os.close(status_end)
        ended = self._watch(output, status)
        ours = 1 if self.code is not None else 2  # init, and the command while it lives
        killed = kill_tree(os.getpid())
        self._drain(output)
        return {
            "ended": ended,
            "code": self.code,
            "escaped": max(0, killed - ours),
            "output": b64encode(self.output.kept()).decode(),
            "output_bytes": self.output.total,
            "peak_bytes": self.peak,
        }

    def _init(self, command: list[str], output: int, status: int) -> None:
        try:
            die_with_parent()
            adopt_orphans()
            lifeline, _ = os.pipe()  # its other end is ours alone: whoever reads stdin sees our end
            for target, source in enumerate((lifeline, output, output)):
                os.dup2(source, target)
            child = os.fork()
            if child == 0:
                self._command(command)
            while True:
                ended = reap(block=True)
                if child in ended:
                    os.write(status, str(ended[child]).encode())
                    child = 0
        finally:
            os._exit(0)

    def _command(self, command: list[str]) -> None:
        try:
            os.setsid()
            die_with_parent()
            apply_limits(self.limits)
            os.execvp(command[0], command)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(127)

    def _watch(self, output: int, status: int) -> Ended:
        os.set_blocking(output, False)
        deadline = time.monotonic() + self.limits.seconds
        look_at = time.monotonic() + _TICK
        with selectors.DefaultSelector() as ready:
            for descriptor in (0, status):
                ready.register(descriptor, selectors.EVENT_READ)
            while (now := time.monotonic()) < deadline:
                if now >= look_at:
                    look_at = now + _TICK
                    if over := self._look():
                        return over
                    self._drain(output)
                for key, _ in ready.select(max(0.0, min(deadline, look_at) - now)):
                    if key.fd == 0:
                        self.orphaned = not os.read(0, 1)
                        return "stopped"
                    if code := os.read(status, 16):
                        self.code = int(code)
                    return "exited"
        return "deadline"

    def _look(self) -> Ended | None:
        live = tree(os.getpid())
        resident = sum(process.resident for process in live)
        self.peak = max(self.peak, resident)
        if sum(process.threads for process in live if process.state != "Z") > self.limits.tasks:
            return "tasks"
        return "memory" if resident > self.limits.memory_bytes else None

    def _drain(self, output: int) -> None:
        # once a tick and bounded: a flood waits in its own pipe and costs neither us nor the answers beside it
        with contextlib.suppress(BlockingIOError):
            for _ in range(16):
                data = os.read(output, 1 << 16)
                self.output.add(data)
                if not data:
                    break


def _main(argument: str) -> None:
    request = json.loads(argument)
    supervisor = _Supervisor(Limits(**request["limits"]))
    result = supervisor.run(request["command"])
    if supervisor.orphaned:
        # in place: with its first process, our namespace has lost the right to start others
        os.execvp("rm", ["rm", "-rf", "--", request["folder"]])
    else:
        sys.stdout.write(json.dumps(result))
        sys.stdout.flush()


def remove(folder: Path) -> None:
    """Remove a folder that belonged to an untrusted process.

    Not by `shutil.rmtree`, which stops at folders without permissions and at those nested deeper than Python recurses.
    """
    for command in (["rm", "-rf", "--"], ["chmod", "-R", "u+rwx", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, folder], cwd="/", stderr=subprocess.DEVNULL)
        if not folder.exists():
            break


def supervisor_command(command: list[str], limits: Limits, folder: Path) -> list[str]:
    """Return the command line that runs `command` under a supervisor.

    The supervisor holds its stdin as a lifeline: a byte there tells it to kill the tree, its end (by the death of the
    starter) to remove `folder` as well. Its stdout is one JSON object: `ended` (see `Ended`), `code`, `escaped`
    (processes besides the main one that had to be killed), `output` (base64), `output_bytes`, `peak_bytes`.
    """
    request = json.dumps({"command": command, "limits": asdict(limits), "folder": str(folder)})
    return [sys.executable, "-I", "-S", __file__, request]


_KEEPER = """
import os, select, signal, sys
while os.getppid() == int(sys.argv[1]) and not (select.select([0], [], [], 0.5)[0] and not os.read(0, 1)):
    pass
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.killpg(0, signal.SIGTERM)
import shutil
shutil.rmtree(sys.argv[2], ignore_errors=True)
os.killpg(0, signal.SIGKILL)
"""


def keeper_command(folder: Path) -> list[str]:
    """Return the command line of a keeper: when its starter is gone, it removes `folder` and kills its process group.

    Start it as the leader of a new group and what it keeps as further members: one that would join too late, because
    the group is gone already, does not start. Its stdin is its lifeline; a fork of its starter that holds the other
    end as well does not deceive it for more than half a second.
    """
    return [sys.executable, "-I", "-S", "-c", _KEEPER, str(os.getpid()), str(folder)]


def start_keeper(folder: Path) -> "subprocess.Popen[bytes] | None":
    """Start what removes `folder` when this process is killed; None where there is no such thing."""
    if not available():
        return None
    quiet = subprocess.DEVNULL
    return subprocess.Popen(keeper_command(folder), stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, process_group=0)


if __name__ == "__main__":
    _main(sys.argv[1])
