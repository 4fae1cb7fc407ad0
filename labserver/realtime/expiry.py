"""The end of a token is the end of its connection: one timer each, moved when the token is renewed."""

import asyncio
from time import time
from typing import Self

from .codes import UNAUTHENTICATED
from .connection import Connection

__all__ = ["Expiry"]


class Expiry:
    """Closes a connection when its token ends, while inside.

    Args:
        connection: what is closed.
        expires: unix time; None for never.
    """

    __slots__ = ("_connection", "_expires", "_timer")

    def __init__(self, connection: Connection, expires: float | None) -> None:
        self._connection, self._expires = connection, expires
        self._timer: asyncio.TimerHandle | None = None

    def move(self, expires: float) -> float:
        """Close it then and not earlier; returns that unix time."""
        self._stop()
        goodbye = (UNAUTHENTICATED, "the token expired", 0.0)
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(0.0, expires - time()), self._connection.close, goodbye)
        return expires

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def __enter__(self) -> Self:
        if self._expires is not None:
            self.move(self._expires)
        return self

    def __exit__(self, *error: object) -> None:
        self._stop()
