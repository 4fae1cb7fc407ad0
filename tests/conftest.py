"""What every test shares: the rule for real parts."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LOGGED = 20.0  # seconds until a server has logged what it raised
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def demand() -> Callable[[str, bool, str], None]:
    """Return `demand(what, available, sentence)`: skip when `what` is missing; fail under LABSERVER_REQUIRE=all."""

    def check(what: str, available: bool, sentence: str) -> None:
        message = f"{what} is missing: {sentence}"
        if not available and os.environ.get("LABSERVER_REQUIRE") == "all":
            pytest.fail(message, pytrace=False)
        if not available:
            pytest.skip(message)

    return check


@pytest.fixture(scope="session")
def require(demand: Callable[[str, bool, str], None]) -> Callable[[str], None]:
    """Return `require(part)`: `demand` for a real part, named as in `labserver.stage.parts.PARTS`."""

    def check(name: str) -> None:
        from labserver.stage.parts import find

        part = find(name)
        demand(name, part.available, part.reason)

    return check


@pytest.fixture(scope="session")
def logged() -> Callable[[Any, str], None]:
    """Return `logged(live, beginning)`: wait until the newest exception in a server's log begins so.

    The middleware that answers 500 raises again behind its answer, so the log is later than the client.
    """

    def check(live: Any, beginning: str) -> None:
        end = time.monotonic() + LOGGED
        while not "".join(live.errors()[-1:]).startswith(beginning) and time.monotonic() < end:
            time.sleep(0.01)
        assert live.errors()[-1].startswith(beginning)

    return check


@pytest.fixture
def chromium(require: Callable[[str], None]) -> str:
    """The path of a Chromium or Chrome that starts without a screen."""
    from labserver.stage.parts import find

    require("chromium")
    return find("chromium").detail
