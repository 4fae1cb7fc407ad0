"""`labserver rehearse`: its options, its progress on a terminal, its exit code."""

import importlib.util
import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from labserver.errors import LabError

if TYPE_CHECKING:
    from labserver.school.rehearse.room import Tell

__all__ = ["rehearse"]

_NEEDED = ("ipykernel", "jupyter_client", "nbformat", "nbclient", "psutil", "pytest")


def rehearse(
    people: Annotated[int, typer.Option(help="How many come.")] = 30,
    notebook: Annotated[str, typer.Option(help="What they run: its number, or a path.")] = "05",
    exercise: Annotated[
        str | None, typer.Option(help="What they solve then.", show_default="that of the notebook")
    ] = None,
    pause: Annotated[float, typer.Option(help="Seconds that they read after each cell, on average.")] = 5.0,
    minutes: Annotated[float, typer.Option(help="When to stop, whoever is not through.")] = 20.0,
    keep_free: Annotated[int, typer.Option(help="MiB of memory to keep free; it stops before there is less.")] = 512,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
) -> None:
    """Simulate the room on this host, the evening before.

    Each person has Jupyter kernels of their own: one for the notebook, run
    cell by cell with short pauses for reading, and one for the exercise, whose
    answer is checked. It says how long they wait for what, what that takes of
    this host, and whether the room fits: exit code 0 if it does, else 1.

    Progress, history and temporary files of each lie in a folder that is
    removed; nothing of yours is read or written, nothing is left running.
    With LABSERVER_ROOM set, the checks report to that room as well.

    Not simulated: browsers, the network, JupyterLab's own server per person.
    """
    _require_parts()
    from labserver.school.rehearse import view
    from labserver.school.rehearse.plan import make_plan
    from labserver.school.rehearse.record import to_json
    from labserver.school.rehearse.room import rehearse as run

    plan = make_plan(people, notebook, exercise, pause=pause, minutes=minutes, keep_free=keep_free << 20)
    if json_file is not None:
        _try_to_write(json_file)
    console = Console()
    try:
        with _terminated_as_interrupted(), _progress(console) as tell:
            found = run(plan, tell)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped; every kernel is ended, nothing is left.")
        raise typer.Exit(130) from None
    if json_file is not None:
        json_file.write_text(json.dumps(to_json(found), indent=1) + "\n", encoding="utf-8")
    console.print(view.table(found))
    for line in view.summary(found):
        console.print(line, markup=False, highlight=False)
    if not found.fits:
        raise typer.Exit(1)


def _require_parts() -> None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise LabError(f'{missing[0]} is not installed here: run `pip install -e ".[lab,test]"`.')


def _try_to_write(path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise LabError(f"--json can't be written to {path}: {error.strerror}.") from None


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a rehearsal as Ctrl-C does: in order."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(console: Console) -> "Iterator[Tell]":
    """Yield what shows how far the room is: one line that is renewed on a terminal, a line per change elsewhere."""
    from labserver.school.rehearse import view
    from labserver.school.rehearse.room import Room

    told: list[tuple[str, ...]] = []

    def changed(room: Room) -> bool:
        told.append(tuple(person.outcome.state for person in room.people))
        return len(told) == 1 or told[-1] != told[-2]

    def first(room: Room) -> None:
        if not told:
            console.print(view.opening(room), markup=False, highlight=False)

    def line(room: Room) -> None:
        first(room)
        if changed(room):
            console.print(view.progress(room), markup=False, highlight=False, soft_wrap=True)

    if not console.is_terminal:
        yield line
        return
    with console.status("The first one arrives") as status:

        def show(room: Room) -> None:
            first(room)
            changed(room)
            status.update(view.progress(room))

        yield show
