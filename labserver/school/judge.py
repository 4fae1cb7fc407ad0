"""Judges one answer: reads it, serves it in a sandbox, has the checks speak to it, says how it ended.

The checks run outside the sandbox, in a process that speaks HTTP to the answer and executes nothing of it. Whatever
goes wrong is a verdict of that answer and never an exception.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Lock
from time import perf_counter
from typing import Any

from labserver.errors import LabError
from labserver.school.answer import Answer, NoAnswer, parse_answer
from labserver.school.catalogue import ROOT, exercise, exercise_ids
from labserver.school.marks import Graded
from labserver.school.run import answer_arguments, run_checks
from labserver.school.sandbox import Limits, Outcome, Sandbox
from labserver.school.submissions import Submission, printable
from labserver.school.verdicts import Report, ReportVerdict
from labserver.settings import get_settings

__all__ = ["Running", "judge", "judge_answer"]

_SPARE_TIME = 5.0  # seconds of an answer's life beyond its start and its checks
_RESPONSE_TIMEOUT = 3.0  # seconds for one byte from a server that is not blocked
_GONE_TIMEOUT = 0.05  # seconds until the end of a process that died in the last check has been noticed
_OUTPUT_CHARACTERS = 4000  # of what an answer printed, shown to the student: its last traceback
_ANNOUNCED_BYTES = 1 << 16  # of what an answer's process announces: one port, or one sentence


def judge(submission: Submission, *, seed: int, running: "Running | None" = None, user: str | None = None) -> Graded:
    """Grade one notebook.

    Args:
        submission: whose it is, and where.
        seed: of the random payloads.
        running: what an interrupt ends.
        user: name of the user that the answer runs as (root only); None: as you.
    """
    began = perf_counter()
    try:
        graded = _judge(submission, seed, running, user)
    except Exception as error:
        reason = f"The grader failed, which is no fault of the answer: {type(error).__name__}: {error}"
        graded = _refused(submission, "", "not checked", reason)
    return replace(graded, seconds=perf_counter() - began)


def _judge(submission: Submission, seed: int, running: "Running | None", user: str | None) -> Graded:
    try:
        data = submission.read()
    except ValueError as error:
        return _refused(submission, "", "no answer", str(error))
    try:
        answer = parse_answer(data, PurePosixPath(submission.source).name)
    except NoAnswer as error:
        return _refused(submission, _named_in(data), "no answer", str(error))
    if not answer.attempted:
        return _refused(submission, answer.exercise, "not attempted", "The answer is still the starter.")
    report, notes, shown = judge_answer(answer, seed=seed, running=running, user=user)
    return Graded(submission.student, submission.source, report, notes, shown)


def judge_answer(
    answer: Answer, *, seed: int, running: "Running | None" = None, user: str | None = None
) -> tuple[Report, tuple[str, ...], str]:
    """Serve an answer in a sandbox and have all checks speak to it, the hidden ones among them.

    Returns:
        The report, further sentences for the student, and the last of what the answer printed.

    Raises:
        LabError: if there is nothing to confine it with, or grading was stopped.
    """
    limits = _limits()
    with Sandbox(limits, owner=user) as box, (running or Running()).keep(box):
        report = _serve_and_check(answer, box, seed)
        by_itself = box.ended()
        outcome = box.finish()
        shown = _shown(outcome.output, box.folder)
    report, notes = _with_end(report, outcome, limits, by_itself=by_itself)
    return report, notes, shown


def _limits() -> Limits:
    """What one answer may use; the settings say which of it can be raised on a slow machine."""
    chosen = get_settings()
    return Limits(
        seconds=chosen.answer_start_timeout + chosen.checks_timeout + _SPARE_TIME,
        memory_bytes=chosen.answer_memory_bytes,
        tasks=chosen.answer_tasks,
    )


def _serve_and_check(answer: Answer, box: Sandbox, seed: int) -> Report:
    module, announce = box.write("answer.py", answer.source), box.folder / "announce.json"
    box.call("labserver.school.serve_answer:main", answer_arguments(module, answer.object, announce))
    patience = get_settings().answer_start_timeout
    told = box.wait(lambda: _announced(announce), patience)
    if told is None and not box.ended():
        reason = f"It did not serve within {patience:g} s: does a loop, or uvicorn.run(), run at its top level?"
        return _never_ran(answer.exercise, "timed out", reason)
    if told is None or "port" not in told:
        reason = printable(str((told or {}).get("error", "")))
        return _never_ran(answer.exercise, "crashed", reason or "Its process ended by itself before it served.")
    port = told["port"]
    report = run_checks(
        f"http://127.0.0.1:{port}", answer.exercise, seed=seed, hidden=True, confirm=True, preloaded=True
    )
    if report.solved or box.ended(_GONE_TIMEOUT) or _responds(port):
        return report
    reason = "It no longer answers anything: does a loop without `await`, or `time.sleep`, block its event loop?"
    return replace(report, reason=report.reason or reason, misconception="")


def _responds(port: int) -> bool:
    """Whether a server still says anything at all to a request."""
    try:
        with socket.create_connection(("127.0.0.1", port), _RESPONSE_TIMEOUT) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return bool(client.recv(1))
    except OSError:
        return False


def _announced(path: Path) -> dict[str, Any] | None:
    """What the answer's process has announced. It may have been written by the answer itself: nothing is believed."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except FileNotFoundError:
        return None
    except OSError:
        return {}
    with os.fdopen(descriptor, "rb") as file:
        try:
            told = json.loads(file.read(_ANNOUNCED_BYTES))
        except (ValueError, OSError, RecursionError):
            return {}
    port = told.get("port") if isinstance(told, dict) else None
    return told if isinstance(told, dict) and (port is None or (type(port) is int and 0 < port < 65536)) else {}


def _with_end(report: Report, outcome: Outcome, limits: Limits, *, by_itself: bool) -> tuple[Report, tuple[str, ...]]:
    """Add to a report how the answer's process ended, where that explains what the checks saw."""
    notes = []
    if outcome.escaped:
        notes.append(f"It left {outcome.escaped} process{'es' * (outcome.escaped > 1)} running; all were ended.")
    if outcome.output_bytes > limits.output_bytes:
        notes.append(f"It printed {outcome.output_bytes >> 10} KiB; the middle was dropped.")
    if not by_itself or report.verdict in ("solved", "timed out", "not attempted"):
        return report, tuple(notes)
    why = _why(outcome, limits)
    if report.verdict == "crashed" and not report.checks:
        known = report.reason.startswith("Its process ended")
        return replace(report, reason=why + " before it served." if known else report.reason), tuple(notes)
    verdict: ReportVerdict = "crashed" if report.points == 0 else report.verdict
    return replace(report, verdict=verdict, reason=why + " during the checks.", misconception=""), tuple(notes)


def _why(outcome: Outcome, limits: Limits) -> str:
    if outcome.ended == "memory":
        return f"It was ended because it used more than {limits.memory_bytes >> 20} MiB of memory"
    if outcome.ended == "tasks":
        return f"It was ended because it ran more than {limits.tasks} processes and threads"
    if outcome.ended == "deadline":
        return f"It was ended after {limits.seconds:g} s"
    if outcome.ended == "disk":
        return f"It was ended because it wrote more than {limits.folder_bytes >> 20} MiB or {limits.folder_files} files"
    if outcome.code is None:
        return "Its process ended"
    if outcome.code < 0:
        return f"Its process was ended by signal {-outcome.code} ({_signal_name(-outcome.code)})"
    return f"Its process ended by itself with exit code {outcome.code}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _never_ran(id: str, verdict: ReportVerdict, reason: str) -> Report:
    return Report(id, verdict, reason, 0, exercise(id).max_points if id else 0)


def _refused(submission: Submission, id: str, verdict: ReportVerdict, reason: str) -> Graded:
    return Graded(submission.student, submission.source, _never_ran(id, verdict, printable(reason)))


def _named_in(data: bytes) -> str:
    """The exercise that a notebook without a readable answer belongs to, or ""."""
    try:
        id = json.loads(data)["metadata"]["labserver"]["exercise"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return id if id in exercise_ids() else ""


def _shown(output: str, folder: Path) -> str:
    """The last of what an answer printed, without the paths of this machine and without control characters."""
    for place, name in ((str(folder) + os.sep, ""), (str(ROOT) + os.sep, ""), (sys.prefix + os.sep, "")):
        output = output.replace(place, name)
    text = printable(output, keep="\n\t")
    return text if len(text) <= _OUTPUT_CHARACTERS else "...\n" + text[-_OUTPUT_CHARACTERS:]


class Running:
    """The sandboxes that run now, so that an interrupt can end them from another thread."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._boxes: set[Sandbox] = set()
        self._stopped = False

    @contextmanager
    def keep(self, box: Sandbox) -> Iterator[None]:
        with self._lock:
            if self._stopped:
                raise LabError("Grading was stopped.")
            self._boxes.add(box)
        try:
            yield
        finally:
            with self._lock:
                self._boxes.discard(box)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for box in self._boxes:
                box.abort()
