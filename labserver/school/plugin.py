"""The pytest plugin that runs a file of checks against a served answer and writes what happened, line by line.

Loaded by `run` alone (`python -m pytest -p labserver.school.plugin`). Each check runs `repeat` times as separate items
with a tape of its own. Each line of the result file is one JSON object: the plan first, then `start` and `result` of
each run; whoever reads a file that ends early knows which check hung and which never ran.
"""

import asyncio
import importlib
import inspect
import json
import time
from collections.abc import Coroutine, Generator, Iterator
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import urlsplit

import _pytest.config
import pytest

from labserver.school.checking import Check, Failed, check_of
from labserver.school.client_wire import ClientUnderTest
from labserver.school.hostile import Hostile
from labserver.school.lifeline import end_with_owner
from labserver.school.wire import AnswerUnderTest
from labserver.stage.tape import Tape

__all__: list[str] = []

_ROUND = "labserver_round"


class _Recorder:
    """Appends JSON lines; keeps the outcomes of each check's runs so far."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.outcomes: dict[str, list[str]] = {}

    def write(self, kind: str, **fields: Any) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")


class _OutOfTime(Exception):
    """The check's own deadline passed."""


_RECORDER = pytest.StashKey[_Recorder]()
_RESULT = pytest.StashKey[dict[str, str]]()
_TAPE = pytest.StashKey[Tape]()


def preload() -> None:
    """Import what pytest itself imports when it starts."""
    for name in _pytest.config.default_plugins:
        importlib.import_module(f"_pytest.{name}")


def run(arguments: list[str]) -> int:
    """Run pytest in this process, which is a fork made for it."""
    return int(pytest.main(arguments))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Say where the answer is served and where results go."""
    group = parser.getgroup("labserver")
    group.addoption("--answer-url", required=True, help="where the answer is served, http://host:port")
    group.addoption("--answer-results", required=True, help="the file of JSON lines to append to")
    group.addoption("--answer-seed", type=int, default=0, help="repeats the same payloads")
    group.addoption("--answer-only", default="", help="the one check to run")
    group.addoption("--answer-confirm", action="store_true", help="run what failed once more")


def pytest_configure(config: pytest.Config) -> None:
    """Open the results and tie this process to its owner's life."""
    config.stash[_RECORDER] = _Recorder(Path(config.getoption("--answer-results")))
    end_with_owner()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make `repeat` items of each check, and a second one to confirm the only one."""
    check = check_of(metafunc.function)
    if check is not None:
        runs = max(check.repeat, 2 if metafunc.config.getoption("--answer-confirm") else 1)
        metafunc.fixturenames.append(_ROUND)
        metafunc.parametrize(_ROUND, range(runs), ids=[f"run{n + 1}" for n in range(runs)])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the one check that was asked for; confirm when all else has run."""
    only = config.getoption("--answer-only")
    items[:] = [item for item in items if not only or ((check := _check(item)) and check.name == only)]
    items.sort(key=_confirms)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan: the names in the order they will run."""
    names = dict.fromkeys(check.name for item in session.items if (check := _check(item)))
    session.config.stash[_RECORDER].write("plan", names=list(names))


@pytest.fixture
def answer(request: pytest.FixtureRequest) -> Iterator[AnswerUnderTest]:
    """The answer under test, seen through a tape."""
    address = urlsplit(str(request.config.getoption("--answer-url")))
    with Tape(str(address.hostname), int(address.port or 80)) as tape:
        request.node.stash[_TAPE] = tape
        direct = f"http://{address.netloc}"
        yield AnswerUnderTest(tape.url.rstrip("/"), tape.ws_url.rstrip("/"), direct, _random(request))


@pytest.fixture
def client(request: pytest.FixtureRequest) -> Iterator[ClientUnderTest]:
    """The answer under test when it is a client; the tape is between it and a hostile server."""
    with Hostile() as hostile, Tape("127.0.0.1", hostile.port) as tape:
        request.node.stash[_TAPE] = tape
        url = str(request.config.getoption("--answer-url"))
        yield ClientUnderTest(url, hostile, tape.url, _random(request))


def _random(request: pytest.FixtureRequest) -> Random:
    """The payloads of this run of this check; a run that confirms has those of the run that it repeats."""
    check = _check(request.node)
    assert check is not None
    round = request.getfixturevalue(_ROUND) % check.repeat
    return Random(f"{request.config.getoption('--answer-seed')}/{check.name}/{round}")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run an async check to its end or its deadline."""
    check = _check(pyfuncitem)
    if check is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    asyncio.run(_within(check.deadline, pyfuncitem.obj(**arguments)))
    return True


async def _within(deadline: float, coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        async with asyncio.timeout(deadline) as limit:
            await coroutine
    except TimeoutError:
        if limit.expired():
            raise _OutOfTime from None
        raise


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run one run of a check, unless earlier runs have settled it, and write its result."""
    recorder, check = item.config.stash[_RECORDER], _check(item)
    if check is None:
        return (yield)
    recorder.write("start", name=check.name)
    item.stash[_RESULT] = {"outcome": "error", "seen": "the check did not run", "expected": ""}
    began = time.perf_counter()
    done = yield
    found = item.stash[_RESULT]
    if found["outcome"] not in ("passed", "settled"):
        found |= _drawn(item.stash.get(_TAPE, None))
    recorder.write("result", name=check.name, seconds=time.perf_counter() - began, **found)
    recorder.outcomes.setdefault(check.name, []).append(found["outcome"])
    return done


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a run that would tell nothing more."""
    check = _check(item)
    if check is not None and _settled(item, check, item.config.stash[_RECORDER].outcomes):
        item.stash[_RESULT] = {"outcome": "settled", "seen": "", "expected": ""}
        pytest.skip("settled")


def _settled(item: pytest.Item, check: Check, outcomes: dict[str, list[str]]) -> bool:
    """Whether a check failed twice and never passed; nothing is to be confirmed where it passed or where all failed."""
    before = outcomes.get(check.name, [])
    if not _confirms(item):
        return len(before) >= 2 and "passed" not in before
    return before == ["passed"] or not any("passed" in each for each in outcomes.values())


def _confirms(item: pytest.Item) -> bool:
    """Whether this is the run beyond those that its check asks for."""
    check = _check(item)
    return (
        isinstance(item, pytest.Function)
        and check is not None
        and int(str(item.callspec.params[_ROUND])) >= check.repeat
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn what a phase raised into an outcome with `seen` and `expected`."""
    check = _check(item)
    if check is not None:
        raised = call.excinfo.value if call.excinfo is not None else None
        if raised is not None and not isinstance(raised, pytest.skip.Exception):
            item.stash[_RESULT] = _outcome(check, raised)
        elif call.when == "call" and raised is None:
            item.stash[_RESULT] = {"outcome": "passed", "seen": "", "expected": ""}
    return (yield)


def _outcome(check: Check, raised: BaseException) -> dict[str, str]:
    failures = [leaf for leaf in _leaves(raised) if isinstance(leaf, Failed)]
    if failures:
        return {"outcome": "failed", "seen": failures[0].seen, "expected": failures[0].expected}
    if isinstance(raised, _OutOfTime):
        return {"outcome": "timeout", "seen": f"no end after {check.deadline:g} s", "expected": check.title}
    return {"outcome": "error", "seen": f"the check itself broke: {type(raised).__name__}: {raised}", "expected": ""}


def _leaves(raised: BaseException) -> Iterator[BaseException]:
    if isinstance(raised, BaseExceptionGroup):
        for inner in raised.exceptions:
            yield from _leaves(inner)
    else:
        yield raised


def _drawn(tape: Tape | None) -> dict[str, str]:
    """The failing exchange as a picture and its twin; a fault in drawing costs the picture alone."""
    try:
        if tape is None or not tape.events:
            return {}
        picture = tape.show()
    except Exception as error:
        return {"tape_text": f"(the tape could not be drawn: {type(error).__name__}: {error})"}
    return {"tape_text": picture.twin, "tape_svg": picture.svg}


def _check(item: object) -> Check | None:
    return check_of(getattr(item, "obj", None))
