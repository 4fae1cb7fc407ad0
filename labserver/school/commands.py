"""The school on the command line: `labserver exercises build | check | reset`, `labserver next`, `labserver grade`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from labserver.errors import LabError
from labserver.school.grade import grade
from labserver.school.verdicts import Report

__all__ = ["exercises", "grade", "next_exercise"]

exercises = typer.Typer(help="Build, check and reset the exercises.", no_args_is_help=True)

Which = Annotated[str | None, typer.Argument(metavar="EXERCISE", help="01, 01_websocket_basics or a notebook; or all.")]


@exercises.command()
def build(
    exercise: Which = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file would change.")] = False,
) -> None:
    """Make the exercises from their solutions."""
    from labserver.school import build as maker
    from labserver.school.catalogue import ROOT, find_exercise

    if check:
        if stale := maker.stale():
            raise LabError(f"{' '.join(stale)} Run `labserver exercises build`.")
        _say("Every exercise is what its solution makes.")
        return
    for path in maker.build([find_exercise(exercise)] if exercise else None):
        _say(f"wrote {path.relative_to(ROOT)}")


@exercises.command("check")
def check_exercise(exercise: Which = None) -> None:
    """Check your answers over the wire; exit with code 1 unless all of them have full marks."""
    from labserver.school import view
    from labserver.school.answer import read_answer
    from labserver.school.catalogue import exercise as look_up
    from labserver.school.catalogue import exercise_ids
    from labserver.school.run import AnswerDied, run_checks, serving

    paths = [_notebook(exercise)] if exercise else [look_up(id).notebook for id in exercise_ids()]
    solved = True
    for path in paths:
        answer = read_answer(path)
        known = look_up(answer.exercise)
        if not answer.attempted:
            _say(view.to_do(known, "Nothing to check yet: write your answer in place of the `...`.").twin)
            solved = False
            continue
        try:
            with serving(answer.source, answer.object) as url:
                report = run_checks(url, known.id)
        except AnswerDied as error:
            report = Report(known.id, "crashed", str(error), 0, known.max_points)
        solved &= report.solved
        _say(view.checked(report, known).twin)
        _say(_first_failure(report))
    if not solved:
        raise typer.Exit(1)


@exercises.command()
def reset(
    exercise: Annotated[str, typer.Argument(help="01 or 01_websocket_basics.")],
    whole: Annotated[bool, typer.Option("--all", help="The whole notebook, not only what is missing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Restore a lost answer cell, or the whole exercise; what was there is kept as a copy."""
    from labserver.school.catalogue import exercise as look_up
    from labserver.school.catalogue import find_exercise
    from labserver.school.reset import has_answer
    from labserver.school.reset import reset as restore

    known = look_up(find_exercise(exercise))
    if whole and has_answer(known) and not yes:
        question = f"exercises/{known.notebook.name} holds an answer. Put the exercise back as shipped and keep a copy?"
        typer.confirm(question, abort=True)
    _say(restore(known, whole=whole).said)


def next_exercise() -> None:
    """Say which exercise is next."""
    from labserver.school.catalogue import ROOT
    from labserver.school.catalogue import exercise as look_up
    from labserver.school.standings import next_up

    standing = next_up()
    if standing is None:
        _say("Every exercise has full marks.")
        return
    known = look_up(standing.exercise)
    state = f"{standing.points} of {standing.max_points} points so far" if standing.tries else "not begun"
    first = f"Read {known.lesson.relative_to(ROOT).as_posix()} first. " if known.lesson.exists() else ""
    path = known.notebook.relative_to(ROOT).as_posix()
    _say(f"Next: {known.number} · {known.title} ({state}). {first}Open {path}.")
    if not known.notebook.exists():
        _say(f"The file is missing: `labserver exercises reset {known.number}` puts it back.")


def _notebook(name: str) -> Path:
    """A notebook by its path, else the exercise of that number or name."""
    from labserver.school.catalogue import exercise as look_up
    from labserver.school.catalogue import find_exercise

    path = Path(name)
    return path if path.suffix == ".ipynb" and path.exists() else look_up(find_exercise(name)).notebook


def _first_failure(report: Report) -> str:
    first = next((check for check in report.checks if not check.passed), None)
    if first is None:
        return ""
    lines = [f"\nFirst failure: {first.title}", f"  seen      {first.seen}", f"  expected  {first.expected}"]
    lines += [f"  think     {first.hint}", "", first.tape_text] if first.tape_text else [f"  think     {first.hint}"]
    return "\n".join(lines)


def _say(text: str) -> None:
    if text:
        Console(soft_wrap=True, markup=False, highlight=False).print(text)
