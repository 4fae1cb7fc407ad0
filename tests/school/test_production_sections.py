"""Each lesson ends in production: its endpoint on `realtime` in eight lines, and a tape of the service."""

import ast
import re
from itertools import takewhile
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

from labserver.patterns import TOPICS
from labserver.school.notebooks import read

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
HEADING, TAG = "## In production", "production"
LINES, WIDTH = 8, 100
SERVICE = re.compile(r"/live/(?!auth/)\w")  # a path that is more than a way to a token


def lesson(number: int) -> list[NotebookNode]:
    """Return the cells of the notebook with this number."""
    (path,) = NOTEBOOKS.glob(f"{number:02}_*.ipynb")
    return list(read(path).cells)


def opens(cell: NotebookNode) -> bool:
    """Return whether a section begins with this cell."""
    return bool(cell.cell_type == "markdown" and re.match("## ", cell.source))


def section(cells: list[NotebookNode], heading: str = HEADING) -> list[NotebookNode]:
    """Return the cells under a heading; none where it does not stand once."""
    begins = [number for number, cell in enumerate(cells) if opens(cell) and cell.source.splitlines()[0] == heading]
    if len(begins) != 1:
        return []
    rest = cells[begins[0] + 1 :]
    return list(takewhile(lambda cell: not opens(cell), rest))


def tagged(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Return the cells that are tagged."""
    return [cell for cell in cells if TAG in cell.metadata.get("tags", [])]


def imports(source: str) -> list[ast.Import | ast.ImportFrom]:
    """Return the imports of a cell, wherever they stand."""
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]


def from_realtime(source: str) -> bool:
    """Return whether a cell imports from `labserver.realtime`."""
    modules = [node.module or "" for node in imports(source) if isinstance(node, ast.ImportFrom)]
    return any(module.split(".")[:2] == ["labserver", "realtime"] for module in modules)


def counted(source: str) -> list[str]:
    """Return the lines that are neither blank nor of an import."""
    imported = {line for node in imports(source) for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    lines = enumerate(source.splitlines(), start=1)
    return [line for number, line in lines if line.strip() and number not in imported]


def code(cells: list[NotebookNode]) -> list[str]:
    """Return the source of each cell of code."""
    return [cell.source for cell in cells if cell.cell_type == "code"]


def draws(cell: NotebookNode) -> bool:
    """Return whether a cell draws a tape, and its stored output has the picture."""
    drawn = cell.cell_type == "code" and re.search(r"\.show\(|\btapes\(", cell.source)
    return bool(drawn) and any("text/html" in output.get("data", {}) for output in cell.outputs)


def test_every_pattern_has_a_notebook() -> None:
    assert sorted(TOPICS.values()) == [*range(1, 13), 14, 15]


@pytest.mark.parametrize("number", TOPICS.values())
def test_it_is_the_section_before_the_recap(number: int) -> None:
    headings = [cell.source.splitlines()[0] for cell in lesson(number) if opens(cell)]
    assert headings.count(HEADING) == 1
    assert headings[-2:] == [HEADING, "## Recap"]


@pytest.mark.parametrize("number", TOPICS.values())
def test_one_cell_is_the_endpoint_on_realtime(number: int) -> None:
    cells = lesson(number)
    within = section(cells)
    (endpoint,) = tagged(cells)
    assert endpoint in within, "it stands elsewhere"
    until = within[: within.index(endpoint) + 1]
    assert any(map(from_realtime, code(until))), "it does without labserver.realtime"
    lines = counted(endpoint.source)
    assert 0 < len(lines) <= LINES, "\n".join(lines)
    assert max(map(len, lines)) <= WIDTH
    assert not [line for line in lines if ";" in line]


@pytest.mark.parametrize("number", TOPICS.values())
def test_it_is_served_and_held_to_claims(number: int) -> None:
    source = "\n".join(code(section(lesson(number))))
    assert re.search(r"protocols\(", source)
    assert re.search(r"^\s*claim\(", source, flags=re.M)


@pytest.mark.parametrize("number", TOPICS.values())
def test_a_tape_shows_the_service(number: int) -> None:
    within = section(lesson(number))
    source = "\n".join(code(within))
    assert re.search(r"\.tape\(", source)
    assert SERVICE.search(source), "no path of the service"
    assert any(map(draws, within)), "no stored picture of a tape"


def test_lines_are_counted_without_imports() -> None:
    source = "from a import (\n    b,\n    c,\n)\nimport d\n\nx = 1\n\n\ndef f():\n    # why\n    return x"
    assert counted(source) == ["x = 1", "def f():", "    # why", "    return x"]


def test_only_realtime_counts_as_realtime() -> None:
    assert from_realtime("from labserver.realtime import client")
    assert from_realtime("from labserver.realtime.hub import Hub")
    assert not from_realtime("from labserver.realtimes import hub\nfrom labserver import settings\nimport realtime")


def test_a_section_ends_with_the_next() -> None:
    words = [new_markdown_cell(text) for text in (f"{HEADING}\n\nWords.", "### More", "## Recap")]
    cells = [words[0], endpoint := new_code_cell("1"), words[1], words[2], new_code_cell("2")]
    assert section(cells) == [endpoint, words[1]]
    assert section([*cells, words[0]]) == []


def test_a_token_alone_is_no_path_of_the_service() -> None:
    assert not SERVICE.search('post(f"{url}/live/auth/login")')
    assert SERVICE.search('f"{tape.url}/live/channels/public.news/events"')
