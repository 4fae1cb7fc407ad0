"""A server in a child process: found by import, stopped by force, and never outliving its owner."""

import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import httpx
import psutil
import pytest
from fastapi import FastAPI

from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage import rescue, start
from labserver.stage.process import importable
from labserver.stage.server import LiveServer

APP = """
import asyncio, contextlib, os, subprocess, sys, threading, time
from pathlib import Path
from typing import Annotated
from fastapi import Depends, FastAPI
from fastapi.responses import StreamingResponse
from labserver.settings import Settings, get_settings

ENDED = Path(__file__).with_name("ended")

@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    how, _, seconds = os.environ.get("SHUTDOWN", "").partition(" ")
    try:
        if how == "block":
            time.sleep(float(seconds))
        if how == "await":
            await asyncio.sleep(float(seconds))
    finally:
        ENDED.open("a").write("lifespan ")

app = FastAPI(lifespan=lifespan)

@app.get("/pid")
async def pid() -> int:
    return os.getpid()

@app.get("/main")
async def in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()

@app.get("/settings")
async def interval(settings: Annotated[Settings, Depends(get_settings)]) -> float:
    return settings.sse_interval

@app.get("/print")
async def say() -> None:
    print("printed by the app")

@app.get("/fail")
async def fail() -> None:
    raise KeyError("text")

@app.get("/exit")
async def leave() -> None:
    os._exit(7)

@app.get("/sse")
async def sse() -> StreamingResponse:
    async def events():
        try:
            yield "data: first\\n\\n"
            await asyncio.Event().wait()
        finally:
            ENDED.open("a").write("sse ")
    return StreamingResponse(events())

@app.get("/tight")
async def tight() -> StreamingResponse:
    async def numbers():
        yield b"first"
        while True:
            yield b""
    return StreamingResponse(numbers())

@app.get("/grandchild")
async def grandchild() -> int:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]).pid

def make():
    return app

broken = FastAPI(lifespan=lambda app: 1 / 0)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the module `away`, from which it can be imported."""
    (tmp_path / "away.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    rescue()
    sys.modules.pop("away", None)


def until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def get(live: LiveServer, path: str) -> httpx.Response:
    return httpx.get(live.url + path, timeout=10)


def test_serves_from_another_process(folder: Path) -> None:
    live = start("away:app", process=True, settings=Settings(sse_interval=0.125))
    assert live.kind == "process"
    assert get(live, "/settings").json() == 0.125
    assert live.alive
    assert repr(live) == "<LiveServer 'lab' running>"
    pid = get(live, "/pid").json()
    assert pid != os.getpid()
    assert get(live, "/main").json() is True  # signals can be handled there
    assert live.stop()
    assert gone(pid)
    assert not live.alive
    assert live.stop()  # again is harmless


def test_an_object_and_a_factory_are_found_by_import(folder: Path) -> None:
    away = importlib.import_module("away")
    assert importable(away.app) == "away:app"
    assert importable(away.make) == "away:make"
    assert importable("away:app") == "away:app"
    assert get(start(away.make, process=True), "/main").json() is True


def test_what_only_a_cell_knows_is_one_sentence() -> None:
    with pytest.raises(LabError, match="put the app into a module"):
        start(FastAPI(), process=True)


def test_stop_is_quick_and_runs_finally_blocks_and_the_lifespan(folder: Path) -> None:
    live = start("away:app", process=True)
    with httpx.Client() as client, client.stream("GET", f"{live.url}/sse") as response:
        chunks = response.iter_raw()
        next(chunks)
        began = time.perf_counter()
        assert live.stop()
        assert time.perf_counter() - began < 1.0  # 0.3 s on a machine of its own
    assert (folder / "ended").read_text() == "sse lifespan "
    assert live.errors() == []


@pytest.mark.parametrize("shutdown", ["block 0.6", "await 0.6"])
def test_a_shutdown_that_takes_its_time_is_waited_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, shutdown: str
) -> None:
    monkeypatch.setenv("SHUTDOWN", shutdown)
    live = start("away:app", process=True)
    assert live.stop()
    assert (folder / "ended").read_text() == "lifespan "
    assert "Application shutdown complete." in live.logs()
    assert not any("killed" in line for line in live.logs())


def test_a_shutdown_that_does_not_end_is_cancelled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTDOWN", "await 60")
    live = start("away:app", process=True, settings=Settings(stop_timeout=2.0))
    assert live.stop()
    assert (folder / "ended").read_text() == "lifespan "
    assert not any("killed" in line for line in live.logs())


def test_a_shutdown_that_blocks_for_ever_is_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHUTDOWN", "block 60")
    live = start("away:app", process=True, settings=Settings(stop_timeout=0.6))
    pid = get(live, "/pid").json()
    assert live.stop()
    assert gone(pid)
    assert live.logs()[-1].startswith("The server's process did not stop within 0.6 s and was killed")
    assert not (folder / "ended").exists()


@pytest.mark.parametrize("end", ["stop", "rescue"])
def test_a_frozen_loop_is_killed_with_what_it_started(folder: Path, end: str) -> None:
    live = start("away:app", process=True)
    pid, grandchild = get(live, "/pid").json(), get(live, "/grandchild").json()
    _freeze(live)
    began = time.perf_counter()
    if end == "stop":
        assert live.stop()
    else:
        assert rescue().twin == "lab (process): stopped"
    assert time.perf_counter() - began < 2.0  # 0.3 s on a machine of its own; `stop_timeout` is 5 s
    assert not live.alive
    assert any("was frozen and was killed" in line for line in live.logs())
    assert gone(pid)
    until(lambda: gone(grandchild))


def _freeze(live: LiveServer) -> None:
    with httpx.Client() as client, client.stream("GET", f"{live.url}/tight") as response:
        next(response.iter_raw())
    with pytest.raises(httpx.TimeoutException):
        httpx.get(f"{live.url}/main", timeout=0.3)


OWNER = """
import os, sys, threading, time, httpx
sys.path.insert(0, sys.argv[1])
from labserver.stage import start
live = start("away:app", process=True)
get = lambda path: httpx.get(live.url + path).json()
print(get("/pid"), get("/grandchild"), flush=True)
{then}
"""
FREEZE = """
with httpx.stream("GET", live.url + "/tight") as response:
    next(response.iter_raw())
print("frozen", flush=True)
time.sleep(60)
"""
FORK = "if fork := os.fork(): print(fork, flush=True)\ntime.sleep(60)"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("then", [FREEZE, "print(flush=True); time.sleep(60)", FORK])
def test_a_child_does_not_outlive_its_killed_owner(folder: Path, then: str) -> None:
    """Not with a frozen loop, and not while a fork of the owner still holds the lifeline."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER.format(then=dedent(then)), str(folder)], stdout=subprocess.PIPE, text=True
    )
    fork = ""
    try:
        assert owner.stdout is not None
        child, grandchild = map(int, owner.stdout.readline().split())
        fork = owner.stdout.readline().strip()
        assert not gone(child)
        owner.kill()
        owner.wait(10)
        until(lambda: gone(child))
        until(lambda: gone(grandchild))
    finally:
        owner.kill()
        owner.wait()
        if fork.isdigit() and fork != "0":
            os.kill(int(fork), signal.SIGKILL)
        if owner.stdout is not None:
            owner.stdout.close()


def test_a_child_whose_app_never_loads_is_given_up_and_killed(folder: Path) -> None:
    (folder / "endless.py").write_text("while True: pass")
    before = set(psutil.Process().children())
    with pytest.raises(LabError, match=r"not up within 0\.5 s"):
        start("endless:app", process=True, settings=Settings(start_timeout=0.5))
    assert set(psutil.Process().children()) <= before


def test_a_child_whose_app_never_loads_dies_with_its_owner(folder: Path) -> None:
    (folder / "endless.py").write_text("import os\nopen('loading', 'w').write(str(os.getpid()))\nwhile True: pass")
    code = "import sys; sys.path.insert(0, '.'); from labserver.stage import start; start('endless:app', process=True)"
    owner = subprocess.Popen([sys.executable, "-c", code], cwd=folder)
    try:
        until(lambda: (folder / "loading").exists() and (folder / "loading").read_text() != "", 30)
    finally:
        owner.kill()
        owner.wait()
    until(lambda: gone(int((folder / "loading").read_text())))


def test_logs_come_home_and_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    live = start("away:app", process=True)
    get(live, "/print")
    get(live, "/fail")
    assert live.stop()
    assert "printed by the app" in live.logs()
    assert "Application startup complete." in live.logs()
    assert any(line.endswith('"GET /fail HTTP/1.1" 500') for line in live.logs())
    assert live.errors() == ["KeyError: 'text'"]
    assert capfd.readouterr() == ("", "")


def test_a_failing_start_is_one_sentence(folder: Path) -> None:
    (folder / "typo.py").write_text("1 / 0")
    for app, sentence in (
        ("away:broken", "did not start: ZeroDivisionError"),
        ("nowhere:app", "module:attribute"),
        ("typo:app", "can't be loaded: ZeroDivisionError"),
    ):
        with pytest.raises(LabError, match=sentence):
            start(app, process=True)


def test_a_port_in_use_is_one_sentence(folder: Path) -> None:
    taken = start("away:app", name="first")
    with pytest.raises(LabError, match="leave out port="):
        start("away:app", name="second", process=True, port=taken.port)


def test_options_that_do_not_travel_are_refused(folder: Path) -> None:
    with pytest.raises(LabError, match="another process"):
        start("away:app", process=True, callback_notify=lambda: None)


def test_a_child_that_dies_is_seen(folder: Path) -> None:
    live = start("away:app", process=True)
    with pytest.raises(httpx.HTTPError):
        get(live, "/exit")
    until(lambda: not live.alive)
    until(lambda: "The server's process ended by itself, with exit code 7." in live.logs())
    assert live.stop()


def test_running_again_replaces_thread_by_process_and_back(folder: Path) -> None:
    async def anything() -> None: ...

    first = start("away:app")
    second = start("away:app", process=True)
    with pytest.raises(LabError, match="without process=True"):
        second.submit(anything())
    third = start("away:app")
    assert [live.alive for live in (first, second, third)] == [False, False, True]


def test_nothing_leaks(folder: Path) -> None:
    here = psutil.Process()
    before = set(here.children())
    start("away:app", process=True).stop()
    threads, descriptors = here.num_threads(), here.num_fds()
    for _ in range(2):
        start("away:app", process=True).stop()
    until(lambda: here.num_threads() <= threads)
    assert here.num_fds() <= descriptors
    assert set(here.children()) <= before
