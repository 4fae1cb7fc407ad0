"""What an exercise's notebook calls: `begin`, `check`, `replay`, `hint`, `progress`. One kernel's state, nothing else.

`check` serves the very object in the kernel, by a real uvicorn in a thread, and has the checks speak to it from another
process. Where a participant can mend something it shows one sentence, never a traceback.
"""

import sys
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

from labserver.errors import LabError
from labserver.school import grading, nbgrader, view
from labserver.school import standings as book
from labserver.school.asgi import answer_problem, app_of
from labserver.school.attempt import Attempt
from labserver.school.catalogue import Exercise, exercise
from labserver.school.run import run_checks
from labserver.school.verdicts import Report
from labserver.settings import get_settings
from labserver.stage.rich import Html

__all__ = ["begin", "check", "hint", "last_report", "progress", "replay"]


@dataclass(slots=True)
class _Session:
    """What this kernel knows of its exercise."""

    known: Exercise
    attempt: Attempt
    answer: Any = None
    report: Report | None = None
    hints: int = 0


_session: _Session | None = None


def begin(exercise_id: str) -> None:
    """Open an exercise in this kernel.

    Raises:
        LabError: if there is none of that id.
    """
    global _session
    if grading.serving():
        return
    known = exercise(exercise_id)
    _session = _Session(known, Attempt(known))
    _watch_cells()
    _show(view.opened(known))


def check(answer: Any = None) -> int | None:
    """Check an answer over the wire and show what was seen: some seconds. Ctrl-C stops it and leaves nothing behind.

    Args:
        answer: the app itself, or the client's function.

    Returns:
        None, so that a cell shows nothing more. When nbgrader runs the notebook, the points: it takes a value for them.
    """
    if not nbgrader.executing():
        if (report := _check(answer)) is not None and get_settings().room is not None:
            _report(report)
        return None
    with redirect_stderr(sys.stdout):  # whatever a graded cell writes there costs all of its points
        return nbgrader.value_of(_check(answer))


def _check(answer: Any) -> Report | None:
    """Show what the checks saw; None if there was nothing to check."""
    session = _current()
    if session is None:
        return None
    known = session.known
    if answer is Ellipsis or session.attempt.starter:
        sentence = "Nothing to check yet: write your answer in place of the `...`, run that cell, then run this one."
        _show(view.to_do(known, sentence))
        return None
    if problem := answer_problem(answer, known.object):
        _show(view.note(f"Exercise {known.number} · {known.title}: not checked", [problem]))
        return None
    report, remarks = _checked(known, answer)
    session.answer, session.report = answer, report
    if report.verdict != "not checked":
        remarks += _kept(report)
    _show(view.checked(report, known, remarks))
    return report


def replay(answer: Any = None, *, check: str | None = None) -> None:
    """Run one check of the last run again, with the same payloads, and show what goes over the wire this time.

    Args:
        answer: what to try it on, for instance the app that you have mended; None: what was checked then.
        check: its name; None: the first that failed.
    """
    session = _current()
    if session is None:
        return
    if session.report is None:
        _show(view.note("Nothing to replay", ["Check your answer first: a replay runs what failed there once more."]))
        return
    failed = [result.name for result in session.report.checks if not result.passed]
    names = [known.name for known in session.known.checks]
    tried = session.answer if answer is None else answer
    if problem := answer_problem(tried, session.known.object):
        _show(view.note("Nothing to replay", [problem]))
    elif check is not None and check not in names:
        _show(view.note(f"There is no check {check!r}", [f"Choose one of {', '.join(names)}."]))
    elif not failed and check is None:
        told = "Every check passed. `replay(check=name)` runs one of them all the same."
        _show(view.note("Nothing to replay", [told]))
    else:
        name = check or failed[0]
        again, remarks = _checked(session.known, tried, seed=session.report.seed, only=name)
        if tried is session.answer and again.checks and again.solved == (name in failed):
            remarks.append(view.comes_and_goes(again))
        _show(view.replayed(again, session.known, name, remarks))


def hint() -> None:
    """Show the next of three hints, each of which says more; the first after a check that did not pass."""
    session = _current()
    if session is None:
        return
    if session.report is None:
        _show(view.note("No hint yet", ["Write an answer and check it first: a hint helps most after a try."]))
        return
    if session.report.solved:
        _show(view.note("No hint needed", ["Your answer has full marks."]))
        return
    hints = session.known.hints
    session.hints = min(session.hints + 1, len(hints))
    left = len(hints) - session.hints
    said = f"Hint {session.hints} of {len(hints)}" + ("" if left else ": the last one")
    _show(view.note(said, [hints[session.hints - 1]]))


def progress() -> None:
    """Show the best points of every exercise so far."""
    if not grading.serving():
        _show(view.progressed((exercise(standing.exercise), standing) for standing in book.standings()))


def last_report() -> Report | None:
    """Return the report of the last check in this kernel, None before the first."""
    return _session.report if _session is not None else None


def _current() -> _Session | None:
    if grading.serving():
        return None
    if _session is None:
        text = "Run the first code cell of this notebook: it says which exercise this is."
        _show(view.note("No exercise is open", [text]))
    return _session


def _checked(
    known: Exercise, answer: Any, *, seed: int | None = None, only: str | None = None
) -> tuple[Report, list[str]]:
    """Serve, run the checks, stop; whatever happens, no server is left."""
    from labserver.stage.server import start

    try:
        live = start(app_of(answer, known.object), name="check", access_log=False)
    except LabError as error:
        return Report(known.id, "crashed", str(error), 0, known.max_points), []
    stopped = False
    try:
        report = run_checks(live.url, known.id, seed=seed, only=only)
    finally:
        stopped = live.stop()
    remarks = _raised(live.errors()) if not report.solved else []
    if not stopped:
        remarks.append("Your server does not stop: some loop of yours never awaits. Restart the kernel.")
    return report, remarks


def _raised(errors: list[str]) -> list[str]:
    """What the app raised, each once: the participant's own exceptions are the best hint there is."""
    distinct = list(dict.fromkeys(error.partition(":")[0].strip() for error in errors))
    names = ", ".join(f"`{name}`" for name in distinct[:4])
    return [f"While it was checked, your app raised {names}."] if names else []


def _kept(report: Report) -> list[str]:
    try:
        book.record(report)
    except OSError as error:
        return [f"Your progress could not be saved: {error.strerror}."]
    return []


def _report(report: Report) -> None:
    """Hand a report over to the room's board; one line says how that went, and later how it went on."""
    from labserver.school.room.report import hand_over

    shown: list[Any] = []  # the line's handle, once there is one

    def say(sentence: str) -> None:
        line = view.line(sentence)
        if shown:
            shown[0].update(line)
        elif (handle := _show(line, again=True)) is not None:
            shown.append(handle)

    hand_over(report, say)


def _watch_cells() -> None:
    """Take note of each cell that runs."""
    shell = _shell()
    if shell is not None and _remember not in shell.events.callbacks["pre_run_cell"]:
        shell.events.register("pre_run_cell", _remember)


def _remember(info: Any) -> None:
    if _session is not None:
        _session.attempt.ran(info.raw_cell)


def _show(html: Html, *, again: bool = False) -> Any:
    """Show something; `again` returns what can replace it later, None where nothing can."""
    if _shell() is None:
        print(html.twin)
        return None
    from IPython.display import display

    return display(html, display_id=True) if again else display(html)  # type: ignore[no-untyped-call]


def _shell() -> Any:
    try:
        from IPython.core.getipython import get_ipython
    except ImportError:
        return None
    return get_ipython()
