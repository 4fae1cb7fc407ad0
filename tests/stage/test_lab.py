"""The lab's app: every pattern and twin mounted, each server with modules of its own."""

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import httpx
import pytest
from websockets.sync.client import connect

from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage import lab_app, rescue, start
from labserver.stage.lab import Twin, fresh, topics, twins

MODULES = {
    "patterns/__init__": 'TOPICS = {"second": 1, "first": 2}',
    "patterns/first": """
        from __future__ import annotations
        from contextlib import asynccontextmanager
        from dataclasses import dataclass, field
        from typing import Annotated, ClassVar
        from fastapi import APIRouter, Depends, WebSocket
        from pydantic import BaseModel
        from labserver.settings import Settings, get_settings

        @dataclass
        class Room:
            kind: ClassVar[str] = "room"
            members: list[str] = field(default_factory=list)

        class Said(BaseModel):
            members: list[str]

        room = Room()

        @asynccontextmanager
        async def lifespan(router):
            room.members.append("host")
            yield

        router = APIRouter(lifespan=lifespan)

        @router.post("/join/{who}")
        async def join(who: str) -> Said:
            room.members.append(who)
            return Said(members=room.members)

        @router.get("/interval")
        async def interval(settings: Annotated[Settings, Depends(get_settings)]) -> float:
            return settings.sse_interval

        @router.get("/shared")
        async def shared() -> str:
            return "first"
    """,
    "patterns/second": """
        from fastapi import APIRouter
        router = APIRouter()

        @router.get("/shared")
        async def shared() -> str:
            return "second"
    """,
    "patterns/_helper": "raise RuntimeError('private modules are not loaded')",
    "patterns/third": "router_is_missing = True",
    "broken/__init__": "",
    "broken/forgets": """
        from contextlib import asynccontextmanager
        from typing import Annotated
        from fastapi import APIRouter, Depends, WebSocket
        from starlette.middleware import Middleware
        from labserver.settings import Settings, get_settings
        PATTERN = "first"
        WRONG = "It forgets who joined."
        began = []

        class Mark:
            def __init__(self, app):
                self.app = app
            async def __call__(self, scope, receive, send):
                async def marked(message):
                    if message["type"] == "http.response.start":
                        message["headers"] = [*message["headers"], (b"x-mark", b"yes")]
                    await send(message)
                await self.app(scope, receive, marked)

        middleware = [Middleware(Mark)]

        @asynccontextmanager
        async def lifespan(router):
            began.append(True)
            yield

        router = APIRouter(lifespan=lifespan)

        @router.post("/join/{who}")
        async def join(who: str) -> bool:
            return bool(began)

        @router.get("/interval")
        async def interval(settings: Annotated[Settings, Depends(get_settings)]) -> float:
            return settings.sse_interval

        @router.websocket("/ws")
        async def ws(socket: WebSocket) -> None:
            await socket.accept()
            await socket.send_text("broken")
    """,
    "broken/freezes": """
        from fastapi import APIRouter
        PATTERN = "second"
        WRONG = "It never awaits."
        NEEDS_PROCESS = True
        router = APIRouter()

        @router.get("/alive")
        async def alive() -> bool:
            return True
    """,
}


@pytest.fixture
def rooms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, ModuleType]]:
    """Two small packages in place of the lab's own."""
    from textwrap import dedent

    root = f"rooms_{tmp_path.name}"
    for name, text in MODULES.items():
        file = tmp_path / root / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    yield {name: import_module(f"{root}.{name}") for name in ("patterns", "broken")}
    rescue()
    for name in [name for name in sys.modules if name.startswith(root)]:
        del sys.modules[name]


def test_patterns_answer_at_the_root_in_the_order_of_topics(rooms: dict[str, ModuleType]) -> None:
    assert topics(rooms["patterns"]) == ["second", "first", "third"]
    live = start(lab_app(**rooms))
    assert httpx.get(f"{live.url}/shared").json() == "second"
    assert httpx.post(f"{live.url}/join/ann").json() == {"members": ["host", "ann"]}


def test_each_server_has_a_state_of_its_own(rooms: dict[str, ModuleType]) -> None:
    one, two = start(lab_app(**rooms), name="one"), start(lab_app(**rooms), name="two")
    httpx.post(f"{one.url}/join/ann")
    assert httpx.post(f"{two.url}/join/bob").json() == {"members": ["host", "bob"]}
    again = start(lab_app(**rooms), name="one")
    assert httpx.post(f"{again.url}/join/cy").json() == {"members": ["host", "cy"]}


def test_a_fresh_copy_leaves_the_imported_module_alone(rooms: dict[str, ModuleType]) -> None:
    name = f"{rooms['patterns'].__name__}.first"
    imported = import_module(name)
    copy = fresh(name)
    assert copy is not imported
    assert copy.room is not imported.room
    assert sys.modules[name] is imported
    del sys.modules[name]
    fresh(name)
    assert name not in sys.modules


def test_a_module_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(LabError, match="no module"):
        fresh("labserver.patterns.no_such_topic")


def test_a_twin_is_an_app_of_its_own(rooms: dict[str, ModuleType]) -> None:
    live = start(lab_app(**rooms))
    answer = httpx.post(f"{live.url}/broken/forgets/join/ann")
    assert answer.json() is True  # its lifespan has run
    assert answer.headers["x-mark"] == "yes"
    assert "x-mark" not in httpx.post(f"{live.url}/join/ann").headers
    with connect(f"{live.ws_url}/broken/forgets/ws") as client:
        assert client.recv() == "broken"


def test_a_twin_that_nobody_asks_is_not_made(rooms: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr("labserver.stage.lab.fresh", lambda name: made.append(name) or fresh(name))
    app = lab_app(**rooms)
    for _ in range(2):  # the same app, served again: what ended with the first server is made anew
        with start(app) as live:
            assert [name for name in made if "broken" in name] == []
            for _ in range(2):
                assert httpx.post(f"{live.url}/broken/forgets/join/ann").json() is True
            assert [name for name in made if "broken" in name] == [f"{rooms['broken'].__name__}.forgets"]
        made.clear()


def test_settings_reach_patterns_and_twins(rooms: dict[str, ModuleType]) -> None:
    live = start(lab_app(Settings(sse_interval=0.125), **rooms))
    assert httpx.get(f"{live.url}/interval").json() == 0.125
    assert httpx.get(f"{live.url}/broken/forgets/interval").json() == 0.125


def test_the_index_says_what_is_wrong(rooms: dict[str, ModuleType]) -> None:
    live = start(lab_app(**rooms))
    forgets, freezes = httpx.get(f"{live.url}/broken").json()
    assert forgets == {
        "name": "forgets",
        "path": "/broken/forgets",
        "pattern": "first",
        "wrong": "It forgets who joined.",
        "needs_process": False,
    }
    assert freezes["needs_process"] is True


def test_a_twin_that_may_freeze_is_mounted_in_a_child_alone(rooms: dict[str, ModuleType]) -> None:
    live = start(lab_app(**rooms))
    refused = httpx.get(f"{live.url}/broken/freezes/alive")
    assert (refused.status_code, "start(process=True)" in refused.json()["detail"]) == (503, True)
    assert httpx.get(f"{live.url}/broken/freezes").status_code == 503
    assert httpx.get(f"{live.url}/broken/unheard_of").status_code == 404
    allowed = start(lab_app(needs_process=True, **rooms))
    assert httpx.get(f"{allowed.url}/broken/freezes/alive").json() is True


def test_start_alone_serves_the_labs_own_app() -> None:
    with start() as live:
        listed = httpx.get(f"{live.url}/broken").json()
        assert [twin["name"] for twin in listed] == [twin.name for twin in twins()]
        assert httpx.get(f"{live.url}/events").text.endswith("event: done\ndata: complete\n\n")


def test_the_service_answers_under_live() -> None:
    with start(name="lab-with-service") as live:
        assert httpx.get(f"{live.url}/live/healthz").json() == {"status": "ok"}
        with connect(f"{live.ws_url}/live/ws/echo") as websocket:
            websocket.send("hello")
            assert websocket.recv(timeout=5) == "hello"


def test_the_labs_own_app_in_a_child_mounts_every_twin() -> None:
    with start(process=True, settings=Settings(sse_interval=0.001)) as live:
        assert httpx.get(f"{live.url}/events").text.endswith("event: done\ndata: complete\n\n")
        schema = httpx.get(f"{live.url}/broken/crash_looks_like_the_end/openapi.json").json()
        assert "/events" in schema["paths"]


def test_every_twin_of_ours_says_whose_it_is() -> None:
    for twin in twins():
        assert isinstance(twin, Twin)
        assert twin.pattern in topics()
        assert twin.wrong.endswith(".")
