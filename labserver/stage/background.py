"""One event loop in a daemon thread, for what must go on while the cell's own code blocks: the taps of a tape.

Started on first use and ended at exit. Nothing that may block or freeze a loop belongs here: servers have loops of
their own (`server.py`).
"""

import asyncio
import atexit
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

__all__ = ["loop", "run", "stop", "submit"]

T = TypeVar("T")

SETTLE = 1.0  # seconds for the `finally` blocks of cancelled tasks

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None


def loop() -> asyncio.AbstractEventLoop:
    """Return the background loop, starting its thread if it does not run."""
    global _loop, _thread
    with _lock:
        if _loop is not None and _thread is not None and _thread.is_alive():
            return _loop
        ready = threading.Event()
        _loop = asyncio.SelectorEventLoop()  # on every platform: taps want sockets, never subprocesses
        _thread = threading.Thread(target=_serve, args=(_loop, ready), name="labserver-background", daemon=True)
        _thread.start()
        ready.wait()
        return _loop


def submit(coro: Coroutine[Any, Any, T]) -> "Future[T]":
    """Start `coro` on the background loop and return its future at once; cancelling the future cancels the task."""
    return asyncio.run_coroutine_threadsafe(coro, loop())


def run(coro: Coroutine[Any, Any, T], timeout: float | None = 10.0) -> T:
    """Run `coro` on the background loop and wait for its result; for callers that have no loop or must not await.

    Args:
        timeout: seconds to wait; the task is cancelled when they are over.

    Raises:
        TimeoutError: if it took longer than `timeout`.
        RuntimeError: if called on the background loop itself, which would wait for itself.
    """
    if threading.current_thread() is _thread:
        coro.close()
        raise RuntimeError("background.run() was called on the background loop: await the coroutine there.")
    future = submit(coro)
    try:
        return future.result(timeout)
    except FutureTimeout:
        if future.done():
            raise  # the coroutine's own
        future.cancel()
        raise TimeoutError(f"not done within {timeout:g} s") from None
    except BaseException:  # KeyboardInterrupt while waiting: what was asked for is no longer wanted
        future.cancel()
        raise


def stop(timeout: float = 2.0) -> bool:
    """Cancel what runs, end the thread and close the loop; return whether it ended within `timeout` seconds."""
    with _lock:
        if _loop is None or _thread is None or not _thread.is_alive():
            return True
        if _thread is threading.current_thread():
            raise RuntimeError("background.stop() was called on the background loop, which can't wait for itself.")
        _loop.call_soon_threadsafe(_loop.stop)
        _thread.join(timeout)
        return not _thread.is_alive()


def _serve(loop: asyncio.AbstractEventLoop, ready: threading.Event) -> None:
    asyncio.set_event_loop(loop)
    loop.call_soon(ready.set)
    try:
        loop.run_forever()
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        try:
            loop.run_until_complete(_settle())
        finally:
            loop.close()


async def _settle() -> None:
    """Give the cancelled tasks and open generators time to run their `finally` blocks."""
    loop = asyncio.get_running_loop()
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    if others:
        await asyncio.wait(others, timeout=SETTLE)
    await loop.shutdown_asyncgens()


atexit.register(stop)
