"""Starting and stopping servers from a notebook: `start`, the `LiveServer` it returns, and `rescue`.

A server runs in a thread of this process (`InThread`, here) or in a child (`process.Child`); to the notebook both look
the same. Re-running a cell replaces the server of that name, and nothing is ever printed.
"""

import asyncio
import atexit
import contextlib
import ctypes
import inspect
import os
import secrets
import sys
import threading
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pydantic import SecretStr

from labserver.errors import LabError
from labserver.settings import Settings, get_settings
from labserver.stage import background, loops, noise
from labserver.stage.engine import Engine, Log, check_options, one_line
from labserver.stage.rich import Html

if TYPE_CHECKING:
    from labserver.stage.tape import Tape

__all__ = ["InThread", "LiveServer", "give_settings", "rescue", "resolve", "start"]

FROZEN = 1.0  # seconds a loop may take to answer a request to stop before it counts as frozen
PULSE = 0.05  # seconds between two looks at a server that is ending


class Runner(Protocol):
    """What holds a running server: a thread or a child process."""

    kind: str
    log: Log
    address: tuple[str, int]
    tls: bool

    @property
    def alive(self) -> bool: ...
    @property
    def pid(self) -> int | None: ...
    def launch(self, timeout: float) -> None: ...
    def stop(self, timeout: float) -> bool: ...
    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]": ...


class Freed(BaseException):
    """Raised inside a server's thread to break a loop that never awaits; the stream it hits ends with it."""


class InThread:
    """A server in a daemon thread of this process, on a loop of its own."""

    kind = "thread"

    def __init__(self, name: str, app: Any, log: Log, options: dict[str, Any]) -> None:
        self.log = log
        self._grace = options.get("timeout_graceful_shutdown") or 0
        self._engine = Engine(app, log, options)
        self.address, self.tls = self._engine.address, self._engine.tls
        self._thread = threading.Thread(target=self._run, name=f"labserver-{name}", daemon=True)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self._engine.started.is_set()

    @property
    def pid(self) -> int | None:
        return os.getpid()

    def launch(self, timeout: float) -> None:
        """Start and wait until requests are answered.

        Raises:
            LabError: it did not start; `__cause__` is the app's own exception.
        """
        deadline = time.monotonic() + timeout
        try:
            self._thread.start()
            while not self._engine.started.wait(PULSE / 10):
                if self._engine.ended.is_set():
                    raise _no_start(self._engine.error) from self._engine.error
                if time.monotonic() > deadline:
                    raise LabError(f"The server was not up within {timeout:g} s: its lifespan's start-up does not end.")
        except BaseException:  # also an interrupted cell
            self.stop(1.0)
            raise

    def stop(self, timeout: float) -> bool:
        """Stop and wait for the thread; return whether it ended within `timeout` seconds and its grace period."""
        self._engine.ask()
        if threading.current_thread() is self._thread:
            return False  # asked by one of its own requests: it can't wait for itself
        asked_at = time.monotonic()
        hurry, deadline = asked_at + timeout / 2 + self._grace, asked_at + timeout + self._grace
        answered = threading.Event()
        self._engine.call(answered.set)
        while not self._ended(PULSE):
            now = time.monotonic()
            if now > deadline:
                return False
            if answered.is_set():
                if now > hurry:
                    self._engine.abort()
                answered.clear()
                asked_at = now
                self._engine.call(answered.set)
            elif now - asked_at > FROZEN:
                self._free()
                asked_at = now
        return True

    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Start `coro` on the server's loop."""
        return self._engine.submit(coro)

    def _run(self) -> None:
        with contextlib.suppress(Freed):  # it may arrive when the loop turns again
            self._engine.run()

    def _ended(self, seconds: float) -> bool:
        try:
            self._thread.join(seconds)
        except RuntimeError:  # an interrupt hit Thread.start(): it may still come up, to see that nobody wants it
            return self._engine.ended.wait(seconds)
        return not self._thread.is_alive()

    def _free(self) -> None:
        """Raise `Freed` in the thread at its next line of Python: nothing else reaches a loop that is not turning."""
        ident = ctypes.c_ulong(self._thread.ident or 0)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(Freed))


def _no_start(error: BaseException | None) -> LabError:
    why = one_line(error) if error is not None else "it ended before it was up"
    return LabError(f"The server did not start: {why}. Mend the app's start-up and run the cell again.")


class LiveServer:
    """A server that runs, or ran. Made by `start`; also a context manager, which stops it at the end.

    Attributes:
        name: the name it replaces others by.
        app: the ASGI app it serves; of a child process what was passed to `start`.
    """

    def __init__(self, name: str, app: Any, runner: Runner, settings: Settings) -> None:
        self.name = name
        self.app = app
        self._runner = runner
        self._settings = settings

    @property
    def host(self) -> str:
        """Where clients connect to: an address of this machine, without brackets."""
        host = self._runner.address[0]
        return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)

    @property
    def port(self) -> int:
        """The TCP port: a free one, unless `start(port=...)` named one. A notebook never prints it."""
        return self._runner.address[1]

    @property
    def url(self) -> str:
        """`http://127.0.0.1:<port>`, without a slash at the end."""
        return f"http{'s' if self._runner.tls else ''}://{self._authority}"

    @property
    def ws_url(self) -> str:
        """`ws://127.0.0.1:<port>`, without a slash at the end."""
        return f"ws{'s' if self._runner.tls else ''}://{self._authority}"

    @property
    def _authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def alive(self) -> bool:
        """Whether it still serves."""
        return self._runner.alive

    @property
    def kind(self) -> str:
        """Where it runs: "thread", or "process" for a child."""
        return self._runner.kind

    @property
    def pid(self) -> int | None:
        """The id of the process it runs in: this one, or the child. A notebook never prints it."""
        return self._runner.pid

    def logs(self) -> list[str]:
        """Return what the server logged, oldest first, without times and levels; the last ones only (see settings)."""
        return self._runner.log.messages()

    def errors(self) -> list[str]:
        """Return the exceptions that the server logged, one line each: "KeyError: 'text'"."""
        return self._runner.log.errors()

    def tape(self, name: str = "tape", **options: Any) -> "Tape":
        """Return a tape of this server's wire: `async with live.tape() as tape: ...` (see `stage.tape.Tape`).

        Raises:
            LabError: the server speaks TLS, of which a tape would hold nothing but ciphertext.
        """
        if self._runner.tls:
            raise LabError("A tape can't read what TLS encrypts: start the server without ssl_certfile= to record it.")
        from labserver.stage.tape import Tape

        return Tape(self.host, self.port, name, **options)

    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Start a coroutine on the server's own loop, for what must happen there; return its future.

        Raises:
            LabError: the server is stopped, or it runs in a child process.
        """
        return self._runner.submit(coro)

    def stop(self) -> bool:
        """Stop it now: streams are cut, their `finally` blocks run, its sockets are closed. Again is harmless.

        Returns:
            whether it ended in time (`settings.stop_timeout`, and its `timeout_graceful_shutdown` if it was given one).
            One that did not is still known to `rescue` and `start`, until it ends.
        """
        stopped = self._runner.stop(self._settings.stop_timeout)
        if stopped or not self.alive:
            _forget(self)
        return stopped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    def __repr__(self) -> str:
        return f"<LiveServer {self.name!r} {'running' if self.alive else 'stopped'}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        link = f' at <a href="{self.url}" target="_blank">{self.url}</a>' if self.alive else ""
        return {"text/html": f"<code>{escape(repr(self))}</code>{link}", "text/plain": repr(self)}


_servers: dict[str, LiveServer] = {}
_lock = threading.RLock()


def start(
    app: Any = None,
    *,
    name: str = "lab",
    process: bool = False,
    settings: Settings | None = None,
    **uvicorn_options: Any,
) -> LiveServer:
    """Serve an app by a real uvicorn and return once it answers. A server of the same name is stopped first.

    Args:
        app: an ASGI app, a function that makes one, or "module:attribute" of either; None is the lab's own app.
        name: two names are two servers side by side.
        process: serve in a child process, which nothing can freeze and which dies with this one. The app must then
            be found by import.
        settings: what `Depends(get_settings)` gives to the endpoints of this app and of those mounted in it.
        uvicorn_options: of `uvicorn.Config`. Without `port` a free one is used; with `timeout_graceful_shutdown` the
            server stops as uvicorn does and not at once; `ws_max_size` is `settings.message_max_bytes`. And one of the
            stage's own: `socket_options`, a list of (level, option, value) for the listening socket, from which each
            connection inherits them: SO_SNDBUF is how much the system holds for a client that does not read.

    Raises:
        LabError: the port is in use, the app does not start or can't be found, an option is none or can't be used.
    """
    chosen = settings or get_settings()
    noise.hush()
    check_options(uvicorn_options)
    options = {"ws_max_size": chosen.message_max_bytes} | uvicorn_options
    with _lock:
        if (old := _servers.get(name)) is not None and not old.stop():
            sentence = f"The server {name!r} before this one could not be stopped: restart the kernel or change name=."
            raise LabError(sentence)
        log = Log(chosen.log_records, access=options.get("access_log", True))
        served, runner = (_child if process else _thread)(name, app, settings, log, options)
        loops.keep_interruptible()
        live = _servers[name] = LiveServer(name, served, runner, chosen)
        try:
            runner.launch(chosen.start_timeout)
        except BaseException:  # the launch has stopped what it began, unless an interrupt came when it was done
            if not runner.alive or live.stop():
                _forget(live)
            raise
        return live


def _thread(name: str, app: Any, settings: Settings | None, log: Log, options: dict[str, Any]) -> tuple[Any, Runner]:
    if app is None:
        from labserver.stage.lab import lab_app

        app = lab_app
    served = resolve(app, factory=options.pop("factory", None))
    _lend_settings(served, settings)
    return served, InThread(name, served, log, options)


def _child(name: str, app: Any, settings: Settings | None, log: Log, options: dict[str, Any]) -> tuple[Any, Runner]:
    from labserver.stage.process import Child, importable

    target = "labserver.stage.lab:lab_app" if app is None else importable(app)
    return app if app is not None else target, Child(name, target, log, settings, options)


def resolve(app: Any, *, factory: bool | None = None) -> Any:
    """Return the ASGI app meant by an app, a factory or "module:attribute".

    Args:
        factory: whether to call it; None asks its signature: what can be called without arguments is a factory.

    Raises:
        LabError: there is no such thing to import, or it is no app.
    """
    from uvicorn.importer import ImportFromStringError, import_from_string

    try:
        found = import_from_string(app)
    except (ImportFromStringError, ImportError) as error:
        raise LabError(f"{error} Write the app as 'module:attribute' of a module that can be imported here.") from error
    if factory if factory is not None else _takes_no_arguments(found):
        found = found()
    if not callable(found):
        raise LabError(f"A server needs an ASGI app such as FastAPI(), and not a value of type {type(found).__name__}.")
    return found


def _takes_no_arguments(thing: Any) -> bool:
    try:
        inspect.signature(thing).bind()
    except (TypeError, ValueError):
        return False
    return True


def with_secret(settings: Settings) -> Settings:
    """Return settings that can sign tokens: with a secret made here, known to nobody, where they hold none."""
    made = {"secret": SecretStr(secrets.token_urlsafe(32))}
    return settings if settings.secret is not None else settings.model_copy(update=made)


def give_settings(app: Any, settings: Settings) -> None:
    """Make `Depends(get_settings)` give `settings` in this app and in all apps mounted in it, for good.

    Settings without a secret are given one, so that each server signs with its own.

    Raises:
        LabError: there is no FastAPI app to take them.
    """
    parts = list(_apps(app))
    settings = with_secret(settings)
    for part in parts:
        part.dependency_overrides[get_settings] = lambda: settings
    if not parts:
        raise LabError("settings= reaches endpoints of a FastAPI app through Depends(get_settings): serve such an app.")


class _Lent:
    """A dependency override of `start`, with the one that was there before."""

    def __init__(self, settings: Settings, before: Any) -> None:
        self.settings = settings
        self.before: Any = before.before if isinstance(before, _Lent) else before

    def __call__(self) -> Settings:
        return self.settings


def _lend_settings(app: Any, settings: Settings | None) -> None:
    """Give `settings` until the app is started again; None takes back what an earlier `start` lent."""
    parts = list(_apps(app))
    before = [part.dependency_overrides.get(get_settings) for part in parts]
    if settings is not None:
        settings = with_secret(settings)
        give_settings(app, settings)
    for part, old in zip(parts, before, strict=True):
        if settings is not None:
            part.dependency_overrides[get_settings] = _Lent(settings, old)
        elif isinstance(old, _Lent):
            _put_back(part.dependency_overrides, old.before)


def _put_back(overrides: dict[Any, Any], before: Any) -> None:
    if before is None:
        del overrides[get_settings]
    else:
        overrides[get_settings] = before


def _apps(app: Any) -> Iterator[Any]:
    """Yield every app within `app` that has dependency overrides: itself, under middleware, and mounted ones."""
    todo, seen = [app], set[int]()
    while todo:
        part = todo.pop()
        if part is None or id(part) in seen:
            continue
        seen.add(id(part))
        if isinstance(getattr(part, "dependency_overrides", None), dict):
            yield part
        todo.append(getattr(part, "app", None))
        todo += getattr(part, "routes", None) or []


def _forget(live: LiveServer) -> None:
    with _lock:
        if _servers.get(live.name) is live:
            del _servers[live.name]


def rescue() -> Html:
    """Stop every server, child process and proxy, end every tape; return what was done. For a lab that got stuck."""
    with _lock:
        for live in [live for live in _servers.values() if not live.alive]:
            live.stop()  # it ended by itself: nothing to report, only to clear away
        done = [(live.name, live.kind, live.stop()) for _, live in sorted(_servers.items())]
    proxy = sys.modules.get("labserver.stage.proxies.base")  # imported with the first proxy
    done += proxy.stop_all() if proxy is not None else []
    rows = [(name, kind, "stopped" if ended else "did not end: restart the kernel") for name, kind, ended in done]
    return _report(rows, _end_taps())


def _end_taps() -> int:
    tap = sys.modules.get("labserver.stage.tap")  # imported with the first tape
    ended = tap.close_all() if tap is not None else 0
    background.stop()
    return int(ended)


def _report(rows: list[tuple[str, str, str]], taps: int) -> Html:
    lines = [f"{name} ({kind}): {now}" for name, kind, now in rows] or ["No server was running."]
    if taps:
        lines.append(f"{taps} open tape{'s' if taps > 1 else ''}: ended")
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return Html(f"<ul>{items}</ul>", "\n".join(lines))


def _stop_all() -> None:
    for live in list(_servers.values()):
        with contextlib.suppress(Exception):
            live.stop()


def _forked() -> None:
    """In a fork the servers of its parent are not its own."""
    global _lock
    _servers.clear()
    _lock = threading.RLock()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
