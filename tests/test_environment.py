"""Every way to build the environment gives the same packages: uv.lock, constraints.txt, environment.yml.

Conda itself does not run here. Its part of environment.yml is parsed by py-rattler as conda would, and the pip part is
installed exactly as written into a fresh environment.
"""

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rattler import Channel, MatchSpec

ROOT = Path(__file__).resolve().parent.parent
CARD = ["jupyterlab", "fastapi", "uvicorn", "nest-asyncio", "httpx", "websockets", "anthropic", "redis"]
CARD += ["pytest", "nbval"]
EXPORT = runpy.run_path(str(ROOT / "tests/export.py"))


@pytest.fixture(scope="module")
def environment() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def pip_lines(environment: dict[str, Any]) -> list[str]:
    """The lines that conda hands to pip."""
    return next(part["pip"] for part in environment["dependencies"] if isinstance(part, dict))


@pytest.fixture(scope="module")
def locked() -> dict[str, set[str]]:
    """Package -> its versions in uv.lock; a package may have one per Python version."""
    versions: dict[str, set[str]] = {}
    for package in tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]:
        versions.setdefault(package["name"], set()).add(package["version"])
    return versions


@pytest.fixture(scope="module")
def uv(demand: Callable[[str, bool, str], None]) -> str:
    found: str = EXPORT["uv"]()
    demand("uv", bool(found), "install it, or run `make test`, which fetches it.")
    return found


def run(*command: str | Path, cwd: Path = ROOT, timeout: float = 90) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def test_conda_reads_the_channels_and_the_specs(environment: dict[str, Any]) -> None:
    assert set(environment) == {"name", "channels", "dependencies"}
    assert [Channel(name).name for name in environment["channels"]] == ["conda-forge", "nodefaults"]
    specs = [MatchSpec(line, strict=True) for line in environment["dependencies"] if isinstance(line, str)]
    assert [spec.name.normalized for spec in specs] == ["python", "pip"]
    assert sum(isinstance(line, dict) for line in environment["dependencies"]) == 1


@pytest.mark.parametrize("version", ["3.11.7", "3.13.0"])
def test_conda_may_take_the_pythons_that_are_tested(environment: dict[str, Any], version: str) -> None:
    wanted = MatchSpec(environment["dependencies"][0], strict=True).version
    assert wanted is not None
    minor = tuple(map(int, version.split(".")[:2]))
    low, high = re.findall(r"(\d+)\.(\d+)", wanted)
    assert tuple(map(int, low)) <= minor < tuple(map(int, high))


def test_the_pip_part_names_the_constraints_the_ten_packages_and_this_project(pip_lines: list[str]) -> None:
    names = [line.split("==")[0] for line in pip_lines]
    assert names == ["-c constraints.txt", *CARD, "-e .[lab,test]"]


def test_its_pins_are_those_of_the_lock(pip_lines: list[str], locked: dict[str, set[str]]) -> None:
    pins = dict(line.split("==") for line in pip_lines if "==" in line)
    assert {name: {version} for name, version in pins.items()} == {name: locked[name] for name in CARD}


def test_constraints_are_a_fresh_export_of_the_lock(uv: str) -> None:
    assert (ROOT / "constraints.txt").read_text(encoding="utf-8") == EXPORT["constraints"](), "run tests/export.py"


def test_constraints_hold_versions_and_markers_alone(locked: dict[str, set[str]]) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()[1:]
    shape = re.compile(r"([a-z0-9.-]+)==([^\s;]+)( ; .+)?")
    found = [match for line in lines if (match := shape.fullmatch(line))]
    assert len(found) == len(lines) > 100
    assert all(match[2] in locked[match[1]] for match in found)


def test_the_lock_fits_pyproject(uv: str) -> None:
    checked = run(uv, "lock", "--check", "--offline")
    if "offline" in checked.stderr.lower() or "network" in checked.stderr.lower():  # an empty cache: ask the index
        checked = run(uv, "lock", "--check")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.timeout(240)
def test_the_pip_part_installs_in_a_fresh_environment_and_the_doctor_runs_there(
    uv: str, pip_lines: list[str], tmp_path: Path
) -> None:
    made = run(uv, "venv", "--python", sys.executable, tmp_path / "env")
    assert made.returncode == 0, made.stderr
    folder = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin")
    words = [word for line in pip_lines for word in shlex.split(line)]
    installed = run(uv, "pip", "install", "--python", folder / "python", *words, timeout=180)
    assert installed.returncode == 0, installed.stderr

    listed = json.loads(run(uv, "pip", "list", "--format", "json", "--python", folder / "python").stdout)
    versions = {package["name"]: package["version"] for package in listed}
    pins = dict(line.split("==") for line in pip_lines if "==" in line)
    assert {name: versions[name] for name in CARD} == pins

    doctor = run(folder / "labserver", "doctor", cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stdout + doctor.stderr
    assert "event loop" in doctor.stdout
