"""Slides lose nothing: every cell and picture of a notebook is in them, and ours ask nothing of any network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from nbformat import NotebookNode

from labserver.errors import LabError
from labserver.school.catalogue import ROOT
from labserver.school.notebooks import read
from labserver.school.present import find_notebook, present

NOTEBOOK = ROOT / "notebooks" / "05_server_sent_events.ipynb"


def pictures(html: str) -> list[str]:
    return re.findall(r'src="(data:image/[^"]+)"', html)


def shown(notebook: NotebookNode) -> list[str]:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [picture for output in outputs for picture in pictures("".join(output.get("data", {}).get("text/html", "")))]


def by_nbconvert(path: Path, folder: Path) -> str:
    tool = [sys.executable, "-m", "nbconvert", "--to", "slides", "--output-dir", str(folder), str(path)]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return (folder / f"{path.stem}.slides.html").read_text(encoding="utf-8")


def test_nothing_is_lost_in_our_slides_nor_in_those_of_nbconvert(tmp_path: Path) -> None:
    notebook = read(NOTEBOOK)
    for page in (present(NOTEBOOK), by_nbconvert(NOTEBOOK, tmp_path)):
        assert len(re.findall(r'<div[^>]* class="jp-Cell jp-(?:Code|Markdown)Cell', page)) == len(notebook.cells)
        assert pictures(page) == shown(notebook)
        assert page.count("<section") == page.count("</section>")
        slides = [cell.metadata.slideshow.slide_type for cell in notebook.cells]
        assert page.count("<section") == 2 * slides.count("slide") + slides.count("subslide")


def test_our_slides_load_nothing() -> None:
    page = present(NOTEBOOK)
    loads = r'<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)="(?!data:)([^"]*)"|@import|url\((?!["\']?data:|#)'
    assert re.findall(loads, page) == []


@pytest.mark.parametrize("name", ["05", "5", "05_server_sent_events", str(NOTEBOOK)])
def test_a_notebook_is_found_by_number_name_and_path(name: str) -> None:
    assert find_notebook(name).name == NOTEBOOK.name


def test_a_notebook_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(LabError, match="choose one of 00_start_here, 01_websocket_basics"):
        find_notebook("77")
