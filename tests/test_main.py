"""The command line's manners: a usage error is exit code 2 without a traceback."""

import subprocess
import sys

import pytest


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "labserver", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-command"], "No such command"),
        (["serve", "--port", "99999"], "--port"),
        (["serve", "--workers", "0"], "--workers"),
        (["token"], "Missing argument"),
    ],
)
def test_a_usage_error_exits_with_2_and_no_traceback(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_help_lists_every_command() -> None:
    said = run("--help").stdout
    assert [
        name
        for name in ("serve", "doctor", "token", "exercises", "grade", "handout", "next", "rehearse", "room", "slides")
        if name not in said
    ] == []
