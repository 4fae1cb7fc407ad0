"""What the SSE peers share, as it is taught: a queue per reader, and a publisher that fills them all."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

__all__ = ["Queues"]


class Queues:
    """The readers' queues."""

    def __init__(self) -> None:
        self._all: set[asyncio.Queue[Any]] = set()

    def put(self, message: Any) -> None:
        """Give a message to every reader."""
        for queue in self._all:
            queue.put_nowait(message)

    async def reader(self) -> AsyncGenerator[Any, None]:
        """Yield what comes, as one more reader."""
        queue: asyncio.Queue[Any] = asyncio.Queue()
        self._all.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._all.discard(queue)
