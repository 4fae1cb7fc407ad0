"""Makes the helpers beside this file importable, and prints at the end what the real tests measured."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Return `measured(sentence)`: a number worth knowing, printed after the run and compared with nothing."""
    return lambda sentence: request.node.user_properties.append(("measured", sentence))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for report in terminalreporter.getreports("passed") if report.when == "call"]
    sentences = [value for report in reports for name, value in report.user_properties if name == "measured"]
    if sentences:
        terminalreporter.section("measured")
        for sentence in sentences:
            terminalreporter.line(sentence)
