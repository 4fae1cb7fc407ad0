"""The two fork servers of grading: one has imported what answers import, the other what checks need.

They never share a process: what serves an answer has no check in its memory. Both start with the first answer and end
with this process.
"""

import atexit
import os
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import TypeVar

from labserver.posix import ForkServer

__all__ = ["PATHS", "answers", "checks", "environment", "stop", "with_server"]

T = TypeVar("T")

_ANSWERS = (
    "ctypes",
    "labserver.school.serve_answer",
    "labserver.school.client_host",
    "fastapi.middleware.gzip",
    "fastapi.responses",
    "fastapi.sse",
    "fastapi.staticfiles",
    "uvicorn.lifespan.on",
    "uvicorn.loops.auto",
    "uvicorn.protocols.http.auto",
    "uvicorn.protocols.websockets.auto",
    "websockets.asyncio.client",
    "httpx",
    "httpcore",
    "jwt",
    "aiosqlite",
    "sqlalchemy.ext.asyncio",
    "prometheus_client",
)
_CHECKS = ("labserver.school.plugin:preload",)

PATHS = tuple(dict.fromkeys([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]))
"""Where programs are, for the PATH of whatever is started here."""

_lock = Lock()
_servers: dict[tuple[str, ...], ForkServer] = {}


def answers() -> ForkServer:
    """Return the fork server for answers."""
    return _server(_ANSWERS)


def checks() -> ForkServer:
    """Return the fork server for checks."""
    return _server(_CHECKS)


def with_server(which: Callable[[], ForkServer], start: Callable[[ForkServer], T]) -> T:
    """Return `start(which())`; should that server have died, once more with a new one.

    Raises:
        OSError: if the new one does not start either.
    """
    server = which()
    try:
        return start(server)
    except OSError:
        with _lock:
            for modules, known in list(_servers.items()):
                if known is server:
                    del _servers[modules]
        server.stop()
        return start(which())


def environment() -> dict[str, str]:
    """Return the environment of the servers themselves: nothing of it reaches an answer."""
    return {
        "PATH": os.pathsep.join(PATHS),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONNOUSERSITE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONWARNINGS": "ignore",
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }


def _server(modules: tuple[str, ...]) -> ForkServer:
    with _lock:
        if modules not in _servers:
            if not _servers:
                atexit.register(stop)
            _servers[modules] = ForkServer(modules, environment())
        return _servers[modules]


def stop() -> None:
    """End both servers; whoever asks for one later gets a new one."""
    with _lock:
        while _servers:
            _servers.popitem()[1].stop()
