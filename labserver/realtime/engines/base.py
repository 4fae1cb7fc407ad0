"""What an engine is: it stores what is published, numbers it, hands it to the hub in order, and remembers for a while.

The hub asks nothing of the network: `position` is what this process has been handed, and a subscriber's history ends
exactly there, so nothing is lost, doubled or swapped where history and live messages meet.
"""

from dataclasses import dataclass, field
from typing import Protocol

from ..message import Message, position

__all__ = ["Engine", "EngineDown", "History", "Sink", "since"]


class EngineDown(Exception):
    """The engine can't store or answer now: the publisher has to try again. Nothing was promised."""


@dataclass(frozen=True, slots=True)
class History:
    """A stretch of a channel's past.

    Attributes:
        messages: in the order of publishing.
        gap: whether messages between the cursor that was asked for and the first of these may be missing.
        cursor: where the stretch ends: to be asked from next.
        start: after a gap, or when nothing was asked for, the cursor just before the first message; else that one.
    """

    cursor: str
    messages: list[Message] = field(default_factory=list)
    gap: bool = False
    start: str = ""


class Sink(Protocol):
    """Who an engine hands messages to: the hub."""

    def deliver(self, message: Message) -> None: ...

    def gap(self, channel: str, cursor: str) -> None:
        """Tell everyone on `channel` that messages before `cursor` may be missing."""


class Engine(Protocol):
    """Where messages are kept. All methods are called on one event loop.

    Attributes:
        name: as in `--engine name`.
        resumable: whether a 2xx for a publish means that every resuming subscriber gets the message.
        ready: whether it can publish and deliver now; `/readyz` follows it.
        lag: seconds between the storing of a message and its delivery to the hub, as last seen.
    """

    name: str
    resumable: bool
    ready: bool
    lag: float

    async def start(self, sink: Sink) -> None:
        """Begin to hand messages to `sink`, from one task that outlives every fault but `stop`."""

    async def stop(self) -> None:
        """End what `start` began; nothing is delivered afterwards."""

    async def publish(self, channel: str, event: str, data: str, key: str | None = None) -> str:
        """Store a message and return its id; the same `key` within a channel's history returns the same id.

        Raises:
            EngineDown: it is not stored, or nobody can tell: publish again with the same key.
        """

    async def attach(self, channel: str) -> None:
        """Hand over what is published on `channel` from now on; counted, so that each has its own `detach`."""

    def detach(self, channel: str) -> None:
        """Take back one `attach`."""

    def position(self, channel: str) -> str:
        """Return the id of the newest message of an attached channel that was handed over (or its tail before that)."""

    async def history(self, channel: str, after: str | None, until: str | None, limit: int) -> History:
        """Return at most `limit` messages after the cursor `after` (None: the oldest kept) up to and with `until`.

        Raises:
            EngineDown: it can't be asked now.
        """

    def join(self, channel: str, member: str, user: str) -> None:
        """Show `member` (a connection) of `user` as present, until it leaves or its process is dead for a while."""

    def leave(self, channel: str, member: str) -> None:
        """Show `member` no longer. Neither waits: an engine with a broker tells it soon."""

    async def presence(self, channel: str) -> dict[str, int]:
        """Return user -> number of connections, over all workers."""

    async def claim(self, key: str, ttl: float) -> bool:
        """Return whether the caller is the first to claim `key` within `ttl` seconds, over all workers."""


def since(cursor: str, id: str) -> bool:
    """Return whether the message `id` comes after `cursor`; of another epoch everything does."""
    (epoch, numbers), (other, last) = position(id), position(cursor)
    return epoch != other or numbers > last
