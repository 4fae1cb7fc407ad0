"""What the tests of `labserver.realtime` may ask for."""

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Switch the garbage collector off: who cleans up does so without it."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
