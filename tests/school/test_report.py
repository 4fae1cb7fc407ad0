"""The marks add up, and their three forms say the same; what a student wrote stays text."""

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console

from labserver.errors import LabError
from labserver.school import report
from labserver.school.marks import Assignment, Graded, Marks
from labserver.school.pages import SIGNS, index_page, page_names, student_page
from labserver.school.submissions import Skipped
from labserver.school.verdicts import CheckResult, Report, summarise

SVG = '<svg xmlns="http://www.w3.org/2000/svg"><title>Cut &amp; gone</title><desc>After 2 frames.</desc></svg>'
EVIL = '<script>alert(1)</script>"&'


def check(name: str, *, passed: bool, points: int = 50, seen: str = "nothing came") -> CheckResult:
    if passed:
        return CheckResult(name, points, points, "passed", f"does `{name}`")
    extra = {"seen": seen, "expected": "an echo", "hint": f"say {name}", "tape_text": "cut\n", "tape_svg": SVG}
    return CheckResult(name, points, 0, "failed", f"does `{name}`", **extra)


def answer(student: str, exercise: str, *passed: bool, source: str = "", **more: object) -> Graded:
    checks = tuple(check(name, passed=ok) for name, ok in zip("ab", passed, strict=True))
    return Graded(student, source or f"{student}/{exercise}.ipynb", summarise(exercise, checks), **more)  # type: ignore[arg-type]


def crashed(student: str, exercise: str, reason: str = "It raised.") -> Graded:
    return Graded(student, f"{student}/{exercise}.ipynb", Report(exercise, "crashed", reason, 0, 100))


ONE = Assignment("01_one", "One", (("a", 50), ("b", 50)), (("no_b", "You forgot `b`.", "notebooks/01.ipynb"),))
TWO = Assignment("02_two", "Two", (("a", 50), ("b", 50)))


@pytest.fixture
def marks() -> Marks:
    lost = Graded("dan", "dan/x.ipynb", Report("", "no answer", "Not a notebook.", 0, 0))
    graded = (
        answer("ann", "01_one", True, True),
        answer("ann", "02_two", True, False),
        answer("bob", "01_one", True, False, notes=("It left 2 processes running.",), output="Traceback <b>"),
        answer("bob", "01_one", False, False, source="bob/old.ipynb"),
        crashed("cy", "01_one"),
        lost,
    )
    return Marks(("ann", "bob", "cy", "dan", "eve"), (ONE, TWO), graded, (Skipped("x.ipynb", "Whose is it?"),), 7)


def test_the_best_of_several_answers_counts(marks: Marks) -> None:
    best = marks.of("bob", "01_one")
    assert best is not None
    assert best.report.points == 50
    assert [graded.source for graded in marks.spare("bob")] == ["bob/old.ipynb"]
    assert [marks.points(student) for student in marks.students] == [150, 50, 0, 0, 0]
    assert marks.max_points == 200


def test_of_equal_answers_the_first_file_counts() -> None:
    one, two = answer("ann", "01_one", True, False, source="a"), answer("ann", "01_one", False, True, source="b")
    marks = Marks(("ann",), (ONE,), (one, two))
    assert marks.of("ann", "01_one") is one


def test_what_fails_most_comes_first(marks: Marks) -> None:
    (failure,) = marks.failures("01_one")
    assert (failure.check.name, failure.students, failure.ran) == ("b", ("bob",), 2)
    graded = (answer("ann", "01_one", True, False), answer("bob", "01_one", False, False))
    both = Marks(("ann", "bob"), (ONE,), graded).failures("01_one")
    assert [(item.check.name, len(item.students)) for item in both] == [("b", 2), ("a", 1)]


def test_json_holds_every_answer_and_what_is_documented(marks: Marks) -> None:
    data = json.loads(json.dumps(report.results_json(marks)))
    assert data["schema"] == "labserver.grade/1"
    assert [student["points"] for student in data["students"]] == [150, 50, 0, 0, 0]
    verdicts = {
        student["student"]: [(item["exercise"], item["verdict"], item["counts"]) for item in student["answers"]]
        for student in data["students"]
    }
    assert verdicts["bob"] == [
        ("01_one", "partial", True),
        ("02_two", "not handed in", True),
        ("01_one", "wrong", False),
    ]
    assert verdicts["dan"][-1] == ("", "no answer", False)
    assert verdicts["eve"] == [("01_one", "not handed in", True), ("02_two", "not handed in", True)]
    documented = set(re.findall(r"\w+", report.__doc__ or ""))
    keys = {key for student in data["students"] for item in student["answers"] for key in item}
    checks = {key for student in data["students"] for item in student["answers"] for c in item["checks"] for key in c}
    assert keys | checks | set(data) | set(data["students"][0]) | set(data["exercises"][0]) <= documented
    answers = [item for student in data["students"] for item in student["answers"]]
    assert len({frozenset(item) for item in answers}) == 1


def test_csv_has_a_row_per_check_and_adds_up(marks: Marks) -> None:
    text = report.results_csv(marks)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["student", "exercise", "check", "points", "verdict"]
    for student in marks.students:
        assert sum(int(row["points"]) for row in rows if row["student"] == student) == marks.points(student)
    assert [(row["check"], row["verdict"]) for row in rows if row["student"] == "cy"][:2] == [
        ("a", "crashed"),
        ("b", "crashed"),
    ]
    assert {row["verdict"] for row in rows if row["student"] == "eve"} == {"not handed in"}
    assert [row["verdict"] for row in rows if row["student"] == "dan"][-1] == "no answer"
    assert "\r\n" in text


def test_a_gradebook_gets_a_row_per_student_under_the_name_it_knows(marks: Marks) -> None:
    rows = list(csv.reader(io.StringIO(report.marks_csv(marks, {"ann": "ann@example.org", "nobody": "7"}))))
    assert rows == [
        ["student", "01_one", "02_two", "total", "max"],
        ["ann@example.org", "100", "50", "150", "200"],
        ["bob", "50", "0", "50", "200"],
        ["cy", "0", "0", "0", "200"],
        ["dan", "0", "0", "0", "200"],
        ["eve", "0", "0", "0", "200"],
    ]


def test_nobody_gets_a_zero_in_a_gradebook_because_our_checks_broke() -> None:
    broken = Graded("ann", "x", Report("02_two", "not checked", "A check broke.", 50, 100))
    marks = Marks(("ann",), (ONE, TWO), (answer("ann", "01_one", True, True), broken))
    assert report.marks_csv(marks, {}).splitlines()[1] == "ann,100,,,200"


@pytest.mark.parametrize("name", ["=1+1", "+cmd", "-2", "@SUM(A1)"])
def test_a_spreadsheet_takes_no_name_for_a_formula(name: str) -> None:
    marks = Marks((name,), (ONE,), (answer(name, "01_one", True, True),))
    for text in (report.results_csv(marks), report.marks_csv(marks, {}), report.marks_csv(marks, {name: f"{name} "})):
        assert next(iter(csv.DictReader(io.StringIO(text))))["student"].strip() == f"'{name}"


class Page(HTMLParser):
    """Collects what a page would load or run, and checks that every element is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.tags: set[str] = set()
        self.alts: list[str | None] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.loads += [str(value) for name, value in attrs if name in ("src", "srcset", "data")]
        assert not [name for name in found if name.startswith("on")]
        if tag == "img":
            self.alts.append(found.get("alt"))
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_pages_load_nothing_and_run_nothing(marks: Marks) -> None:
    for text in (index_page(marks), *(student_page(marks, student) for student in marks.students)):
        page = Page(text)
        assert not page.tags & {"script", "link", "iframe", "object", "svg"}
        assert all(source.startswith("data:image/svg+xml;base64,") for source in page.loads)
        assert "prefers-color-scheme: dark" in text
        assert "http://" not in text
        assert "https://" not in text
        assert 'lang="en"' in text


def test_a_failure_is_shown_with_its_tape_in_words_too(marks: Marks) -> None:
    page = student_page(marks, "bob")
    for part in ("nothing came", "an echo", "say b", "cut\n", "does <code>b</code>", "It left 2 processes running."):
        assert part in page
    assert Page(page).alts == ["Cut & gone. After 2 frames"]
    assert "Traceback &lt;b&gt;" in page


def test_the_pages_name_each_verdict(marks: Marks) -> None:
    page = index_page(marks)
    assert 'href="students/ann.html"' in page
    for text in ("1 of 2", "say b", "Whose is it?", "Not a notebook.", "It raised.", "not handed in", SIGNS["crashed"]):
        assert text in page
    assert "It raised." in student_page(marks, "cy")
    assert "not handed in" in student_page(marks, "eve")
    assert "bob/old.ipynb" in student_page(marks, "bob")
    assert "Not a notebook." in student_page(marks, "dan")


def test_a_known_wrong_answer_is_named_and_explained() -> None:
    known = summarise("01_one", (check("a", passed=True), check("b", passed=False)), misconception="no_b")
    marks = Marks(("ann",), (ONE,), (Graded("ann", "x", known),))
    for page in (index_page(marks), student_page(marks, "ann")):
        assert "No b" in page
        assert "You forgot <code>b</code>." in page
        assert "notebooks/01.ipynb" in page


def test_what_a_student_wrote_stays_text() -> None:
    failed = CheckResult("a", 50, 0, "failed", "does a", seen=EVIL, tape_text=EVIL, tape_svg=f"<svg>{EVIL}</svg>\ud800")
    graded = Graded(EVIL, f"{EVIL}.ipynb", summarise("01_one", (failed,), reason=EVIL), (EVIL,), EVIL)
    marks = Marks((EVIL,), (ONE,), (graded, crashed(EVIL, "01_one", EVIL)), (Skipped(EVIL, EVIL),))
    for text in (index_page(marks), student_page(marks, EVIL)):
        assert "<script>" not in text
        Page(text)


def test_names_of_pages_are_safe_and_differ() -> None:
    students = ["../../etc/passwd", "Ann", "ann", "a b", "a_b", "CON", "", "Müller", "x" * 300, "index"]
    names = page_names(students)
    assert len({name.casefold() for name in names.values()}) == len(students)
    for name in names.values():
        assert re.fullmatch(r"[\w-]{1,84}\.html", name)
    assert names["CON"] == "CON_.html"


def test_all_files_are_written_and_old_pages_go(tmp_path: Path, marks: Marks) -> None:
    out = tmp_path / "new" / "out"
    (out / "students").mkdir(parents=True)
    (out / "students" / "mine.html").write_text("notes of the teacher")
    report.write(Marks(("gone",), (ONE,), ()), out)
    assert (out / "students" / "gone.html").exists()
    files = ["results.json", "results.csv", "marks.csv", "index.html"]
    assert [path.name for path in report.write(marks, out, {"ann": "an-id"})] == files
    written = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert written == {
        *(*files, "students/mine.html"),
        *(f"students/{name}.html" for name in marks.students),
    }
    assert "an-id,100,50,150,200\r\n" in (out / "marks.csv").read_bytes().decode()
    data = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert all((out / student["page"]).exists() for student in data["students"])


def test_a_place_that_cannot_be_written_to_is_told_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/nothing")):
        with pytest.raises(LabError, match="choose another --out"):
            report.prepare(out)


def test_the_summary_tells_points_failures_and_what_is_odd(marks: Marks) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.summary(marks))
    text = console.export_text()
    for part in ("ann", "150", "of 200", "1 of 2", "say b", "cy/01_one.ipynb: crashed. It raised.", "Whose is it?"):
        assert part in text
