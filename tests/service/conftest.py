"""The production server, as a person starts it: `labserver serve` in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Return `serve(*options, **variables)`: the process and the address that it printed."""
    started: list[subprocess.Popen[str]] = []

    def run(*options: str, **variables: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "labserver", "serve", "--port", "0", *options],
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("Serving on "):
                return process, line.split()[-1]
        pytest.fail(f"labserver serve ended with {process.wait(10)}: {''.join(said)}")

    yield run
    for process in started:
        process.terminate()
    for process in started:
        process.communicate(timeout=20)
