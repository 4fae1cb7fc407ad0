"""Exercises are what their solutions make, and nothing of a solution is left in them."""

import json
import re

import pytest

from labserver.errors import LabError
from labserver.school import build
from labserver.school.catalogue import exercise, exercise_ids

IDS = exercise_ids()
ANYBODYS = {"def __init__(self) -> None:"}  # lines of which a solution and what is given may both have one


def test_what_is_committed_is_what_solutions_make():
    assert build.stale() == []


@pytest.mark.parametrize("id", IDS)
def test_nothing_of_the_solution_is_left(id):
    known = exercise(id)
    shipped = known.notebook.read_text() + known.starter.read_text()
    for cell in json.loads(known.solution.read_text())["cells"]:
        inside = False
        for line in cell["source"]:
            mark = line.strip()
            if mark in (build.BEGIN, build.END):
                inside = mark == build.BEGIN
            elif inside and len(mark) > 12 and mark not in ANYBODYS:
                assert json.dumps(mark)[1:-1] not in shipped, mark


@pytest.mark.parametrize("id", IDS)
def test_points_and_hints(id):
    known = exercise(id)
    assert known.max_points == 100
    assert len(known.hints) == 3
    assert len({check.name for check in known.checks}) == len(known.checks)


@pytest.mark.parametrize("id", IDS)
def test_every_point_stands_in_the_exercise(id):
    known = exercise(id)
    cells = json.loads(known.notebook.read_text())["cells"]
    rows = [line.strip() for cell in cells if cell["id"] == "task" for line in cell["source"] if line.startswith("| ")]
    shown = [int(points) for row in rows if (points := row.rstrip("|").rpartition("|")[2].strip()).isdigit()]
    assert sorted(shown) == sorted(check.points for check in known.checks)


def told(id):
    """All words of an exercise that a participant reads."""
    known = exercise(id)
    cells = json.loads(known.solution.read_text())["cells"]
    checks = [text for check in known.checks for text in (check.title, check.hint)]
    says = [each.says for each in known.misconceptions.values()]
    return ["".join(cell["source"]) for cell in cells] + [*known.hints, *checks, *says]


@pytest.mark.parametrize("id", IDS)
def test_what_a_peer_sends_is_a_message_and_only_a_close_is_a_frame(id):
    for text in told(id):
        assert not re.search(r"(?<!close )frame", " ".join(text.split())), text


@pytest.mark.parametrize("id", IDS)
def test_a_client_that_hangs_up_is_not_called_a_lost_network(id):
    for text in told(id):
        assert "network" not in text or "sends nothing at all" in text, text


def test_region_becomes_one_ellipsis():
    source = "def f():\n    # BEGIN SOLUTION\n    a\n\n    b\n    # END SOLUTION\n    return 1"
    assert build.without_solution(source) == "def f():\n    ...\n    return 1"


@pytest.mark.parametrize(
    "source",
    ["# BEGIN SOLUTION\na", "a\n# END SOLUTION", "# BEGIN SOLUTION\n# BEGIN SOLUTION\n# END SOLUTION"],
)
def test_mark_without_partner(source):
    with pytest.raises(LabError, match="has no partner"):
        build.without_solution(source)


def test_change_of_an_exercise_is_told_and_of_what_nbgrader_reads(tmp_path, monkeypatch):
    known = exercise(IDS[0])
    changed, solution = json.loads(known.notebook.read_text()), json.loads(known.solution.read_text())
    changed["cells"][0]["source"] = ["another text"]
    for cell in solution["cells"]:
        cell["metadata"].get("nbgrader", {}).pop("points", None)
    for folder, notebook in (("exercises", changed), ("solutions", solution)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / known.notebook.name).write_text(json.dumps(notebook))
    monkeypatch.setattr("labserver.school.catalogue.ROOT", tmp_path)
    monkeypatch.setattr(build, "exercise_ids", lambda: IDS[:1])
    assert build.stale() == [
        f"exercises/{known.notebook.name} is not what its solution makes.",
        f"solutions/{known.solution.name} does not say what nbgrader reads of it.",
    ]


def test_a_solution_without_its_check_makes_no_exercise(tmp_path, monkeypatch):
    known = exercise(IDS[0])
    solution = json.loads(known.solution.read_text())
    solution["cells"] = [cell for cell in solution["cells"] if cell["id"] != "check"]
    (tmp_path / "solutions").mkdir()
    (tmp_path / "solutions" / known.solution.name).write_text(json.dumps(solution))
    monkeypatch.setattr("labserver.school.catalogue.ROOT", tmp_path)
    with pytest.raises(LabError, match=r"one cell tagged `school` that calls `check\(...\)`"):
        build.starter_of(known)
