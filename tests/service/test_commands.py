"""Tokens that the command prints, and what `serve` and `token` refuse, each in one sentence with exit code 2."""

import os
import socket
import subprocess
import sys
import time

import jwt
import pytest

SECRET = "0123456789abcdef0123456789abcdef"


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "LABSERVER_SECRET"} | variables
    command = [sys.executable, "-m", "labserver", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30, check=False)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Return the sentence of a refusal, after checking that it is one."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert result.stdout == ""
    return result.stderr


def test_a_token_names_its_user_audience_and_expiry() -> None:
    before = int(time.time())
    result = run("token", "alice", "--ttl", "90", "--aud", "elsewhere", LABSERVER_SECRET=SECRET)
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], audience="elsewhere")
    assert claims["sub"] == "alice"
    assert before + 90 <= claims["exp"] <= time.time() + 90
    assert SECRET not in result.stdout + result.stderr


def test_a_token_has_the_settings_audience_and_time_by_default() -> None:
    result = run("token", "bob", LABSERVER_SECRET=SECRET, LABSERVER_TOKEN_TTL="10", LABSERVER_TOKEN_AUDIENCE="room")
    claims = jwt.decode(result.stdout.strip(), SECRET, algorithms=["HS256"], audience="room")
    assert claims["exp"] - claims["iat"] == pytest.approx(10)


def test_a_token_without_a_secret_is_refused() -> None:
    assert "LABSERVER_SECRET is not set" in refused(run("token", "alice"))


def test_a_short_secret_is_refused_without_being_shown() -> None:
    said = refused(run("token", "alice", LABSERVER_SECRET="tooshort"))
    assert "too short (8 bytes)" in said
    assert "tooshort" not in said


@pytest.mark.parametrize("ttl", ["0", "-5", "inf", "nan"])
def test_a_time_that_is_none_is_refused(ttl: str) -> None:
    assert "--ttl" in refused(run("token", "alice", f"--ttl={ttl}", LABSERVER_SECRET=SECRET))


def test_an_empty_user_is_refused() -> None:
    assert "USER is empty" in refused(run("token", " ", LABSERVER_SECRET=SECRET))


def test_several_workers_are_refused_on_the_memory_engine_with_the_reason() -> None:
    assert "keeps messages in one process" in refused(run("serve", "--workers", "2", "--port", "0"))


def test_one_worker_does_not_start_with_a_short_secret() -> None:
    assert "too short" in refused(run("serve", "--port", "0", LABSERVER_SECRET="x" * 31))


def test_an_origin_that_is_none_is_refused() -> None:
    said = refused(run("serve", "--port", "0", LABSERVER_ORIGINS='["example.com"]'))
    assert "LABSERVER_ORIGINS" in said
    assert "https://example.com" in said


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} on 127.0.0.1 is in use" in refused(run("serve", "--port", port))


def test_an_address_that_is_not_ours_is_refused() -> None:
    assert "Cannot listen on" in refused(run("serve", "--host", "203.0.113.1", "--port", "0"))


@pytest.mark.parametrize("host", ["..", "a." + "x" * 64, "\udcff"])
def test_a_host_that_no_name_can_be_is_refused(host: str) -> None:
    said = refused(run("serve", "--host", host, "--port", "0"))
    assert "each part between dots has 1 to 63 characters" in said
    assert "--host" in said


def test_a_variable_that_does_not_fit_is_named() -> None:
    assert "LABSERVER_TOKEN_TTL" in refused(run("token", "alice", LABSERVER_TOKEN_TTL="soon"))
