"""Real parts: found where they are, and a sentence that says what to do where they are not."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage import parts
from labserver.stage.parts import PARTS, find, find_all


def bare(monkeypatch: pytest.MonkeyPatch, empty: Path) -> None:
    """Make this machine look as if nothing were installed beside Python."""
    monkeypatch.setenv("PATH", str(empty))
    monkeypatch.setattr(parts, "_packaged", lambda distribution, program: None)
    monkeypatch.setattr(parts, "_embedded_valkey", lambda: None)
    monkeypatch.setattr(parts, "CHROME_FILES", ())


@pytest.mark.parametrize("name", ["broker", "nginx", "nats", "chromium"])
def test_a_part_that_is_here_is_a_program_that_can_run(name: str, require: Callable[[str], None]) -> None:
    require(name)
    assert os.access(find(name, Settings(redis_url=None)).detail, os.X_OK)


@pytest.mark.parametrize("name", ["broker", "nginx", "nats", "chromium"])
def test_a_missing_part_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare(monkeypatch, tmp_path)
    part = find(name, Settings(redis_url=None))
    assert not part.available
    assert "install" in part.reason
    assert part.reason.endswith(".")


@pytest.mark.skipif(os.name == "nt", reason="the lab stages no nginx on Windows")
def test_a_program_on_path_is_taken_where_no_package_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bare(monkeypatch, tmp_path)
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert find("nginx").detail == str(program)


def test_your_own_broker_is_used_when_it_answers_and_its_password_is_not_kept() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        part = find("broker", Settings(redis_url=f"redis://user:hush@127.0.0.1:{port}/0?password=hush"))
    assert part.available
    assert part.detail == f"redis://127.0.0.1:{port}/0"


@pytest.mark.parametrize(
    "url", ["http://hush@x/", "redis://:hush@127.0.0.1:1/0", "redis://:hu/sh@h", "unix:///none?x=hush"]
)
def test_your_own_broker_that_does_not_answer_is_a_reason_without_its_password(url: str) -> None:
    part = find("broker", Settings(redis_url=url))
    assert not part.available
    assert "LABSERVER_REDIS_URL is set, but" in part.reason
    assert "hush" not in str(part)


def test_the_fake_endpoint_is_the_default_and_a_key_alone_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    own = find("llm", Settings(llm="fake"))
    assert (own.available, own.detail) == (True, "the lab's own, no key needed")
    assert find("llm", Settings(llm="anthropic", model="m")).detail == "Anthropic, model m, for money"
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://me:hush@gateway.example/?token=hush")
    assert find("llm", Settings(llm="anthropic", model="m")).detail == (
        "Anthropic at https://gateway.example/, model m, for money"
    )
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    missing = find("llm", Settings(llm="anthropic"))
    assert not missing.available
    assert "ANTHROPIC_API_KEY is not set; set it, or unset LABSERVER_LLM" in missing.reason
    assert find("llm", Settings(llm="anthropic", llm_url="http://own:hush@there")).detail == (
        "http://there (LABSERVER_LLM_URL)"
    )


def test_every_part_is_looked_for_and_an_unknown_one_is_named() -> None:
    assert [part.name for part in find_all()] == list(PARTS)
    with pytest.raises(LabError, match="no part 'wings'"):
        find("wings")
