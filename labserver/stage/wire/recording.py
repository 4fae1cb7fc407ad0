"""What a tap keeps of one TCP connection: the reads of both directions and how each ended. Not what it means."""

from dataclasses import dataclass, field
from typing import Literal

__all__ = ["Conversation", "End", "Read", "Sender"]

Sender = Literal["client", "server"]


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes that passed at one instant: seconds since the tape's first byte, who sent them, the bytes."""

    at: float
    sender: Sender
    data: bytes


@dataclass(frozen=True, slots=True)
class End:
    """One side stopped sending: `how` is "eof" (FIN), "reset" (RST) or "refused" (the server was never reached)."""

    at: float
    sender: Sender
    how: Literal["eof", "reset", "refused"]


@dataclass(slots=True)
class Conversation:
    """Everything recorded of one TCP connection. `full` says that the recording stopped before the connection did."""

    number: int
    reads: list[Read] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)
    full: bool = False

    @property
    def over(self) -> bool:
        """Whether what is recorded is all there will be, because a side stopped sending."""
        return bool(self.ends) and not self.full
