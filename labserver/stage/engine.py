"""One uvicorn for the thread that calls `Engine.run`: it binds first, keeps its log to itself and can stop at once.

uvicorn's logging is global, a log of ours belongs to one server: each record is sorted by the context it was written
in. Who owns the thread, and what a notebook sees, is not known here (`server.py`, `process.py`).
"""

import asyncio
import contextlib
import logging
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from copy import copy
from types import NoneType
from typing import Any

import uvicorn
from starlette.websockets import WebSocketDisconnect
from uvicorn.lifespan.on import LifespanOn

from labserver.errors import LabError

__all__ = ["Engine", "Log", "check_options", "one_line"]

TICK = 0.1  # seconds between two looks at uvicorn's own exit conditions, as in uvicorn.Server.main_loop
DRAIN = 0.5  # seconds an app has to say goodbye to its streams, where its lifespan's state offers a "drain..."
GOODBYE = 0.05  # seconds a WebSocket's handler has to end by itself after the close frame, before it is cancelled
UNWIND = 0.2  # seconds a cancelled task has for its `finally` blocks before it is left behind

REFUSED = {
    "reload": "start() serves the object as it is; run the cell again to serve a new one",
    "workers": "start() runs one server; `labserver serve --workers N` runs several",
    "uds": "start() listens on a port of this machine",
    "fd": "start() binds its own socket",
    "log_config": "live.logs() holds what the server logs",
}

WANTED: dict[str, tuple[tuple[type, ...], str]] = {  # what uvicorn itself would trip over later, or not at all
    "host": ((str,), "a str, such as '127.0.0.1'"),
    "port": ((int,), "an int, without quotes"),
    "timeout_graceful_shutdown": ((int, float, NoneType), "a number of seconds, or None"),
    "socket_options": ((list, tuple), "a list of (level, option, value), as socket.setsockopt takes them"),
}


def one_line(error: BaseException) -> str:
    """Return an exception as one line, "KeyError: 'text'"; a group of one is shown as that one."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class Log:
    """What one server logged: the last `limit` messages, and apart from them the last `limit` exceptions."""

    def __init__(self, limit: int, *, access: bool = True) -> None:
        self.limit = limit
        self._messages: deque[str] = deque(maxlen=limit)
        self._errors: deque[str] = deque(maxlen=limit)
        self._lock = threading.Lock()
        self._access = access
        self.stopping = False  # what our own stop does to a request is no error of the app

    def add(self, message: str, error: str | None = None) -> None:
        """Keep a message and, if it reports an exception, that one's line."""
        with self._lock:
            self._messages.append(message)
            if error is not None:
                self._errors.append(error)

    def write(self, record: logging.LogRecord) -> None:
        """Keep what a logger was told in this server's context."""
        if record.name == "uvicorn.access" and not self._access:
            return
        error = record.exc_info[1] if record.exc_info else None
        if self.stopping and isinstance(error, asyncio.CancelledError | WebSocketDisconnect):
            return
        self.add(_message(record).rstrip(), one_line(error) if error is not None else None)

    def messages(self) -> list[str]:
        """Return the messages, oldest first."""
        with self._lock:
            return list(self._messages)

    def errors(self) -> list[str]:
        """Return the exceptions as lines, oldest first."""
        with self._lock:
            return list(self._errors)


def _message(record: logging.LogRecord) -> str:
    """Return what was logged; of a call whose arguments do not fit its format the format alone.

    `logging` itself never raises for such a call, it prints: raising here would end the request that logged.
    """
    try:
        return record.getMessage()
    except Exception:
        return str(record.msg)


_current: ContextVar[Log | None] = ContextVar("labserver_log", default=None)
_by_thread: dict[int, Log] = {}  # for code that runs in a context of its own making


def _log_of_this_code() -> Log | None:
    return _current.get() or _by_thread.get(threading.get_ident())


class _Sort(logging.Filter):
    """On a logger: takes the records of our servers, lets all others pass to the handlers that were there."""

    def filter(self, record: logging.LogRecord) -> bool:
        log = _log_of_this_code()
        if log is None:
            return True
        log.write(record)
        return False


class _LastResort(logging.Handler):
    """In place of `logging.lastResort`, which prints to stderr what nobody handles: the same, but for our servers."""

    def __init__(self, original: logging.Handler) -> None:
        super().__init__(original.level)
        self._original = original

    def handle(self, record: logging.LogRecord) -> bool:
        log = _log_of_this_code()
        if log is None:
            return bool(self._original.handle(record))
        log.write(record)
        return True


_sort = _Sort()


def _sort_records() -> None:
    """Install the sorting; again at each start, since any `dictConfig` undoes a part of it."""
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "asyncio", "concurrent.futures"):
        logger = logging.getLogger(name)
        if _sort not in logger.filters:
            logger.addFilter(_sort)
    access = logging.getLogger("uvicorn.access")
    if not access.handlers:  # uvicorn writes no access log while that logger has no handler
        access.addHandler(logging.NullHandler())
    if logging.lastResort is not None and not isinstance(logging.lastResort, _LastResort):
        logging.lastResort = _LastResort(logging.lastResort)


class _Lifespan(LifespanOn):
    """uvicorn's lifespan, which reports a failure as text only, keeping the exception."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.error: BaseException | None = None
        app = config.loaded_app

        async def keep_error(scope: Any, receive: Any, send: Any) -> None:
            try:
                await app(scope, receive, send)
            except BaseException as error:
                self.error = error
                raise

        self.config = copy(config)
        self.config.loaded_app = keep_error


class _Server(uvicorn.Server):
    """uvicorn's server that can be told to stop now: no tick is waited for, no stream is asked to finish."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self.asked = asyncio.Event()
        self.at_once = config.timeout_graceful_shutdown is None
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks = (ticks + 1) % 864_000  # a day of ticks, as uvicorn counts
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self.asked.wait()
                return

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop at once when that was asked for; else (a signal, a request limit, a grace period) as uvicorn does."""
        if self.asked.is_set():
            await self._drain()
        if not (self.asked.is_set() and self.at_once):
            await super().shutdown(sockets)
            return
        self.close_listeners()
        connections = list(self.server_state.connections)
        for connection in connections:
            connection.shutdown()  # says 1012 to a WebSocket, closes idle HTTP, leaves a response alone
        # A response is not closed before its task is cancelled: to a closed transport a generator that never awaits
        # would go on to write without being held, and the loop would turn no more.
        websockets = any(not hasattr(connection, "cycle") for connection in connections)
        if not (websockets and await self._tasks_end(GOODBYE)):
            await self.cancel_tasks()
        await self.lifespan.shutdown()

    async def _drain(self) -> None:
        """Let the app say goodbye to its streams, as a signal would have made it do: to a stop there is none."""
        state = getattr(self.lifespan, "state", {})
        drains = [value for name, value in state.items() if name.startswith("drain") and callable(value)]
        try:
            async with asyncio.timeout(DRAIN):
                await asyncio.gather(*(drain() for drain in drains))
        except Exception:
            logging.getLogger("uvicorn.error").exception("The app's drain failed")

    def close_listeners(self) -> None:
        """Accept nobody any more."""
        for server in getattr(self, "servers", ()):
            server.close()

    async def cancel_tasks(self) -> None:
        """Cancel what still answers a request, then drop what still holds a connection."""
        for _ in range(2):  # a task that took the first cancellation for something else gets a second one
            for task in self.server_state.tasks:
                task.cancel()
            if await self._tasks_end(UNWIND):
                break
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # connection_lost is called in the loop's next turn

    async def _tasks_end(self, seconds: float) -> bool:
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        return all(task.done() for task in tasks)


class Engine:
    """A bound socket and a uvicorn for it.

    Args:
        app: an ASGI application, not a string or a factory.
        log: what is logged goes there.
        options: of `uvicorn.Config`, after `check_options`; `host` and `port` say where to bind, `socket_options` how.

    Raises:
        LabError: the port is in use, or uvicorn can't use an option.
    """

    def __init__(self, app: Any, log: Log, options: dict[str, Any]) -> None:
        self.log = log
        self.error: BaseException | None = None  # what ended `run`
        self.started = threading.Event()
        self.ended = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._main: asyncio.Task[None] | None = None
        self._unwanted = threading.Event()  # asked to stop, perhaps before there was a loop to be told
        _sort_records()
        with self._logging():  # uvicorn logs what it can't load before it gives up
            config = _config(app, options)
            self._loop_factory = _loop_factory(config)
        self._server = _Server(config, self.started.set)
        self.tls = config.is_ssl
        self._socket = _bind(config.host, config.port, options.get("socket_options", ()))
        self.address: tuple[str, int] = self._socket.getsockname()[:2]

    def run(self) -> None:
        """Serve until asked to stop; never raises: `error` says what went wrong."""
        _by_thread[threading.get_ident()] = self.log
        try:
            with self._logging(), contextlib.closing(self._socket), _own_loop(self._loop_factory()) as loop:
                self._serve_on(loop)
        except BaseException as error:
            self.error = self.error or error
        finally:
            del _by_thread[threading.get_ident()]
            self.ended.set()

    def ask(self) -> None:
        """Ask to stop; returns at once, from any thread, at any time."""
        self._unwanted.set()
        self.call(self._asked)

    def abort(self) -> None:
        """Cancel the server itself: for a start or a stop that does not end."""
        self.call(self._cancelled)

    def call(self, function: Callable[[], object]) -> bool:
        """Call `function` on the server's loop soon; return whether there is still a loop to do it."""
        loop = self._loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(function)
        except RuntimeError:  # closed meanwhile
            return False
        return True

    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Start `coro` on the server's loop and return its future.

        Raises:
            LabError: the server is stopped.
        """
        if self._loop is None or self.ended.is_set():
            coro.close()
            raise LabError("The server is stopped: start it again.")
        return asyncio.run_coroutine_threadsafe(coro, self._loop)

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        token = _current.set(self.log)
        try:
            yield
        finally:
            _current.reset(token)

    def _asked(self) -> None:
        self._server.asked.set()
        self._server.should_exit = True
        self.log.stopping = self._server.at_once
        if not self.started.is_set():
            self._cancelled()

    def _cancelled(self) -> None:
        self.log.stopping = True
        if self._main is not None:
            self._main.cancel()

    def _serve_on(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.set_exception_handler(self._on_loop_error)
        self._main = loop.create_task(self._server.serve([self._socket]))
        self._loop = loop
        if self._unwanted.is_set():
            self._asked()
        try:
            loop.run_until_complete(self._main)
        except BaseException as error:
            lifespan = getattr(self._server, "lifespan", None)
            self.error = getattr(lifespan, "error", None) or error
        finally:
            self.log.stopping = True
            loop.run_until_complete(self._settle())

    async def _settle(self) -> None:
        """Leave nothing open, whichever way the server ended."""
        self._server.close_listeners()
        if self._server.server_state.tasks or self._server.server_state.connections:
            await self._server.cancel_tasks()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=UNWIND)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNWIND):
                await asyncio.get_running_loop().shutdown_asyncgens()

    def _on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.log.add(context["message"], one_line(error) if error is not None else None)


@contextlib.contextmanager
def _own_loop(loop: asyncio.AbstractEventLoop) -> Iterator[asyncio.AbstractEventLoop]:
    asyncio.set_event_loop(loop)
    try:
        yield loop
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def check_options(options: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is stopped or started.

    Raises:
        LabError: an option has no meaning here, or its value is of a wrong type.
    """
    for name, value in options.items():
        if name in REFUSED:
            raise LabError(f"{name}= can't be used here: {REFUSED[name]}.")
        if name in WANTED and not isinstance(value, WANTED[name][0]):
            raise LabError(f"{name}={value!r} can't be used: it must be {WANTED[name][1]}.")


def _config(app: Any, options: dict[str, Any]) -> uvicorn.Config:
    chosen: dict[str, Any] = {"port": 0, "log_level": "info"} | options
    chosen.pop("access_log", None)  # a Log's affair: uvicorn would switch it off for every server
    chosen.pop("socket_options", None)  # the listening socket is ours
    try:
        config = uvicorn.Config(app, log_config=None, workers=1, **chosen)
    except TypeError as error:
        raise LabError(f"That is no option of uvicorn: {error}.") from None
    except Exception as error:
        raise _unusable(options, error) from None
    try:
        config.load()
    except (Exception, SystemExit) as error:
        raise _unusable(options, error) from None
    if config.lifespan_class is LifespanOn:
        config.lifespan_class = _Lifespan
    return config


def _loop_factory(config: uvicorn.Config) -> Callable[[], asyncio.AbstractEventLoop]:
    try:
        return config.get_loop_factory() or asyncio.new_event_loop
    except (Exception, SystemExit) as error:  # uvicorn exits the process when it can't import a loop
        raise _unusable({"loop": config.loop}, error) from None


def _unusable(options: dict[str, Any], error: BaseException) -> LabError:
    """Return the sentence for options that uvicorn fails on: the one its error speaks of, or all that name a thing."""
    texts = {name: str(value) for name, value in options.items() if isinstance(value, str | os.PathLike)}
    told = [name for name, text in texts.items() if text and text in str(error)]
    named = ", ".join(f"{name}={options[name]!r}" for name in told or sorted(texts.keys() - WANTED.keys()) or options)
    why = "there is no such thing" if isinstance(error, SystemExit) else one_line(error)
    return LabError(f"uvicorn can't use {named} ({why}): correct it or leave it out.")


def _bind(host: str, port: int, socket_options: Sequence[tuple[int, int, int]] = ()) -> socket.socket:
    """Return a listening socket: clients that connect from now on wait for the server instead of being refused."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if port and os.name == "posix":  # a port just left is free again; on Windows the option means something else
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _set_options(listener, socket_options)
        listener.bind((host, port))
        listener.listen(2048)
    except (OSError, OverflowError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise LabError(
            f"Can't listen on {host} port {port} ({reason}): stop what uses it, or leave out port= to get a free one."
        ) from None
    return listener


def _set_options(listener: socket.socket, options: Sequence[tuple[int, int, int]]) -> None:
    for each in options:
        try:
            listener.setsockopt(*each)
        except (OSError, TypeError, OverflowError) as error:
            listener.close()
            raise LabError(f"socket_options: the system refuses {each!r} ({one_line(error)}): leave it out.") from None
