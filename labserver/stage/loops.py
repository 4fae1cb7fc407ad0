"""The notebook's own event loop: keeping it interruptible, and `asyncio.run` inside a cell."""

import asyncio
import sys
import threading
from weakref import WeakKeyDictionary

__all__ = ["allow_asyncio_run", "keep_interruptible"]

TICK = 0.2  # seconds until an interrupt is seen at the latest: short for a hand on the keyboard, free for the CPU

_tickers: "WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[None]]" = WeakKeyDictionary()


def keep_interruptible() -> None:
    """Let "interrupt the kernel" end an `await` that waits for nothing: wake the kernel's loop every 0.2 s.

    A signal's Python handler may cancel the cell's task, but an idle loop sleeps on in its selector and does not see
    it (facts.md, 13). Does nothing outside an ipykernel, and nothing the second time.
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


def allow_asyncio_run() -> None:
    """Let `asyncio.run(...)` work inside a cell, where a loop already runs, by nest-asyncio.

    A cell may simply say `await ...`; this is for code that calls `asyncio.run` itself. nest-asyncio patches asyncio
    for the whole process and makes its tasks slower. It is archived; its successor, with the same interface, is
    nest-asyncio2. uvicorn is imported before it is applied: applied first, it would hand uvicorn an `asyncio.run` that
    knows no `loop_factory`, and `uvicorn.run` would fail on Python 3.12 and newer (facts.md, 13).
    """
    import uvicorn  # noqa: F401, I001 - first: see above
    import nest_asyncio

    nest_asyncio.apply()
