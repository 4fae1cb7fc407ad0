"""A real JupyterLab in a child process and a notebook open in a real browser, for tests and for pictures.

Everything either of them writes (settings, trust, runtime files, profile) stays in the folder it is given, and nothing
is fetched from outside. Every wait is for a condition and has a deadline; a missed one says what was still awaited.
The commands that Jupyter's own menus run are watched, not replaced.
"""

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
from playwright.async_api import Browser, Frame, Page, TimeoutError, async_playwright

from labserver.stage.parts import find

__all__ = [
    "HUB_HOST",
    "Cell",
    "Jupyter",
    "Notebook",
    "Shown",
    "Window",
    "browser",
    "copy_notebooks",
    "jupyter",
    "private_environment",
    "still_running",
    "window",
]

#: A name that is not localhost, as a hub's is; the browser is told to find it on this machine.
HUB_HOST = "hub.example"

BROWSER_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
    f"--host-resolver-rules=MAP {HUB_HOST} 127.0.0.1",
)

#: Seconds for JupyterLab to start, and for its page to load: 6 each on a quiet machine with two cores.
START = 120.0

#: JupyterLab's settings in the child: no news, no update check, every cell really in the page.
LAB_SETTINGS: dict[str, dict[str, object]] = {
    "@jupyterlab/apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "@jupyterlab/notebook-extension/tracker": {
        "windowingMode": "none",
        "scrollPastEnd": False,
    },
    "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False},
}


@dataclass(frozen=True)
class Jupyter:
    """A running JupyterLab: `url` ends in the base URL and is on 127.0.0.1; `root` is the folder that it serves."""

    url: str
    port: int
    base_url: str
    token: str
    root: Path
    pid: int

    def page_url(self, *, host: str = "127.0.0.1") -> str:
        """Return the address of JupyterLab with an empty workspace, as seen under the name `host`."""
        return f"http://{host}:{self.port}{self.base_url}lab?reset&token={self.token}"


@asynccontextmanager
async def jupyter(folder: Path, *, base_url: str = "/", deadline: float = START) -> AsyncIterator[Jupyter]:
    """Run JupyterLab in `folder`, with a token; on leaving, end it and every kernel it started.

    Raises:
        TimeoutError: if it does not answer within `deadline` seconds; with the end of its log.
    """
    root = folder / "root"
    root.mkdir(parents=True, exist_ok=True)
    _write_settings(folder)
    token = secrets.token_hex(16)
    # Jupyter closes the port it found before it binds it again: someone else may take it, then it exits; try again.
    async with asyncio.timeout(deadline):
        for _attempt in range(3):
            child = _spawn(folder, root, base_url, token)
            try:
                info = await _answering(child, folder)
            except BaseException:
                await _end(child)
                raise
            if info is not None:
                break
        else:
            raise RuntimeError(f"JupyterLab ended by itself three times:\n{_log_end(folder)}")
    try:
        yield Jupyter(info["url"], info["port"], base_url, token, root, child.pid)
    finally:
        await _end(child)


def _write_settings(folder: Path) -> None:
    files = {f"settings/{name}.jupyterlab-settings": values for name, values in LAB_SETTINGS.items()}
    files["config/labconfig/page_config.json"] = {"buildCheck": False, "buildAvailable": False}
    for name, values in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))


def private_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment with every folder that Jupyter, IPython and the lab write to in `folder`."""
    places = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "LABSERVER_HOME": "labserver",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "xdg",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "JPY_"))}
    for name, place in places.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        environment[name] = str(folder / place)
    return environment | {"LABSERVER_LLM": "fake"}


# Jupyter, which ends when its standard input does: so it never outlives its owner, however that ends.
_UNTIL_EOF = """\
import os, signal, sys, threading
from jupyterlab.labapp import main
def watch():
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
main()
"""


def _spawn(folder: Path, root: Path, base_url: str, token: str) -> subprocess.Popen[bytes]:
    options = {
        "ServerApp.port": 0,
        "ServerApp.ip": "127.0.0.1",
        "ServerApp.base_url": base_url,
        "ServerApp.root_dir": root,
        "ServerApp.open_browser": False,
        "ServerApp.allow_root": True,
        "ServerApp.local_hostnames": f'["localhost", "{HUB_HOST}"]',
        "IdentityProvider.token": token,
        "LabApp.news_url": "None",
        "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        "LabApp.extension_manager": "readonly",
        "LabApp.expose_app_in_browser": True,
    }
    with (folder / "jupyter.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-c", _UNTIL_EOF, *(f"--{name}={value}" for name, value in options.items())],
            env=private_environment(folder),
            cwd=root,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


async def _answering(child: subprocess.Popen[bytes], folder: Path) -> dict[str, Any] | None:
    """Wait until the child answers and return what it wrote about itself; None if it ended."""
    file = folder / "runtime" / f"jpserver-{child.pid}.json"
    async with httpx.AsyncClient(trust_env=False) as client:
        while child.poll() is None:
            try:
                info: dict[str, Any] = json.loads(file.read_text())
                answer = await client.get(f"{info['url']}api/status", params={"token": info["token"]}, timeout=5)
                if answer.is_success:
                    return info
            except (OSError, ValueError, httpx.HTTPError):
                pass  # not written, half written or not listening yet
            await asyncio.sleep(0.05)  # between two looks at the condition
    return None


def _log_end(folder: Path) -> str:
    return (folder / "jupyter.log").read_text(errors="replace")[-3000:]


async def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and all that descends from it: politely, and after five seconds by force."""
    family: list[psutil.Process] = []
    if child.poll() is None:
        process = psutil.Process(child.pid)
        family = [process, *process.children(recursive=True)]
        child.terminate()
    for process in await still_running(family, deadline=5):
        process.kill()
    await still_running(family, deadline=5)
    child.wait(timeout=5)
    if child.stdin:
        child.stdin.close()


async def still_running(family: list[psutil.Process], *, deadline: float) -> list[psutil.Process]:
    """Wait until every process has ended, at most `deadline` seconds, and return those that have not."""
    give_up = time.monotonic() + deadline
    while True:
        _gone, alive = psutil.wait_procs(family, timeout=0)
        if not alive or time.monotonic() > give_up:
            return alive
        await asyncio.sleep(0.02)  # between two looks at the condition


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Browser]:
    """Run Chromium with a new profile of its own; it is gone, with its profile, on leaving."""
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(
            executable_path=find("chromium").detail,
            args=list(BROWSER_FLAGS),
            env=dict(private_environment(folder)),
            handle_sigint=False,
        )
        try:
            yield running
        finally:
            await running.close()


@dataclass(frozen=True)
class Cell:
    """One code cell as JupyterLab holds it. `errors` are those that the cell does not announce by a tag."""

    number: int
    source: str
    execution_count: int | None
    running: bool
    trusted: bool
    errors: list[str] = field(default_factory=list)
    has_output: bool = False
    pictures: int = 0  # in outputs without a script of their own


@dataclass(frozen=True)
class Shown:
    """A picture in the page: its alternative text, its size on the page and the size of what was decoded, pixels."""

    alt: str
    width: float
    height: float
    natural_width: int


_CELLS = """() => {
  const panel = window.jupyterapp.shell.currentWidget;
  const cells = [];
  panel.content.widgets.forEach((widget, number) => {
    const model = widget.model;
    if (model.type !== 'code') return;
    const outputs = model.outputs.toJSON();
    const tags = model.getMetadata('tags') || [];
    const errors = outputs.filter(o => o.output_type === 'error').map(o => `${o.ename}: ${o.evalue}`);
    cells.push({
      number,
      source: model.sharedModel.getSource(),
      execution_count: model.executionCount,
      running: model.executionState === 'running',
      trusted: model.trusted,
      errors: tags.includes('raises-exception') ? [] : errors,
      has_output: outputs.length > 0,
      pictures: outputs
        .map(o => [o.data?.['text/html'] ?? ''].flat().join(''))
        .filter(html => !html.includes('<script'))
        .reduce((sum, html) => sum + html.split('<img').length - 1, 0),
    });
  });
  return cells;
}"""

_PICTURES = """() => Array.from(
  window.jupyterapp.shell.currentWidget.content.node.querySelectorAll('.jp-OutputArea-output img'),
  img => {
    const box = img.getBoundingClientRect();
    return {alt: img.alt, width: box.width, height: box.height, natural_width: img.naturalWidth};
  }
)"""

_PICTURES_LOADED = """() => Array.from(
  window.jupyterapp.shell.currentWidget.content.node.querySelectorAll('.jp-OutputArea-output img')
).every(img => img.complete)"""

_KERNEL_READY = """(path) => {
  const panel = window.jupyterapp?.shell.currentWidget;
  return panel?.context?.path === path && panel.context.isReady && panel.content.widgets.length > 0
    && panel.sessionContext.isReady && panel.sessionContext.session?.kernel?.status === 'idle';
}"""

_LAB_READY = """async () => {
  if (!window.jupyterapp) return false;
  await window.jupyterapp.restored;
  return !document.querySelector('#jupyterlab-splash');
}"""

_OPEN = "async path => { await window.jupyterapp.commands.execute('docmanager:open', {path}); }"

_CLOSE = """path => {
  for (const widget of window.jupyterapp.shell.widgets('main')) if (widget.context?.path === path) widget.dispose();
}"""

_SAVE = "async () => { await window.jupyterapp.commands.execute('docmanager:save'); }"

_THEME = "async theme => { await window.jupyterapp.commands.execute('apputils:change-theme', {theme}); }"

_WATCH_RUN_ALL = """() => {
  window.labRanAll = 0;
  if (window.labWatching) return;
  window.labWatching = true;
  window.jupyterapp.commands.commandExecuted.connect((_, run) => {
    if (run.id === 'notebook:run-all-cells') run.result.finally(() => { window.labRanAll += 1; });
  });
}"""


class Notebook:
    """One notebook, open in JupyterLab, with its kernel idle."""

    def __init__(self, page: Page, path: str) -> None:
        self.page = page
        self.path = path

    async def cells(self) -> list[Cell]:
        """Return the code cells that hold any code."""
        found = [Cell(**cell) for cell in await self.page.evaluate(_CELLS)]
        return [cell for cell in found if cell.source.strip()]

    async def run_all(self, *, deadline: float = 60.0) -> list[Cell]:
        """Choose "Run All Cells" in the menu "Run" and return the cells once the last of them has finished.

        Raises:
            TimeoutError: if a cell still runs after `deadline` seconds; names the cells.
        """
        await self.page.evaluate(_WATCH_RUN_ALL)
        await self.page.locator(".lm-MenuBar-item", has_text="Run").click()
        await self.page.locator('.lm-Menu-item[data-command="runmenu:run-all"]').click()
        try:
            await self.page.wait_for_function("() => window.labRanAll === 1", timeout=deadline * 1000)
        except TimeoutError:
            left = [cell.source for cell in await self.cells() if cell.running or cell.execution_count is None]
            raise TimeoutError(f"{self.path}: after {deadline:g} s not yet finished: {left}") from None
        return await self.cells()

    async def pictures(self, *, deadline: float = 10.0) -> list[Shown]:
        """Return the pictures in the outputs, once each has been decoded or given up by the browser."""
        await self.page.wait_for_function(_PICTURES_LOADED, timeout=deadline * 1000)
        return [Shown(**picture) for picture in await self.page.evaluate(_PICTURES)]

    async def panel(self, *, deadline: float = 10.0) -> Frame:
        """Return the frame of the live panel in the outputs, once it is there, and bring it into view."""
        element = await self.page.wait_for_selector(
            ".jp-OutputArea-output iframe", state="attached", timeout=deadline * 1000
        )
        frame = await element.content_frame() if element else None
        if element is None or frame is None:
            raise AssertionError(f"{self.path}: the panel's iframe holds no page")
        await element.scroll_into_view_if_needed()
        return frame

    async def save(self, *, deadline: float = 10.0) -> None:
        """Save the notebook, outputs included."""
        await self.page.evaluate(_SAVE)
        await self.page.wait_for_function(
            "() => !window.jupyterapp.shell.currentWidget.context.model.dirty", timeout=deadline * 1000
        )

    async def theme(self, name: str, *, deadline: float = 10.0) -> None:
        """Switch to "JupyterLab Light" or "JupyterLab Dark", and the browser's own preference with it."""
        await self.page.emulate_media(color_scheme="dark" if name.endswith("Dark") else "light")
        await self.page.evaluate(_THEME, name)
        await self.page.wait_for_function(
            "theme => document.body.dataset.jpThemeName === theme && !document.querySelector('#jupyterlab-splash')",
            arg=name,
            timeout=deadline * 1000,
        )


def copy_notebooks(source: Path, target: Path) -> None:
    """Copy the notebooks of the folder `source`, and the images they show, into `target`."""
    for file in (*source.glob("*.ipynb"), *source.glob("images/*")):
        copy = target / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)


class Window:
    """A browser window with JupyterLab in it; loading that takes seconds, so notebooks are opened in it one by one."""

    def __init__(self, page: Page, lab: Jupyter) -> None:
        self.page = page
        self.lab = lab

    @asynccontextmanager
    async def notebook(self, path: str, *, deadline: float = 60.0) -> AsyncIterator[Notebook]:
        """Open `path` (relative to the server's root) and wait for its kernel; on leaving end both, save nothing."""
        await self.page.evaluate(_OPEN, path)
        try:
            await self.page.wait_for_function(_KERNEL_READY, arg=path, timeout=deadline * 1000)
            yield Notebook(self.page, path)
        finally:
            await self.page.evaluate(_CLOSE, path)
            await _end_kernels(self.lab)

    @asynccontextmanager
    async def only_port(self, port: int) -> AsyncIterator[None]:
        """Let the browser reach no other port of this machine: connections to it are refused."""

        def elsewhere(url: str) -> bool:
            return urlsplit(url).port != port

        await self.page.context.route(elsewhere, lambda route: route.abort("connectionrefused"))
        try:
            yield
        finally:
            await self.page.context.unroute(elsewhere)


@asynccontextmanager
async def window(
    running: Browser,
    lab: Jupyter,
    *,
    host: str = "127.0.0.1",
    width: int = 1280,
    height: int = 900,
    deadline: float = START,
) -> AsyncIterator[Window]:
    """Open JupyterLab, reached under the name `host`, in a new window of `width` by `height` pixels; close it after."""
    context = await running.new_context(viewport={"width": width, "height": height})
    try:
        page = await context.new_page()
        await page.goto(lab.page_url(host=host), timeout=deadline * 1000)
        await page.wait_for_function(_LAB_READY, timeout=deadline * 1000)
        yield Window(page, lab)
    finally:
        await context.close()


async def _end_kernels(lab: Jupyter) -> None:
    async with httpx.AsyncClient(
        base_url=lab.url, headers={"Authorization": f"token {lab.token}"}, timeout=15, trust_env=False
    ) as client:
        for session in (await client.get("api/sessions")).json():
            await client.delete(f"api/sessions/{session['id']}")
