"""The participants' copy holds no answer, its links lead somewhere, and it works as it is.

Lines are looked for in every file of each route's copy. What patterns and notebooks teach may stand in an answer too,
so a line counts as an answer's where nothing that is handed out by right has it; exercises hold no line of a solution.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from labserver.errors import LabError
from labserver.school import build
from labserver.school.catalogue import ROOT, exercise, exercise_ids
from labserver.school.handout import contents, put
from labserver.school.routes import Route, course

IDS = exercise_ids()
ROUTES = [None, *Route]
HIDDEN = sorted((ROOT / "solutions" / "hidden").glob("*.py"))
ANSWERS = sorted([*ROOT.glob("solutions/wrong/*/*.py"), *ROOT.glob("solutions/right/*/*.py")])
ANYBODYS = {"def __init__(self) -> None:"}  # as in test_build
TOP = {"LICENSE", "Makefile", "README.md", "constraints.txt", "environment.yml", "pyproject.toml", "uv.lock"}
INSTRUCTORS = (ROOT / "INSTRUCTORS.md").read_text(encoding="utf-8")
SAID = {"90 minutes": Route.NINETY_MINUTES, "half a day": Route.HALF_A_DAY, "two days": Route.TWO_DAYS}
TWINS_ALONE = """
def pytest_collectstart(collector):
    collector.skip_compare = (*getattr(collector, "skip_compare", ()), "text/html", "image/svg+xml")
"""
Copies = dict[Route | None, dict[str, bytes]]


@pytest.fixture(scope="module")
def copies() -> Copies:
    """Every file of the handout of each route, and of everything."""
    return {route: contents(course(route)) for route in ROUTES}


@pytest.fixture(scope="module")
def copy(copies: Copies, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The handout for ninety minutes on disk; what a test changes there it puts back."""
    out = tmp_path_factory.mktemp("handout") / "copy"
    put(copies[Route.NINETY_MINUTES], out)
    return out


def run(copy: Path, *command: str, home: Path, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Run a Python command of the copy with this environment's packages."""
    variables = {**os.environ, "PYTHONPATH": str(copy), "LABSERVER_HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=copy,
        env=variables,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def lines(text: str) -> set[str]:
    return {line.strip() for line in text.split("\n") if len(line.strip()) > 12}


def words(name: str, data: bytes) -> str:
    """The text of a file; of a notebook what is in its cells and outputs."""
    text = data.decode()
    return "\n".join(strings(json.loads(text))) if name.endswith(".ipynb") else text


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) and all(isinstance(item, str) for item in value):
        yield "".join(value)
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def regions(id: str) -> list[list[str]]:
    """The lines between the marks of a solution, region by region."""
    found: list[list[str]] = []
    inside = False
    for cell in json.loads(exercise(id).solution.read_text(encoding="utf-8"))["cells"]:
        for line in "".join(cell["source"]).split("\n"):
            if line.strip() in (build.BEGIN, build.END):
                inside = line.strip() == build.BEGIN
                found += [[]] if inside else []
            elif inside and line.strip():
                found[-1].append(line.strip())
    return found


def windows(sequence: list[str], length: int = 7) -> set[tuple[str, ...]]:
    return {tuple(sequence[n : n + length]) for n in range(len(sequence) - length + 1)}


def taught() -> set[str]:
    """Every line that stands in the package, the notebooks or what an exercise gives."""
    files = [*ROOT.glob("labserver/**/*.py"), *ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("labserver/**/*.ipynb")]
    return set().union(*(lines(words(path.name, path.read_bytes())) for path in files))


@pytest.mark.parametrize("route", ROUTES)
def test_no_exercise_holds_a_line_of_its_solution_and_no_paper_one_of_any(route: Route | None, copies: Copies) -> None:
    files = copies[route]
    secret = {id: {line for region in regions(id) for line in region if len(line) > 12} - ANYBODYS for id in IDS}
    assert all(secret.values())
    searched = {name: set().union(*secret.values()) for name in TOP}
    for id in course(route).exercise_ids:
        searched |= {f"exercises/{id}.ipynb": secret[id], f"labserver/school/starters/{id}.ipynb": secret[id]}
    for name, some in searched.items():
        text = words(name, files[name])
        assert [line for line in some if line in text] == [], name


@pytest.mark.parametrize("route", ROUTES)
def test_no_file_holds_a_piece_of_a_solution(route: Route | None, copies: Copies) -> None:
    secret = set().union(*(windows(region) for id in IDS for region in regions(id)))
    assert len(secret) > 50
    for name, data in copies[route].items():
        text = [line.strip() for line in words(name, data).split("\n") if line.strip()]
        assert windows(text) & secret == set(), name


@pytest.fixture(scope="module")
def secret() -> dict[str, set[str]]:
    """What no handout may hold: of each file that stays, the lines that are taught nowhere."""
    files = {str(path.relative_to(ROOT)): lines(path.read_text(encoding="utf-8")) for path in (*ANSWERS, *HIDDEN)}
    files |= {id: lines("\n".join(line for region in regions(id) for line in region)) for id in IDS}
    told = taught()
    return {name: found - told for name, found in files.items()}


def slipped_in(files: dict[str, bytes], secret: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return of each secret what stands in any of these files."""
    held = set().union(*(lines(words(name, data)) for name, data in files.items()))
    return {name: some & held for name, some in secret.items() if some & held}


@pytest.mark.parametrize("route", ROUTES)
def test_no_line_of_an_answer_or_a_hidden_check_is_handed_out(
    route: Route | None, copies: Copies, secret: dict[str, set[str]]
) -> None:
    assert slipped_in(copies[route], secret) == {}


def test_what_slips_in_would_be_found(copies: Copies, secret: dict[str, set[str]]) -> None:
    for path in [*HIDDEN, *(exercise(id).solution for id in IDS)]:
        name = path.stem if path.suffix == ".ipynb" else str(path.relative_to(ROOT))
        files = copies[Route.NINETY_MINUTES] | {f"labserver/{path.name}": path.read_bytes()}
        assert slipped_in(files, secret)[name] == secret[name]
        assert len(secret[name]) > 3, name
    assert len([path for path in ANSWERS if secret[str(path.relative_to(ROOT))]]) > len(ANSWERS) / 2


@pytest.mark.parametrize("route", ROUTES)
def test_only_what_is_needed_is_there(route: Route | None, copies: Copies) -> None:
    files = copies[route]
    chosen = course(route)
    kept = {"checks": ".py", "starters": ".ipynb"}
    assert {name for name in files if "/" not in name} == TOP
    assert {name.split("/")[0] for name in files if "/" in name} == {"labserver", "notebooks", "exercises"}
    assert {name for name in files if name.startswith(("notebooks/", "exercises/"))} == {
        lesson.path for lesson in chosen.lessons
    }
    for folder, ending in kept.items():
        inside = {name for name in files if name.startswith(f"labserver/school/{folder}/")}
        assert inside == {f"labserver/school/{folder}/{id}{ending}" for id in chosen.exercise_ids}
    strange = re.compile(r"__pycache__|\.py[co]$|backup|\.git|(^|/)\.|INSTRUCTORS|(^|/)(tests|solutions|wrong|hidden)/")
    assert [name for name in files if strange.search(name)] == []


def test_the_readme_says_nothing_of_what_people_get_wrong(copies: Copies) -> None:
    answers = INSTRUCTORS[INSTRUCTORS.index("\n## [00 ") :]
    sentences = {" ".join(part.split()) for part in re.split(r"(?<=[.:?])\s+", answers) if len(part.split()) > 5}
    assert len(sentences) > 100
    for route in ROUTES:
        readme = " ".join(copies[route]["README.md"].decode().split())
        assert [each for each in sentences if each in readme] == []


@pytest.mark.parametrize(
    "row", re.findall(r"^\| ([a-z0-9 ]+) \| ([\d, ]+) \| ([\d, ]*) ?\| (\d+) \|$", INSTRUCTORS, re.M)
)
def test_a_route_is_what_instructors_read(row: tuple[str, str, str, str], copies: Copies) -> None:
    chosen = course(SAID[row[0]])
    assert [lesson.number for lesson in chosen.notebooks] == row[1].split(", ")
    assert [lesson.number for lesson in chosen.exercises] == row[2].strip().split(", ")
    assert chosen.minutes == int(row[3])
    assert f"Together {row[3]} minutes" in copies[chosen.route]["README.md"].decode()


def test_minutes_are_what_instructors_read() -> None:
    said = {
        number: (read, solve)
        for number, read, solve in re.findall(r"^\| (\d\d) \| (\d+) \| (\d*) ?\|$", INSTRUCTORS, re.M)
    }
    everything = course()
    assert {one.number: str(one.minutes) for one in everything.notebooks} == {n: row[0] for n, row in said.items()}
    solving = {one.number: str(one.minutes) for one in everything.exercises}
    assert {number: row[1] for number, row in said.items() if row[1]}.items() <= solving.items()


def headings(cells: list[dict[str, object]]) -> set[str]:
    """The anchors that JupyterLab gives to the headings of a notebook."""
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")  # type: ignore[arg-type]
    return {
        heading.replace("`", "").replace("*", "").replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", text, re.M)
    }


def links(name: str, data: bytes) -> Iterator[str]:
    """Every address of a notebook or a README, in its text and in the HTML of its outputs."""
    for text in strings(json.loads(data)) if name.endswith(".ipynb") else [data.decode()]:
        yield from re.findall(r"\]\(([^)\s]+\.(?:ipynb|md|png)[^)\s]*|#[^)\s]+|LICENSE)\)", text)
        yield from (unescape(found) for found in re.findall(r"<a [^>]*href=\"([^\"]+)\"", text))


@pytest.mark.parametrize("route", ROUTES)
def test_every_link_leads_somewhere_in_the_copy(route: Route | None, copies: Copies) -> None:
    files = copies[route]
    anchors = {name: headings(json.loads(data)["cells"]) for name, data in files.items() if name.endswith(".ipynb")}
    found = [
        (name, "exercises" if "starters" in name else str(Path(name).parent), link)
        for name, data in files.items()
        if name.endswith(".ipynb") or name == "README.md"
        for link in links(name, data)
    ]
    known = [exercise(id) for id in course(route).exercise_ids]
    found += [(f"checks {each.id}", ".", wrong.see) for each in known for wrong in each.misconceptions.values()]
    local = [entry for entry in found if "://" not in entry[2] and not entry[2].startswith("data:")]
    assert len(local) > 10
    for name, folder, link in local:
        path, _, anchor = unquote(link).partition("#")
        target = os.path.normpath(Path(folder) / path).replace(os.sep, "/") if path else name
        assert target in files, f"{name}: {link}"
        assert not anchor or anchor in anchors[target], f"{name}: {link}"


def test_a_route_leads_from_one_notebook_to_the_next(copies: Copies) -> None:
    chosen = course(Route.HALF_A_DAY)
    onward = []
    for lesson in chosen.notebooks:
        text = words(lesson.path, copies[Route.HALF_A_DAY][lesson.path])
        onward += re.findall(r"^\*\*Next:\*\* \[(\d\d) ", text, re.M)
    assert onward == [lesson.number for lesson in chosen.notebooks[1:]]


def test_the_map_shows_the_route(copies: Copies) -> None:
    text = words("x.ipynb", copies[Route.HALF_A_DAY]["notebooks/00_start_here.ipynb"])
    assert re.findall(r"^\| \**\[?(\d\d) ", text, re.M) == ["00", "01", "05", "06", "09"]


def test_notebooks_keep_everything_but_links(copies: Copies) -> None:
    for route, files in copies.items():
        for lesson in course(route).notebooks:
            mine, theirs = (json.loads(data) for data in (files[lesson.path], (ROOT / lesson.path).read_bytes()))
            changed = [one["id"] for one, other in zip(mine["cells"], theirs["cells"], strict=True) if one != other]
            kinds = {cell["cell_type"] for cell in mine["cells"] if cell["id"] in changed}
            assert kinds <= {"markdown"}
            assert len(changed) <= (2 if route else 0), changed


def test_the_same_sources_give_the_same_bytes(copies: Copies, tmp_path: Path) -> None:
    route = Route.NINETY_MINUTES
    put(copies[route], tmp_path / "copy.zip")
    first = (tmp_path / "copy.zip").read_bytes()
    put(contents(course(route)), tmp_path / "copy.zip")
    assert (tmp_path / "copy.zip").read_bytes() == first
    with zipfile.ZipFile(tmp_path / "copy.zip") as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"copy"}
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}
        archive.extractall(tmp_path)
    inside = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert inside == set(copies[route])


def test_what_somebody_worked_on_is_not_handed_out(copies: Copies, tmp_path: Path) -> None:
    checkout, out = tmp_path / "checkout", tmp_path / "out"
    unneeded = shutil.ignore_patterns(".*", "__pycache__", "tests", "solutions")
    shutil.copytree(ROOT, checkout, ignore=unneeded)
    mine = checkout / "exercises" / "05_server_sent_events.ipynb"
    answered = json.loads(mine.read_text(encoding="utf-8"))
    next(cell for cell in answered["cells"] if cell["id"] == "answer")["source"] = "app = 'my own answer'"
    mine.write_text(json.dumps(answered), encoding="utf-8")
    shutil.copy(mine, checkout / "exercises" / "05_server_sent_events.backup-1.ipynb")
    shutil.copy(mine, checkout / "labserver" / "Untitled.ipynb")
    done = run(checkout, "-m", "labserver", "handout", str(out), "--route", "90min", home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 notebooks, 1 exercise, 75 minutes" in done.stdout
    made = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    want = dict(copies[Route.NINETY_MINUTES])
    shown = f"exercises/{mine.name}"
    assert b"my own answer" not in b"".join(made.values())
    cells, starter = (json.loads(data)["cells"] for data in (made.pop(shown), exercise(mine.stem).starter.read_bytes()))
    assert [(cell["id"], cell["source"]) for cell in cells] == [(cell["id"], cell["source"]) for cell in starter]
    assert [cell["id"] for cell in cells if cell.get("outputs")] == []
    del want[shown]
    assert made == want


def test_exercises_are_as_built_and_progress_is_the_routes(copies: Copies) -> None:
    files = copies[Route.HALF_A_DAY]
    cells = json.loads(files["exercises/09_llm_tokens.ipynb"])["cells"]
    shown = {cell["id"]: "".join(cell["outputs"][0]["data"]["text/plain"]) for cell in cells if cell.get("outputs")}
    assert "not attempted" in shown["check"]
    assert re.findall(r"(\d+) · ", shown["progress"]) == ["05", "09"]
    assert shown["progress"].startswith("Progress: 0 of 200 points")


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_what_is_no_handout_is_not_touched(kind: str, copies: Copies, tmp_path: Path) -> None:
    out = tmp_path / ("mine.zip" if kind == "zip" else "mine")
    mine = out if kind == "zip" else out / "README.md"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(LabError, match="is no earlier handout"):
        put(copies[Route.NINETY_MINUTES], out)
    assert mine.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_an_empty_folder_is_taken_and_an_earlier_handout_replaced(copies: Copies, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    out.mkdir()
    put(copies[Route.HALF_A_DAY], out)
    (out / "stray").write_text("")
    put(copies[Route.NINETY_MINUTES], out)
    assert {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()} == set(
        copies[Route.NINETY_MINUTES]
    )
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


def test_a_handout_that_fails_leaves_the_earlier_one(copies: Copies, tmp_path: Path) -> None:
    out = tmp_path / "copy"
    put(copies[Route.NINETY_MINUTES], out)
    with pytest.raises(LabError, match="can't be written"):
        put({"a": b"", "a/b": b"a file is no folder"}, out)
    assert (out / "notebooks" / "00_start_here.ipynb").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["copy"]


@pytest.mark.parametrize("place", ["labserver/copy", "exercises", "solutions/new.zip", "notebooks/a/b"])
def test_sources_are_no_place_for_it(place: str, copies: Copies) -> None:
    with pytest.raises(LabError, match="which the handout is made from"):
        put(copies[Route.NINETY_MINUTES], ROOT / place)


def test_a_wrong_route_names_the_three() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "labserver", "handout", "unused", "--route", "week"],
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert all(route.value in done.stderr for route in Route)
    assert not Path("unused").exists()


def test_the_copy_speaks_of_its_route_alone(copy: Path, tmp_path: Path) -> None:
    program = "import labserver.__main__ as it, sys; print(it.__file__); sys.argv[1:] = ['next']; it.main()"
    said = run(copy, "-c", program, home=tmp_path)
    where, _, following = said.stdout.partition("\n")
    assert Path(where).resolve() == (copy / "labserver" / "__main__.py").resolve(), said.stderr
    assert following.startswith("Next: 05 · Server-Sent Events (not begun). Read notebooks/05")
    assert run(copy, "-m", "labserver", "doctor", home=tmp_path).returncode == 0


@pytest.mark.timeout(240)
def test_an_answer_is_checked_in_the_copy(copy: Path, tmp_path: Path) -> None:
    path = copy / "exercises" / "05_server_sent_events.ipynb"
    shipped = path.read_bytes()
    try:
        path.write_bytes(exercise("05_server_sent_events").solution.read_bytes())
        said = run(copy, "-m", "labserver", "exercises", "check", "05", home=tmp_path, timeout=200)
    finally:
        path.write_bytes(shipped)
    assert said.returncode == 0, said.stdout + said.stderr
    assert "solved, 100 of 100 points" in said.stdout


@pytest.mark.timeout(240)
def test_notebook_and_exercise_show_what_is_stored_in_them(copies: Copies, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    put(copies[Route.NINETY_MINUTES], copy)
    (copy / "conftest.py").write_text(TWINS_ALONE, encoding="utf-8")
    paths = ["notebooks/00_start_here.ipynb", "exercises/05_server_sent_events.ipynb"]
    options = ["-q", "-c", os.devnull, "--rootdir", ".", "-p", "no:cacheprovider", "--nbval", "--nbval-current-env"]
    done = run(copy, "-m", "pytest", *options, *paths, home=tmp_path, timeout=200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["handout", "unused"], "This is a handout already"), (["exercises", "build"], "build exercises in a checkout")],
)
def test_what_needs_the_repository_says_so(copy: Path, tmp_path: Path, arguments: list[str], said: str) -> None:
    done = run(copy, "-m", "labserver", *arguments, home=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (copy / "unused").exists()


def test_every_target_of_its_makefile_can_be_made(copy: Path, demand: Callable[[str, bool, str], None]) -> None:
    demand("make", bool(shutil.which("make")), "install it.")
    text = (copy / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", text, re.M))
    named = set(re.findall(r"^#\s+make ([a-z]+)", text, re.M))
    assert named == targets - {"env", "stale"} == {"lab", "slides", "clean"}
    for target in targets:
        planned = subprocess.run(["make", "-n", target], cwd=copy, capture_output=True, text=True, check=False)
        assert planned.returncode == 0, planned.stderr
        assert not re.search(
            r"(?<![\w-])tests(?![\w-])|solutions|-m (?:pytest|ruff|mypy)", planned.stdout.replace(str(copy), "")
        )
