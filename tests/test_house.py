"""The rules of the house: imports run one way, every module says what it is, and what the papers name is there."""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pre_commit.clientlib import load_config

from labserver.patterns import HELPERS

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "labserver"
MODULES = sorted(PACKAGE.rglob("*.py"))
PAPERS = ["README.md", "CONTRIBUTING.md", "INSTRUCTORS.md"]

BASE = {"", "settings", "errors", "posix"}  # what every room may know; "" is the package itself
MAY_IMPORT = {  # room -> the rooms it may know beside itself
    "settings": {"errors", "realtime"},  # the limits alone, see below
    "errors": set(),
    "posix": {"errors"},
    "patterns": {"settings"},
    "broken": {"settings", "patterns"},  # of the patterns what they share, see below
    "realtime": set(),  # it is copied without the rest
    "service": BASE | {"realtime"},
    "stage": BASE | {"patterns", "broken", "realtime", "service"},
    "school": BASE | {"patterns", "broken", "realtime", "service", "stage"},
    "bench": BASE | {"realtime", "service", "stage"},
    "__main__": BASE | {"service", "stage", "school", "bench"},
    "": set(),
}
COMES_WITH = {
    "anyio",
    "starlette",
    "pydantic",
    "jupyter-client",
    "ipython",
    "httpx2",
}  # FastAPI's base; the kernel's; that of the anthropic SDK


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return "" if first == "__init__.py" else first.removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports anywhere in it, relative ones made absolute."""
    here = ("labserver", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = list(here[: -node.level]) if node.level else []
            name = ".".join([*base, *filter(None, [node.module])])
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names if name == "labserver")


def rooms_known(path: Path) -> set[str]:
    names = [name.split(".") for name in imported(path) if name.split(".")[0] == "labserver"]
    return {parts[1] for parts in names if len(parts) > 1 and (PACKAGE / parts[1]).exists()} | {
        parts[1] for parts in names if len(parts) > 1 and (PACKAGE / f"{parts[1]}.py").exists()
    }


def texts() -> Iterator[tuple[str, str]]:
    """Yield name and text of every file that belongs to the project."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file() and not name.endswith((".png", ".jpg")):
            yield name, (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((PACKAGE / "broken").glob("*.py")), ids=lambda path: path.stem)
def test_a_twin_is_complete_in_itself_but_for_what_patterns_share(path: Path) -> None:
    shared = {f"labserver.patterns.{name}" for name in HELPERS}
    assert {name for name in imported(path) if name.startswith("labserver.patterns")} <= shared


def test_settings_know_of_realtime_its_limits_alone() -> None:
    known = {name for name in imported(PACKAGE / "settings.py") if name.startswith("labserver.realtime")}
    assert known == {"labserver.realtime.limits"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    forbidden = rooms_known(path) - {room(path)} - MAY_IMPORT[room(path)]
    assert not forbidden, f"{room(path)} may not know {sorted(forbidden)}"


def test_the_rule_would_see_an_import_that_runs_the_wrong_way(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    for name in ("stage", "school", "patterns"):
        (tmp_path / name).mkdir()
    bad = tmp_path / "patterns" / "x.py"
    bad.write_text("def f():\n    from ..stage import server\n    from labserver import school\n")
    assert rooms_known(bad) == {"stage", "school"}


@pytest.mark.parametrize(
    "path", [*MODULES, *sorted((ROOT / "tests").rglob("*.py"))], ids=lambda p: str(p.relative_to(ROOT))
)
def test_every_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def test_what_labserver_imports_is_declared() -> None:
    """The rooms that make the service need no extra; stage and school may also use the extra "lab"."""
    packages = importlib.metadata.packages_distributions()
    asked = [Requirement(line) for line in importlib.metadata.requires("labserver") or []]
    core = {canonicalize_name(one.name) for one in asked if "extra" not in str(one.marker)} | COMES_WITH
    lab = core | {
        canonicalize_name(one.name) for one in asked if "'lab'" in str(one.marker) or '"lab"' in str(one.marker)
    }
    checks = {canonicalize_name(one.name) for one in asked if '"test"' in str(one.marker)}
    peers = {canonicalize_name(one.name) for one in asked if '"bench"' in str(one.marker)} | {"django"}  # of channels
    undeclared = set()
    for path in MODULES:
        allowed = {"stage": lab, "school": lab | checks, "bench": lab | peers}.get(room(path), core)
        for name in {name.split(".")[0] for name in imported(path)} - {"labserver", *sys.stdlib_module_names}:
            if not {canonicalize_name(distribution) for distribution in packages.get(name, [name])} & allowed:
                undeclared.add(f"{path.relative_to(ROOT)}: {name}")
    assert undeclared == set()


@pytest.mark.parametrize("paper", PAPERS)
def test_the_make_commands_of_the_papers_exist(paper: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", (ROOT / paper).read_text(encoding="utf-8"), re.MULTILINE))
    words = {first or second for first, second in named}
    assert words
    assert words <= targets


def test_the_labserver_commands_of_the_papers_exist() -> None:
    text = "\n".join((ROOT / paper).read_text(encoding="utf-8") for paper in PAPERS)
    named = set(re.findall(r"(?:`|^)labserver ([a-z]+)", text, re.MULTILINE))
    shown = subprocess.run([sys.executable, "-m", "labserver", "--help"], capture_output=True, text=True, check=True)
    assert {"doctor", "serve", "token", "grade"} <= named
    assert [name for name in named if not re.search(rf"(?m)^\W*{name}\b", shown.stdout)] == []


def test_every_link_of_the_papers_to_a_file_leads_somewhere() -> None:
    for paper in PAPERS:
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / paper).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{paper}: {link}"


def test_no_file_holds_a_path_of_a_machine_or_a_registry_host() -> None:
    homes = "|".join(rf"/{folder}/\w" for folder in ("root", "work", "home(?!/ana/)", "Users"))  # Ana is an example
    hosts = "|".join(("pypi", "pythonhosted", "npmjs", "debian", "anaconda")) + r")\.(?:org|com|net)"
    wrong = re.compile(rf"(?<![\w.])(?:{homes})|(?:{hosts}")
    found = [
        f"{name}: {match[0]}"
        for name, text in texts()
        if name != "uv.lock"  # its format names the index of each package
        for match in [wrong.search(text)]
        if match
    ]
    assert found == []


def test_the_papers_for_other_programs_can_be_read_by_them() -> None:
    load_config(str(ROOT / ".pre-commit-config.yaml"))
    workflow = yaml.safe_load((ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8"))
    assert set(workflow["jobs"]) == {"linux", "other-systems", "conda"}


@pytest.mark.skipif(sys.platform == "win32", reason="bash and make are not part of Windows")
def test_the_script_of_ci_is_sound_and_runs_the_tests_last() -> None:
    script = ROOT / ".ci/run"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text(encoding="utf-8")
    assert text.rstrip().endswith("make test")
    assert "LABSERVER_REQUIRE=all" in text


@pytest.mark.skipif(sys.platform == "win32", reason="make is not part of Windows")
@pytest.mark.parametrize(
    ("python", "said"),
    [("no-such-python", "There is no no-such-python here."), ("{old}", "is Python 2.7.18, which is too old.")],
)
def test_make_says_in_one_sentence_that_a_python_will_not_do(python: str, said: str, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text('#!/bin/sh\necho "2.7.18 old $0"\n')
    old.chmod(0o755)
    command = ["make", "-C", str(ROOT), "--no-print-directory", "env", f"PYTHON={python.format(old=old)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 2
    assert said in done.stderr
    assert "make PYTHON=" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
