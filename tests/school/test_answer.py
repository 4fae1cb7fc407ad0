"""Whatever a notebook looks like, reading it ends in one module or in one sentence that says what to do."""

import copy
import json

import pytest

from labserver.school.answer import NoAnswer, NotAnExercise, parse_answer, read_answer, same_code
from labserver.school.catalogue import exercise

EXERCISE = exercise("01_websocket_basics")
SHIPPED = json.loads(EXERCISE.notebook.read_text())
SOLVED = json.loads(EXERCISE.solution.read_text())


def parse(notebook):
    return parse_answer(json.dumps(notebook).encode(), "mine.ipynb")


def with_cells(change):
    notebook = copy.deepcopy(SOLVED)
    change(notebook["cells"])
    return notebook


def cell(cells, id):
    return next(cell for cell in cells if cell["id"] == id)


def test_as_shipped_is_not_attempted():
    assert not parse(SHIPPED).attempted


def test_solution_is_given_and_answer_cells_in_order():
    answer = parse(SOLVED)
    assert answer.attempted
    assert (answer.exercise, answer.object) == ("01_websocket_basics", "app")
    assert answer.source.index("from fastapi import") < answer.source.index("app = FastAPI()")
    assert "begin(" not in answer.source
    assert "check(app)" not in answer.source
    compile(answer.source, "answer", "exec")


def test_comments_and_blank_lines_are_no_attempt():
    notebook = copy.deepcopy(SHIPPED)
    source = "".join(cell(notebook["cells"], "answer")["source"])
    cell(notebook["cells"], "answer")["source"] = "# I begin tomorrow\n\n\n" + source.replace("...", "...  # hm")
    assert not parse(notebook).attempted


def test_file_name_and_source_as_one_string_do_not_matter(tmp_path):
    notebook = copy.deepcopy(SOLVED)
    for each in notebook["cells"]:
        each["source"] = "".join(each["source"])
    path = tmp_path / "99_other.ipynb"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(notebook).encode())
    assert read_answer(path).source == parse(SOLVED).source


def test_lost_tags_fall_back_to_the_id():
    notebook = with_cells(lambda cells: [each["metadata"].pop("tags", None) for each in cells])
    assert parse(notebook).source == parse(SOLVED).source


def test_lost_id_is_found_by_its_tag():
    assert parse(with_cells(lambda cells: cell(cells, "answer").update(id="fresh"))).attempted


def test_lost_given_cell_is_replaced_by_the_shipped_one():
    answer = parse(with_cells(lambda cells: cells.remove(cell(cells, "given"))))
    assert answer.source == parse(SOLVED).source


def test_lost_answer_cell_is_one_sentence():
    with pytest.raises(NoAnswer, match=r"answer cell is gone\. Restore it with `labserver exercises reset 01`"):
        parse(with_cells(lambda cells: cells.remove(cell(cells, "answer"))))


def test_answer_turned_into_text_is_one_sentence():
    with pytest.raises(NoAnswer, match="no longer a code cell"):
        parse(with_cells(lambda cells: cell(cells, "answer").update(cell_type="markdown")))


def test_two_answers_are_one_sentence():
    def copied(cells):
        cells.append({**copy.deepcopy(cell(cells, "answer")), "id": "copied"})
        cells[-1]["source"] = ["app = None\n"]

    with pytest.raises(NoAnswer, match=r"2 answers in mine\.ipynb, and it takes 1"):
        parse(with_cells(copied))


def test_spare_copy_of_the_starter_does_not_count():
    untouched = cell(SHIPPED["cells"], "answer")
    answer = parse(with_cells(lambda cells: cells.append({**copy.deepcopy(untouched), "id": "spare"})))
    assert answer.attempted
    assert answer.source == parse(SOLVED).source


def test_lines_for_the_notebook_alone_are_left_out():
    def magic(cells):
        cell(cells, "answer")["source"] = "%load_ext autoreload\n!ls\nif True:\n    %time\napp = 1"

    source = parse(with_cells(magic)).source
    assert source.endswith("pass\npass\nif True:\n    pass\napp = 1\n")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "holds no JSON"),
        (b"app = FastAPI()", "holds no JSON"),
        (b"[" * 100_000, "holds no JSON"),
        (b"[]", "no cells"),
        (b'{"cells": 3}', "no cells"),
        ("{'ä'}".encode("utf-16"), "not UTF-8"),
        (b'{"cells": []}', "does not say which exercise"),
        (b'{"cells": [], "metadata": []}', "does not say which exercise"),
        (b'{"cells": [], "metadata": {"labserver": "01"}}', "does not say which exercise"),
        (b'{"cells": [], "metadata": {"labserver": {"exercise": "77_none"}}}', "no such exercise"),
        (b'{"cells": [], "metadata": {"labserver": {"exercise": "../../etc"}}}', "no such exercise"),
    ],
)
def test_what_is_no_exercise_is_one_sentence(data, says):
    with pytest.raises(NotAnExercise, match=says) as caught:
        parse_answer(data, "mine.ipynb")
    assert "\n" not in str(caught.value)


def test_odd_cells_are_passed_over():
    def odd(cells):
        cells[:0] = [None, 3, {}, {"cell_type": "code", "source": None, "metadata": None}]

    assert parse(with_cells(odd)).attempted


def test_missing_file_is_one_sentence(tmp_path):
    with pytest.raises(NoAnswer, match="can't be read"):
        read_answer(tmp_path / "none.ipynb")


def test_same_code():
    assert same_code("x = 'a'  # one", 'x = "a"')
    assert not same_code("x = 1", "x = 2")
    assert same_code("x = (", "x = (")
    assert not same_code("x = (", "x = [")
