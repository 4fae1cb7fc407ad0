"""The five mistakes: every choice has feedback of its own, and every link leads to a heading that exists."""

import json
import re
from pathlib import Path

import pytest

from labserver.school.mistakes import MISTAKES
from labserver.stage.questions import Question, quiz

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
LINKS = sorted({choice.see for question in MISTAKES for choice in question.choices})


def headings(path: Path) -> set[str]:
    """Return the anchors of a notebook, as JupyterLab makes them from its headings."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    words = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    return {found.replace("`", "").replace(" ", "-") for found in re.findall(r"^#+ (.+)$", words, flags=re.M)}


def test_there_are_five() -> None:
    assert len(MISTAKES) == 5
    assert len({question.text for question in MISTAKES}) == 5


@pytest.mark.parametrize("question", MISTAKES, ids=lambda question: question.text[:40])
def test_each_guess_has_feedback_of_its_own(question: Question) -> None:
    said = [quiz(question, key).twin for key in question.keys]
    assert len(set(said)) == len(said) >= 3
    assert [key for key, text in zip(question.keys, said, strict=True) if "✓" in text] == [question.answer]
    assert len({choice.feedback for choice in question.choices}) == len(question.choices)


@pytest.mark.parametrize("link", LINKS, ids=lambda link: link[1])
def test_each_link_leads_to_what_it_names(link: tuple[str, str]) -> None:
    title, address = link
    name, _, anchor = address.partition("#")
    assert title[:2] == name[:2]
    assert (NOTEBOOKS / name).exists()
    if anchor:
        assert anchor in headings(NOTEBOOKS / name)
