"""Verdicts that wait to be sent: a folder with one small file for each, under `settings.home`. No network.

A file appears by a rename and goes when the room has answered, so that nothing is lost when a kernel is killed at any
point. Two kernels of one participant share the folder; both may send a file, and the room keeps it once.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from labserver.school.room.verdict import Verdict

__all__ = ["Outbox"]

AGE_MAX = 86_400.0  # seconds that a verdict is worth sending: the room of another day is another room
FILES_MAX = 200  # verdicts that wait; one more drops the oldest


class Outbox:
    """A folder of verdicts, the oldest first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def put(self, verdict: Verdict) -> None:
        """Keep a verdict until it is sent.

        Raises:
            OSError: if it can't be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{time.time_ns():020}-{verdict.id}.json"
        partial = path.with_suffix(".partial")
        try:
            partial.write_text(verdict.model_dump_json(), encoding="utf-8")
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        for old in self._files()[:-FILES_MAX]:
            old.unlink(missing_ok=True)

    def waiting(self) -> Iterator[tuple[Path, Verdict]]:
        """Yield each verdict that waits, the oldest first, with its file. What is too old or damaged is removed.

        Raises:
            OSError: if the folder can't be read.
        """
        for path in self._files():
            try:
                if time.time() - path.stat().st_mtime > AGE_MAX:
                    raise ValueError("too old")
                verdict = Verdict.model_validate_json(path.read_bytes())
            except FileNotFoundError:  # another kernel has sent it
                continue
            except (ValueError, ValidationError):
                path.unlink(missing_ok=True)
                continue
            yield path, verdict

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("*.json"))
