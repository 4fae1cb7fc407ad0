"""Notebooks as people run them: each cell twice, and then all of it once more, in one kernel and without a restart."""

from pathlib import Path

import pytest
from nbformat import NotebookNode, from_dict

from labserver.school.notebooks import execute, normalise, read

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
SUFFIXES = ("", "-twice", "-once-more")


def texts(cell: NotebookNode) -> list[str]:
    """Return what nbval compares of a cell's outputs."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


def rerun(path: Path) -> NotebookNode:
    """Run each cell of a notebook twice, then all cells again; return what came of it, each run a cell of its own."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    first, twice, again = ([from_dict({**cell, "id": cell.id + suffix}) for cell in cells] for suffix in SUFFIXES)
    order = [cell for pair in zip(first, twice, strict=True) for cell in pair] + again
    return normalise(execute(from_dict({**notebook, "cells": order}), path.parent))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_second_run_without_a_restart_shows_the_same(path: Path) -> None:
    stored = {cell.id: texts(cell) for cell in read(path).cells if cell.cell_type == "code"}
    ran = {cell.id: texts(cell) for cell in rerun(path).cells}
    assert ran == {id + suffix: shown for id, shown in stored.items() for suffix in SUFFIXES}
