"""One real server with all patterns and twins, started anew for each test: its state is its own."""

from collections.abc import Iterator

import pytest

from labserver.stage import LiveServer, start


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests") as live:
        yield live
