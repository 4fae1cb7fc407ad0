"""Slides by rule: what opens one, what waits, what goes to the notes, and that a person's own word stays."""

from base64 import b64encode

import pytest
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from labserver.school.slides import TYPES, set_slide_types


def types(*cells: NotebookNode, anew: bool = False) -> list[str]:
    set_slide_types(list(cells), anew=anew)
    return [cell.metadata.slideshow.slide_type for cell in cells]


def picture(height: int) -> NotebookNode:
    svg = b64encode(f'<svg xmlns="x" viewBox="0 0 840 {height}" width="840" height="{height}"></svg>'.encode()).decode()
    html = f'<img alt="a" width="840" src="data:image/svg+xml;base64,{svg}">'
    return new_code_cell("show()", outputs=[new_output("execute_result", data={"text/html": html, "text/plain": "t"})])


def words(text: str = "words") -> NotebookNode:
    return new_markdown_cell(text)


@pytest.mark.parametrize(
    ("cell", "kind"),
    [
        (words("# Title\n\ntext"), "slide"),
        (words("## Break it: so"), "slide"),
        (words("### Deeper"), "subslide"),
        (words("**Predict.** What now?"), "subslide"),
        (words(), "-"),
        (words("```\n# no heading\n```"), "-"),
        (new_code_cell("1 + 1"), "-"),
        (new_code_cell("live = start()"), "-"),
        (new_code_cell("reveal(1)"), "fragment"),
        (new_code_cell("import httpx\n\n\ndef ask(url: str) -> int:\n    return 1"), "notes"),
        (new_code_cell("%time 1"), "-"),
    ],
)
def test_a_cell_is_what_the_rule_says(cell: NotebookNode, kind: str) -> None:
    assert types(words("# Title"), cell) == ["slide", kind]
    assert kind in TYPES


def test_the_first_cell_opens_a_slide_whatever_it_is() -> None:
    assert types(words(), new_code_cell("1"))[0] == "subslide"  # nbconvert makes a slide of the first one


def test_what_no_longer_fits_opens_a_subslide() -> None:
    assert types(words("## Part"), picture(280), picture(280), picture(280)) == ["slide", "-", "-", "subslide"]


def test_a_text_stands_with_the_cell_that_it_introduces() -> None:
    assert types(words("## Part"), picture(400), words(), picture(400)) == ["slide", "-", "subslide", "-"]
    assert types(words("## Part"), picture(400), words(), picture(2000)) == ["slide", "-", "-", "subslide"]
    assert types(words("## Part"), picture(700), words(), picture(2000)) == ["slide", "subslide", "subslide", "-"]


def test_what_a_person_has_set_stays_until_it_is_to_be_forgotten() -> None:
    own = from_dict({"slide_type": "skip", "data": {"state": "calm"}})
    cells = [words("# Title\n\ntext"), new_code_cell("1", metadata={"slideshow": own}), picture(640), words()]
    assert types(*cells) == ["slide", "skip", "subslide", "-"]
    assert types(*cells) == ["slide", "skip", "subslide", "-"]  # and by rule is the same once more
    assert cells[1].metadata.slideshow.data == {"state": "calm"}
    assert types(*cells, anew=True) == ["slide", "-", "subslide", "-"]
