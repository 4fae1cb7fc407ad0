"""Makes the helpers beside this file importable, and prints at the end what the real tests measured."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

_MEASURED: list[str] = []


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Return `measured(sentence)`: a number worth knowing, printed after the run and compared with nothing."""
    return _MEASURED.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _MEASURED:
        terminalreporter.section("measured")
        for sentence in _MEASURED:
            terminalreporter.line(sentence)
