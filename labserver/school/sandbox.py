"""One untrusted answer in a process of its own: a temporary folder, a bare environment, limits, an end to all of it.

What it is: the answer runs under a supervisor (`labserver/posix/supervisor.py`), in its own session, in a fresh folder
that is its HOME, TMPDIR and working directory, with an environment that holds nothing of yours. Memory, processes,
threads, CPU, files, open files, output and time are limited. At the end everything it started is killed, also what
changed its group or lost its parent (Linux), also when the grader itself is killed; then the folder is removed.

Where the kernel has Landlock (Linux 5.13 and later) there are walls: it can write to its folder alone, and read nothing
but Python, the system and this package; from Linux 6.12 on it can't signal your processes. As another user (`owner`) it
can read what that user can. Elsewhere it runs as you: it can read and write every file that you can.

What it is not: a machine of its own. It can use the network, what listens on this host among it, and an unmended fault
of the kernel. It stops accidents and the curious, not an attacker: grade strangers in a container or a virtual machine.
It needs Linux or macOS; on macOS a process that leaves its group and its parent may survive.
"""

import json
import os
import sys
import sysconfig
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from labserver import posix
from labserver.errors import LabError
from labserver.posix import Ended, Forked, ForkServer, Limits, Program
from labserver.school import preload

__all__ = ["READABLE", "Limits", "Outcome", "Sandbox", "bare_environment"]

T = TypeVar("T")
_PREFIX = "labserver-answer-"
_END_TIMEOUT = 30.0  # seconds until a supervisor that was told to end has killed the tree and said so
_PACKAGE = Path(__file__).parents[1]
_POLL = 0.01  # seconds between looks for what the answer announces


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an answer's process came to its end.

    Attributes:
        ended: see `posix.Ended`.
        code: its exit code, negative for the number of the signal that killed it, None if we ended it.
        escaped: how many further processes it had left running; they are dead now.
        output: what it wrote to stdout and stderr, the middle left out when that was much.
        output_bytes: how much it wrote in all.
        peak_bytes: the most resident memory that was seen, whole tree.
    """

    ended: Ended
    code: int | None = None
    escaped: int = 0
    output: str = ""
    output_bytes: int = 0
    peak_bytes: int = 0


READABLE = tuple(
    str(place)
    for place in dict.fromkeys(
        [
            *map(Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc", "/dev", "/proc", "/sys", "/nix")),
            *map(Path, (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"))),
            Path(sys.executable).resolve().parents[1],
            _PACKAGE,
        ]
    )
)
"""What an answer may read beside its folder: the system, Python with its packages, and the lab's package."""


def bare_environment(folder: Path) -> dict[str, str]:
    """Return an answer's environment: where programs are, its own folder, UTF-8, the fake LLM; nothing inherited."""
    return {
        "PATH": os.pathsep.join(preload.PATHS),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": str(_PACKAGE.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "LABSERVER_HOME": str(folder),
        "LABSERVER_LLM": "fake",
    }


class Sandbox:
    """A folder and one process tree in it; `with` ends both.

    Example:
        with Sandbox(Limits(seconds=30)) as box:
            (box.folder / "answer.py").write_text(source)
            box.start([sys.executable, "answer.py"])
            port = box.wait(box.folder.joinpath("port").exists, timeout=10)
            ...
            outcome = box.finish()

    Args:
        limits: what the tree may use.
        owner: name of the user it runs as (root only); None: it runs as you.
        readable: see `READABLE`; None: no wall around files.

    Raises:
        LabError: if answers can't be confined on this system, or there is no such user.
    """

    def __init__(
        self, limits: Limits | None = None, *, owner: str | None = None, readable: tuple[str, ...] | None = READABLE
    ) -> None:
        if not posix.available():
            raise LabError("Answers can't be confined here: grade on Linux or macOS, in WSL or in a container.")
        self.limits = limits or Limits()
        self._owner = _ids(owner) if owner is not None else None
        self._readable = readable
        preload.with_server(preload.answers, ForkServer.ready)  # from here on, our death ends what we begin
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        if self._owner:
            os.chown(self.folder, *self._owner)
        self._forked: Forked | None = None
        self._aborted = False
        self._outcome: Outcome | None = None

    def __enter__(self) -> "Sandbox":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.finish()
        finally:
            posix.remove(self.folder)

    def write(self, name: str, text: str) -> Path:
        """Write a file into the folder, readable for whoever the answer runs as; return its path."""
        path = self.folder / name
        path.write_text(text, encoding="utf-8", errors="replace")
        if self._owner:
            os.chown(path, *self._owner)
        return path

    def start(self, command: list[str]) -> None:
        """Start a program in the folder; its deadline begins now."""
        self._start(Program(str(self.folder), command=tuple(command), limits=self.limits))

    def call(self, function: str, arguments: list[str]) -> None:
        """Call `module:function` in the folder, in a fork that has imported what answers need; as `start`, but fast."""
        self._start(Program(str(self.folder), call=function, arguments=tuple(arguments), limits=self.limits))

    def _start(self, program: Program) -> None:
        program = replace(program, owner=self._owner, readable=self._readable)
        environment = bare_environment(self.folder)
        self._forked = preload.with_server(preload.answers, lambda forks: forks.supervise(program, environment))
        if self._aborted:  # before there was anything to end
            self._forked.stop()

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether the process has come to its end; waits up to `timeout` seconds for that."""
        return self._forked is None or self._forked.ended(timeout)

    def wait(self, ready: Callable[[], T | None], timeout: float) -> T | None:
        """Return what `ready()` returns once that is true; None if the process ends or `timeout` seconds pass first."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if value := ready():
                return value
            if self.ended(_POLL):
                return ready()
        return None

    def abort(self) -> None:
        """Have everything end soon; may be called from another thread."""
        self._aborted = True
        if self._forked is not None:
            self._forked.stop()

    def finish(self) -> Outcome:
        """Kill what still runs and return how it ended; again: the same."""
        if self._outcome is None:
            self._outcome = self._finish(self._forked) if self._forked else Outcome("stopped")
        return self._outcome

    def _finish(self, forked: Forked) -> Outcome:
        forked.stop()
        written = forked.output(_END_TIMEOUT)
        forked.close()
        try:
            data = json.loads(written)
            data["output"] = b64decode(data["output"]).decode("utf-8", "replace")
            return Outcome(**data)
        except (ValueError, TypeError, KeyError):
            return Outcome("lost")  # the supervisor did not live to tell; the fork server ends what it left


def _ids(user: str) -> tuple[int, int]:
    try:
        return posix.owner(user)
    except KeyError:
        raise LabError(f"There is no user {user!r} on this machine: make one that owns nothing.") from None
