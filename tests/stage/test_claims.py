"""Claims and predictions: what they print, what they never print, and what an untrue one says."""

import copy
import pickle

import pytest

from labserver.errors import LabError
from labserver.stage import at_least, at_most, between, claim, claims, predict, reveal
from labserver.stage.claims import ClaimError

Out = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def nothing_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "_last", None)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        (200, 200),
        (["one", "two"], ["one", "two"]),
        (None, None),
        (0.4, at_least(0.4)),
        (7.25, at_least(0.4)),
        (0.4, at_most(0.4)),
        (-3, at_most(0.4)),
        (1.0, between(1.0, 2.0)),
        (2.0, between(1.0, 2.0)),
        ("b", between("a", "c")),
    ],
)
def test_a_true_claim_prints_its_sentence_and_no_value(observed: object, expected: object, capsys: Out) -> None:
    claim("it is so", observed, expected)
    assert capsys.readouterr().out == "✓ it is so\n"


@pytest.mark.parametrize(
    ("observed", "expected", "words"),
    [
        (500, 200, "Observed 500, expected 200."),
        (0.39, at_least(0.4), "Observed 0.39, expected at least 0.4."),
        (0.41, at_most(0.4), "Observed 0.41, expected at most 0.4."),
        (2.01, between(1.0, 2.0), "Observed 2.01, expected between 1.0 and 2.0."),
        (0.99, between(1.0, 2.0), "Observed 0.99, expected between 1.0 and 2.0."),
        (float("nan"), at_least(0), "Observed nan, expected at least 0."),
        (None, at_least(0), "Observed None, expected at least 0."),
        ("1", 1, "Observed '1', expected 1."),
    ],
)
def test_an_untrue_claim_stops_and_names_both_values(
    observed: object, expected: object, words: str, capsys: Out
) -> None:
    with pytest.raises(ClaimError) as caught:
        claim("it is so", observed, expected)
    assert isinstance(caught.value, AssertionError)
    assert str(caught.value) == f"Not true: it is so. {words}"
    assert caught.value.observed is observed
    assert caught.value.expected is expected
    assert capsys.readouterr().out == ""


def test_an_endless_value_is_cut_in_the_error() -> None:
    with pytest.raises(ClaimError) as caught:
        claim("it is short", "x" * 100_000, "x")
    assert len(str(caught.value)) < 500
    assert "(100002 characters)" in str(caught.value)


@pytest.mark.parametrize("copied", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))], ids=["copy", "pickle"])
def test_the_error_survives_the_way_between_processes(copied: object) -> None:
    error = copied(ClaimError("it is so", 1, at_least(2)))  # type: ignore[operator]
    assert (error.text, error.observed, error.expected) == ("it is so", 1, at_least(2))
    assert str(error) == "Not true: it is so. Observed 1, expected at least 2."


def test_bounds_that_accept_nothing_are_refused() -> None:
    with pytest.raises(LabError, match="accepts nothing: give the smaller value first"):
        between(2, 1)
    assert between(1, 1).holds(1)


@pytest.mark.parametrize(
    ("guess", "actual", "verdict"),
    [
        ("at once", "with the last", " (not as you guessed)"),
        ("with the last", "with the last", " (as you guessed)"),
        (3, 3, " (as you guessed)"),
        (between(2, 4), 3, " (as you guessed)"),
        (between(2, 4), 5, " (not as you guessed)"),
        (2, at_least(1), " (as you guessed)"),
        (0, at_least(1), " (not as you guessed)"),
        (at_least(1), at_least(1), " (as you guessed)"),
        ("many", at_least(1), " (not as you guessed)"),
        (..., "with the last", ""),
    ],
)
def test_reveal_says_whether_the_guess_was_right(guess: object, actual: object, verdict: str, capsys: Out) -> None:
    predict("When is it here?", guess)
    capsys.readouterr()
    reveal(actual)
    _, bracket, words = capsys.readouterr().out.splitlines()[-1].partition(" (")
    assert bracket + words == verdict


def test_a_prediction_prints_the_same_on_each_run(capsys: Out) -> None:
    printed = []
    for _ in range(2):
        predict("Does it count on?", True)
        reveal(False, "It blocks.")
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0] == (
        "? Does it count on?\n  Your guess: yes\n"
        "? Does it count on?\n  Your guess: yes\n"
        "  What happened: no (not as you guessed)\n"
        "  It blocks.\n"
    )


def test_no_guess_is_called_none_and_not_judged(capsys: Out) -> None:
    predict("When is it here?", ...)
    reveal(None)
    assert capsys.readouterr().out == (
        "? When is it here?\n  Your guess: none\n? When is it here?\n  Your guess: none\n  What happened: nothing\n"
    )


def test_reveal_answers_the_last_prediction_and_again_when_its_cell_runs_again(capsys: Out) -> None:
    predict("first?", 1)
    predict("second?", 2)
    capsys.readouterr()
    for _ in range(2):
        reveal(2)
        assert capsys.readouterr().out.startswith("? second?\n  Your guess: 2\n  What happened: 2 (as you guessed)")


def test_reveal_without_a_prediction_says_what_to_run() -> None:
    with pytest.raises(LabError, match=r"run the cell with predict\(\.\.\.\) above"):
        reveal(1)
