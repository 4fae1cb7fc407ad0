"""Sources as results: what is shown, what is marked, what is counted."""

import re
from html import unescape

import pytest

from labserver.broken import wrong_frame_type_crashes
from labserver.errors import LabError
from labserver.patterns import websocket_basics
from labserver.stage import compare, show
from labserver.stage.source import difference


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html))


def test_show_gives_the_whole_source_in_both_forms() -> None:
    shown = show(websocket_basics.echo_text)
    assert shown.twin.startswith('@router.websocket("/ws")\nasync def echo_text(')
    assert shown.twin.endswith("online.discard(websocket)")
    text = plain(shown.html)
    for line in shown.twin.split("\n"):
        assert line in text


def test_show_takes_a_module_and_a_class() -> None:
    assert show(websocket_basics).twin.startswith('"""WebSocket basics')
    assert show(LabError).twin.startswith("class LabError")


def test_markup_in_a_source_stays_text() -> None:
    def attack() -> str:
        return "<script>alert(1)</script>"

    assert "<script>" not in show(attack).html
    assert "<script>" in show(attack).twin


@pytest.mark.parametrize("nothing", [len, 3, "text", ...])
def test_something_without_a_source_is_one_sentence(nothing: object) -> None:
    with pytest.raises(LabError, match="has no source to show: give a function"):
        show(nothing)


def test_compare_marks_exactly_the_changed_lines_with_a_sign() -> None:
    shown = compare(wrong_frame_type_crashes.echo_text, websocket_basics.echo_text)
    added = [line[1:].strip() for line in shown.twin.split("\n") if line.startswith("+")][1:]
    assert "try:" in added
    assert 'return await websocket.close(1003, "text messages only")' in added
    assert "@@" not in shown.twin
    marked = [plain(cell) for cell in re.findall(r"<td[^>]*box-shadow.*?</td>", shown.html)]
    assert {cell[0] for cell in marked} == {"\N{MINUS SIGN}", "+"}
    assert [cell[1:].strip() for cell in marked if cell[0] == "+"] == added


def test_equal_sources_have_no_difference() -> None:
    assert compare(websocket_basics.echo_text, websocket_basics.echo_text).twin == "no difference"
    assert difference(websocket_basics, websocket_basics) == 0


@pytest.mark.parametrize(
    ("left", "right", "lines"),
    [
        ("a = 1\nb = 2", "a = 1\nb = 3", 1),
        ("a = 1", "a = 1\nb = 2\nc = 3", 2),
        ("f(1,\n  2)", "f(1, 2)  # a comment", 0),
        ('def f():\n    """One."""\n    return 1', "def f():\n    return 1", 0),
        ("x()", "if y:\n    x()", 1),
        ('WRONG = "it"\na = 1', "a = 1", 0),
    ],
)
def test_difference_counts_lines_of_code_alone(left: str, right: str, lines: int) -> None:
    assert difference(left, right) == lines
