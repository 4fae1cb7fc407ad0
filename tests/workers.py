"""How tests are dealt out to workers (`pytest -n 2`): a file to one of them, in order; the longest files first.

A notebook's cells share a kernel and a module's tests its fixtures, so a file stays whole. Where every test stands for
itself and takes long, each is dealt out alone.
"""

from typing import Any

import pytest

LONG = (
    "tests/real/test_jupyterlab.py",
    "tests/school/test_solutions.py",
    "tests/school/test_grade.py",
)
"""These begin: a run is over when its longest file is."""
ALONE = ("tests/real/test_rerun.py", "tests/real/test_claims_bite.py")
"""Each test of these stands for itself."""


def _file(nodeid: str) -> str:
    return nodeid.partition("::")[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files before all others, and what is dealt out one by one behind them."""
    place = {file: number for number, file in enumerate((*LONG, *ALONE))}
    items.sort(key=lambda item: place.get(_file(item.nodeid), len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return our way to deal tests out, unless another was asked for by `--dist`."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid if _file(nodeid) in ALONE else _file(nodeid)

    if config.getoption("dist") != "load":
        return None
    config.option.loadscopereorder = False  # as collected, not by the number of tests
    return ByFile(config, log)
