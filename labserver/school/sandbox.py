"""One untrusted answer in a process of its own: a temporary folder, a bare environment, limits, an end to all of it.

What it is: the answer runs under a supervisor (`labserver/posix.py`), in its own session, in a fresh folder that is its
HOME, TMPDIR and working directory, with an environment that holds nothing of yours. Memory, processes, threads, CPU,
size of files, open files, output and time are limited. At the end everything it started is killed, also what changed
its group or lost its parent (Linux), also when the grader itself is killed; then the folder is removed.

What it is not: a wall. The answer runs as your user. It can read every file that you can read, this grader, the other
answers and the environment of your other processes among them; it can write outside its folder, fill the disc, use the
network, and signal your processes. It stops accidents, not an attacker. Grade strangers in a container, or as a user
that owns nothing. It needs Linux or macOS; on macOS a process that leaves its group and its parent may survive.
"""

import json
import os
import secrets
import select
import subprocess
import sys
import tempfile
import time
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from labserver import posix
from labserver.errors import LabError
from labserver.posix import Ended, Limits

__all__ = ["Limits", "Outcome", "Sandbox", "bare_environment"]

T = TypeVar("T")
_PREFIX = "labserver-answer-"
_MARK = "LABSERVER_SANDBOX"
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


def bare_environment(folder: Path, mark: str = "") -> dict[str, str]:
    """Return an answer's environment: where programs are, its own folder, UTF-8, the fake LLM; nothing inherited."""
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]),
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "LABSERVER_HOME": str(folder),
        "LABSERVER_LLM": "fake",
        **({_MARK: mark} if mark else {}),
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
    """

    def __init__(self, limits: Limits | None = None) -> None:
        if not posix.available():
            raise LabError("Answers can't be confined here: grade on Linux or macOS, in WSL or in a container.")
        self.limits = limits or Limits()
        self.folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
        self._mark = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
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

    def start(self, command: list[str]) -> None:
        """Start `command` in the folder; its deadline begins now."""
        self._process = subprocess.Popen(
            posix.supervisor_command(command, self.limits, self.folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
            env=bare_environment(self.folder, self._mark),
            start_new_session=True,
        )

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether the process has come to its end; waits up to `timeout` seconds for that."""
        if self._process is None or self._process.stdout is None or self._outcome is not None:
            return True
        return bool(select.select([self._process.stdout], [], [], timeout)[0])

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
        """Have everything end soon; may be called from another thread. `finish` then says `lost`."""
        if self._process is not None:
            self._process.terminate()

    def finish(self) -> Outcome:
        """Kill what still runs and return how it ended; again: the same."""
        if self._outcome is None:
            self._outcome = self._finish() if self._process else Outcome("stopped")
        return self._outcome

    def _finish(self) -> Outcome:
        assert self._process is not None
        written, _ = self._process.communicate(b".")
        try:
            data = json.loads(written)
            data["output"] = b64decode(data["output"]).decode("utf-8", "replace")
            return Outcome(**data)
        except (ValueError, TypeError, KeyError):  # the supervisor did not live to tell, nor to kill
            return Outcome("lost", escaped=posix.kill_marked(f"{_MARK}={self._mark}"))
