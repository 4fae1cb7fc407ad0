"""Grades a folder of submissions: finds the answers, judges several at a time, keeps each at once, writes the marks.

A failure of any kind costs that answer only. The same submissions and the same seed give the same marks, however many
are judged at once, and whether in one go or with `--resume` after an interrupt.
"""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from labserver.errors import LabError
from labserver.school import report as reports
from labserver.school.catalogue import exercise
from labserver.school.judge import Running, judge
from labserver.school.kept import Kept
from labserver.school.marks import Assignment, Graded, Marks
from labserver.school.roster import read_roster
from labserver.school.submissions import LAYOUTS, Found, Submission, find
from labserver.school.walls import Walls, look_through
from labserver.settings import get_settings

__all__ = ["grade", "grade_all", "grade_folder"]

_PER_CORE = 3  # answers at once for each core: two thirds of an answer's time are waiting


def grade(
    submissions: Annotated[Path, typer.Argument(help=f"Folder of submissions: {LAYOUTS}.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; made if missing.")],
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Answers at once.", show_default="3 a core")] = None,
    seed: Annotated[int, typer.Option(help="The random payloads: the same for all students, and on each run.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Go on: judge what is new, keep the rest.")] = False,
    user: Annotated[str | None, typer.Option(help="Run answers as this user, who owns nothing; needs root.")] = None,
    roster: Annotated[Path | None, typer.Option(help="CSV file `submission,id`: ids for marks.csv.")] = None,
) -> None:
    """Grade a folder of submissions and write the marks.

    Into the folder OUT: results.json, results.csv (student, exercise, check,
    points, verdict), marks.csv (a row per student, for a gradebook), index.html
    for you, students/NAME.html for each student. What is graded is kept at
    once in graded.jsonl: after an interrupt, or when late work came in, the
    same command with --resume judges only what is new or has changed.

    Each answer runs in a process of its own: a temporary folder, a bare
    environment, limits on memory, processes, files, output and time; all that
    it started is killed at its end. Where the kernel has Landlock (Linux 5.13
    and later) it can write to its folder alone and can't read your files;
    elsewhere it can read every file that you can read, unless you give it a
    user of its own. What holds here is said at the begin. It can always use
    the network. This stops accidents and the curious, not an attacker: grade
    strangers in a container.
    """
    if jobs is not None and jobs < 1:
        raise LabError(f"--jobs is the number of answers at once: 1 or more, not {jobs}.")
    ids = read_roster(roster) if roster else {}
    console = Console()
    began = perf_counter()
    try:
        marks = grade_folder(
            submissions,
            out,
            jobs=jobs or _PER_CORE * _cores(),
            seed=seed,
            console=console,
            resume=resume,
            user=user,
        )
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped. What was graded is kept: the same command with --resume goes on.")
        raise typer.Exit(130) from None
    console.print(reports.summary(marks))
    console.print(f"{len(marks.graded)} answers graded in {perf_counter() - began:.0f} s.")
    for path in reports.write(marks, out, ids):
        console.print(f"  {path}", soft_wrap=True, highlight=False, markup=False)
    if roster and (unknown := [student for student in marks.students if student not in ids]):
        sentence = f"Not in {roster.name}, so marks.csv has the names of their submissions: {', '.join(unknown)}."
        console.print(sentence, highlight=False, markup=False)


def grade_folder(
    folder: Path,
    out: Path,
    *,
    jobs: int,
    seed: int,
    console: Console,
    resume: bool = False,
    user: str | None = None,
) -> Marks:
    """Grade every submission in a folder; tell the progress on `console`.

    Args:
        folder: of submissions.
        out: where the results will go: tried for writing first, and left out when it lies in `folder`.
        jobs: answers at once.
        seed: of the random payloads.
        console: shows a progress bar on a terminal, else one line per answer.
        resume: take what an earlier run into `out` has judged, where neither answer nor checks have changed.
        user: name of the user that answers run as; None: as you.

    Raises:
        LabError: if the folder holds no submissions, `out` can't be written to, or `user` does not hold as a wall.
    """
    get_settings()  # a variable that does not fit is one sentence now, and not the end of each answer
    found = find(folder, leave_out=out)
    reports.prepare(out)
    with Kept(out / "graded.jsonl", seed, resume=resume) as kept:
        known = {item: graded for item in found.submissions if (graded := kept.find(item))}
        new = [item for item in found.submissions if item not in known]
        if known:
            console.print(f"{len(known)} of {len(found.submissions)} answers are known already.")
        walls = look_through([folder, out], user=user)
        console.print(walls.sentence, soft_wrap=True, highlight=False, markup=False)
        with _progress(console, len(new)) as tell:
            for item, graded in grade_all(new, jobs=jobs, seed=seed, user=user):
                known[item] = graded
                kept.add(item, graded)
                tell(graded)
    return _marks(found, [known[item] for item in found.submissions], seed, walls)


def grade_all(
    submissions: Iterable[Submission], *, jobs: int, seed: int, user: str | None = None
) -> Iterator[tuple[Submission, Graded]]:
    """Judge `jobs` submissions at a time; yield each as it is done. Closing the iterator ends what still runs."""
    running = Running()
    with ThreadPoolExecutor(jobs, thread_name_prefix="grade") as pool:
        futures = {pool.submit(judge, item, seed=seed, running=running, user=user): item for item in submissions}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:  # an interrupt: end what runs, start nothing new
            pool.shutdown(wait=False, cancel_futures=True)
            running.stop()
            raise


def _marks(found: Found, graded: list[Graded], seed: int, walls: Walls) -> Marks:
    ids = sorted({item.report.exercise for item in graded} - {""})
    return Marks(
        found.students, tuple(_assignment(id) for id in ids), tuple(graded), found.skipped, seed, walls.sentence
    )


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
