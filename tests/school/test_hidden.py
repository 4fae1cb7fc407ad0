"""Hidden checks are complete: each guards a visible one, and a wrong answer that no visible check sees fails it.

Nothing is run here: whether the answers do what they declare is judged in `test_solutions`.
"""

import pytest
from wrong_answers import WRONG, declared, headings

from labserver.school.catalogue import ROOT, exercise, exercise_ids, hidden

IDS = [id for id in exercise_ids() if hidden(id)]


def unseen(id: str) -> dict[str, frozenset[str]]:
    """Return the wrong answers that only hidden checks see, and which of those they fail."""
    found = {path.stem: declared(path, "HIDDEN") for path in (WRONG / id).glob("*.py")}
    return {name: checks for name, checks in found.items() if checks is not None}


@pytest.mark.parametrize("id", IDS)
def test_a_hidden_file_has_checks_and_each_has_words(id):
    known = hidden(id)
    assert known.checks
    assert {check.guards for check in known.checks} <= {check.name for check in exercise(id).checks}
    assert all(check.hint and check.title and check.points == 0 for check in known.checks)


@pytest.mark.parametrize("id", IDS)
def test_an_answer_that_hidden_checks_catch_fails_no_visible_one(id):
    assert {name: declared(WRONG / id / f"{name}.py", "FAILS") for name in unseen(id)} == dict.fromkeys(
        unseen(id), frozenset()
    )


@pytest.mark.parametrize("id", IDS)
def test_the_table_of_hidden_misconceptions_is_that_of_the_wrong_answers(id):
    known = hidden(id)
    assert {name: each.fails for name, each in known.misconceptions.items()} == unseen(id)
    assert not set(known.misconceptions) & set(exercise(id).misconceptions)


@pytest.mark.parametrize("id", IDS)
def test_each_hidden_check_is_failed_by_an_answer_that_fails_nothing_else(id):
    alone = {name for checks in unseen(id).values() if len(checks) == 1 for name in checks}
    assert alone == {check.name for check in hidden(id).checks}
    assert len(set(unseen(id).values())) == len(unseen(id)), "two wrong answers that no hidden check tells apart"


@pytest.mark.parametrize("id", IDS)
def test_each_hidden_misconception_names_a_heading_that_exists(id):
    for name, each in hidden(id).misconceptions.items():
        path, _, anchor = each.see.partition("#")
        assert anchor in headings(path), name


@pytest.mark.parametrize("id", IDS)
def test_no_hidden_check_is_named_where_participants_read(id):
    known = exercise(id)
    shown = [known.check_file, known.starter, known.notebook, known.lesson]
    text = "\n".join(path.read_text(encoding="utf-8") for path in shown)
    assert [check.name for check in hidden(id).checks if check.name in text] == []


def test_each_hidden_file_belongs_to_an_exercise():
    assert {path.stem for path in (ROOT / "solutions" / "hidden").glob("*.py")} == set(IDS)
