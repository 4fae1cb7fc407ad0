"""Grades a folder of submissions: reads each answer, serves it in a sandbox, runs the checks, writes the marks.

Each answer runs in a sandbox of its own (`sandbox.py` says what that is and is not: it stops accidents, not an
attacker). The checks run outside it, in a process that speaks HTTP to the answer and executes nothing of it. A failure
of any kind costs that answer only. The same submissions and the same seed give the same marks, however many run at
once.
"""

import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath
from threading import Lock
from time import perf_counter
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labserver.errors import LabError
from labserver.school import report as reports
from labserver.school.answer import Answer, NoAnswer, parse_answer
from labserver.school.catalogue import ROOT, exercise, exercise_ids
from labserver.school.marks import Assignment, Graded, Marks
from labserver.school.run import answer_arguments, run_checks
from labserver.school.sandbox import Limits, Outcome, Sandbox
from labserver.school.submissions import LAYOUTS, Found, Submission, find, printable
from labserver.school.verdicts import Report, ReportVerdict
from labserver.settings import get_settings

__all__ = ["grade", "grade_all", "grade_folder", "grade_submission"]

_SPARE_TIME = 5.0  # seconds of an answer's life beyond its start and its checks
_RESPONSE_TIMEOUT = 3.0  # seconds for one byte from a server that is not blocked
_GONE_TIMEOUT = 0.05  # seconds until the end of a process that died in the last check has been noticed
_OUTPUT_CHARACTERS = 4000  # of what an answer printed, shown to the student: its last traceback


def grade(
    submissions: Annotated[Path, typer.Argument(help=f"Folder of submissions: {LAYOUTS}.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")],
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Answers at once.", show_default="cores")] = None,
    seed: Annotated[int, typer.Option(help="The random payloads: the same for all students, and on each run.")] = 1,
) -> None:
    """Grade a folder of submissions and write the marks.

    Into the folder OUT: results.json, results.csv (student, exercise, check,
    points, verdict), index.html for you, students/NAME.html for each student.

    Each answer runs in a process of its own: a temporary folder, a bare
    environment, limits on memory, processes, files, output and time; all that
    it started is killed at its end. This is no wall. An answer runs as your
    user: it can read every file that you can read, and use the network. It
    stops accidents, not an attacker. Grade strangers in a container, or as a
    user that owns nothing.
    """
    if jobs is not None and jobs < 1:
        raise LabError(f"--jobs is the number of answers at once: 1 or more, not {jobs}.")
    console = Console()
    began = perf_counter()
    try:
        marks = grade_folder(submissions, out, jobs=jobs or _cores(), seed=seed, console=console)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped; no results were written.")
        raise typer.Exit(130) from None
    console.print(reports.summary(marks))
    console.print(f"{len(marks.graded)} answers graded in {perf_counter() - began:.0f} s.")
    for path in reports.write(marks, out):
        console.print(f"  {path}", soft_wrap=True, highlight=False, markup=False)


def grade_folder(folder: Path, out: Path, *, jobs: int, seed: int, console: Console) -> Marks:
    """Grade every submission in a folder; tell the progress on `console`.

    Args:
        folder: of submissions.
        out: where the results will go: tried for writing first, and left out when it lies in `folder`.
        jobs: answers at once.
        seed: of the random payloads.
        console: shows a progress bar on a terminal, else one line per answer.

    Raises:
        LabError: if the folder holds no submissions or `out` can't be written to.
    """
    get_settings()  # a variable that does not fit is one sentence now, and not the end of each answer
    found = find(folder, leave_out=out)
    reports.prepare(out)
    with _progress(console, len(found.submissions)) as tell:
        graded = grade_all(found.submissions, jobs=jobs, seed=seed, done=tell)
    return _marks(found, graded, seed)


def grade_all(
    submissions: Iterable[Submission], *, jobs: int, seed: int, done: Callable[[Graded], None]
) -> list[Graded]:
    """Grade `jobs` submissions at a time; call `done` with each as it finishes; return them in the given order."""
    running = _Running()
    with ThreadPoolExecutor(jobs, thread_name_prefix="grade") as pool:
        futures = [pool.submit(grade_submission, item, seed=seed, running=running) for item in submissions]
        try:
            for future in as_completed(futures):
                done(future.result())
        except BaseException:  # an interrupt: end what runs, start nothing new
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise
    return [future.result() for future in futures]


def grade_submission(submission: Submission, *, seed: int, running: "_Running | None" = None) -> Graded:
    """Grade one notebook; whatever goes wrong is a verdict and never an exception."""
    began = perf_counter()
    try:
        graded = _grade(submission, seed, running or _Running())
    except Exception as error:
        reason = f"The grader failed, which is no fault of the answer: {type(error).__name__}: {error}"
        graded = _refused(submission, "", "not checked", reason)
    return replace(graded, seconds=perf_counter() - began)


def _grade(submission: Submission, seed: int, running: "_Running") -> Graded:
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
    limits = _limits()
    with Sandbox(limits) as box, running.keep(box):
        report = _serve_and_check(answer, box, seed)
        by_itself = box.ended()
        outcome = box.finish()
        shown = _shown(outcome.output, box.folder)
    report, notes = _with_end(report, outcome, limits, by_itself=by_itself)
    return Graded(submission.student, submission.source, report, notes, shown)


def _limits() -> Limits:
    """What one answer may use; the settings say which of it can be raised on a slow machine."""
    chosen = get_settings()
    return Limits(
        seconds=chosen.answer_start_timeout + chosen.checks_timeout + _SPARE_TIME,
        memory_bytes=chosen.answer_memory_bytes,
        tasks=chosen.answer_tasks,
    )


def _serve_and_check(answer: Answer, box: Sandbox, seed: int) -> Report:
    module, announce = box.folder / "answer.py", box.folder / "announce.json"
    module.write_text(answer.source, encoding="utf-8", errors="replace")
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
    if not path.is_file() or path.stat().st_size > 1 << 16:
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
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


class _Running:
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


def _marks(found: Found, graded: list[Graded], seed: int) -> Marks:
    ids = sorted({item.report.exercise for item in graded} - {""})
    return Marks(found.students, tuple(_assignment(id) for id in ids), tuple(graded), found.skipped, seed)


def _assignment(id: str) -> Assignment:
    known = exercise(id)
    wrong = tuple((name, what.says, what.see) for name, what in known.misconceptions.items())
    return Assignment(id, known.title, tuple((check.name, check.points) for check in known.checks), wrong)


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Graded], None]]:
    """Yield a function to call with each graded answer: moves a bar on a terminal, prints a line elsewhere."""
    if not console.is_terminal:
        count = itertools.count(1)
        yield lambda graded: console.print(
            f"[{next(count)}/{total}] {_line(graded)}", markup=False, highlight=False, soft_wrap=True
        )
        return
    last = TextColumn("{task.fields[last]}")
    columns = (TextColumn("grading"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), last)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=total, last="")
        yield lambda graded: bar.update(task, advance=1, last=escape(_line(graded)))


def _line(graded: Graded) -> str:
    report = graded.report
    return f"{graded.student}, {report.exercise or graded.source}: {report.verdict}, {report.points} points"


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
