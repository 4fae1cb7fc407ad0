"""How peers are served: uvicorn with the same options for each, or a coroutine on the same event loop."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from labserver.bench.peers import Serve

__all__ = ["OPTIONS", "run", "uvicorn_with"]

OPTIONS = {
    "loop": "auto",  # uvloop where there is one
    "http": "httptools",
    "ws": "websockets-sansio",
    "ws_per_message_deflate": False,
    "access_log": False,
    "log_level": "warning",
    "backlog": 4096,
}
"""uvicorn's options, the same for every ASGI app, the lab's own included, which replaces `http` and `ws`."""


def uvicorn_with(app: Any, **options: Any) -> Serve:
    """Return what serves an ASGI app by uvicorn, under `OPTIONS` and others."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(app, **{**OPTIONS, **options}))
    return lambda listener: server.run(sockets=[listener])


def run(main: Callable[[socket.socket], Awaitable[None]]) -> Serve:
    """Return what runs a coroutine on uvloop, where there is one."""

    def serve(listener: socket.socket) -> None:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_awaited(main(listener)))

    return serve


async def _awaited(each: Awaitable[None]) -> None:
    await each


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
