"""A connection while it is read: its two directions, and the events found so far in the order in which they passed."""

from typing import Any

from labserver.stage.wire.direction import Direction
from labserver.stage.wire.event import WireEvent
from labserver.stage.wire.message import Message
from labserver.stage.wire.recording import Conversation, End

__all__ = ["Reading"]


class Reading:
    """Collects what one recorded connection means.

    Attributes:
        exchange: number of the request that is being read, from 1.
        answers: HTTP answers with the number of their request.
    """

    def __init__(self, talk: Conversation) -> None:
        self.talk = talk
        self.client, self.server = Direction(talk, "client"), Direction(talk, "server")
        self.exchange = 1
        self.answers: list[tuple[int, Message]] = []
        self._found: list[tuple[int, WireEvent]] = []

    @property
    def client_left(self) -> bool:
        """Whether it was the client who hung up first."""
        client, server = self.client.end, self.server.end
        return client is not None and (server is None or client.at <= server.at)

    def add(self, side: Direction, end: int, kind: str, label: str = "", note: str = "", **more: Any) -> None:
        """Add an event that was complete with the byte before offset `end` of its direction."""
        order, at = side.stamp(end)
        event = WireEvent(at, self.talk.number, self.exchange, side.sender, kind, label, note, **more)
        self._found.append((order, event))

    def add_end(self, end: End, kind: str, label: str, note: str, name: str = "") -> None:
        """Add that a side stopped sending, which is after all that was read."""
        event = WireEvent(end.at, self.talk.number, self.exchange, end.sender, kind, label, note, name=name)
        self._found.append((len(self.talk.reads), event))

    def add_rest(self, side: Direction, kind: str, label: str, note: str, name: str = "") -> None:
        """Add all that is left of a direction as one event: it can't be understood."""
        rest = side.rest
        self.add(side, len(side.data), kind, label, note, raw=rest, data=rest, size=len(rest), name=name)

    @property
    def events(self) -> list[WireEvent]:
        """What was found, by the read in which each was complete."""
        return [event for _, event in sorted(self._found, key=lambda row: row[0])]
