"""A notebook as slides in one HTML file, to be shown from disk: it asks nothing of any network.

`jupyter nbconvert --to slides` makes slides of the same cells, and loads reveal.js from a CDN when they are shown.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from labserver.errors import LabError
from labserver.school.catalogue import ROOT
from labserver.school.slides import HEIGHT, WIDTH

__all__ = ["find_notebook", "present", "slides"]

TEMPLATE = Path(__file__).with_name("slides.html.j2")


def find_notebook(name: str) -> Path:
    """Return the notebook of that path, name or number: `notebooks/05_server_sent_events.ipynb`, `05` or `5`.

    Raises:
        LabError: if there is none.
    """
    if (path := Path(name)).suffix == ".ipynb" and path.is_file():
        return path
    known = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    for path in known:
        if path.stem == Path(name).stem or path.name.startswith(f"{name.zfill(2)}_"):
            return path
    raise LabError(f"There is no notebook {name!r}: choose one of {', '.join(path.stem for path in known)}.")


def present(notebook: Path) -> str:
    """Return a stored notebook as one HTML page of slides, pictures and styles included.

    Raises:
        LabError: if it is no notebook.
    """
    from nbconvert.exporters import SlidesExporter

    from labserver.school.notebooks import read

    untyped: Any = SlidesExporter
    exporter = untyped(raw_template=TEMPLATE.read_text(encoding="utf-8"))
    resources = {"metadata": {"name": notebook.stem}, "slide": {"width": WIDTH, "height": HEIGHT}}
    page, _ = exporter.from_notebook_node(read(notebook), resources)
    return str(page)


def slides(
    notebooks: Annotated[list[str], typer.Argument(metavar="NOTEBOOK...", help="05, a notebook's name, or its path.")],
    out: Annotated[Path, typer.Option(help="The folder to write to.")] = Path("slides"),
) -> None:
    """Write notebooks as slides: one HTML file each, shown by any browser without a network."""
    found = [find_notebook(name) for name in notebooks]
    out.mkdir(parents=True, exist_ok=True)
    for path in found:
        page = out / f"{path.stem}.html"
        page.write_text(present(path), encoding="utf-8")
        typer.echo(f"wrote {page}: open it in a browser; arrow keys turn the slides, n shows the notes")
