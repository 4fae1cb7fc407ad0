"""Kept notebooks: a run leaves no noise behind, and each rule has a notebook that breaks it and nothing else."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from typer.testing import CliRunner

from labserver.errors import LabError
from labserver.school.notebooks import commands, lint, normalise, read, run, set_slides, write
from labserver.school.slides import set_slide_types

ROOT = Path(__file__).resolve().parents[2]
RANDOM_PICTURE = """\
import random
from labserver.stage import Picture
Picture(f'<svg xmlns="http://www.w3.org/2000/svg"><text>{random.random()}</text></svg>', alt="a number", twin="one")"""
DECLARED_ERROR = "import json\njson.loads('{')"


def stream(text: str, name: str = "stdout") -> NotebookNode:
    return new_output("stream", name=name, text=text)


def shown(plain: str = "twin", html: str = '<img alt="a" src="x">') -> NotebookNode:
    return new_output("execute_result", data={"text/plain": plain, "text/html": html}, execution_count=2)


def sound() -> NotebookNode:
    """Return a notebook that keeps every rule."""
    cells = [
        new_markdown_cell("# Title\n\n## Part", id="words"),
        new_code_cell("1", id="first", execution_count=1, outputs=[stream("it holds\n")]),
        new_code_cell("2", id="second", execution_count=2, outputs=[shown()]),
    ]
    set_slide_types(cells)
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def stored(notebook: NotebookNode, folder: Path) -> Path:
    path = folder / "kept.ipynb"
    write(notebook, path)
    return path


def error(traceback: list[str] | None = None) -> NotebookNode:
    return new_output("error", ename="ValueError", evalue="no", traceback=traceback or ["ValueError: no"])


def _set(cell: int, **values: Any) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[cell].update(values)


def _prints(text: str) -> Callable[[NotebookNode], None]:
    return _set(1, outputs=[stream(text)])


def _shows(**values: str) -> Callable[[NotebookNode], None]:
    return _set(2, outputs=[shown(**values)])


def _without_twin(notebook: NotebookNode) -> None:
    del notebook.cells[2].outputs[0].data["text/plain"]


def _kernel(notebook: NotebookNode) -> None:
    notebook.metadata.kernelspec.name = "my-env"


BROKEN: list[tuple[str, Callable[[NotebookNode], None], str, str]] = [
    ("never run", _set(1, execution_count=None), "first", "never run"),
    ("out of order", _set(1, execution_count=7), "", "top to bottom"),
    ("undeclared error", _set(1, outputs=[error()]), "first", "raises-exception"),
    ("path in a traceback", _set(1, outputs=[error(["File /home/ana/a.py:3"])]), "first", "path of one machine"),
    ("address", _prints("at 127.0.0.1\n"), "first", "an address"),
    ("port", _prints("on port 8123\n"), "first", "a port"),
    ("pid", _prints("pid=4711\n"), "first", "a process id"),
    ("memory", _prints("<object at 0x7f3a2b1c9d10>\n"), "first", "a memory address"),
    ("clock", _prints("at 12:04:59\n"), "first", "a time"),
    ("duration", _prints("took 21.5 ms\n"), "first", "a time"),
    ("path", _prints("in /home/ana/lab\n"), "first", "path of one machine"),
    ("address in a result", _shows(plain="127.0.0.1"), "second", "an address"),
    ("picture without alt", _shows(html='<img src="x">'), "second", "no alternative text"),
    ("picture with an empty alt", _shows(html='<img alt="" src="x">'), "second", "no alternative text"),
    ("no twin", _without_twin, "second", "no plain text"),
    ("markdown picture without alt", _set(0, source="# T\n\n![](a.png)"), "words", "no alternative text"),
    ("html picture without alt", _set(0, source='# T\n\n<img src="a.png">'), "words", "no alternative text"),
    ("skipped level", _set(0, source="# T\n\n### Deep"), "words", "level 3 follows one of level 1"),
    ("no heading", _set(0, source="words"), "", "no heading"),
    ("same ids", _set(1, id="second"), "", "two have the same"),
    ("no id", lambda notebook: notebook.cells[1].pop("id"), "", "a cell has no id"),
    ("other kernel", _kernel, "", "python3"),
    ("no slide", _set(1, metadata=nbformat.from_dict({"tags": []})), "first", "in a slide show"),
    (
        "unknown slide",
        _set(2, metadata=nbformat.from_dict({"slideshow": {"slide_type": "page"}})),
        "second",
        "in a slide show",
    ),
]


def test_a_sound_notebook_has_no_findings(tmp_path: Path) -> None:
    assert lint(stored(sound(), tmp_path)) == []


@pytest.mark.filterwarnings(
    "ignore::nbformat.warnings.DuplicateCellId", "ignore::nbformat.warnings.MissingIDFieldWarning"
)
@pytest.mark.parametrize(("spoil", "cell", "words"), [row[1:] for row in BROKEN], ids=[row[0] for row in BROKEN])
def test_each_rule_names_notebook_and_cell(
    spoil: Callable[[NotebookNode], None], cell: str, words: str, tmp_path: Path
) -> None:
    notebook = sound()
    spoil(notebook)
    path = tmp_path / "kept.ipynb"
    path.write_text(nbformat.v4.writes(notebook))  # as it is: nbformat's own writer would mend it
    found = [finding for finding in lint(path) if words in finding.sentence]
    assert [finding.cell for finding in found] == [cell]
    assert str(found[0]).startswith(f"{path}: {f'cell {cell}: ' if cell else ''}")


def test_a_declared_error_is_no_finding(tmp_path: Path) -> None:
    notebook = sound()
    notebook.cells[1].update(outputs=[error()])
    notebook.cells[1].metadata["tags"] = ["raises-exception"]
    assert lint(stored(notebook, tmp_path)) == []


def test_a_comment_in_a_code_block_is_no_heading(tmp_path: Path) -> None:
    notebook = sound()
    notebook.cells[0].source = "# T\n\n```python\n### no heading\n```"
    assert lint(stored(notebook, tmp_path)) == []


def test_running_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    cells = [
        new_markdown_cell("# T", id="words"),
        new_code_cell(RANDOM_PICTURE, id="picture"),
        new_code_cell("print('a')\nprint('b')", id="prints"),
        new_code_cell(DECLARED_ERROR, id="error", metadata={"tags": ["raises-exception"]}),
    ]
    path = stored(new_notebook(cells=cells), tmp_path)
    assert run(path) is True
    once = path.read_bytes()
    assert run(path) is False
    assert path.read_bytes() == once
    assert lint(path) == []
    assert [cell.execution_count for cell in read(path).cells[1:]] == [1, 2, 3]
    assert b"json/decoder.py" not in once
    assert b"decoder.py" in once


def picture_cell(html: str, twin: str) -> NotebookNode:
    data = {"text/html": html, "text/plain": twin}
    outputs = [new_output("execute_result", data=data, execution_count=5)]
    return new_notebook(cells=[new_code_cell("x", id="picture", execution_count=5, outputs=outputs)])


@pytest.mark.parametrize(("twin", "html"), [("same", "old"), ("other", "new")])
def test_a_picture_is_replaced_only_with_its_twin(twin: str, html: str) -> None:
    kept = normalise(picture_cell("new", twin), before=picture_cell("old", "same"))
    assert kept.cells[0].outputs[0].data["text/html"] == html
    assert kept.cells[0].outputs[0].data["text/plain"] == twin


def test_normalising_drops_what_tools_left_and_keeps_what_people_wrote() -> None:
    cell = new_code_cell(
        "x",
        id="one",
        execution_count=9,
        metadata={"execution": {"iopub.status.busy": "t"}, "collapsed": True, "tags": ["answer"]},
        outputs=[stream("a"), stream("b"), stream("c", "stderr")],
    )
    notebook = new_notebook(cells=[cell], metadata={"widgets": {}, "labserver": {"exercise": "01"}})
    once = normalise(notebook)
    assert once.cells[0].metadata == {"tags": ["answer"], "slideshow": {"slide_type": "subslide"}}
    assert once.cells[0].execution_count == 1
    assert [(out.name, out.text) for out in once.cells[0].outputs] == [("stdout", "ab"), ("stderr", "c")]
    assert set(once.metadata) == {"kernelspec", "language_info", "labserver"}
    assert normalise(once) == once
    assert cell.execution_count == 9  # the notebook that was given stays as it is


def test_slides_are_set_without_running_anything(tmp_path: Path) -> None:
    notebook = sound()
    for cell in notebook.cells:
        del cell.metadata["slideshow"]
    path = stored(notebook, tmp_path)
    assert len(lint(path)) == 3
    assert set_slides(path) is True
    assert lint(path) == []
    assert [cell.get("outputs") for cell in read(path).cells] == [cell.get("outputs") for cell in notebook.cells]
    assert set_slides(path) is False


def test_a_failing_cell_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = stored(new_notebook(cells=[new_code_cell("1/0", id="one")]), tmp_path)
    before = path.read_bytes()
    with pytest.raises(LabError, match="ZeroDivisionError"):
        run(path)
    assert path.read_bytes() == before


def test_exit_codes_tell_findings_from_wrong_arguments(tmp_path: Path) -> None:
    path = stored(sound(), tmp_path)
    good = CliRunner().invoke(commands, ["lint", str(path)])
    assert (good.exit_code, good.output) == (0, "")
    spoiled = sound()
    _prints("pid=4711\n")(spoiled)
    write(spoiled, path)
    bad = CliRunner().invoke(commands, ["lint", str(path)])
    assert bad.exit_code == 1
    assert "cell first: its compared output holds a process id" in bad.output
    assert CliRunner().invoke(commands, ["lint"]).exit_code == 2


def test_a_missing_notebook_is_one_sentence_and_exit_code_2(tmp_path: Path) -> None:
    tool = [sys.executable, "-m", "labserver.school.notebooks", "lint", str(tmp_path / "absent.ipynb")]
    done = subprocess.run(tool, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 2
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def strictly(folder: Path, *names: str) -> dict[str, bool]:
    """Run nbval's strict mode on notebooks of one cell; return which passed."""
    options = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=60", "-p", "no:cacheprovider", "-rA"]
    tool = [sys.executable, "-m", "pytest", *options, "--color=no", "--rootdir", str(folder), *names]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests")}  # where our conftest finds its plugins
    done = subprocess.run(tool, cwd=folder, capture_output=True, text=True, timeout=100, env=environment)
    verdicts = re.findall(r"^(PASSED|FAILED) (?:\S*/)?(\w+\.ipynb)::", done.stdout, flags=re.M)
    return {name: verdict == "PASSED" for verdict, name in verdicts}


def test_nbval_compares_the_twin_and_not_the_picture(tmp_path: Path) -> None:
    path = stored(new_notebook(cells=[new_code_cell(RANDOM_PICTURE, id="picture")]), tmp_path)
    run(path)
    assert strictly(tmp_path, path.name) == {"kept.ipynb": False}  # the number in the picture, without our conftest
    (tmp_path / "conftest.py").write_text((ROOT / "conftest.py").read_text())
    notebook = read(path)
    notebook.cells[0].outputs[0].data["text/plain"] = "two"
    write(notebook, tmp_path / "other.ipynb")
    notebook.cells[0].update(outputs=[], execution_count=None)
    write(notebook, tmp_path / "stripped.ipynb")  # nothing is compared, which is why the lint asks for outputs
    verdicts = strictly(tmp_path, path.name, "other.ipynb", "stripped.ipynb")
    assert verdicts == {"kept.ipynb": True, "other.ipynb": False, "stripped.ipynb": True}


STORED = [path for room in ("notebooks", "solutions", "exercises") for path in sorted(ROOT.glob(f"{room}/*.ipynb"))]


@pytest.mark.parametrize("path", STORED, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_stored_notebook_keeps_the_rules(path: Path) -> None:
    assert [str(finding) for finding in lint(path)] == []


LESSONS = sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))


@pytest.mark.parametrize(("here", "following"), list(pairwise(LESSONS)), ids=lambda path: path.stem)
def test_each_notebook_ends_with_the_way_to_the_next(here: Path, following: Path) -> None:
    last = read(here).cells[-1].source
    assert f"**Next:** [{following.stem[:2]} " in last
    assert f"]({following.name})" in last
