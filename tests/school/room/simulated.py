"""What the room's tests share: verdicts, a room as a child process that can be killed, and patience with deadlines."""

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from labserver.school.room.verdict import Verdict

DEADLINE = 60.0  # seconds until what must happen has happened, on a machine with other things to do

EXERCISE = "05_server_sent_events"


def a_verdict(name: str = "ana", **other: Any) -> Verdict:
    given = {"exercise": EXERCISE, "verdict": "partial", "points": 40, "failed": ["done", "error"]} | other
    return Verdict(id=secrets.token_hex(16), name=name, **given)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Wait until a condition holds, and return what it returned."""
    end = time.monotonic() + DEADLINE
    while not (found := condition()):
        assert time.monotonic() < end, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.02)
    return found


class RoomProcess:
    """`labserver room` as its user starts it."""

    def __init__(self, keep: Path, *arguments: str, port: int = 0) -> None:
        command = [sys.executable, "-m", "labserver", "room", "--port", str(port), "--keep", str(keep), *arguments]
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )
        assert self.process.stdout is not None
        self.said = ""
        while "Kept in" not in self.said:
            line = self.process.stdout.readline()
            assert line, self.said
            self.said += line
        self.url, self.board_key, self.report_key = re.search(
            r"Board.*?(http://\S+)/#(\S+)\n.*LABSERVER_ROOM=\S+/#(\S+)\n", self.said
        ).groups()
        self.port = int(self.url.rpartition(":")[2])
        until(self.answers, "the room answers")

    def answers(self) -> bool:
        assert self.process.poll() is None, self.said
        try:
            return httpx.get(self.url, trust_env=False, timeout=DEADLINE).status_code == 200
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.end()

    def terminate(self) -> int:
        """Ask it to end; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.end()

    def end(self) -> int:
        code = self.process.wait(DEADLINE)
        assert self.process.stdout is not None
        self.said += self.process.stdout.read()
        self.process.stdout.close()
        return code
