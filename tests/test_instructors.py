"""The instructors' page: every notebook has its part, minutes are those of the notebooks, names are those of checks."""

import json
import re
from pathlib import Path

import pytest

from labserver.school.catalogue import exercise, exercise_ids

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
PARTS = {text[1:3]: text for text in re.split(r"^## ", PAGE, flags=re.M) if re.match(r"\[\d\d ", text)}
NOTEBOOKS = {path.name[:2]: path for path in sorted(ROOT.glob("notebooks/[0-9][0-9]_*.ipynb"))}
EXERCISES = {id[:2]: id for id in exercise_ids()}
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50}
ONES = {"": 0, "five": 5}
ROUTES = re.findall(r"^\| ([a-z0-9 ]+) \| ([\d, ]+) \| ([\d, ]*) ?\| (\d+) \|$", PAGE, flags=re.M)
MINUTES = re.findall(r"^\| (\d\d) \| (\d+) \| (\d*) ?\|$", PAGE, flags=re.M)


def prose(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def reading(number: str) -> int:
    """Return how many minutes a notebook says that it takes."""
    told = re.search(r"([A-Z][a-z]+)(?:-(\w+))? minutes", prose(NOTEBOOKS[number]))
    assert told, f"{NOTEBOOKS[number].name} does not say how long it takes"
    return TENS[told[1].lower()] + ONES[told[2] or ""]


def solving(number: str) -> int:
    """Return how many minutes an exercise says that it takes."""
    path = ROOT / "exercises" / f"{EXERCISES[number]}.ipynb"
    told = re.search(r"(\d+)\s+minutes", prose(path))
    assert told, f"{path.name} does not say how long it takes"
    return int(told[1])


def test_each_notebook_has_its_part_in_order() -> None:
    assert list(PARTS) == list(NOTEBOOKS)
    assert [row[0] for row in MINUTES] == list(NOTEBOOKS)


@pytest.mark.parametrize("row", MINUTES, ids=lambda row: row[0])
def test_minutes_are_what_notebook_and_exercise_say(row: tuple[str, str, str]) -> None:
    number, read, solve = row
    assert int(read) == reading(number)
    assert solve == (str(solving(number)) if number in EXERCISES else "")


@pytest.mark.parametrize("row", ROUTES, ids=lambda row: row[0])
def test_a_routes_minutes_add_up(row: tuple[str, str, str, str]) -> None:
    _, notebooks, exercises, minutes = row
    read, solve = (re.findall(r"\d\d", numbers) for numbers in (notebooks, exercises))
    assert int(minutes) == sum(map(reading, read)) + sum(map(solving, solve))


def test_there_are_routes() -> None:
    assert [row[0] for row in ROUTES] == ["90 minutes", "half a day", "two days"]


@pytest.mark.parametrize("number", PARTS)
def test_what_people_get_wrong_is_what_the_checks_know(number: str) -> None:
    named = re.findall(r"^- `(\w+)`: ", PARTS[number], flags=re.M)
    known = set(exercise(EXERCISES[number]).misconceptions) if number in EXERCISES else set()
    assert set(named) <= known
    assert len(named) >= (2 if number in EXERCISES else 0)


@pytest.mark.parametrize("number", PARTS)
def test_questions_have_short_answers(number: str) -> None:
    answers = re.findall(
        r"^- \*\*Why [^*]*(?:\*[^*]+\*[^*]*)*\?\*\* ((?:.|\n)*?)(?=\n- |\n\n|\Z)", PARTS[number], flags=re.M
    )
    assert 2 <= len(answers) <= 4
    assert [answer for answer in answers if len(answer.split()) > 60] == []


def test_every_link_leads_somewhere() -> None:
    targets = re.findall(r"\]\(([^)#]+)", PAGE)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_nothing_measured_is_typed_in() -> None:
    assert re.findall(r"\d[\d.,]* ?(?:ms|µs|us|MB/s|KiB|MB|kB|%|times)\b|\d+ ?%", PAGE) == []


def test_the_readme_leads_here() -> None:
    assert "](INSTRUCTORS.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
