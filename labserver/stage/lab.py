"""The lab's own app: patterns at their usual paths, each twin as an app under `/broken/<name>`, the service at `/live`.

Each module is executed afresh for each app, so that its state (rooms, logs, counters) belongs to one server and
re-running a notebook starts clean. Patterns and twins know nothing of this; only the stage mounts them.
"""

import ast
import asyncio
import pkgutil
import sys
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.types import Receive, Scope, Send

import labserver.broken
import labserver.patterns
from labserver.errors import LabError
from labserver.service import app as service_app
from labserver.service.app import create_app, refuse_bad_input
from labserver.settings import Settings, get_settings
from labserver.stage import files
from labserver.stage.databases import OwnDatabase
from labserver.stage.llms.own import OwnLlm
from labserver.stage.server import give_settings

__all__ = ["Twin", "fresh", "lab_app", "topics", "twins"]

_importing = threading.RLock()


@dataclass(frozen=True, slots=True)
class Twin:
    """A broken twin as the lab's index lists it.

    Attributes:
        name: its module's name in `labserver.broken`.
        pattern: whose twin it is.
        wrong: what is wrong, in one line.
        needs_process: whether it may freeze its process, so that only `start(process=True)` serves it.
    """

    name: str
    pattern: str
    wrong: str
    needs_process: bool

    @property
    def path(self) -> str:
        """Where its routes begin."""
        return f"/broken/{self.name}"


def topics(package: ModuleType = labserver.patterns) -> list[str]:
    """Return the names of the patterns' modules: in the order of `TOPICS` where the package has one, then by name."""
    found = _names(package)
    order = [name for name in getattr(package, "TOPICS", ()) if name in found]
    return order + [name for name in found if name not in order]


def twins(package: ModuleType = labserver.broken) -> list[Twin]:
    """Return every broken twin, by name; none of their modules is executed."""
    return [_twin(Path(package.__path__[0], f"{name}.py")) for name in _names(package)]


def fresh(name: str) -> ModuleType:
    """Execute the module `name` once more and return the copy; what others imported under that name stays as it is.

    Raises:
        LabError: there is no such module.
    """
    spec = find_spec(name)
    if spec is None or spec.loader is None:
        raise LabError(f"There is no module {name!r}: is labserver installed whole?")
    module = module_from_spec(spec)
    with _importing:
        imported = sys.modules.get(name)
        sys.modules[name] = module  # dataclasses and pydantic look up their module's names here while it is executed
        try:
            spec.loader.exec_module(module)
        finally:
            if imported is None:
                del sys.modules[name]
            else:
                sys.modules[name] = imported
    return module


def lab_app(
    settings: Settings | None = None,
    *,
    needs_process: bool | None = None,
    patterns: ModuleType = labserver.patterns,
    broken: ModuleType = labserver.broken,
) -> FastAPI:
    """Return a new lab's app with a state of its own.

    Args:
        settings: what `Depends(get_settings)` gives in it; None means the process's; without a secret, one is made.
        needs_process: whether to mount the twins that may freeze their process; None means: in a child process only.
        patterns: the package of the patterns.
        broken: the package of the twins.
    """
    if needs_process is None:
        from labserver.stage import process

        needs_process = process.in_child()
    known = twins(broken)
    own, stack = _Own(), AsyncExitStack()
    live = create_app(open_login=True)
    app = FastAPI(title="The streaming lab", lifespan=_lifespan_of(stack, own, live))
    app.add_exception_handler(RequestValidationError, refuse_bad_input)
    for name in topics(patterns):
        module = fresh(f"{patterns.__name__}.{name}")
        if hasattr(module, "router"):
            app.include_router(module.router)
            _lend(app, own, module)
    for twin in known:
        if needs_process or not twin.needs_process:
            app.mount(twin.path, _TwinApp(twin, broken, own, stack), name=twin.name)
    app.mount("/live", live, name="live")
    for module in service_app.ROUTERS:
        _lend(live, own, module)
    _add_index(app, known)
    give_settings(app, settings or get_settings())
    return app


def _names(package: ModuleType) -> list[str]:
    found = {module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")}
    return sorted(found - {*getattr(package, "HELPERS", ())})


@cache
def _twin(file: Path) -> Twin:
    """Read what a twin says about itself from its source, where these are plain values."""
    says = {
        target.id: node.value.value
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return Twin(file.stem, str(says["PATTERN"]), str(says["WRONG"]), bool(says.get("NEEDS_PROCESS", False)))


class _Own:
    """What one lab has of its own, where its settings name none."""

    def __init__(self) -> None:
        self.database, self.llm = OwnDatabase(), OwnLlm()


class _TwinApp:
    """A twin's app, made from a fresh copy of its module when it is first asked: most servers never ask for most.

    Its lifespan begins then, and ends with that of the lab's app.
    """

    def __init__(self, twin: Twin, package: ModuleType, own: _Own, stack: AsyncExitStack) -> None:
        self.dependency_overrides: dict[Any, Any] = {}  # of a FastAPI app, so that settings reach it before it is made
        self._twin, self._package, self._own, self._stack = twin, package, own, stack
        self._forget()

    def _forget(self) -> None:
        self._making = asyncio.Lock()
        self._app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._making:
            app = self._app = self._app or await self._make()
        await app(scope, receive, send)

    async def _make(self) -> FastAPI:
        module = fresh(f"{self._package.__name__}.{self._twin.name}")
        middleware = getattr(module, "middleware", None)
        app = FastAPI(title=self._twin.name, description=self._twin.wrong, middleware=middleware)
        app.add_exception_handler(RequestValidationError, refuse_bad_input)
        app.dependency_overrides = self.dependency_overrides
        app.include_router(module.router)
        _lend(app, self._own, module)
        self._stack.callback(self._forget)
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        return app


def _lend(app: FastAPI, own: _Own, module: ModuleType) -> None:
    """Let a module that asks for a database, a folder or an LLM have the lab's own, where the settings name none."""
    if hasattr(module, "database_url"):
        app.dependency_overrides[module.database_url] = own.database.url
    if hasattr(module, "llm_url"):
        app.dependency_overrides[module.llm_url] = own.llm.url
    if hasattr(module, "files_root"):
        app.dependency_overrides[module.files_root] = files.own_root


def _lifespan_of(stack: AsyncExitStack, own: _Own, live: FastAPI) -> Any:
    """Return a lifespan at whose end everything in `stack` ends, then what is the lab's own.

    A mounted app has none by itself. A stop says goodbye to the streams of `live` at once: a lesson does not wait.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        async with stack:
            stack.callback(own.database.remove)
            stack.enter_context(own.llm)
            stack.enter_context(files.in_use())
            state = await stack.enter_async_context(live.router.lifespan_context(live))
            yield {"drain of live": (state or {}).get("drain")}  # "drain" is a pattern's

    return lifespan


def _add_index(app: FastAPI, known: list[Twin]) -> None:
    """List the twins, and say why one that is known does not answer."""
    by_name = {twin.name: twin for twin in known}

    @app.get("/broken")
    def index() -> list[dict[str, str | bool]]:
        return [
            {"name": t.name, "path": t.path, "pattern": t.pattern, "wrong": t.wrong, "needs_process": t.needs_process}
            for t in known
        ]

    @app.api_route("/broken/{name}", include_in_schema=False)
    @app.api_route("/broken/{name}/{path:path}", include_in_schema=False)
    def not_mounted(name: str, path: str = "") -> None:
        if name in by_name:
            raise HTTPException(503, f"{name} may freeze its process: serve it with start(process=True).")
        raise HTTPException(404, f"There is no broken twin {name}: /broken lists them.")
