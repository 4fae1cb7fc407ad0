"""The page of a live panel in a real browser, without a notebook around it (`test_jupyterlab.py` has one)."""

from collections.abc import AsyncIterator, Callable

import pytest
from fastapi import FastAPI
from playwright.async_api import Browser
from real_jupyter import browser

from labserver.stage import page, start
from labserver.stage.rich import Html

pytestmark = pytest.mark.real("chromium")


@pytest.fixture
async def chrome(tmp_path_factory: pytest.TempPathFactory, require: Callable[[str], None]) -> AsyncIterator[Browser]:
    require("chromium")
    async with browser(tmp_path_factory.mktemp("browser")) as running:
        yield running


def address(shown: Html) -> str:
    url, path = (shown.html.split(f' data-{name}="')[1].split('"')[0] for name in ("url", "path"))
    return f"{url}/{path}"


async def test_a_click_says_when_the_server_has_stopped_and_nothing_before(chrome: Browser) -> None:
    with start(FastAPI(), name="panels") as live:
        shown = await chrome.new_page()
        await shown.goto(address(page("<button>connect</button>", live, title="A feed")))
        ended = shown.locator("[role=status]")
        async with shown.expect_response(lambda answer: "/_panel/" in answer.url):
            await shown.click("button")
        assert not await ended.is_visible()
        live.stop()
        await shown.click("button")
        await ended.wait_for(state="visible", timeout=5000)
        assert "run the cells above and this one again" in await ended.inner_text()


@pytest.mark.parametrize(("asked", "colour"), [("#light", "rgb(251, 251, 250)"), ("#dark", "rgb(22, 25, 29)")])
async def test_the_notebooks_theme_wins_over_the_browsers_and_can_change(
    chrome: Browser, asked: str, colour: str
) -> None:
    read = "() => getComputedStyle(document.body).backgroundColor"
    with start(FastAPI(), name="panels") as live:
        shown = await chrome.new_page(color_scheme="dark" if asked == "#light" else "light")
        await shown.goto(address(page("", live, title="A feed")) + asked)
        assert await shown.evaluate(read) == colour
        other = "dark" if asked == "#light" else "light"
        await shown.evaluate("theme => postMessage({ labTheme: theme }, '*')", other)
        await shown.wait_for_function(f"theme => ({read})() !== theme", arg=colour, timeout=5000)
