"""A keeper: a small process that removes a folder and ends a group of processes when its owner is gone."""

import os
import subprocess
import sys
from pathlib import Path

from labserver.posix.processes import available

__all__ = ["keeper_command", "start_keeper"]

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
