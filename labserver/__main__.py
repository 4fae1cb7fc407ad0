"""The command line: `labserver serve | doctor | token | exercises | grade | handout | next | slides | room |
rehearse | bench`.

Commands live beside what they run; this module only puts them together and turns a `LabError` into one sentence and
exit code 2.
"""

import sys

import typer
from rich.console import Console

from labserver.errors import LabError

__all__ = ["app", "main"]

app = typer.Typer(
    name="labserver",
    help="The streaming lab: serve it, check what is here, build, check and grade exercises.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _assemble() -> None:
    from labserver.bench.command import bench
    from labserver.school.commands import exercises, grade, next_exercise
    from labserver.school.handout import handout
    from labserver.school.present import slides
    from labserver.school.rehearse.command import rehearse
    from labserver.school.room.commands import room
    from labserver.service.commands import serve, token
    from labserver.stage.doctor import doctor

    app.command()(serve)
    app.command()(doctor)
    app.command()(token)
    app.add_typer(exercises, name="exercises")
    app.command()(grade)
    app.command()(handout)
    app.command("next")(next_exercise)
    app.command()(slides)
    app.command()(room)
    app.command()(rehearse)
    app.command()(bench)


def main() -> None:
    """Run the command line; exit with code 2 and one sentence on an error that the user can mend."""
    _assemble()
    try:
        app()
    except LabError as error:
        Console(stderr=True, soft_wrap=True).print(f"labserver: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
