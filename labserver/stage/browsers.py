"""A real browser from a cell: Chromium without a window, driven by playwright, for what only a browser does.

It sees this machine alone. Whatever it writes goes into a folder of its own that ends with it.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from labserver import posix
from labserver.errors import LabError
from labserver.stage.parts import find

if TYPE_CHECKING:
    from playwright.async_api import Browser

__all__ = ["browser"]

START = 60.0  # seconds until it is up: one on a quiet machine
HERE = ("127.0.0.1", "localhost", "[::1]")  # what it may look up beside *.example (RFC 2606), which is this machine too
RULES = ", ".join(["MAP *.example 127.0.0.1", "MAP * ~NOTFOUND", *(f"EXCLUDE {host}" for host in HERE)])

FLAGS = (
    "--no-sandbox",  # as root, and in a container, there is none
    "--disable-dev-shm-usage",  # a container's /dev/shm is too small for it
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--ignore-certificate-errors",  # the stage's certificates are signed by an authority that only the stage knows
    f"--host-resolver-rules={RULES}",
)


@asynccontextmanager
async def browser() -> AsyncIterator["Browser"]:
    """Run Chromium: `async with browser() as chrome:`; on leaving, it and all that it wrote are gone.

    What it yields is playwright's `Browser`: `page = await chrome.new_page()`, `await page.goto(live.url)`,
    `await page.evaluate("() => ...")`. It accepts the certificates of the stage's proxies, finds every name under
    `.example` on this machine, and no other name.

    Raises:
        LabError: there is no Chromium here, no playwright, or it does not start. `find("chromium")` tells beforehand.
    """
    part = find("chromium")
    if not part.available:
        raise LabError(f"The browser is not available: {part.reason}")
    try:
        from playwright.async_api import Error, async_playwright
    except ImportError:
        raise LabError(
            "The browser needs the package playwright, which is not here: run `pip install playwright`."
        ) from None
    with _own_folder() as folder:
        async with async_playwright() as playwright:
            try:
                running = await playwright.chromium.launch(
                    executable_path=part.detail, args=list(FLAGS), env=_private(folder), timeout=START * 1000
                )
            except Error as error:
                why = str(error).strip().splitlines()[0].rstrip(".:")
                raise LabError(
                    f"{part.detail} did not start: {why}. Run it with --version in a terminal to see what it lacks."
                ) from None
            try:
                yield running
            finally:
                with contextlib.suppress(Error):  # it may be gone already
                    await running.close()


@contextmanager
def _own_folder() -> Iterator[Path]:
    """Make a folder that ends with the block, or with this process."""
    folder = Path(tempfile.mkdtemp(prefix="labserver-browser-"))
    keeper = posix.start_keeper(folder)
    try:
        yield folder
    finally:
        if keeper is not None:
            with keeper:
                keeper.kill()
        shutil.rmtree(folder, ignore_errors=True)


def _private(folder: Path) -> dict[str, str | float | bool]:
    """Return this process's environment with every folder that Chromium writes to in `folder`."""
    names = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
    return {**os.environ, **dict.fromkeys(names, str(folder))}
