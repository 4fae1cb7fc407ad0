"""The supervisor of one untrusted program: it owns the whole tree of processes, its time, memory, tasks and folder."""

import contextlib
import importlib
import os
import selectors
import subprocess
import sys
import time
import traceback
from base64 import b64encode
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from labserver.posix.landlock import confine
from labserver.posix.limits import (
    Limits,
    adopt_orphans,
    apply_limits,
    become,
    die_with_parent,
    own_namespaces,
    own_shared_memory,
    run_before_others,
)
from labserver.posix.processes import Process, kill_tree, processes, reap, tree

__all__ = ["Ended", "Program", "Supervisor", "remove", "run_call"]

_TICK = 0.2  # seconds between two looks at the tree: a look costs about 20 us per process of the host
_TICKS_PER_FOLDER = 5  # ticks between two looks at the folder, each of which costs some 2 us per file

Ended = Literal["exited", "stopped", "deadline", "tasks", "memory", "disk", "lost"]
"""Why a process came to its end: by itself, told to, at its deadline, by a limit of its tree or its folder, or unknown
(`lost`: the supervisor itself was killed)."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and behind which walls.

    Attributes:
        folder: its working directory; the only place that it may write to.
        command: a program and its arguments; empty if `call` says what to run.
        call: `module:function`, called with `arguments`; returns the exit code. It runs in the fork itself.
        arguments: of `call`.
        limits: what it may use.
        owner: the ids of the user and group that it becomes; None: it stays who it is.
        readable: the only other places that it may read, where the kernel has Landlock; None: no such wall.
    """

    folder: str
    command: tuple[str, ...] = ()
    call: str = ""
    arguments: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)
    owner: tuple[int, int] | None = None
    readable: tuple[str, ...] | None = None


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


class Supervisor:
    """Runs one command and owns its whole tree; ends when the command does, at a limit, or when stdin is closed.

    Between the two stands a tiny `init`, which reaps orphans and, where the kernel lets us, is the first process of a
    process-id namespace: then its end is the end of all, and what runs inside can't even name a process outside.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.limits = limits = program.limits
        self.output = _Output(limits.output_bytes)
        self.peak = 0
        self.code: int | None = None
        self.born = Process(0, 0, 0, "", 0, 0, -1)
        self.ticks = 0
        self.init = 0
        self.shared_memory = False  # whether /dev/shm is ours alone
        self.orphaned = False  # our starter is dead and nobody will clean up after us

    def run(self) -> dict[str, Any]:
        """Run the program to its end, whatever that is.

        Returns:
            `ended` (see `Ended`), `code`, `escaped` (processes besides the main one that had to be killed), `output`
            (base64), `output_bytes`, `peak_bytes`.
        """
        self.born = next(process for process in processes() if process.pid == os.getpid())
        adopt_orphans()
        self.shared_memory = own_namespaces() and own_shared_memory()
        run_before_others()
        output, output_end = os.pipe()
        _widen(output)
        status, status_end = os.pipe()
        self.init = os.fork()
        if self.init == 0:
            self._init(output_end, status_end)
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

    def _init(self, output: int, status: int) -> None:
        try:
            die_with_parent()
            adopt_orphans()
            lifeline, _ = os.pipe()  # its other end is ours alone: whoever reads stdin sees our end
            for target, source in enumerate((lifeline, output, output)):
                os.dup2(source, target)
            child = os.fork()
            if child == 0:
                self._start()
            while True:
                ended = reap(block=True)
                if child in ended:
                    os.write(status, str(ended[child]).encode())
                    child = 0
        finally:
            os._exit(0)

    def _start(self) -> None:
        program, code = self.program, 127
        try:
            os.setsid()
            apply_limits(self.limits, program.owner[0] if program.owner else None)
            if program.owner:
                become(*program.owner)
            die_with_parent()  # after the change of user, which takes it back
            if program.readable is not None:
                shared = [Path("/dev/shm")] if self.shared_memory else []
                devices = [Path("/dev", name) for name in ("null", "zero", "full", "random", "urandom", "tty")]
                confine(readable=map(Path, program.readable), writable=[Path(program.folder), *devices, *shared])
            if program.command:
                os.execvp(program.command[0], program.command)
            code = run_call(program.call, program.arguments)
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
        finally:
            os._exit(code)

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
        live = [process for process in tree(os.getpid()) if process.pid != self.init]
        resident = sum(map(self._resident, live))
        self.peak = max(self.peak, resident)
        if sum(process.threads for process in live if process.state != "Z") > self.limits.tasks:
            return "tasks"
        if resident > self.limits.memory_bytes:
            return "memory"
        self.ticks += 1
        return "disk" if self.ticks % _TICKS_PER_FOLDER == 0 and self._folder_is_full() else None

    def _resident(self, process: Process) -> int:
        """Its memory in bytes; a fork of ours was born with all of our own, which it shares."""
        return max(0, process.resident - self.born.resident) if process.image == self.born.image else process.resident

    def _folder_is_full(self) -> bool:
        """Whether the folder holds more than it may; what can't be looked into counts as one file."""
        files, size, folders = 0, 0, [self.program.folder]
        while folders and files <= self.limits.folder_files and size <= self.limits.folder_bytes:
            with contextlib.suppress(OSError), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    files += 1
                    with contextlib.suppress(OSError):
                        size += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
        return files > self.limits.folder_files or size > self.limits.folder_bytes

    def _drain(self, output: int) -> None:
        # once a tick and bounded: a flood waits in its own pipe and costs neither us nor the answers beside it
        with contextlib.suppress(BlockingIOError):
            for _ in range(16):
                data = os.read(output, 1 << 16)
                self.output.add(data)
                if not data:
                    break


def run_call(name: str, arguments: tuple[str, ...]) -> int:
    """Call `module:function` with a list of arguments in this process, as `python -m` would; return its exit code."""
    module, _, function = name.partition(":")
    try:
        return int(getattr(importlib.import_module(module), function)(list(arguments)) or 0)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()


def remove(folder: Path) -> None:
    """Remove a folder that belonged to an untrusted process.

    Not by `shutil.rmtree`, which stops at folders without permissions and at those nested deeper than Python recurses.
    """
    for command in (["rm", "-rf", "--"], ["chmod", "-R", "u+rwx", "--"], ["rm", "-rf", "--"]):
        subprocess.run([*command, folder], cwd="/", stderr=subprocess.DEVNULL)
        if not folder.exists():
            break
