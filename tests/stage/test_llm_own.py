"""The LLM that a lab has of its own: lent to modules that ask for one, started with the first request, gone with it."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import anthropic
import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import fake_llm, lab_app, start
from labserver.stage.llms.own import OwnLlm

MODULE = """
from typing import Annotated
from fastapi import APIRouter, Depends
router = APIRouter()
def llm_url() -> str:
    return "nobody"
@router.get("{path}")
def where(url: Annotated[str, Depends(llm_url)]) -> str:
    return url
"""


def package(folder: Path, name: str, module: str, source: str) -> ModuleType:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("")
    (folder / name / f"{module}.py").write_text(source)
    return __import__(name)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(tmp_path))
    twin = 'PATTERN = "talk"\nWRONG = "Nothing."\n' + MODULE.replace("{path}", "/twin")
    yield (
        package(tmp_path, "llm_patterns", "talk", MODULE.replace("{path}", "/talk")),
        package(tmp_path, "llm_broken", "mute", twin),
    )
    for name in [name for name in sys.modules if name.startswith(("llm_patterns", "llm_broken"))]:
        del sys.modules[name]


def running() -> int:
    return sum(thread.name == "labserver-llm" for thread in threading.enumerate())


async def get(url: str) -> str:
    async with httpx.AsyncClient() as client:
        return str((await client.get(url)).json())


async def says(url: str) -> str:
    async with anthropic.AsyncAnthropic(base_url=url, api_key="any") as client:
        asked = [{"role": "user", "content": "Hi"}]
        async with client.messages.stream(model="m", max_tokens=50, messages=asked) as stream:  # type: ignore[arg-type]
            return await stream.get_final_text()


async def test_pattern_and_twin_share_one_that_starts_with_the_first_request(
    packages: tuple[ModuleType, ModuleType],
) -> None:
    app = lab_app(patterns=packages[0], broken=packages[1])
    before = running()
    with start(app, name="llm-lab") as live:
        assert running() == before
        paths = ("/talk", "/broken/mute/twin")
        async with httpx.AsyncClient() as client:
            answers = await asyncio.gather(*(client.get(live.url + path) for path in paths * 5))
        (url,) = {answer.json() for answer in answers}
        assert running() == before + 1
        assert await says(url)
    assert running() == before
    with pytest.raises(httpx.ConnectError):
        await get(f"{url}/requests")
    with start(app, name="llm-lab") as live:  # the same app once more
        assert await says(await get(f"{live.url}/talk"))
    assert running() == before


async def test_it_ends_while_an_answer_is_under_way(packages: tuple[ModuleType, ModuleType]) -> None:
    with start(lab_app(patterns=packages[0], broken=packages[1]), name="llm-lab") as live:
        url = await get(f"{live.url}/talk")
        async with anthropic.AsyncAnthropic(base_url=url, api_key="any") as client:
            asked = [{"role": "user", "content": "Hi #silent:1"}]
            async with client.messages.stream(model="m", max_tokens=50, messages=asked) as stream:  # type: ignore[arg-type]
                await anext(stream.text_stream)
                assert await asyncio.to_thread(live.stop)
    assert not running()


def test_the_settings_come_first(packages: tuple[ModuleType, ModuleType]) -> None:
    with fake_llm(name="llm-mine") as mine:
        app = lab_app(Settings(llm_url=mine.url), patterns=packages[0], broken=packages[1])
        before = running()
        with start(app, name="llm-lab") as live:
            assert httpx.get(f"{live.url}/talk").json() == mine.url
            assert running() == before


def test_a_lab_of_anthropics_without_a_key_says_what_to_do(
    packages: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    app = lab_app(Settings(llm="anthropic"), patterns=packages[0], broken=packages[1])
    with start(app, name="llm-lab") as live:
        answer = httpx.get(f"{live.url}/talk")
        assert (answer.status_code, live.errors()) == (503, [])
        assert "ANTHROPIC_API_KEY is not set: set it" in answer.json()["detail"]


async def test_a_lab_of_anthropics_asks_through_a_relay(
    packages: tuple[ModuleType, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    with fake_llm(name="llm-upstream") as upstream:
        monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
        monkeypatch.setenv("ANTHROPIC_BASE_URL", upstream.url)
        app = lab_app(Settings(llm="anthropic"), patterns=packages[0], broken=packages[1])
        with start(app, name="llm-lab") as live:
            url = await get(f"{live.url}/talk")
            assert url != upstream.url
            assert await says(url)
        assert [each.state for each in upstream.requests] == ["done"]


def test_it_is_not_started_any_more_when_its_lab_has_ended() -> None:
    from fastapi import HTTPException

    own = OwnLlm()
    with own:
        assert own.url(Settings(llm="fake")).startswith("http://127.0.0.1:")
    with pytest.raises(HTTPException):
        own.url(Settings(llm="fake"))
    assert not running()


def test_no_module_of_it_is_imported_at_start() -> None:
    import subprocess

    code = (
        "import sys; from labserver.stage import start; start(); "
        "print(sorted({'anthropic', 'labserver.stage.llms.stand', 'labserver.stage.llms.endpoint'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "[]\n"
