"""Notebooks as people run them: each cell twice, and all of it twice, in one kernel and without a restart."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
from nbformat import NotebookNode, from_dict

from labserver.school.notebooks import execute, normalise, read

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
ORDERS = ("all twice", "each cell twice")


def texts(cell: NotebookNode) -> list[str]:
    """Return what nbval compares of a cell's outputs."""
    return [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]


def again(cell: NotebookNode) -> NotebookNode:
    return from_dict({**cell, "id": f"{cell.id}-again"})


def rerun(path: Path, order: str) -> NotebookNode:
    """Run a notebook's cells twice in the given order; return what came of it."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    twice = [*cells, *map(again, cells)] if order == "all twice" else [c for cell in cells for c in (cell, again(cell))]
    return normalise(execute(from_dict({**notebook, "cells": twice}), path.parent))


@pytest.fixture(scope="module")
def reruns(request: pytest.FixtureRequest) -> Iterator[dict[tuple[Path, str], Future[NotebookNode]]]:
    """What came of every run that was asked for, two at a time: they wait more than they compute."""
    asked = {
        (item.callspec.params["path"], item.callspec.params["order"])
        for item in request.session.items
        if item.path == Path(__file__) and isinstance(item, pytest.Function)
    }
    with ThreadPoolExecutor(max_workers=2) as pool:
        yield {(path, order): pool.submit(rerun, path, order) for path, order in sorted(asked)}
        pool.shutdown(wait=False, cancel_futures=True)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.parametrize("order", ORDERS)
def test_a_second_run_without_a_restart_shows_the_same(
    path: Path, order: str, reruns: dict[tuple[Path, str], Future[NotebookNode]]
) -> None:
    stored = {cell.id: texts(cell) for cell in read(path).cells if cell.cell_type == "code"}
    for cell in reruns[path, order].result().cells:
        assert texts(cell) == stored[cell.id.removesuffix("-again")], cell.id
