"""The table of proof names every exercise, check and answer that there is, and says what a report says.

Whether its rows are what was observed is asked where answers are judged, in `test_solutions.py`.
"""

import re
from pathlib import Path

import proof
import pytest

from labserver.school import catalogue
from labserver.school.catalogue import Hidden, exercise, exercise_ids
from labserver.school.checking import Check, Misconception
from labserver.school.verdicts import CheckResult, Report, summarise

ID = "01_websocket_basics"
WRONG = f"wrong/{ID}/tutorial_loop.py"
LATEST = "run `python tests/proof.py`"


def part(id: str) -> str:
    """Return what the page says of an exercise."""
    known = exercise(id)
    text = proof.PAGE.read_text(encoding="utf-8")
    found = re.search(rf"^## {known.number} · {re.escape(known.title)}$.*?(?=^## |\Z)", text, flags=re.M | re.S)
    assert found, f"PROOF.md has no part on {id}: {LATEST} {known.number}"
    return found[0]


def report(*lost: str, hidden: tuple[str, ...] = ()) -> Report:
    """Return the report of an answer to exercise 01 that fails these checks, the hidden ones in place of `one_sum`."""
    results = []
    for check in exercise(ID).checks:
        guard = hidden[0] if hidden and check.name == "one_sum" else ""
        failed = check.name in lost or guard
        earned = 0 if failed else check.points
        results.append(CheckResult(check.name, check.points, earned, "failed" if failed else "passed", guard=guard))
    unseen = tuple(CheckResult(name, 0, 0, "failed") for name in hidden)
    return summarise(ID, tuple(results), hidden=unseen)


@pytest.mark.parametrize("id", exercise_ids())
def test_the_page_has_each_check_with_its_points_and_each_answer(id: str) -> None:
    said, known = part(id), exercise(id)
    checks = re.findall(r"^\| `(\w+)` \| (\d+) \|", said, flags=re.M)
    assert checks == [(check.name, str(check.points)) for check in known.checks], LATEST
    assert re.findall(r"^\| \[[^]]+\]\(solutions/([^)]+)\)", said, flags=re.M) == proof.answers(id), LATEST
    unseen = catalogue.hidden(id)
    guards = re.findall(r"`(\w+)` \(of `(\w+)`\)", said)
    assert guards == [(check.name, check.guards) for check in (unseen.checks if unseen else ())], LATEST


@pytest.mark.parametrize("id", exercise_ids())
def test_the_page_gives_full_marks_to_right_answers_alone(id: str) -> None:
    rows = re.findall(r"^\| \[[^]]+\]\(solutions/([^)]+)\)[^|]*\| (\d+) \| ([^|]+) \|", part(id), flags=re.M)
    assert rows
    for answer, points, caught in rows:
        assert (points == "100", caught == "nothing") == (not answer.startswith("wrong/"),) * 2, answer


def test_a_row_says_what_catches_an_answer_what_its_author_believes_and_where_it_is_shown() -> None:
    known = exercise(ID).misconceptions["tutorial_loop"]
    (row,) = proof.rows(ID, {WRONG: report("one_sum", "only_whole_numbers")})
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert cells[0] == f"[`tutorial_loop`](solutions/{WRONG})"
    assert cells[1:4] == ["85", "`one_sum`, `only_whole_numbers`", " ".join(known.says.split())]
    assert cells[4].endswith(f"(<{known.see}>)")


def test_a_hidden_check_is_named_where_no_visible_one_catches_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Misconception.of("Only sums | of small numbers.", {"any_sum"}, "notebooks/01_websocket_basics.ipynb#Here")
    check = Check("any_sum", "Any sum.", 0, "Think.", 1, 1.0, "one_sum")
    monkeypatch.setattr(proof, "hidden", lambda id: Hidden(Path("x"), (check,), {"small_sums": wrong}))
    answer = f"wrong/{ID}/small_sums.py"
    text = proof.section(ID, {answer: report(hidden=("any_sum",)), WRONG: report("many_sums", hidden=("any_sum",))})
    assert "\nHidden: `any_sum` (of `one_sum`).\n" in text
    assert "Any sum." not in text
    assert "| 90 | `many_sums` |" in text
    assert "| 95 | `any_sum` (hidden) | Only sums \\| of small numbers. | [01, Here](<" in text


def test_an_answer_that_never_ran_is_caught_by_its_verdict() -> None:
    (row,) = proof.rows(ID, {WRONG: Report(ID, "crashed", "It raised.")})
    assert "| 0 | crashed |" in row


def test_a_surprise_is_told_and_not_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof, "PAGE", tmp_path / "PROOF.md")
    before = proof.page({ID: {f"{ID}.ipynb": report()}})
    proof.PAGE.write_text(before, encoding="utf-8")
    observed = {f"{ID}.ipynb": report("one_sum")}
    monkeypatch.setattr(proof, "observed", lambda ids: dict.fromkeys(ids, observed))
    assert proof.main(["01"]) == 1
    assert f"{ID}.ipynb: it has to have full marks; partial, caught by `one_sum`." in capsys.readouterr().err
    assert proof.PAGE.read_text(encoding="utf-8") == before


def test_one_exercise_is_renewed_and_the_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "PAGE", tmp_path / "PROOF.md")
    before, now = ({f"{ID}.ipynb": report(*lost)} for lost in (["one_sum"], []))
    others = {exercise_ids()[2]: {"03.ipynb": report()}, exercise_ids()[1]: {"02.ipynb": report()}}
    proof.PAGE.write_text(proof.page({**others, ID: before}), encoding="utf-8")
    monkeypatch.setattr(proof, "observed", lambda ids: dict.fromkeys(ids, now))
    assert proof.main(["1"]) == 0
    assert proof.PAGE.read_text(encoding="utf-8") == proof.page({**others, ID: now})
