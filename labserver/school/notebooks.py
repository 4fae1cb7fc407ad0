"""Notebooks as files that are kept: run, normalised so that only what matters changes, and held to the lab's rules.

`python -m labserver.school.notebooks run PATHS` executes each notebook in a fresh kernel and writes its outputs;
`... lint PATHS` says what would make a stored notebook compare nothing, or show nothing, or differ on each machine.
nbval compares plain text; a picture is rewritten only when its text twin changed, so that a run leaves no noise behind.
What a cell is in a slide show is set by rule on each run; `... slides PATHS` sets that alone.
"""

import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import nbformat
import typer
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from rich.console import Console

from labserver.errors import LabError
from labserver.school.slides import TYPES, set_slide_types

__all__ = ["CELL_TIMEOUT", "Finding", "execute", "lint", "normalise", "read", "run", "set_slides", "write"]

CELL_TIMEOUT = 60
"""Seconds for one cell: a whole notebook takes less, so a cell that needs them all waits for something lost."""
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT = {"editable", "deletable", "jupyter", "labserver", "nbgrader", "slideshow", "tags"}
"""Metadata of a cell that a person wrote; the rest comes from whatever tool opened the file last."""
DECLARED = {"raises-exception", "nbval-raises-exception"}
CHANGING = (
    ("an address", re.compile(r"\b(?:127\.0\.0\.1|0\.0\.0\.0|localhost:\d+)|\[::1\]")),
    ("a port", re.compile(r"\bports? \d{4,5}\b")),
    ("a process id", re.compile(r"\b(?:pid|process)[ =:\[]+\d+")),
    ("a memory address", re.compile(r"\b0x[0-9a-f]{8,}\b")),
    (
        "a time",
        re.compile(r"\b\d{1,2}:\d{2}:\d{2}\b|\b\d{4}-\d{2}-\d{2}T\d|\b\d+(?:\.\d+)? ?(?:ms|µs|us)\b|\d\.\d{2,} ?s\b"),
    ),
    ("a path of one machine", re.compile(r"(?:^|[\s'\"(])/(?:home|root|tmp|Users|var|usr)/")),
)
"""What differs from machine to machine and from run to run, and so has no place in a compared output."""
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
FOLDERS = re.compile(r"(?:~|(?<![\w./])(?:[A-Za-z]:)?)[/\\](?:[^\s:'\"\x1b/\\]+[/\\])+(?=[^\s:'\"\x1b/\\]+\.py\b)")
"""The folders before a Python file's name in a traceback: where a library lies differs from machine to machine."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing in a stored notebook that is against the rules.

    Attributes:
        path: the notebook.
        cell: id of the cell, or "" for the notebook as a whole.
        sentence: what is wrong and what to do.
    """

    path: Path
    cell: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {f'cell {self.cell}: ' if self.cell else ''}{self.sentence}"


def read(path: Path) -> NotebookNode:
    """Read a notebook of format 4.

    Raises:
        LabError: if the file is missing or is no notebook.
    """
    try:
        notebook: NotebookNode = nbformat.read(path, as_version=4)
        notebook.cells  # noqa: B018  a JSON file without cells is no notebook
    except FileNotFoundError:
        raise LabError(f"{path} does not exist: give the path of a notebook, or of a folder of them.") from None
    except Exception as error:
        raise LabError(f"{path} is not a notebook ({error}): restore it from the repository.") from None
    return notebook


def write(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook as UTF-8 with one newline at its end; return whether the file changed."""
    text = nbformat.writes(notebook).rstrip("\n") + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.write_text(text, encoding="utf-8", newline="\n")
    return True


def execute(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run a copy of a notebook in a fresh kernel and a fresh home, in the working directory `folder`; return the copy.

    Raises:
        LabError: if a cell fails that does not declare it, or takes longer than `CELL_TIMEOUT`.
    """
    fresh: NotebookNode = nbformat.from_dict(notebook)
    client = NotebookClient(
        fresh,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        extra_arguments=["--HistoryManager.enabled=False"],
    )
    try:
        with tempfile.TemporaryDirectory(prefix="labserver-home-") as home:  # nobody's progress stands in an output
            client.execute(env={**os.environ, "LABSERVER_LLM": "fake", "LABSERVER_HOME": home})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise LabError(f"A cell failed: {error}") from None
    return fresh


def normalise(notebook: NotebookNode, before: NotebookNode | None = None) -> NotebookNode:
    """Return a copy without what changes from run to run: tools' metadata, counts out of order, split prints.

    Args:
        notebook: a notebook, executed or not.
        before: the stored one; where a text twin is as it was there, its picture stays as it was.
    """
    kept = {id_: cell for cell in (before.cells if before else []) if (id_ := cell.get("id"))}
    cells = [_cell(cell, kept.get(cell.get("id"))) for cell in notebook.cells]
    count = 0
    for cell in cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is not None:
            count += 1
            cell.execution_count = count
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = count
    set_slide_types(cells)
    metadata: dict[str, Any] = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    if "labserver" in notebook.metadata:
        metadata["labserver"] = notebook.metadata.labserver
    whole: NotebookNode = nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})
    return whole


def run(path: Path, *, redraw: bool = False) -> bool:
    """Execute one notebook and store its normalised outputs; return whether the file changed.

    Args:
        path: the notebook.
        redraw: store every picture anew, also where its text twin is as it was.

    Raises:
        LabError: if it is no notebook or a cell fails; the file is then left as it was.
    """
    before = read(path)
    return write(normalise(execute(before, path.parent), None if redraw else before), path)


def set_slides(path: Path, *, anew: bool = False) -> bool:
    """Say of each cell of a stored notebook what it is in a slide show, without running it; return whether it changed.

    Args:
        path: the notebook.
        anew: forget what its cells say, also what a person has set.

    Raises:
        LabError: if it is no notebook.
    """
    notebook = read(path)
    set_slide_types(notebook.cells, anew=anew)
    return write(notebook, path)


def lint(path: Path) -> list[Finding]:
    """Return what is against the rules in a stored notebook.

    Raises:
        LabError: if it is no notebook.
    """
    notebook = read(path)
    found = [*_lint_ids(path), *_lint_notebook(notebook), *_lint_headings(notebook)]
    for number, cell in enumerate(notebook.cells):
        found += [(cell.get("id", f"number {number + 1}"), sentence) for sentence in _lint_cell(cell)]
    return [Finding(path, cell, sentence) for cell, sentence in found]


def _cell(cell: NotebookNode, before: NotebookNode | None) -> NotebookNode:
    plain: dict[str, Any] = {
        "cell_type": cell.cell_type,
        "id": cell.get("id"),
        "metadata": {name: value for name, value in cell.metadata.items() if name in KEPT},
        "source": cell.source.rstrip("\n"),
    }
    if cell.cell_type == "code":
        outputs = _joined(cell.outputs)
        old = before.get("outputs", []) if before else []
        if [_twin(output) for output in outputs] == [_twin(output) for output in old]:
            outputs = [_with_picture(output, stored) for output, stored in zip(outputs, old, strict=True)]
        plain |= {"execution_count": cell.execution_count, "outputs": outputs}
    normal: NotebookNode = nbformat.from_dict(plain)
    return normal


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Join neighbouring prints on one stream; drop the metadata of outputs and the folders in tracebacks."""
    joined: list[NotebookNode] = []
    for output in map(nbformat.from_dict, outputs):
        last = joined[-1] if joined else None
        if output.output_type == "stream" and last and last.output_type == "stream" and last.name == output.name:
            last.text += output.text
            continue
        if "metadata" in output:
            output.metadata = nbformat.from_dict({})
        if "traceback" in output:
            output.traceback = [FOLDERS.sub("", line) for line in output.traceback]
        joined.append(output)
    return joined


def _twin(output: NotebookNode) -> tuple[Any, ...]:
    """Return what nbval compares of an output."""
    data = output.get("data", {})
    return output.output_type, output.get("text"), data.get("text/plain"), output.get("evalue"), sorted(data)


def _with_picture(output: NotebookNode, stored: NotebookNode) -> NotebookNode:
    if "data" in output:
        output.data = stored.data
    return output


def _lint_ids(path: Path) -> Iterator[tuple[str, str]]:
    """Look at the file itself: nbformat gives a cell without an id of its own a random one when it reads."""
    ids = [cell.get("id") for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    if None in ids or len(set(ids)) < len(ids):
        yield "", "a cell has no id, or two have the same: give each cell an id of its own and keep it."


def _lint_notebook(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    if notebook.metadata.get("kernelspec", {}).get("name") != "python3":
        yield "", "its kernel is not `python3`, which every machine has: run `make notebooks`."
    counts = [cell.execution_count for cell in _code_cells(notebook)]
    if None not in counts and counts != list(range(1, len(counts) + 1)):
        yield "", "its cells were not run from top to bottom in one go: run `make notebooks`."


def _lint_headings(notebook: NotebookNode) -> Iterator[tuple[str, str]]:
    level = 0
    for cell in notebook.cells:
        if cell.cell_type != "markdown":
            continue
        for mark in re.findall(r"^(#{1,6}) ", re.sub(r"```.*?```", "", cell.source, flags=re.S), flags=re.M):
            if len(mark) > level + 1:
                yield cell.get("id", ""), f"a heading of level {len(mark)} follows one of level {level}: skip none."
            level = len(mark)
    if level == 0:
        yield "", "it has no heading: begin with `# Title`."


def _lint_cell(cell: NotebookNode) -> Iterator[str]:
    if re.search(r"!\[\s*\]\(", cell.source) or any(_images_without_alt(cell.source)):
        yield "a picture in the text has no alternative text: describe it."
    if cell.metadata.get("slideshow", {}).get("slide_type") not in TYPES:
        yield "it does not say what it is in a slide show: run `make notebooks`."
    if cell.cell_type != "code" or not cell.source.strip():
        return
    if cell.execution_count is None:
        yield "it was never run, so nbval compares nothing there: run `make notebooks`."
    if not DECLARED & set(cell.metadata.get("tags", [])) and any(o.output_type == "error" for o in cell.outputs):
        yield "it holds an error that nothing declares: mend it, or tag the cell `raises-exception`."
    for output in cell.outputs:
        yield from _lint_output(output)


def _lint_output(output: NotebookNode) -> Iterator[str]:
    data = output.get("data", {})
    text = "\n".join(filter(None, (output.get("text"), data.get("text/plain"), output.get("evalue"))))
    for what, pattern in CHANGING:
        if found := pattern.search(text):
            yield f"its compared output holds {what} ({found[0].strip()!r}): show that in a picture, or not at all."
    if FOLDERS.search(COLOUR.sub("", "\n".join(output.get("traceback", [])))):
        yield "its traceback holds a path of one machine: run `make notebooks`."
    if any(_images_without_alt(data.get("text/html", ""))):
        yield "a picture in its output has no alternative text: give it one."
    if data and "text/plain" not in data:
        yield "an output has no plain text, so nbval compares nothing there: give it a text twin."


def _images_without_alt(html: str) -> Iterator[str]:
    return (tag for tag in re.findall(r"<img\b[^>]*>", html) if not re.search(r"""\balt=["'][^"']""", tag))


def _code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def _find(paths: list[Path]) -> list[Path]:
    found = [file for path in paths for file in (sorted(path.glob("*.ipynb")) if path.is_dir() else [path])]
    if not found:
        raise LabError(f"There is no notebook in {', '.join(map(str, paths))}: give notebooks or folders of them.")
    return found


commands = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
Paths = Annotated[list[Path], typer.Argument(help="Notebooks, or folders of them.")]


@commands.command("run")
def run_command(
    paths: Paths,
    redraw: Annotated[bool, typer.Option(help="Store every picture anew, also where its text is as it was.")] = False,
) -> None:
    """Execute notebooks in fresh kernels, store their outputs, and say how long each took."""
    for path in _find(paths):
        began = time.monotonic()
        try:
            changed = run(path, redraw=redraw)
        except LabError as error:
            raise LabError(f"{path}: {error}") from None
        took = time.monotonic() - began  # the kernel's start included, as for whoever presses Run All
        print(f"{path}: {'changed' if changed else 'as it was'}, {took:.0f} s", flush=True)


@commands.command("slides")
def slides_command(
    paths: Paths,
    anew: Annotated[bool, typer.Option(help="Forget what the cells say, also what a person has set.")] = False,
) -> None:
    """Say of each cell what it is in a slide show, by rule, without running anything."""
    for path in _find(paths):
        print(f"{path}: {'changed' if set_slides(path, anew=anew) else 'as it was'}")


@commands.command("lint")
def lint_command(paths: Paths) -> None:
    """Say what is against the rules in stored notebooks; exit with code 1 if there is anything."""
    found = [finding for path in _find(paths) for finding in lint(path)]
    for finding in found:
        print(finding)
    if found:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        commands()
    except LabError as error:
        Console(stderr=True, soft_wrap=True).print(f"notebooks: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
