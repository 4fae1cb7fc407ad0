"""Proof of the checks: starters are not attempted, right answers get full marks, wrong ones fail just their checks."""

from functools import lru_cache
from pathlib import Path

import proof
import pytest
from wrong_answers import WRONG, declared, headings

from labserver.school.answer import read_answer
from labserver.school.catalogue import ROOT, exercise, exercise_ids
from labserver.school.verdicts import Report

RIGHT = ROOT / "solutions" / "right"
IDS = exercise_ids()
pytestmark = pytest.mark.timeout(400)  # the first test of an exercise judges all answers to it
UNSEEN_ANSWERS = sorted(path.relative_to(WRONG).as_posix() for path in WRONG.glob("*/*.py") if declared(path, "HIDDEN"))
"""Wrong answers that pass every visible check: hidden ones catch them (`test_hidden`)."""
WRONG_ANSWERS = sorted({path.relative_to(WRONG).as_posix() for path in WRONG.glob("*/*.py")} - set(UNSEEN_ANSWERS))
RIGHT_ANSWERS = sorted(path.relative_to(RIGHT).as_posix() for path in RIGHT.glob("*/*.py"))


@lru_cache
def judged(id: str) -> dict[str, Report]:
    """All answers to an exercise as the grader judges them, by path below `solutions/`."""
    return proof.observed([id])[id]


def of(name: str, kind: str) -> Report:
    """The report of one right or wrong answer."""
    return judged(name.partition("/")[0])[f"{kind}/{name}"]


def fails(path: Path) -> frozenset[str]:
    names = declared(path, "FAILS")
    assert names is not None, f"{path} declares no FAILS"
    return names


@pytest.mark.parametrize("id", IDS)
def test_as_shipped_it_is_not_attempted(id):
    assert not read_answer(exercise(id).notebook).attempted


@pytest.mark.parametrize("id", IDS)
def test_solution_gets_full_marks(id):
    report = judged(id)[f"{id}.ipynb"]
    assert report.solved, [(check.name, check.seen) for check in report.checks if not check.passed] or report.reason
    assert report.points == 100


@pytest.mark.parametrize("name", RIGHT_ANSWERS)
def test_another_right_answer_gets_full_marks(name):
    report = of(name, "right")
    assert report.solved, [(check.name, check.seen) for check in report.checks if not check.passed] or report.reason


@pytest.mark.parametrize("name", WRONG_ANSWERS)
def test_wrong_answer_fails_exactly_its_checks(name):
    report = of(name, "wrong")
    by_itself = {check.name for check in report.checks if not check.passed and not check.guard}
    assert by_itself == fails(WRONG / name)
    assert "unstable" not in {check.verdict for check in report.checks}
    assert report.misconception == Path(name).stem or "no longer answers anything" in report.reason
    assert all(check.seen and check.expected for check in report.checks if not check.passed)


@pytest.mark.parametrize("name", UNSEEN_ANSWERS)
def test_a_wrong_answer_for_hidden_checks_passes_the_visible_ones_and_fails_exactly_its_own(name):
    report = of(name, "wrong")
    assert [check.name for check in report.checks if not check.passed and not check.guard] == []
    assert {check.name for check in report.hidden if not check.passed} == declared(WRONG / name, "HIDDEN")
    assert report.misconception == Path(name).stem
    assert report.points < 100


@pytest.mark.parametrize("id", IDS)
def test_the_table_of_misconceptions_is_that_of_the_wrong_answers(id):
    known = exercise(id)
    wrong = {Path(name).stem: fails(WRONG / name) for name in WRONG_ANSWERS if name.startswith(f"{id}/")}
    assert {name: each.fails for name, each in known.misconceptions.items()} == wrong
    assert len(wrong) >= 3
    assert len(set(wrong.values())) == len(wrong), "two wrong answers that no check tells apart"
    assert set().union(*wrong.values()) == {check.name for check in known.checks}, "a check that nothing fails"


@pytest.mark.parametrize("id", IDS)
def test_each_misconception_names_a_heading_that_exists(id):
    for name, each in exercise(id).misconceptions.items():
        path, _, anchor = each.see.partition("#")
        assert anchor in headings(path), name


@pytest.mark.parametrize("id", IDS)
def test_the_table_of_proof_says_what_was_observed(id):
    page = proof.PAGE.read_text(encoding="utf-8")
    rows = proof.rows(id, judged(id))
    assert [row for row in rows if row not in page] == [], "run `python tests/proof.py`"
