"""The participants' copy: `labserver handout OUT [--route ...]` writes what a group needs, and nothing of the answers.

`contents` says which files there are and what is in them; `put` writes them as a folder or a zip, whole or not at all.
What is copied is named here, so that nothing gets in by lying about. A route's copy holds that route alone, and no link
in it leads out. The same sources give the same bytes.
"""

import posixpath
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Annotated, Any

import typer

from labserver.errors import LabError
from labserver.school.catalogue import CHECKS, ROOT, STARTERS, Exercise, exercise
from labserver.school.routes import Course, Route, course

if TYPE_CHECKING:
    from nbformat import NotebookNode

__all__ = ["contents", "handout", "put"]

MARK = b"<!-- labserver handout -->"
"""The first line of a handout's README, and the comment of its zip: only what bears it is ever replaced."""
AS_IT_IS = ("LICENSE", "constraints.txt", "environment.yml", "pyproject.toml", "uv.lock")
SOURCES = ("labserver", "notebooks", "exercises", "solutions", "tests")
TARGETS = {"env", "lab", "slides", "clean", "stale"}
"""What a participant makes; the other targets of the Makefile need tests or solutions."""
MAKE = """\
# The lab's commands. They need Python 3.11 or newer and make; uv is fetched into .uv when there is none.
#
#   make lab       build the environment, open JupyterLab on notebook 00 (without a screen: print its address)
#   make slides    notebooks as slides, shown without a network: ARGS="05", or all of them
#   make clean     remove environments and caches
#
# PYTHON=3.13 uses another Python in an environment of its own; ARGS="..." goes to JupyterLab or the slides."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)\s]+)\)")
YEAR_ZERO = (1980, 1, 1, 0, 0, 0)  # the first moment that a zip can tell


def handout(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write, or a file that ends in .zip.")],
    route: Annotated[Route | None, typer.Option(help="Only what fits into that time; everything without it.")] = None,
) -> None:
    """Write the participants' copy: no solutions, no hidden checks, no wrong answers."""
    chosen = course(route)
    put(contents(chosen), out)
    counts = f"{_count(len(chosen.notebooks), 'notebook')}, {_count(len(chosen.exercises), 'exercise')}"
    typer.echo(f"wrote {out}: {counts}, {chosen.minutes} minutes without breaks")


def contents(chosen: Course) -> dict[str, bytes]:
    """Return every file of a handout: its path from the handout's root on, with slashes, and its bytes.

    Raises:
        LabError: if something is missing, or this is no checkout but a handout itself.
    """
    if _bears_mark(ROOT):
        raise LabError("This is a handout already: copy it as it is, or make one in a checkout of the repository.")
    lessons = {lesson.path for lesson in chosen.lessons}
    files = {name: _source(name) for name in AS_IT_IS} | _package(chosen)
    files |= {lesson.path: _notebook(lesson.path, chosen, lessons) for lesson in chosen.notebooks}
    files |= {lesson.path: _exercise(exercise(Path(lesson.path).stem), chosen) for lesson in chosen.exercises}
    files["Makefile"] = _makefile(_source("Makefile").decode()).encode()
    files["README.md"] = _readme(_source("README.md").decode(), chosen).encode()
    return dict(sorted(files.items()))


def put(files: Mapping[str, bytes], out: Path) -> None:
    """Write files as the folder `out`, or as a zip of one folder if its name ends in `.zip`; whole or not at all.

    Args:
        files: path with slashes, and bytes.
        out: must not exist, or be empty, or be an earlier handout, which is replaced.

    Raises:
        LabError: if `out` is something else, lies among the sources, or can't be written.
    """
    out = out.resolve()
    _refuse(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as beside:
            made, before = Path(beside) / "made", Path(beside) / "before"
            _write(files, made, out)
            if out.exists():
                out.rename(before)
            try:
                made.rename(out)
            except OSError:
                if before.exists():
                    before.rename(out)
                raise
    except OSError as error:
        raise LabError(f"{out} can't be written: {error.strerror or error}.") from None


def _write(files: Mapping[str, bytes], made: Path, out: Path) -> None:
    if _is_zip(out):
        made.write_bytes(_zipped(files, out.stem))
        return
    for name, data in files.items():
        path = made / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _zipped(files: Mapping[str, bytes], folder: str) -> bytes:
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.comment = MARK
        for name, data in files.items():
            entry = zipfile.ZipInfo(f"{folder}/{name}", YEAR_ZERO)
            entry.compress_type, entry.create_system, entry.external_attr = zipfile.ZIP_DEFLATED, 3, 0o100644 << 16
            archive.writestr(entry, data)
    return whole.getvalue()


def _refuse(out: Path) -> None:
    for name in SOURCES:
        if out.is_relative_to(ROOT / name):
            raise LabError(f"{out} lies in {name}, which the handout is made from: name a folder outside of it.")
    if out.exists() and not _bears_mark(out) and (out.is_file() or any(out.iterdir())):
        raise LabError(f"{out} is there, and is no earlier handout: name another place, or remove it yourself.")


def _bears_mark(place: Path) -> bool:
    """Whether this is a handout, of the kind that its name asks for."""
    try:
        if place.is_file():
            with zipfile.ZipFile(place) as archive:
                return _is_zip(place) and archive.comment == MARK
        with (place / "README.md").open("rb") as readme:
            return not _is_zip(place) and readme.readline().strip() == MARK
    except (OSError, zipfile.BadZipFile):
        return False


def _is_zip(out: Path) -> bool:
    return out.suffix.lower() == ".zip"


def _source(name: str) -> bytes:
    try:
        return (ROOT / name).read_bytes()
    except OSError as error:
        raise LabError(f"{name} can't be read ({error.strerror}): restore it from the repository.") from None


def _package(chosen: Course) -> dict[str, bytes]:
    """The package, but of checks and starters only the route's: progress and `labserver next` list what is there."""
    found = {}
    for path in sorted((ROOT / "labserver").rglob("*")):
        inner = path.relative_to(ROOT)
        numbered = path.parent in (CHECKS, STARTERS) and path.name[:2].isdigit()
        stray = path.suffix in (".pyc", ".pyo", ".ipynb") or path.name.endswith("~")
        hidden = any(part.startswith(".") or part == "__pycache__" for part in inner.parts)
        if path.is_file() and not hidden and (path.stem in chosen.exercise_ids if numbered else not stray):
            found[inner.as_posix()] = path.read_bytes()
    return found


def _notebook(path: str, chosen: Course, lessons: set[str]) -> bytes:
    """A notebook with its stored outputs; without a route byte for byte as it is."""
    from labserver.school.notebooks import read

    if chosen.route is None:
        return _source(path)
    notebook = read(ROOT / path)
    numbers = [lesson.path for lesson in chosen.notebooks]
    following = next((lesson for lesson in chosen.notebooks[numbers.index(path) + 1 :]), None)
    onward = f"**Next:** [{following.number} {following.title}]({Path(following.path).name})." if following else ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _on_route(cell.source, onward, lessons)
    return _bytes(notebook)


def _on_route(text: str, onward: str, lessons: set[str]) -> str:
    """The text of a notebook's cell without links to what is not in the handout.

    What comes next is the route's next notebook. Rows of a table and the exercise that only such a link leads to are
    left out; of any other link the words stay.
    """
    kept = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("**Next:**"):
            kept += [onward] if onward else []
        elif not _leads_out(paragraph, lessons):
            kept.append(paragraph)
        elif paragraph.startswith("|"):
            kept.append("\n".join(_rows(paragraph.split("\n"), lessons)))
        elif not paragraph.startswith("**Exercise:**"):
            kept.append(LINK.sub(lambda link: link[1] if _leads_out(link[0], lessons) else link[0], paragraph))
    return "\n\n".join(kept)


def _rows(table: list[str], lessons: set[str]) -> Iterator[str]:
    """A table's head, and the rows in bold that stay on the route: of the map's, those that are here."""
    yield from table[:2]
    for row in table[2:]:
        if row.startswith("| **") and not _leads_out(row, lessons):
            yield row


def _leads_out(text: str, lessons: set[str]) -> bool:
    """Whether a text of `notebooks/` links to a notebook or an exercise that is not in the handout."""
    targets = (target.partition("#")[0] for _, target in LINK.findall(text) if "://" not in target)
    return any(posixpath.normpath(f"notebooks/{target}") not in lessons for target in targets if target)


def _exercise(known: Exercise, chosen: Course) -> bytes:
    """An exercise as built, with outputs; where somebody has worked in it since, its starter."""
    from labserver.school.notebooks import normalise, read

    shipped = read(known.starter)
    try:
        built = read(known.notebook)
    except LabError:
        return _bytes(shipped)
    if _sources(built) != _sources(shipped) or normalise(built) != built:  # an editor leaves marks of its own
        return _bytes(shipped)
    for cell in built.cells:
        if cell.cell_type == "code" and cell.source.strip() == "progress()" and cell.outputs:
            cell.outputs = [_no_progress(chosen)]
    return _bytes(built)


def _sources(notebook: "NotebookNode") -> list[tuple[str, str, str]]:
    return [(cell.get("id", ""), cell.cell_type, cell.source) for cell in notebook.cells]


def _no_progress(chosen: Course) -> Any:
    """What `progress()` shows in a new copy, whatever the instructor has solved."""
    from nbformat.v4 import new_output

    from labserver.school.standings import Standing
    from labserver.school.view import progressed

    exercises = [exercise(id) for id in chosen.exercise_ids]
    shown = progressed((known, Standing(known.id, 0, known.max_points, 0)) for known in exercises)
    untyped: Any = new_output
    return untyped("display_data", data=shown._repr_mimebundle_())


def _bytes(notebook: "NotebookNode") -> bytes:
    import nbformat

    text: str = nbformat.writes(notebook)
    return (text.rstrip("\n") + "\n").encode()


def _makefile(text: str) -> str:
    """The repository's Makefile with a participant's targets and a head of its own."""
    _, *blocks = text.strip().split("\n\n")
    kept = [block for block in blocks if not (rule := re.match(r"([a-z]+):", block)) or rule[1] in TARGETS]
    made = re.sub(r"^SOAK\w* .*\n", "", "\n\n".join([MAKE, *kept]), flags=re.MULTILINE)
    return re.sub(r"^\.PHONY:.*$", f".PHONY: {' '.join(sorted(TARGETS))}", made, flags=re.MULTILINE) + "\n"


def _readme(text: str, chosen: Course) -> str:
    """A README for participants; what must not differ from the repository's is taken from there."""
    ways = re.search(r"^\| way \|.*?(?=\n\n)", text, flags=re.MULTILINE | re.DOTALL)
    licences = re.search(r"^## Licences\n+(.*?)\s*(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL)
    if ways is None or licences is None:
        raise LabError("README.md lacks its table of ways or its part on licences: restore it from the repository.")
    first = chosen.exercises[0]
    lines = [
        f"{n}. [{_name(lesson.number, lesson.title)}]({lesson.path}), {lesson.minutes} minutes"
        for n, lesson in enumerate(chosen.lessons, 1)
    ]
    page = Template(Path(__file__).with_suffix(".md").read_text(encoding="utf-8"))
    return page.substitute(
        ways=ways[0],
        licences=licences[1],
        lessons="\n".join(lines),
        minutes=chosen.minutes,
        number=first.number,
        handed_in=Path(first.path).name,
    )


def _name(number: str, title: str) -> str:
    return title if title.startswith("Exercise") else f"{number} {title}"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" + ("" if number == 1 else "s")
