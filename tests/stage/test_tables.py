"""Tables of what was measured: numbers stand in the table, words in its text, and every cell has its column."""

import re
from html.parser import HTMLParser

import pytest

from labserver.errors import LabError
from labserver.stage.tables import Cell, table

ROWS = {
    "who may speak": ["both", "the server"],
    "bytes": [Cell("27", "fewer"), Cell("40 & more", "more", hot=True)],
}
TEXT = """how to choose

who may speak
    WebSocket  both
    SSE        the server

bytes
    WebSocket  fewer
  ! SSE        more

one line more
"""


def test_the_text_has_the_words_and_the_table_the_numbers() -> None:
    found = table("how to choose", ["WebSocket", "SSE"], ROWS, headline="a < b", note="read it", twin=["one line more"])
    assert repr(found) == found.twin == TEXT
    assert ">27<" in found.html
    assert "40 &amp; more" in found.html
    assert "a &lt; b" in found.html
    assert "fewer" not in found.html


def test_the_text_is_the_same_for_other_numbers() -> None:
    def of(number: int) -> str:
        return table("t", ["a"], {"r": [Cell(f"{number} ms", "some")]}, headline=f"{number}").twin

    assert of(1) == of(22)


def test_heads_are_heads_and_a_hot_cell_has_a_sign() -> None:
    html = table("t", ["WebSocket", "SSE"], ROWS, headline="a").html
    assert html.count('scope="col"') == html.count('scope="row"') == 2
    assert re.search(r"font-weight:600\"><span style=\"color:#\w+\">&#9670;</span> 40 &amp; more<", html)
    assert html.count("&#9670;") == 1
    assert html.count("<caption") == 1


def test_it_is_well_formed_and_needs_no_script() -> None:
    class Tags(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: object) -> None:
            self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    html = table("t", ["<i>", "b"], {"<b>": ["</td>", "&"]}, headline="<h>", note="</table>").html
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert "<script" not in html


@pytest.mark.parametrize(
    ("columns", "rows", "sentence"),
    [
        ([], {}, "nothing to compare"),
        (["a"], {}, "nothing to compare"),
        (["a", "b"], {"r": ["x"]}, "'r' needs 2 cells, one for each of a, b"),
        (["a", "b"], {"r": "xy"}, "'r' needs 2 cells"),
    ],
)
def test_a_table_with_a_hole_is_refused(columns: list[str], rows: dict[str, list[str | Cell]], sentence: str) -> None:
    with pytest.raises(LabError, match=sentence):
        table("t", columns, rows, headline="h")
