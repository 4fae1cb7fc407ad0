"""A real Chromium from a cell: it loads pages of this machine, trusts the stage's certificates, and leaves nothing."""

import builtins
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from playwright.async_api import Error

from labserver.errors import LabError
from labserver.stage import LiveServer, browser, nginx, parts, rescue, start

OWNER = """
import asyncio
from labserver.stage import browser
async def main():
    async with browser() as chrome:
        await chrome.new_page()
        print("up", flush=True)
        await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.fixture
def live() -> Iterator[LiveServer]:
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>a page</title>")

    yield start(app, name="a page")
    rescue()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of its own for temporary files; its path is short, for Chromium's socket in it."""
    folder = Path(tempfile.mkdtemp(prefix="b-"))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    shutil.rmtree(folder)


def left(folder: Path) -> list[str]:
    """Return what lies in a folder."""
    return sorted(each.name for each in folder.iterdir())


def naming(text: str) -> list[int]:
    """Return the processes whose command line or environment names `text`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and any(
                text in part for part in [*process.cmdline(), *process.environ().values()]
            ):
                found.append(process.pid)
        except psutil.Error:
            pass
    return [pid for pid in found if pid != os.getpid()]


async def test_it_loads_pages_of_this_machine_and_no_others(chromium: str, live: LiveServer, room: Path) -> None:
    async with browser() as chrome:
        page = await chrome.new_page()
        for host in ("127.0.0.1", "localhost", "elsewhere.example"):
            await page.goto(f"http://{host}:{live.port}/")
            assert await page.title() == "a page"
        with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
            await page.goto("http://www.example.org/")
        assert any(name.startswith("labserver-browser-") for name in left(room))
        assert naming(str(room))
    assert left(room) == []
    assert naming(str(room)) == []


async def test_it_trusts_the_proxies_of_the_stage_and_speaks_http2_with_them(
    chromium: str, require: Callable[[str], None], live: LiveServer
) -> None:
    require("nginx")
    spoken = "() => performance.getEntriesByType('navigation')[0].nextHopProtocol"
    async with browser() as chrome:
        for http2, protocol in ((True, "h2"), (False, "http/1.1")):
            page = await chrome.new_page()
            await page.goto(nginx(live, tls=True, http2=http2).url)
            assert await page.evaluate(spoken) == protocol


async def test_an_error_inside_ends_it_too(chromium: str, room: Path) -> None:
    manager = browser()
    chrome = await manager.__aenter__()
    assert chrome.is_connected()
    error = ZeroDivisionError()
    assert not await manager.__aexit__(type(error), error, None)
    assert not chrome.is_connected()
    assert left(room) == []


@pytest.mark.skipif(os.name == "nt", reason="a keeper needs POSIX")
def test_no_process_and_no_folder_outlives_an_owner_that_is_killed(chromium: str, room: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(room)}
    with subprocess.Popen([sys.executable, "-c", OWNER], stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
            assert left(room)
        finally:
            process.kill()
    end = time.monotonic() + 20
    while naming(str(room)) or left(room):
        assert time.monotonic() < end, (naming(str(room)), left(room))
        time.sleep(0.05)


async def test_without_a_chromium_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(parts, "CHROME_FILES", ())
    with pytest.raises(LabError, match="The browser is not available: there is no Chromium or Chrome on PATH; install"):
        async with browser():
            pass


async def test_without_playwright_the_package_is_named(chromium: str, monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def none(name: str, *args: Any) -> Any:
        if name.startswith("playwright"):
            raise ImportError(name)
        return original(name, *args)

    monkeypatch.setattr(builtins, "__import__", none)
    with pytest.raises(LabError, match="run `pip install playwright`"):
        async with browser():
            pass


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
async def test_one_that_does_not_start_is_named_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, room: Path
) -> None:
    program = tmp_path / "chromium"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(parts, "CHROME_FILES", ())
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with pytest.raises(LabError, match=r"chromium did not start: .* Run it with --version"):
        async with browser():
            pass
    assert left(room) == []
