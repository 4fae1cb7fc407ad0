"""Run an exercise's checks against a served answer, in a process of their own, within one deadline.

The process is `python -m pytest` with `plugin`. What it wrote until it ended, or was ended, becomes one `Report`.
Nothing is judged by its exit code or its standard error; a check without a result is a failure.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from time import monotonic, sleep
from typing import Any, cast

from labserver import posix
from labserver.errors import LabError
from labserver.school import preload
from labserver.school.catalogue import Exercise, Hidden, exercise
from labserver.school.catalogue import hidden as hidden_of
from labserver.school.checking import Check
from labserver.school.verdicts import CheckResult, CheckVerdict, Report, summarise
from labserver.settings import get_settings

__all__ = ["AnswerDied", "answer_arguments", "run_checks", "serving", "wait_announced"]

_OPTIONS = ("-q", "--noconftest", "--import-mode=importlib", "-p", "no:cacheprovider", "-o", "addopts=")
_SEEDS = SystemRandom()
_SHOWN = 2000  # bytes of what pytest printed, in which the reason for a fault of ours stands


class AnswerDied(LabError):
    """The answer could not be served; the sentence says why."""


def run_checks(
    url: str,
    exercise_id: str,
    *,
    timeout: float | None = None,
    seed: int | None = None,
    only: str | None = None,
    hidden: bool = False,
    confirm: bool = False,
    preloaded: bool = False,
) -> Report:
    """Run the checks against a server and report.

    Args:
        url: where the answer is served, `http://host:port`.
        exercise_id: for instance `01_websocket_basics`.
        timeout: seconds for everything, `settings.checks_timeout` when None; checks without a turn are `never ran`.
        seed: repeats the payloads of an earlier report; None draws one.
        only: the name of the one check to run; None runs all.
        hidden: run the hidden checks as well, where there are any.
        confirm: run what failed once more, with the same payloads: what then passes is `unstable` and not `failed`.
        preloaded: run them in a fork of a process that has imported what they need, for one who runs many (POSIX).

    Raises:
        LabError: if there is no such exercise, or no such check in it.
    """
    known = exercise(exercise_id)
    if only is not None:
        known = known.only(only)
    unseen = hidden_of(known.id) if hidden else None
    chosen = _SEEDS.randrange(1, 1 << 31) if seed is None else seed
    seconds = get_settings().checks_timeout if timeout is None else timeout
    with tempfile.TemporaryDirectory(prefix="labserver-checks-") as folder:
        results = Path(folder) / "results.jsonl"
        arguments = ["--answer-url", url, "--answer-results", str(results), "--answer-seed", str(chosen)]
        arguments += ["--answer-only", only] if only is not None else []
        arguments += ["--answer-confirm"] if confirm else []
        arguments += [str(known.check_file), *([str(unseen.path)] if unseen else [])]
        output = (_forked if preloaded else _spawned)(_options(arguments, results), results, seconds)
        lines = _lines(results)
    return _report(known, unseen, lines, chosen, output)


def _options(arguments: list[str], results: Path) -> list[str]:
    options = [*_OPTIONS, "-p", "labserver.school.plugin", "-c", os.devnull, "-o", "python_functions=check_*"]
    return [*options, "--rootdir", str(results.parent), *arguments]


def _forked(options: list[str], results: Path, timeout: float) -> str:
    """As `_spawned`, in a fork."""
    environment, call = dict(os.environ), "labserver.school.plugin:run"
    forks, forked = preload.with_server(
        preload.checks, lambda server: (server, server.call(call, options, results.parent, environment))
    )
    try:
        return forked.output(timeout, last=_SHOWN).decode(errors="replace")
    finally:
        if not forked.over:
            forks.kill(forked)
        forked.close()


def _spawned(options: list[str], results: Path, timeout: float) -> str:
    """Run pytest to its end or the deadline; return the last of what it printed, for our own faults."""
    command = [sys.executable, "-m", "pytest", *options]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    for variable in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        environment.pop(variable, None)
    with (results.parent / "output.txt").open("w+b") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=results.parent,
            start_new_session=True,
        )
        _wait_or_kill(process, timeout)
        output.seek(0)
        return output.read()[-_SHOWN:].decode(errors="replace")


def _wait_or_kill(process: "subprocess.Popen[bytes]", timeout: float) -> None:
    """Wait; leave nothing behind, whether it ends, hangs, or we are interrupted.

    On POSIX also what it started; only what left its group and outlived its own parent escapes. `sandbox` has more.
    """
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if posix.available():
            posix.kill_tree(process.pid)
            posix.kill_group(process.pid)
        if process.poll() is None:
            process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _lines(results: Path) -> list[dict[str, Any]]:
    """The result lines; a last line cut short by the kill is dropped."""
    if not results.exists():
        return []
    found = []
    for line in results.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _report(known: Exercise, unseen: Hidden | None, lines: list[dict[str, Any]], seed: int, output: str) -> Report:
    every = [*known.checks, *(unseen.checks if unseen else ())]
    planned: list[str] = next((line["names"] for line in lines if line["kind"] == "plan"), [])
    if set(planned) != {check.name for check in every}:
        reason = f"The checks could not start, which is no fault of the answer: {_why(output)}"
        return Report(known.id, "not checked", reason, 0, known.max_points, seed=seed)
    results = tuple(_result(check, lines) for check in known.checks)
    guards = tuple(_result(check, lines) for check in every if check.guards)
    report = summarise(known.id, tuple(_guarded(results, guards, unseen)), seed=seed, hidden=guards)
    if broken := next((result for result in (*results, *guards) if result.verdict == "error"), None):
        reason = f"A check broke, which is no fault of the answer: {broken.name}: {broken.seen}"
        return replace(report, verdict="not checked", reason=reason)
    known_by = known.misconception_of(_failed(results))
    if unseen and not _failed(results):
        known_by = unseen.misconception_of(_failed(guards))
    return replace(report, misconception=known_by)


def _failed(results: Iterable[CheckResult]) -> frozenset[str]:
    return frozenset(result.name for result in results if not result.passed)


def _guarded(
    results: Iterable[CheckResult], guards: Iterable[CheckResult], unseen: Hidden | None
) -> Iterator[CheckResult]:
    """The visible results; one that passed while a hidden check of the same matter failed shows what that one saw."""
    guarded = {check.name: check.guards for check in unseen.checks} if unseen else {}
    lost: dict[str, CheckResult] = {}
    for guard in guards:
        if not guard.passed:
            lost.setdefault(guarded[guard.name], guard)
    for result in results:
        if result.passed and (found := lost.get(result.name)):
            yield replace(found, name=result.name, title=result.title, points=result.points, guard=found.name)
        else:
            yield result


def _why(output: str) -> str:
    """The exception that pytest marked by an E, else its last line."""
    told = output.strip().splitlines() or [""]
    return next((line[1:].strip() for line in reversed(told) if line.startswith("E  ")), told[-1])


def _result(check: Check, lines: list[dict[str, Any]]) -> CheckResult:
    """Fold the runs of one check into its result; the first run that failed is the one shown."""
    mine = [line for line in lines if line.get("name") == check.name]
    runs = [line for line in mine if line["kind"] == "result" and line["outcome"] != "settled"]
    hung = sum(line["kind"] == "start" for line in mine) > sum(line["kind"] == "result" for line in mine)
    verdict = _verdict([run["outcome"] for run in runs], check.repeat, hung)
    shown: Mapping[str, Any] = next((run for run in runs if run["outcome"] != "passed"), {})
    seen = str(shown.get("seen", ""))
    if verdict in ("timeout", "never ran") and not seen:
        seen = "no end within the time for all checks" if verdict == "timeout" else "the time was up before its turn"
    return CheckResult(
        name=check.name,
        points=check.points,
        earned=check.points if verdict == "passed" else 0,
        verdict=verdict,
        title=check.title,
        seen=seen,
        expected=str(shown.get("expected", "")) or ("" if verdict == "passed" else check.title),
        hint=check.hint,
        tape_text=str(shown.get("tape_text", "")),
        tape_svg=str(shown.get("tape_svg", "")),
        seconds=sum(float(run["seconds"]) for run in runs),
    )


def _verdict(outcomes: list[str], repeat: int, hung: bool) -> CheckVerdict:
    if "error" in outcomes:
        return "error"
    if hung:
        return "timeout"
    if not outcomes:
        return "never ran"
    if all(outcome == "passed" for outcome in outcomes):
        return "passed" if len(outcomes) == repeat else "never ran"
    if "passed" in outcomes:
        return "unstable"
    return cast(CheckVerdict, outcomes[0])


def answer_arguments(module: Path, object_name: str, announce: Path) -> list[str]:
    """The arguments of `serve_answer` for an answer's module file.

    The limit goes along as an argument, because `grade` serves the answer in a bare environment.
    """
    limit = str(get_settings().message_max_bytes)
    return [str(module), "--object", object_name, "--announce", str(announce), "--message-max-bytes", limit]


def wait_announced(announce: Path, process: "subprocess.Popen[bytes]", timeout: float) -> str:
    """Wait until the served answer has announced its port; return its URL.

    Raises:
        AnswerDied: if it fails to start, ends or is not up within `timeout` seconds; the sentence says which.
    """
    ends = monotonic() + timeout
    while True:
        over = process.poll() is not None
        if announce.exists():
            told = json.loads(announce.read_text(encoding="utf-8"))
            if "error" in told:
                raise AnswerDied(str(told["error"]))
            return f"http://127.0.0.1:{told['port']}"
        if over:
            raise AnswerDied(f"The answer's process ended by itself (exit code {process.returncode}) before it served.")
        if monotonic() > ends:
            raise AnswerDied(f"The answer did not start to serve within {timeout:g} s.")
        sleep(0.01)


@contextmanager
def serving(source: str, object_name: str, *, timeout: float | None = None) -> Iterator[str]:
    """Serve a module's source in a child process for the length of the block; yield its URL.

    For the participant's own machine: no limits and no scrubbed environment here, `grade` has those. It may take
    `timeout` seconds to start, `settings.answer_start_timeout` when None.

    Raises:
        AnswerDied: if it does not start.
    """
    seconds = get_settings().answer_start_timeout if timeout is None else timeout
    with tempfile.TemporaryDirectory(prefix="labserver-answer-") as folder:
        module, announce = Path(folder) / "answer.py", Path(folder) / "announce.json"
        module.write_text(source, encoding="utf-8")
        with (Path(folder) / "output.txt").open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "labserver.school.serve_answer",
                    *answer_arguments(module, object_name, announce),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder},  # what it leaves goes with it
                start_new_session=True,
            )
            try:
                yield wait_announced(announce, process, seconds)
            finally:
                _wait_or_kill(process, 0)
