"""`labserver bench`: its options, its progress on a terminal, its files."""

import json
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from labserver.errors import LabError

if TYPE_CHECKING:
    from labserver.bench.figures import Found
    from labserver.bench.place import Place
    from labserver.bench.rounds import Tell
    from labserver.bench.rows import Row

__all__ = ["bench"]

ROUNDS = 5


def bench(
    rows: Annotated[list[str] | None, typer.Argument(help="What to measure; all of it when none is named.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each measures every entry of a row once.")] = ROUNDS,
    quick: Annotated[
        bool, typer.Option("--quick", help="One short round with less load: does all of it work?")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Write the picture to this file, an SVG.")] = None,
) -> None:
    """Measure the lab's own machinery beside its peers, as ratios of server CPU.

    Rows: fanout, saturated, stalled, sse, memory, deflate, ndjson, download, llm.

    Servers and load have a core each where there are two. Every entry of a row
    is measured once per round, and the rounds are interleaved, so leave the
    machine alone meanwhile; all rows take some minutes. Exit code 1 when a
    goal is missed. What is not installed is a sentence, and not a figure.
    """
    chosen = _rows(rows or [])
    for option, path in (("--json", json_file), ("--plot", plot)):
        if path is not None:
            _try_to_write(option, path)
    console = Console()
    try:
        with _terminated_as_interrupted():
            every = _measure(chosen, 1 if quick else rounds, quick, console, json_file)
    except KeyboardInterrupt:
        Console(stderr=True).print("Stopped; every server is ended, nothing is left.")
        raise typer.Exit(130) from None
    from labserver.bench import view
    from labserver.bench.figures import figures

    if plot is not None:
        plot.write_text(view.picture(every).svg, encoding="utf-8")

    if not quick and any(figure.verdict == "missed" for found in every for figure in figures(found)):
        raise typer.Exit(1)


def _rows(names: list[str]) -> "list[Row]":
    from labserver.bench.rows import ROWS

    if wrong := [name for name in names if name not in ROWS]:
        raise LabError(f"There is no row {wrong[0]!r}; the rows are {', '.join(ROWS)}.")
    return [row for name, row in ROWS.items() if not names or name in names]


def _try_to_write(option: str, path: Path) -> None:
    try:
        with path.open("a", encoding="utf-8"):
            pass
    except OSError as error:
        raise LabError(f"{option} can't be written to {path}: {error.strerror}.") from None


def _measure(chosen: "list[Row]", rounds: int, quick: bool, console: Console, json_file: Path | None) -> "list[Found]":
    from labserver.bench import view
    from labserver.bench.figures import to_json
    from labserver.bench.measure import QUICK, WHOLE
    from labserver.bench.place import place
    from labserver.bench.rounds import measure_row, order

    size = QUICK if quick else WHOLE
    with place() as where, _progress(console, rounds) as tell:
        every = [measure_row(where, row, rounds, size, tell) for row in chosen]
        if (wrong := order(every)).rounds:
            every.append(wrong)
        about = _about(where, rounds, quick)
    console.print(view.costs(every))
    console.print(view.summary(every))
    remarks = view.remarks(every, quick=quick, cores=where.load_core is not None, program=bool(where.compiler))
    for line in remarks:
        console.print(line, markup=False, highlight=False)
    if json_file is not None:
        said = to_json(every, **about, remarks=remarks)
        json_file.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    return every


def _about(where: "Place", rounds: int, quick: bool) -> dict[str, object]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "rounds": rounds,
        "quick": quick,
        "cores": [where.server_core, where.load_core],
        "load": "C" if where.build("load") else "Python",
    }


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM ends a benchmark as Ctrl-C does: in order."""
    before = signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _progress(console: Console, rounds: int) -> "Iterator[Tell]":
    """Yield what shows how far it is: a line that is renewed on a terminal, a line per row elsewhere."""
    told: set[str] = set()
    if not console.is_terminal:

        def line(row: str, entry: str, at: int) -> None:
            if row not in told:
                told.add(row)
                console.print(f"Measuring {row}", markup=False, highlight=False)

        yield line
        return
    with console.status("Starting") as status:
        yield lambda row, entry, at: status.update(f"{row}: {entry}, round {at + 1} of {rounds}")
