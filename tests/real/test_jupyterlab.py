"""Notebooks in a real JupyterLab, seen by a real browser: a fresh copy, "Run All", and live panels near and far.

Two JupyterLabs run: one as on a reader's own machine, one as behind a hub (a base URL, another host's name). A notebook
that one has run and saved is a stranger's for the other, as after a fresh clone.
"""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from live_panels import press_panels
from pixels import read_png
from playwright.async_api import Browser, Frame
from real_jupyter import HUB_HOST, Jupyter, Notebook, Window, browser, copy_notebooks, jupyter, window
from scratch_notebooks import EVENTS_WANTED, write_notebook
from scratch_notebooks import PANEL as PANEL_CELLS
from screenshots import WIDTH, photograph, photograph_at_work

HERE = Path(__file__).resolve().parent
NOTEBOOKS = sorted((HERE.parent.parent / "notebooks").glob("*.ipynb"))
HUB_BASE = "/hub/user/ana/"
PANEL = "panel.ipynb"
LIVE = 20_000  # ms for the first events of a panel

pytestmark = [pytest.mark.real("chromium"), pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]
shared = pytest_asyncio.fixture(scope="module", loop_scope="module")


@shared
async def chrome(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


@shared
async def near(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Window]:
    """JupyterLab on the reader's own machine."""
    async with jupyter(tmp_path_factory.mktemp("near")) as running, window(chrome, running) as shown:
        yield shown


@shared
async def hub(chrome: Browser, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Jupyter]:
    """JupyterLab under a base URL."""
    async with jupyter(tmp_path_factory.mktemp("hub"), base_url=HUB_BASE) as running:
        yield running


@shared
async def opened(request: pytest.FixtureRequest, near: Window) -> AsyncIterator[Notebook]:
    """A fresh copy of one notebook, its pictures beside it, open and never run."""
    copy_notebooks(request.param.parent, near.lab.root / "notebooks")
    async with near.notebook(f"notebooks/{request.param.name}") as notebook:
        yield notebook


async def assert_pictures_shown(notebook: Notebook) -> None:
    """Every picture that the outputs hold is in the page, decoded, of a visible size, and described."""
    expected = sum(cell.pictures for cell in await notebook.cells())
    shown = await notebook.pictures()
    assert expected >= 1
    assert len(shown) >= expected
    for picture in shown:
        assert picture.natural_width > 0, picture
        assert picture.width > 0, picture
        assert picture.height > 0, picture
        assert picture.alt.strip(), picture


async def assert_ran(notebook: Notebook) -> None:
    cells = await notebook.run_all()
    assert [cell for cell in cells if cell.errors] == []
    assert [cell.source for cell in cells if cell.execution_count is None or cell.running] == []


def each_notebook(test: Callable[..., object]) -> Callable[..., object]:
    """Run `test` once per notebook of the lab."""
    return pytest.mark.parametrize("opened", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS], indirect=True)(test)


@each_notebook
async def test_fresh_copy_shows_its_pictures_before_anything_runs(opened: Notebook) -> None:
    cells = await opened.cells()
    assert not any(cell.trusted for cell in cells if cell.has_output)
    await assert_pictures_shown(opened)


@each_notebook
async def test_run_all_finishes_without_an_error_shows_the_pictures_and_the_panels_live(opened: Notebook) -> None:
    await assert_ran(opened)
    await assert_pictures_shown(opened)
    await press_panels(opened, Path(opened.path).stem)


async def address_of_live_feed(panel: Frame) -> tuple[str, str]:
    """Wait until events and frames have really come; return where from: the addresses of both."""
    await panel.wait_for_function(
        "wanted => Number(document.querySelector('#events')?.value) >= wanted"
        " && Number(document.querySelector('#frames')?.value) >= 3",
        arg=EVENTS_WANTED,
        timeout=LIVE,
        polling=50,  # by the clock: a frame of another origin gets no animation frames while it is out of view
    )
    addresses = await panel.evaluate("() => window.labAddresses")
    return addresses["events"], addresses["frames"]


@shared
async def strangers_panel(chrome: Browser, hub: Jupyter, near: Window) -> tuple[str, str]:
    """Run the panel behind the hub, save it, hand the file to the other JupyterLab; return the feed's addresses."""
    write_notebook(hub.root / PANEL)
    async with window(chrome, hub, host=HUB_HOST) as shown, shown.notebook(PANEL) as notebook:
        await assert_ran(notebook)
        await assert_pictures_shown(notebook)
        addresses = await address_of_live_feed(await notebook.panel())
        await notebook.save()
    shutil.copy(hub.root / PANEL, near.lab.root / PANEL)
    return addresses


async def test_panel_behind_a_hub_is_live_through_the_proxy(hub: Jupyter, strangers_panel: tuple[str, str]) -> None:
    proxy = f"://{HUB_HOST}:{hub.port}{HUB_BASE}proxy/"
    events, frames = strangers_panel
    assert events.startswith(f"http{proxy}")
    assert events.endswith("/events")
    assert frames.startswith(f"ws{proxy}")
    assert frames.endswith("/ws")


async def test_panel_of_a_stranger_shows_a_picture_and_runs_nothing(
    near: Window, strangers_panel: tuple[str, str]
) -> None:
    async with near.notebook(PANEL) as notebook:
        cells = await notebook.cells()
        assert not any(cell.trusted for cell in cells if cell.has_output)
        await assert_pictures_shown(notebook)
        described = [picture.alt for picture in await notebook.pictures()]
        assert "The feed, drawn." in described
        assert await notebook.page.locator(".jp-OutputArea-output iframe").count() == 0
        assert await notebook.page.locator(".jp-OutputArea-output script").count() == 0


async def test_panel_on_the_readers_machine_is_live_directly(near: Window) -> None:
    write_notebook(near.lab.root / "own" / PANEL)
    async with near.notebook(f"own/{PANEL}") as notebook:
        await assert_ran(notebook)
        events, frames = await address_of_live_feed(await notebook.panel())
        for address, scheme in ((events, "http"), (frames, "ws")):
            assert address.startswith(f"{scheme}://127.0.0.1:")
            assert f":{near.lab.port}/" not in address


async def test_panel_takes_the_proxy_when_localhost_is_not_the_kernels_machine(near: Window) -> None:
    """As in a container: the page is on localhost, but of the container's ports only Jupyter's is reachable."""
    write_notebook(near.lab.root / "container" / PANEL)
    async with near.only_port(near.lab.port), near.notebook(f"container/{PANEL}") as notebook:
        await assert_ran(notebook)
        events, frames = await address_of_live_feed(await notebook.panel())
        assert events.startswith(f"{near.lab.url}proxy/")
        assert frames.startswith(f"ws{near.lab.url.removeprefix('http')}proxy/")


async def test_photographs_show_all_of_a_notebook_light_and_dark(near: Window, tmp_path: Path) -> None:
    write_notebook(near.lab.root / "seen.ipynb", PANEL_CELLS[:2] * 5)
    async with near.notebook("seen.ipynb") as notebook:
        await assert_ran(notebook)
        at_work = await photograph_at_work(notebook, picture=4)
        files = await photograph(notebook, tmp_path, sheet=600)
        with pytest.raises(LookupError, match="shows 5 pictures"):
            await photograph_at_work(notebook, picture=5)

    each = len(files) // 2
    assert each >= 2, "higher than a sheet, and than the window: nothing is scrolled out of the picture"
    assert [file.name for file in files] == [
        f"seen-{theme}-{number}.png" for theme in ("light", "dark") for number in range(1, each + 1)
    ]
    light, dark = (read_png(files[first].read_bytes()) for first in (0, each))
    assert (light.width, light.height) == (dark.width, dark.height) == (WIDTH, 600)
    assert light.brightness() > 200
    assert dark.brightness() < 60
    assert light.colours()[0xFB, 0xFB, 0xFA] > 700 * 60, "the picture's card, light"
    assert dark.colours()[0x16, 0x19, 0x1D] > 700 * 60, "the picture's card, dark"
    assert at_work.startswith(b"\x89PNG")
    assert len(at_work) < 100_000
