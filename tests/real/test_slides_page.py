"""Slides in a real Chromium, from disk: the keys turn them, the answer waits for a click, and every picture fits."""

from pathlib import Path

from pages import chromium_at

from labserver.school.catalogue import ROOT
from labserver.school.present import present

NOTEBOOK = ROOT / "notebooks" / "05_server_sent_events.ipynb"
PICTURES_OUTSIDE = """() => [...document.querySelectorAll("section.here img")].filter(image => {
  const box = image.getBoundingClientRect();
  return box.left < 0 || box.right > innerWidth || box.top < 0 || box.bottom > innerHeight;
}).length"""
UNSEEN = "document.querySelectorAll('section.here .fragment:not(.seen)').length"


async def test_slides_are_turned_from_disk_and_every_picture_fits(chromium: str, tmp_path: Path) -> None:
    page_path = tmp_path / "slides.html"
    page_path.write_text(present(NOTEBOOK), encoding="utf-8")
    async with chromium_at(chromium) as browser:
        page = await browser.new_page(viewport={"width": 1280, "height": 800})
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        wrong: list[str] = []
        page.on("pageerror", lambda error: wrong.append(str(error)))
        await page.goto(page_path.as_uri())
        count = await page.locator("#stage > section > section").count()
        assert await page.locator("#place").inner_text() == f"1 / {count}"
        outside = clicks = 0
        for number in range(1, count + 1):
            outside += await page.evaluate(PICTURES_OUTSIDE)
            assert await page.locator("section.here").count() == 1
            assert await page.locator("#place").inner_text() == f"{number} / {count}"
            while await page.evaluate(UNSEEN):
                clicks += 1
                await page.keyboard.press("ArrowRight")
            await page.keyboard.press("ArrowRight")
        await page.keyboard.press("Home")
        await page.keyboard.press("ArrowDown")
        assert await page.locator("section.here h2").count() == 1
        assert {url for url in asked if not url.startswith("data:")} == {page_path.as_uri()}
        assert (outside, wrong) == (0, [])
        assert clicks >= 1
