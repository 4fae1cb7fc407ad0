"""What a reader does with the live panels of the notebooks, and what each panel then has to say.

`PANELS` names, per notebook, each panel by its title and the script that plays the reader. A notebook whose panel is
not named here is an error: a panel that nobody presses may be broken for years.
"""

import re
from collections.abc import Awaitable, Callable

from playwright.async_api import Frame
from real_jupyter import Notebook

__all__ = ["press_panels"]

WAIT = 40_000  # ms for what a panel is to say
_TEXTS = "selector => [...document.querySelectorAll(selector)].map(element => element.textContent)"


async def _until(panel: Frame, condition: str) -> None:
    """Wait until a condition holds in the panel; by the clock, since a frame out of view gets no animation frames."""
    await panel.wait_for_function(f"() => {condition}", timeout=WAIT, polling=50)


async def _feed(panel: Frame) -> None:
    await panel.click("button")
    await _until(panel, "state.textContent.startsWith('complete')")
    assert await panel.evaluate(_TEXTS, "#log li") == ["one", "two", "three"]


async def _refusals(panel: Frame) -> None:
    for number, name in enumerate(("close before accept", "HTTP 401", "accept, then close", "send a header"), 1):
        await panel.click(f"button:text('{name}')")
        await _until(panel, f"log.children.length === {number}")
    before, denied, after, header = await panel.evaluate(_TEXTS, "#log li")
    assert "close 1006" in before
    assert "close 1006" in denied
    assert "close 4401" in after
    assert "SyntaxError" in header


async def _forged(panel: Frame) -> None:
    await panel.click("button")
    await _until(panel, "document.querySelectorAll('#broken li').length && mended.textContent.includes('complete')")
    assert (await panel.evaluate(_TEXTS, "#broken li"))[-1] == 'done: "forged"'
    assert await panel.evaluate(_TEXTS, "#mended li") == [
        'message: "hello\\n\\nevent: done\\ndata: forged"',
        'message: "the rest"',
        'done: "complete"',
    ]


async def _second_answer(panel: Frame) -> None:
    await panel.click("button:text-is('503')")
    await _until(panel, "log.textContent.includes('closed for good')")
    said = await panel.evaluate(_TEXTS, "#log li")
    assert [words.partition(":")[0] for words in said] == ["message", "error", "error"]
    assert said[1].endswith("will connect again")


async def _origins(panel: Frame) -> None:
    await panel.click("button")
    await _until(panel, "document.getElementById('closed').textContent.startsWith('blocked')")
    await _until(panel, "friendly.textContent.endsWith('(done)')")


async def _tunnel(panel: Frame) -> None:
    await panel.click("button:text('connect')")
    await _until(panel, "state.textContent === 'open'")
    await panel.click("button:text('publish')")
    await _until(panel, "heard.children.length === 1")
    await panel.click("button:text('cut')")
    await _until(panel, "state.textContent.startsWith('cut')")
    for _ in range(2):
        await panel.click("button:text('publish')")
    await _until(panel, "heard.children.length === 3 && state.textContent === 'open'")
    heard = " ".join(await panel.evaluate(_TEXTS, "#heard li"))
    assert re.findall(r'"price": (\d+)', heard) == ["101", "102", "103"], heard


async def _chat(panel: Frame) -> None:
    await panel.click("button:text('ask')")
    await _until(panel, "document.getElementById('text').textContent.length > 20")
    await panel.click("button:text('stop')")
    await _until(panel, "state.textContent === 'you left'")
    await panel.click("button:text('ask')")
    await _until(panel, "state.textContent.startsWith('whole: ')")


async def _six_connections(panel: Frame) -> None:
    await panel.click("button:text('a stream for each')")
    await _until(panel, "boxes.textContent.split(': open').length - 1 === 6 && boxes.textContent.includes('waits')")
    await _until(panel, "other.textContent === 'waits'")
    await panel.click("button:text('one stream')")
    await _until(panel, "boxes.textContent.split(': open').length - 1 === 8")
    await _until(panel, "other.textContent === 'answered'")


PANELS: dict[str, dict[str, Callable[[Frame], Awaitable[None]]]] = {
    "00_start_here": {"EventSource reads the feed": _feed},
    "02_websocket_auth": {"What a page learns of a refusal": _refusals},
    "05_server_sent_events": {
        "EventSource hears a forged event": _forged,
        "What the second answer does to EventSource": _second_answer,
        "EventSource from another origin": _origins,
    },
    "06_sse_resume": {"EventSource comes back and misses nothing": _tunnel},
    "09_llm_tokens": {"A chat that streams": _chat},
    "14_production": {"Six connections, and the seventh stream": _six_connections},
}


async def press_panels(notebook: Notebook, name: str) -> None:
    """Use every live panel of a notebook that was just run."""
    known = PANELS.get(name, {})
    frames = notebook.page.locator(".jp-OutputArea-output iframe")
    for title in known:
        await notebook.page.wait_for_selector(f'.jp-OutputArea-output iframe[title="{title}"]', state="attached")
    titles = [await frames.nth(number).get_attribute("title") for number in range(await frames.count())]
    assert sorted(filter(None, titles)) == sorted(known)
    for title, use in known.items():
        element = await notebook.page.query_selector(f'.jp-OutputArea-output iframe[title="{title}"]')
        assert element is not None
        await element.scroll_into_view_if_needed()
        panel = await element.content_frame()
        assert panel is not None, f"{title}: the panel's iframe holds no page"
        await panel.wait_for_load_state()
        await use(panel)
