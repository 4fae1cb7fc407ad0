"""What was graded so far, kept at once: one line of JSON per answer, so that an interrupted run can go on.

A line is found again by its key: student, source, the bytes handed in, the seed, the checks and our version. Whatever
of these changes, the answer is judged anew. A last line cut short by the end of the process counts as none.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any

from labserver import __version__
from labserver.school.catalogue import CHECKS, ROOT
from labserver.school.marks import Graded
from labserver.school.submissions import Submission
from labserver.school.verdicts import Report

__all__ = ["Kept"]


class Kept:
    """The file `graded.jsonl` in the folder of results.

    Args:
        path: of the file; made if missing.
        seed: of the random payloads.
        resume: keep what is in it; else begin anew.
    """

    def __init__(self, path: Path, seed: int, *, resume: bool) -> None:
        self._seed = seed
        self._known = dict(_lines(path)) if resume and path.exists() else {}
        self._file = path.open("w", encoding="utf-8")
        for key, data in self._known.items():
            self._write(key, data)

    def __enter__(self) -> "Kept":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def find(self, submission: Submission) -> Graded | None:
        """Return how a submission was graded, None if it was not, or not as it is now."""
        data = self._known.get(self._key(submission)) if self._known else None
        if data is None:
            return None
        return Graded(**{**data, "report": Report.from_json(data["report"]), "notes": tuple(data["notes"])})

    def add(self, submission: Submission, graded: Graded) -> None:
        """Keep how a submission was graded; what we failed to check is tried again next time."""
        if graded.report.verdict != "not checked":
            fields = {name: getattr(graded, name) for name in ("student", "source", "notes", "output", "seconds")}
            self._write(self._key(submission), {**fields, "report": graded.report.to_json()})

    def _write(self, key: str, data: dict[str, Any]) -> None:
        self._file.write(json.dumps({"key": key, "graded": data}) + "\n")
        self._file.flush()

    def _key(self, submission: Submission) -> str:
        try:
            data = submission.read()
        except ValueError as error:
            data = str(error).encode()
        parts = (submission.student, submission.source, str(self._seed), __version__, _checks())
        return hashlib.sha256("\0".join(parts).encode(errors="surrogateescape") + b"\0" + data).hexdigest()


def _lines(path: Path) -> "list[tuple[str, dict[str, Any]]]":
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            kept = json.loads(line)
            Report.from_json(kept["graded"]["report"])
            found.append((str(kept["key"]), kept["graded"]))
        except (ValueError, KeyError, TypeError):
            continue
    return found


@lru_cache(maxsize=1)
def _checks() -> str:
    """A digest of all checks, the hidden ones among them."""
    files = [*sorted(CHECKS.glob("*.py")), *sorted((ROOT / "solutions" / "hidden").glob("*.py"))]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.read_bytes())
    return digest.hexdigest()
