"""What a process uses: memory, CPU time and unnamed files, of servers in a child process and of nginx."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import labserver.stage
from labserver.errors import LabError
from labserver.stage import gauge, nginx, rescue, start, usage, watch
from labserver.stage.server import LiveServer

MB = 1_000_000
APP = """
import os, tempfile, time
from fastapi import FastAPI

app = FastAPI()
kept, files = [], []

@app.get("/keep")
def keep(mb: int) -> None:
    kept.append(os.urandom(mb * 1_000_000))

@app.get("/spend")
def spend(seconds: float) -> None:
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass

@app.get("/spool")
def spool(mb: int) -> None:
    file = tempfile.TemporaryFile()
    file.write(bytes(mb * 1_000_000))
    file.flush()
    files.append(file)

@app.get("/die")
async def die() -> None:
    os._exit(3)
"""


@pytest.fixture
def live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveServer]:
    (tmp_path / "hungry.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    yield start("hungry:app", name="hungry", process=True)
    rescue()
    sys.modules.pop("hungry", None)


def get(live: LiveServer, path: str) -> None:
    httpx.get(f"{live.url}{path}", timeout=20).raise_for_status()


def test_it_is_the_child_that_is_measured(live: LiveServer) -> None:
    before = usage(live)
    get(live, "/keep?mb=40")
    get(live, "/spend?seconds=0.2")
    after = usage(live)
    assert before.memory > 10 * MB
    assert 39 * MB < after.memory - before.memory < 60 * MB
    assert 0.2 <= after.cpu - before.cpu < 5


def test_files_without_a_name_are_counted(live: LiveServer) -> None:
    assert usage(live).files == 0
    get(live, "/spool?mb=3")
    assert usage(live).files == (3 * MB if sys.platform.startswith("linux") else 0)


async def test_a_series_begins_at_zero_and_grows_with_the_process(live: LiveServer) -> None:
    absolute = usage(live).memory
    async with watch(live, every=0.02) as samples:
        assert samples.memory == [0]
        async with httpx.AsyncClient(timeout=20) as client:
            for _ in range(2):
                await client.get(f"{live.url}/keep?mb=20")
                await client.get(f"{live.url}/spend?seconds=0.1")
    assert abs(samples.first.memory - absolute) < 5 * MB
    assert samples.seconds == sorted(samples.seconds)
    assert samples.seconds[0] == 0
    lists = (samples.seconds, samples.memory, samples.cpu, samples.files)
    assert len({len(each) for each in lists}) == 1
    assert len(samples.seconds) >= 4
    assert 39 * MB < samples.memory[-1] <= samples.peak < 60 * MB
    assert samples.cpu[-1] >= 0.2


async def test_a_loop_that_is_blocked_is_watched_too(live: LiveServer) -> None:
    async with watch(live, every=0.02) as samples:
        end = time.monotonic() + 10
        while len(samples.seconds) < 4:
            assert time.monotonic() < end
            time.sleep(0.01)  # noqa: ASYNC251 - the point


async def test_the_thread_ends_with_the_block_also_when_that_fails(live: LiveServer) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with watch(live, every=100) as samples:
            raise ValueError("mine")
    assert not [thread for thread in threading.enumerate() if thread.name == "labserver-watch"]
    assert len(samples.seconds) == 2


async def test_a_process_that_ends_ends_its_series(live: LiveServer) -> None:
    async with watch(live, every=0.02) as samples:
        with pytest.raises(httpx.HTTPError):
            await asyncio.to_thread(get, live, "/die")
        while live.alive:
            await asyncio.sleep(0.01)
        seen = len(samples.seconds)
        await asyncio.sleep(0.1)
        assert len(samples.seconds) <= seen + 1
    assert samples.memory[0] == 0
    with pytest.raises(LabError, match="does not run: start it again"):
        usage(live)


def test_a_server_in_a_thread_shares_its_memory_with_us() -> None:
    with start(FastAPI(), name="thread") as live, pytest.raises(LabError, match="start it with process=True"):
        usage(live)


async def test_neither_is_a_stopped_one_measured_nor_something_else(live: LiveServer) -> None:
    live.stop()
    with pytest.raises(LabError, match="does not run"):
        usage(live)
    with pytest.raises(LabError, match="does not run"):
        async with watch(live):
            pass
    with pytest.raises(LabError, match="pass a server of start"):
        usage("hungry")  # type: ignore[arg-type]


@pytest.mark.parametrize("every", [0, -1, 0.001, True, "often", float("nan"), float("inf")])
async def test_a_time_that_is_none_is_refused(live: LiveServer, every: object) -> None:
    with pytest.raises(LabError, match="pass seconds"):
        async with watch(live, every=every):  # type: ignore[arg-type]
            pass


def test_without_psutil_it_says_what_to_install(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(LabError, match="pip install psutil"):
        usage(live)


def test_nginx_is_measured_too(require: Callable[[str], None]) -> None:
    require("nginx")
    with start(FastAPI(), name="plain") as live:
        with nginx(live) as front:
            assert MB < usage(front).memory < 100 * MB
        with pytest.raises(LabError, match="does not run"):
            usage(front)


def test_the_name_is_the_function_whatever_was_asked_first() -> None:
    assert labserver.stage.usage is gauge.usage
    assert callable(labserver.stage.watch)
