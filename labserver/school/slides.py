"""Notebooks as slides: which cell opens a slide, by rule, from what the cell is and how tall it will be.

A heading of level 1 or 2 opens a slide, a deeper one and each question a subslide; an answer waits for a click; a cell
that only imports or defines goes to the speaker's notes; whatever no longer fits opens a subslide. The values are those
of JupyterLab and nbconvert, in `metadata.slideshow.slide_type`. What a person has set stays, and the rest flows around.
"""

import ast
import re
from base64 import b64decode
from typing import Any

from nbformat import NotebookNode

__all__ = ["HEIGHT", "TYPES", "WIDTH", "set_slide_types"]

TYPES = ("slide", "subslide", "fragment", "skip", "notes", "-")
"""What a cell may be; `-` goes on where the cell before it ended."""
WIDTH, HEIGHT = 1280, 800  # of a slide, CSS pixels
ROOM = 740  # of these, what is left for content
LINE, PROSE, LETTERS = 20, 28, 125  # height of a line of code and of prose, CSS pixels; letters in a line of prose
BLANK = 16  # between two cells, CSS pixels
DEFINES = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def set_slide_types(cells: list[NotebookNode], *, anew: bool = False) -> None:
    """Write into each cell what it is in a slide show.

    Args:
        cells: of one notebook, with their outputs, whose heights count.
        anew: whether to forget what the cells already say, also what a person has set.
    """
    used, begun, alone = 0, False, False  # `alone`: the slide holds one paragraph so far, no heading
    for number, cell in enumerate(cells):
        height = _height(cell)
        introduces = 0 if cell.cell_type == "code" else _introduced(cells[number + 1 :], height)
        fits = begun and (used + height + introduces <= ROOM or (alone and cell.cell_type == "code"))
        said = None if anew else cell.metadata.get("slideshow", {}).get("slide_type")
        kind = said if said in TYPES and said != "-" else _by_rule(cell, fits)
        cell.metadata["slideshow"] = {**cell.metadata.get("slideshow", {}), "slide_type": kind}
        if kind in ("slide", "subslide"):
            used, begun, alone = height, True, cell.cell_type == "markdown" and not _heading(cell)
        elif kind not in ("skip", "notes"):
            used, alone = used + height, False


def _by_rule(cell: NotebookNode, fits: bool) -> str:
    if level := _heading(cell):
        return "slide" if level <= 2 else "subslide"
    if cell.cell_type == "code" and _only_defines(cell):
        return "notes"
    if not fits or (cell.cell_type == "markdown" and re.search(r"^\*\*Predict", cell.source, flags=re.M)):
        return "subslide"
    return "fragment" if cell.cell_type == "code" and re.search(r"^reveal\(", cell.source, flags=re.M) else "-"


def _heading(cell: NotebookNode) -> int:
    """Return the level of the first heading in a cell, 0 without one."""
    text = re.sub(r"```.*?```", "", cell.source, flags=re.S) if cell.cell_type == "markdown" else ""
    found = re.search(r"^(#{1,6}) ", text, flags=re.M)
    return len(found[1]) if found else 0


def _only_defines(cell: NotebookNode) -> bool:
    """Whether a cell shows nothing, and does nothing but import and define."""
    if cell.outputs or not cell.source.strip():
        return False
    try:
        body = ast.parse(cell.source).body
    except SyntaxError:  # a magic
        return False
    return all(isinstance(node, DEFINES) for node in body)


def _introduced(following: list[NotebookNode], height: int) -> int:
    """Return the height of the code cell after a text of this height, where the two fit on one slide, else 0."""
    after = _height(following[0]) if following and following[0].cell_type == "code" else 0
    return after if height + after <= ROOM else 0


def _height(cell: NotebookNode) -> int:
    """Estimate how tall a cell stands on a slide, CSS pixels."""
    lines = cell.source.split("\n")
    if cell.cell_type != "code":
        return sum(PROSE * (1 + len(line) // LETTERS) for line in lines if line.strip()) + BLANK
    return LINE * len(lines) + BLANK + sum(_output_height(output) + BLANK for output in cell.get("outputs", []))


def _output_height(output: Any) -> int:
    data = output.get("data", {})
    html = "".join(data.get("text/html", ""))
    text = "".join(output.get("text") or data.get("text/plain") or output.get("evalue") or "")
    if not html:
        return LINE * len(text.splitlines())
    pictures = sum(map(_picture_height, re.findall(r"data:image/svg\+xml;base64,([\w+/=]+)", html)))
    panel = re.search(r'data-height="(\d+)"', html)
    return pictures or (int(panel[1]) if panel else LINE * (1 + max(html.count("<tr"), html.count("\n"))))


def _picture_height(encoded: str) -> int:
    size = re.search(rb'<svg [^>]*\bheight="(\d+)', b64decode(encoded))
    return int(size[1]) if size else ROOM
