"""Takes pictures of a notebook in a real JupyterLab.

python tests/real/screenshots.py NOTEBOOK OUTDIR   run it, then all of it as NAME-light.png and NAME-dark.png
python tests/real/screenshots.py NOTEBOOK OUTDIR --no-run   the same for the outputs as committed, not trusted
python tests/real/screenshots.py --readme          notebooks/images/lab.png: the lab at work, with a tape in view

A page is 1280 pixels wide and as high as the notebook. `--sheet 1500` cuts it into sheets of that height, which stay
legible where pictures are fitted to a screen: NAME-light-1.png, NAME-light-2.png and so on.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from pixels import shrink
from playwright.async_api import Page
from real_jupyter import Notebook, Window, browser, copy_notebooks, jupyter, window

from labserver.stage.parts import find

__all__ = ["photograph", "photograph_at_work"]

ROOT = Path(__file__).resolve().parent.parent.parent
README_NOTEBOOK = ROOT / "notebooks" / "01_websocket_basics.ipynb"
README_PICTURE = ROOT / "notebooks" / "images" / "lab.png"
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
WIDTH = 1280
SHEET = 16_000  # pixels: the height of what a browser draws in one piece

_HEIGHT = """() => {
  const outer = window.jupyterapp.shell.currentWidget.content.node.querySelector('.jp-WindowedPanel-outer');
  return Math.ceil(outer.scrollHeight + window.innerHeight - outer.clientHeight);
}"""

_SETTLED = """() => {
  const images = window.jupyterapp.shell.currentWidget.content.node.querySelectorAll('img');
  return Array.from(images).every(image => image.complete) && document.fonts.status === 'loaded';
}"""

_TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"

_LEFT_AREA_SHOWN = """async shown => {
  const {commands} = window.jupyterapp;
  if (commands.isToggled('application:toggle-left-area') !== shown) {
    await commands.execute('application:toggle-left-area');
  }
}"""

_LIST_FOLDER = "async path => { await window.jupyterapp.commands.execute('filebrowser:go-to-path', {path}); }"

# Puts the chosen picture's cell at the foot of the notebook, so that its code is above it; returns how many there are.
_SHOW_PICTURE = """number => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  const pictures = notebook.node.querySelectorAll('.jp-OutputArea-output img');
  const cell = pictures[number]?.closest('.jp-Cell');
  if (cell) {
    notebook.activeCellIndex = notebook.widgets.findIndex(widget => widget.node === cell);
    notebook.deselectAll();
    const outer = notebook.node.querySelector('.jp-WindowedPanel-outer');
    outer.scrollTop += cell.getBoundingClientRect().bottom - outer.getBoundingClientRect().bottom + 24;
  }
  return pictures.length;
}"""


async def _settled(page: Page) -> None:
    await page.wait_for_function(_SETTLED)
    await page.evaluate(_TWO_FRAMES)


async def photograph(notebook: Notebook, folder: Path, *, sheet: int = SHEET) -> list[Path]:
    """Write all of an open notebook into `folder`, light and dark, in sheets of `sheet` pixels; return the files."""
    page, files = notebook.page, []
    await page.evaluate(_LEFT_AREA_SHOWN, False)
    before = page.viewport_size
    for name, theme in THEMES.items():
        await notebook.theme(theme)
        await _settled(page)
        height = await page.evaluate(_HEIGHT)
        await page.set_viewport_size({"width": WIDTH, "height": height})
        await _settled(page)
        sheets = range(0, height, sheet)
        for number, top in enumerate(sheets, 1):
            stem = f"{Path(notebook.path).stem}-{name}" + (f"-{number}" if len(sheets) > 1 else "")
            clip = {"x": 0, "y": top, "width": WIDTH, "height": min(sheet, height - top)}
            files.append(folder / f"{stem}.png")
            await page.screenshot(path=files[-1], clip=clip)
        if before:
            await page.set_viewport_size(before)
    return files


async def photograph_at_work(notebook: Notebook, *, picture: int = 0) -> bytes:
    """Return as a small PNG what a reader sees, light: JupyterLab with output picture number `picture` in view."""
    page = notebook.page
    await notebook.theme(THEMES["light"])
    await _settled(page)
    await page.evaluate(_LIST_FOLDER, str(Path(notebook.path).parent))
    pictures = await page.evaluate(_SHOW_PICTURE, picture)
    if picture >= pictures:
        raise LookupError(f"{notebook.path} shows {pictures} pictures: there is no number {picture}")
    await _settled(page)
    return shrink(await page.screenshot())


async def _main(options: argparse.Namespace) -> list[Path]:
    source: Path = options.notebook.resolve()
    with tempfile.TemporaryDirectory(prefix="labserver-pictures-") as name:
        folder = Path(name)
        async with (
            jupyter(folder) as lab,
            browser(folder / "browser") as running,
            window(running, lab, width=WIDTH, height=800) as shown,
        ):
            copy_notebooks(source.parent, lab.root / source.parent.name)
            return await _photographs(shown, source, options)


def _write(file: Path, data: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)


async def _photographs(shown: Window, source: Path, options: argparse.Namespace) -> list[Path]:
    async with shown.notebook(f"{source.parent.name}/{source.name}") as notebook:
        if options.run:
            for cell in await notebook.run_all(deadline=options.deadline):
                for error in cell.errors:
                    print(f"cell {cell.number}: {error}", file=sys.stderr)
        if options.readme:
            _write(options.readme, await photograph_at_work(notebook, picture=options.picture))
            return [options.readme]
        return await photograph(notebook, options.outdir, sheet=options.sheet)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", type=Path, default=README_NOTEBOOK)
    parser.add_argument("outdir", nargs="?", type=Path, default=Path("screenshots"))
    parser.add_argument("--no-run", dest="run", action="store_false", help="show the outputs as they are")
    parser.add_argument("--sheet", type=int, default=SHEET, help="pixels; what is taller is cut")
    parser.add_argument("--deadline", type=float, default=120.0, help="seconds for all cells together")
    parser.add_argument(
        "--readme", nargs="?", type=Path, const=README_PICTURE, help="one picture of the lab at work, into this file"
    )
    parser.add_argument("--picture", type=int, default=0, help="with --readme: which of the outputs' pictures to show")
    options = parser.parse_args()
    if not options.notebook.is_file():
        sys.exit(f"There is no notebook {options.notebook}.")
    chromium = find("chromium")
    if not chromium.available:
        sys.exit(f"Pictures need a browser: {chromium.reason}")
    for file in asyncio.run(_main(options)):
        print(file)


if __name__ == "__main__":
    main()
