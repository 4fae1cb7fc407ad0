"""Makes the helpers beside this file importable; a room that is gone after its test."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from simulated import RoomProcess


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Callable[..., RoomProcess]]:
    """Return `room(*arguments, port=0)`, which starts the room of one file; whatever happens, it is gone in the end."""
    started: list[RoomProcess] = []

    def start(*arguments: str, port: int = 0) -> RoomProcess:
        started.append(RoomProcess(tmp_path / "room.db", *arguments, port=port))
        return started[-1]

    yield start
    for one in started:
        if one.process.returncode is None:
            one.kill()
