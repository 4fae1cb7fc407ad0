"""A quiz: feedback for the very choice, the same on every run, and nothing given away by a wrong guess."""

from types import EllipsisType

import pytest

from labserver.errors import LabError
from labserver.stage.questions import Choice, Question, quiz

QUESTION = Question(
    "Which is <even>?",
    [
        Choice("one", "One & two differ.", ("01 Numbers", "01_numbers.ipynb#Odd")),
        Choice("two", "Two halves of one."),
        Choice("three", "Two and one."),
    ],
    answer="b",
)
ASKED = """? Which is <even>?
    a  one
    b  two
    c  three
  Set the guess to "a", "b" or "c", and run this cell again."""
WRONG = """? Which is <even>?
  > a  one
    b  two
    c  three
  ✗ a: not so. One & two differ.
  See: 01 Numbers"""
RIGHT = """? Which is <even>?
    a  one
  > b  two
    c  three
  ✓ b: right. Two halves of one."""


@pytest.mark.parametrize(("guess", "text"), [(..., ASKED), ("a", WRONG), ("b", RIGHT), (" B ", RIGHT)])
def test_each_choice_has_its_feedback(guess: "str | EllipsisType", text: str) -> None:
    found = quiz(QUESTION, guess)
    assert repr(found) == found.twin == text
    assert found == quiz(QUESTION, guess), "again it is the same"


def test_the_page_says_it_too_with_a_link_and_without_a_script() -> None:
    html = quiz(QUESTION, "a").html
    assert "Which is &lt;even&gt;?" in html
    assert "One &amp; two differ." in html
    assert '<a href="01_numbers.ipynb#Odd">01 Numbers</a>' in html
    assert html.count("your guess") == 1
    assert "<script" not in html


@pytest.mark.parametrize("guess", [..., "a", "c"])
def test_who_has_not_found_it_is_not_told(guess: "str | EllipsisType") -> None:
    found = quiz(QUESTION, guess)
    for told in (found.html, found.twin):
        assert "Two halves of one." not in told
        assert "✓" not in told


@pytest.mark.parametrize("guess", ["d", "", "two", 2, None, ["a"]])
def test_a_choice_that_there_is_not_names_those_there_are(guess: str) -> None:
    with pytest.raises(LabError, match='set the guess to "a", "b" or "c"'):
        quiz(QUESTION, guess)


def test_a_question_that_cannot_be_answered_is_refused() -> None:
    with pytest.raises(LabError, match="give it two or more"):
        Question("?", [Choice("one", "why")], answer="a")
    with pytest.raises(LabError, match='name one of "a" or "b"'):
        Question("?", [Choice("one", "why"), Choice("two", "why")], answer="c")
