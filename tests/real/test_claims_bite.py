"""The claims bite: with a pattern replaced by any of its twins, the notebook that teaches it fails.

The notebook runs in a kernel whose Python reads the pattern's module from its twin's file (`swapped/sitecustomize.py`).
It has to fail at a claim, or because a client met the fault; not because a name is missing.
"""

import os
import re
from pathlib import Path

import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from labserver.patterns import TOPICS
from labserver.school.notebooks import CELL_TIMEOUT, read
from labserver.stage.lab import Twin, twins

ROOT = Path(__file__).resolve().parents[2]
SWAPPED = Path(__file__).parent / "swapped"
TWINS = twins()
OTHER_FAULTS = {"ImportError", "ModuleNotFoundError", "AttributeError", "NameError", "SyntaxError", "TypeError"}


def notebook_of(twin: Twin) -> Path:
    """Return the notebook that teaches this twin's pattern."""
    (found,) = ROOT.glob(f"notebooks/{TOPICS[twin.pattern]:02}_*.ipynb")
    return found


def failure(twin: Twin) -> str:
    """Run the notebook with the pattern swapped for its twin; return the name of what stopped it, or ""."""
    path, swap = notebook_of(twin), f"{twin.pattern}={twin.name}"
    client = NotebookClient(
        read(path),
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        extra_arguments=["--HistoryManager.enabled=False"],
    )
    paths = os.pathsep.join(filter(None, [str(SWAPPED), os.environ.get("PYTHONPATH")]))
    try:
        client.execute(env={**os.environ, "LABSERVER_TEST_SWAP": swap, "PYTHONPATH": paths})
    except CellExecutionError as error:
        return error.ename
    return ""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_a_notebook_fails_when_its_pattern_is_the_twin(twin: Twin) -> None:
    stopped_by = failure(twin)
    assert stopped_by, f"{notebook_of(twin).name} claims nothing of {twin.pattern} that {twin.name} would not keep"
    assert stopped_by not in OTHER_FAULTS


@pytest.mark.parametrize("twin", TWINS, ids=lambda twin: twin.name)
def test_its_notebook_shows_the_twin(twin: Twin) -> None:
    sources = "\n".join(cell.source for cell in read(notebook_of(twin)).cells)
    assert re.search(rf"from labserver\.broken import .*\b{twin.name}\b", sources)
