"""A lost answer cell comes back and no work is lost."""

import json

import pytest

from labserver.errors import LabError
from labserver.school.answer import read_answer
from labserver.school.catalogue import ROOT, exercise
from labserver.school.reset import has_answer, reset

EXERCISE = exercise("01_websocket_basics")
SOLUTION = ROOT / "solutions" / f"{EXERCISE.id}.ipynb"


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A participant's folder with the exercise as shipped."""
    monkeypatch.setattr("labserver.school.catalogue.ROOT", tmp_path)
    path = tmp_path / "exercises" / f"{EXERCISE.id}.ipynb"
    path.parent.mkdir()
    path.write_bytes(EXERCISE.starter.read_bytes())
    return path


def change(path, how):
    notebook = json.loads(path.read_text())
    how(notebook["cells"])
    path.write_text(json.dumps(notebook))


def copies(path):
    return sorted(path.parent.glob("*.backup-*.ipynb"))


def test_as_shipped_needs_nothing(mine):
    before = mine.read_bytes()
    assert "needs nothing: it is as shipped" in reset(EXERCISE).said
    assert mine.read_bytes() == before
    assert copies(mine) == []


def test_missing_file_comes_back(mine):
    mine.unlink()
    assert "back as shipped" in reset(EXERCISE).said
    assert mine.read_bytes() == EXERCISE.starter.read_bytes()


def test_lost_answer_cell_comes_back_at_its_place_and_the_rest_stays(mine):
    def lose(cells):
        cells[:] = [cell for cell in cells if cell["id"] != "answer"]
        cells.append({"cell_type": "markdown", "id": "mine", "metadata": {}, "source": "my notes"})

    change(mine, lose)
    done = reset(EXERCISE)
    ids = [cell["id"] for cell in json.loads(mine.read_text())["cells"]]
    assert ids.index("answer") == ids.index("given") + 1
    assert "mine" in ids
    assert "answer" not in done.backup.read_text().replace("your-answer", "") or done.backup.exists()
    assert not read_answer(mine).attempted


def test_answer_turned_into_text_keeps_what_it_says(mine):
    def turn(cells):
        for cell in cells:
            if cell["id"] == "answer":
                cell.update(cell_type="markdown", source="my whole work")

    change(mine, turn)
    reset(EXERCISE)
    cells = json.loads(mine.read_text())["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert any(cell["source"] == "my whole work" for cell in cells)
    assert not read_answer(mine).attempted


def test_an_answer_is_never_touched_without_being_asked(mine):
    mine.write_bytes(SOLUTION.read_bytes())
    assert has_answer(EXERCISE)
    assert "its answer is there" in reset(EXERCISE).said
    assert mine.read_bytes() == SOLUTION.read_bytes()


def test_whole_keeps_a_copy_each_time(mine):
    for n in (1, 2):
        mine.write_bytes(SOLUTION.read_bytes())
        assert reset(EXERCISE, whole=True).backup.name.endswith(f".backup-{n}.ipynb")
        assert not has_answer(EXERCISE)
    assert [path.read_bytes() for path in copies(mine)] == [SOLUTION.read_bytes()] * 2


def test_a_file_that_is_no_notebook_is_kept_and_replaced(mine):
    mine.write_text("oops")
    assert reset(EXERCISE).backup.read_text() == "oops"
    assert not read_answer(mine).attempted


def test_two_answers_are_left_to_the_person(mine):
    def double(cells):
        answer = next(cell for cell in cells if cell["id"] == "answer")
        cells += [{**answer, "id": f"copy-{n}", "source": f"app = {n}"} for n in (1, 2)]

    change(mine, double)
    with pytest.raises(LabError, match="more than one answer"):
        reset(EXERCISE)
    assert copies(mine) == []
