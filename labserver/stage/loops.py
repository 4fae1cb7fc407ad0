"""The notebook's own event loop: keeping it interruptible, and `asyncio.run` inside a cell."""

import asyncio
import sys
import threading
from typing import Any
from weakref import WeakKeyDictionary

__all__ = ["allow_asyncio_run", "keep_interruptible"]

TICK = 0.2  # seconds until an interrupt is seen at the latest: short for a hand on the keyboard, free for the CPU

_tickers: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]]" = WeakKeyDictionary()


def keep_interruptible() -> None:
    """Let "interrupt the kernel" end an `await` that waits for nothing: wake the kernel's loop every 0.2 s.

    A signal's Python handler may cancel the cell's task, but an idle loop sleeps on in its selector and does not see
    it: Python resumes an interrupted `select` (PEP 475) and the kernel's signal handler, set by `signal.signal`, puts
    nothing into the loop that would make it return. Does nothing outside an ipykernel, and nothing the second time.
    """
    if "ipykernel" not in sys.modules or threading.current_thread() is not threading.main_thread():
        return
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    if loop not in _tickers or _tickers[loop].done():
        _tickers[loop] = loop.create_task(_tick(), name="labserver-ticker")


async def _tick() -> None:
    while True:  # noqa: ASYNC110 - waking the loop is the purpose
        await asyncio.sleep(TICK)


class _Allowance:
    """nest-asyncio at work. As a context manager it takes back, at its end, what nest-asyncio has patched."""

    def __init__(self) -> None:
        import uvicorn  # noqa: F401, I001 - first: see `allow_asyncio_run`
        import nest_asyncio

        self._before = [(place, dict(vars(place))) for place in _patched_places()]
        nest_asyncio.apply()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for place, before in self._before:
            now = dict(vars(place))
            for name in now.keys() - before.keys():
                delattr(place, name)
            for name in before:
                if now.get(name) is not before[name]:
                    setattr(place, name, before[name])

    def __repr__(self) -> str:
        return "asyncio.run works in this notebook's cells"


def _patched_places() -> list[Any]:
    """Return the modules and classes that nest-asyncio writes to."""
    policy, loop = asyncio.get_event_loop_policy(), asyncio.get_running_loop()
    tornado = [sys.modules[name] for name in ("tornado.concurrent",) if name in sys.modules]
    return [asyncio, asyncio.tasks, asyncio.futures, asyncio.events, type(policy), type(loop), *tornado]


def allow_asyncio_run() -> _Allowance:
    """Let `asyncio.run(...)` work inside a cell, where a loop already runs, by nest-asyncio.

    `with allow_asyncio_run(): ...` limits it to a block; without `with` it lasts until the kernel ends. Limit it: it
    patches asyncio for the whole process, makes tasks slower, and changes what runs beside it (a response of FastAPI's
    own that crashes is cut, where it used to end cleanly, when anyio was in use before). A cell may simply say
    `await ...`; this is for code that calls `asyncio.run` itself.

    nest-asyncio is archived; its successor, with the same interface, is nest-asyncio2. uvicorn is imported before it
    is applied: from Python 3.12 on uvicorn keeps the `asyncio.run` that it finds at its import and calls it with a
    `loop_factory`, which the one of nest-asyncio does not know, so that `uvicorn.run` would fail.

    Raises:
        RuntimeError: if no loop is running: outside a notebook `asyncio.run` works by itself.
    """
    return _Allowance()
