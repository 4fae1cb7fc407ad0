"""A foreign program, nginx for one, that never outlives its owner.

Beside the program runs a keeper (`posix.keeper_command`), a small process that leads the group of both and waits for
the owner's end, however that comes: then it kills the group and removes the program's folder.
"""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from labserver import posix

__all__ = ["Kept"]


class Kept:
    """A program that runs until `stop`, or until its owner is gone. POSIX only.

    Args:
        command: the program's path and its arguments.
        folder: its private folder, removed at the end; what it prints is in the file `output` there.
        inherit: descriptors that it takes over under the same numbers.
        environment: variables beside ours.
    """

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        *,
        inherit: Sequence[int] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        quiet = subprocess.DEVNULL
        self._keeper = subprocess.Popen(
            posix.keeper_command(folder), stdin=subprocess.PIPE, stdout=quiet, stderr=quiet, process_group=0
        )
        try:
            with open(folder / "output", "wb") as output:
                self._program = subprocess.Popen(
                    command,
                    stdin=quiet,
                    stdout=output,
                    stderr=output,
                    env={**os.environ, **(environment or {})},
                    pass_fds=inherit,
                    process_group=self._keeper.pid,
                )
        except BaseException:
            self._end(self._keeper)
            raise

    @property
    def alive(self) -> bool:
        """Whether the program runs."""
        return self._program.poll() is None

    @property
    def pid(self) -> int:
        """The program's process id."""
        return self._program.pid

    def stop(self) -> None:
        """Kill the program and what it started, and remove its folder. Again is harmless."""
        self._end(self._keeper, self._program)

    def _end(self, *processes: "subprocess.Popen[bytes]") -> None:
        if self._keeper.returncode is None:  # not waited for yet, so its id, the group's, is nobody else's
            posix.kill_group(self._keeper.pid)
        for process in processes:
            process.wait()
        if self._keeper.stdin is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)
