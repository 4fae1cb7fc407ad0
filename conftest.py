"""What tests and notebooks share: a private world on disk, and what nbval compares.

The private world (temporary files, progress, kernels' folders) is made when this file is loaded, before any test,
server or kernel starts, so that a run touches nothing of the user's and `tests/leftovers.py` can say what it left
behind. Each worker of a run has its own, within that of the run. nbval compares plain text: the twin of each picture,
never the picture, which may hold measured numbers.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

pytest_plugins = ["leftovers", "workers"]  # in tests/

_OUTER = os.environ.get("LABSERVER_TESTS_WORLD")  # of the run whose worker this is
WORLD = Path(tempfile.mkdtemp(prefix="" if _OUTER else "labserver-tests-", dir=_OUTER))
TMP = WORLD / "tmp"  # temporary files of the run; empty at its end
PRIVATE = {
    "TMPDIR": TMP,
    "LABSERVER_HOME": WORLD / "home",
    "IPYTHONDIR": WORLD / "ipython",
    "JUPYTER_RUNTIME_DIR": WORLD / "jupyter",
}

for _name, _folder in PRIVATE.items():
    _folder.mkdir()
    os.environ[_name] = str(_folder)
os.environ["LABSERVER_TESTS_WORLD"] = str(WORLD)
os.environ["LABSERVER_LLM"] = "fake"
tempfile.tempdir = str(TMP)


def pytest_unconfigure() -> None:
    shutil.rmtree(WORLD, ignore_errors=True)


def pytest_collectstart(collector: Any) -> None:
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("text/html", "image/svg+xml")
