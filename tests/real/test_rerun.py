"""Notebooks as people run them: each cell twice, and all of it twice, in one kernel and without a restart."""

from pathlib import Path

import pytest
from nbformat import NotebookNode, from_dict

from labserver.school.notebooks import execute, normalise, read

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))


def texts(cell: NotebookNode) -> list[str]:
    """Return what nbval compares of a cell's outputs."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


def again(cell: NotebookNode) -> NotebookNode:
    return from_dict({**cell, "id": f"{cell.id}-again"})


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("order", ["all twice", "each cell twice"])
def test_a_second_run_without_a_restart_shows_the_same(path: Path, order: str) -> None:
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    twice = [*cells, *map(again, cells)] if order == "all twice" else [c for cell in cells for c in (cell, again(cell))]
    ran = normalise(execute(from_dict({**notebook, "cells": twice}), path.parent))
    stored = {cell.id: texts(cell) for cell in cells}
    for cell in ran.cells:
        assert texts(cell) == stored[cell.id.removesuffix("-again")], cell.id
