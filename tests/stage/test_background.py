"""The one background loop: what runs on it, what it raises, and that it ends with the process."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from labserver.stage import background


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    assert background.stop()


async def where() -> str:
    return threading.current_thread().name


def test_runs_beside_the_caller() -> None:
    assert background.run(where()) == "labserver-background"


async def test_works_from_inside_a_running_loop() -> None:
    assert background.run(where()) == "labserver-background"


def test_an_exception_reaches_the_caller() -> None:
    async def fail() -> None:
        raise KeyError("text")

    with pytest.raises(KeyError, match="text"):
        background.run(fail())


def test_a_timeout_ends_the_coroutine() -> None:
    cleaned = threading.Event()

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        background.run(endless(), timeout=0.05)
    assert cleaned.wait(2)


def test_the_coroutines_own_timeout_is_told_from_ours() -> None:
    async def times_out() -> None:
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        background.run(times_out(), timeout=5)


def test_refuses_to_wait_for_itself() -> None:
    async def nested() -> None:
        background.run(where())

    with pytest.raises(RuntimeError, match="await the coroutine"):
        background.run(nested(), timeout=5)


def test_first_uses_at_once_share_one_loop() -> None:
    with ThreadPoolExecutor(8) as pool:
        loops = {id(loop) for loop in pool.map(lambda _: background.loop(), range(32))}
    assert len(loops) == 1
    assert [t.name for t in threading.enumerate()].count("labserver-background") == 1


def test_cancelling_the_future_cancels_the_task() -> None:
    began, cleaned = threading.Event(), threading.Event()

    async def endless() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            cleaned.set()

    future = background.submit(endless())
    assert began.wait(2)
    future.cancel()
    assert cleaned.wait(2)


def test_stop_runs_finally_blocks_and_the_next_use_starts_anew() -> None:
    began, cleaned = threading.Event(), threading.Event()

    async def endless() -> None:
        try:
            began.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned.set()

    background.submit(endless())
    assert began.wait(2)
    assert background.stop()
    assert cleaned.is_set()
    assert "labserver-background" not in [thread.name for thread in threading.enumerate()]
    assert background.run(where()) == "labserver-background"


def test_a_process_ends_although_its_background_does_not() -> None:
    code = """
import asyncio
from labserver.stage import background
async def endless():
    try:
        await asyncio.Event().wait()
    finally:
        print("cleaned")
background.submit(endless())
background.run(asyncio.sleep(0))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned\n", "")
