"""Every limit of the machinery, each once: its name, its unit, and why it has this value.

`Limits` are plain values; the module that a limit concerns keeps it. `Rate` is the one measure that needs a clock.
"""

from time import monotonic

from pydantic import BaseModel, Field

__all__ = ["Limits", "Rate"]


class Limits(BaseModel, frozen=True):
    """The limits of one server; immutable. `Limits(drain_seconds=1)` changes one."""

    head_max_bytes: int = Field(
        1 << 16, gt=0, description="Bytes of a request's head that may come before it is whole: 8 KiB are usual."
    )
    head_deadline: float = Field(
        10.0, gt=0, description="Seconds until a request's head is whole: who sends a byte now and then holds a socket."
    )
    message_max_bytes: int = Field(
        1 << 20, gt=0, description="Largest WebSocket message, bytes: uvicorn's 16 MiB let one client hold 16 MiB each."
    )
    outbox_bytes: int = Field(
        1 << 20, gt=0, description="Bytes that may wait for one reader who is behind: any one message, or 5,000 small."
    )
    write_deadline: float = Field(
        10.0,
        gt=0,
        description="Seconds a reader who is behind may take nothing: a lost phone is back by then, or gone.",
    )
    connections_per_user: int = Field(
        10_000, gt=0, description="Number of connections one user may have in a process: a limit against a mistake."
    )
    rate: float = Field(
        float("inf"), gt=0, description="Messages a second that one socket may send on average; unlimited by default."
    )
    rate_burst: int = Field(
        100, gt=0, description="Number of messages a socket may send at once before `rate` counts: a pasted page."
    )
    ws_heartbeat: float = Field(
        20.0, gt=0, description="Seconds between two pings: nginx and AWS hang up after 60 of silence, Cloudflare 100."
    )
    sse_keepalive: float = Field(
        15.0,
        gt=0,
        description="Seconds of silence before a comment is sent: proxies cut at 60, browsers notice nothing.",
    )
    sse_retry: float = Field(
        3.0, ge=0, description="Seconds a browser waits before it reconnects: its own default, said aloud."
    )
    history_messages: int = Field(
        1000, gt=0, description="Number of messages a channel keeps for who comes back: minutes of a lively one."
    )
    history_bytes: int = Field(
        8 << 20, gt=0, description="Bytes of data a channel keeps at most: a thousand channels of the worst are 8 GiB."
    )
    history_seconds: float = Field(
        600.0, gt=0, description="Seconds a message is kept at most: whoever is away longer asks for the whole anyway."
    )
    presence_ttl: float = Field(
        30.0, gt=0, description="Seconds until who was on a worker that died is no longer shown: two of its refreshes."
    )
    token_audience: str = Field("labserver", description="The `aud` claim of tokens, when none is named.")
    token_ttl: float = Field(3600.0, gt=0, description="Seconds a token is valid: long enough for one lab session.")
    ticket_ttl: float = Field(
        10.0, gt=0, description="Seconds a ticket may be used in: a page connects at once, and a log is read later."
    )
    first_message_timeout: float = Field(
        5.0,
        gt=0,
        description="Seconds until a token has to come as the first message: a slow network needs one or two.",
    )
    goodbye_timeout: float = Field(
        1.0, gt=0, description="Seconds to wait for a client that should be told why it is sent away: it may not read."
    )
    drain_seconds: float = Field(
        5.0,
        ge=0,
        description="Seconds over which a server that ends tells its streams, so that they don't leave as one.",
    )


class Rate:
    """A token bucket: `rate` a second on average, `burst` at once; one float and one clock reading a message."""

    __slots__ = ("burst", "level", "rate", "seen")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate, self.burst = rate, burst
        self.level, self.seen = float(burst), monotonic()

    def allows(self) -> bool:
        """Count one message; return whether it is within the rate."""
        if self.rate == float("inf"):
            return True
        now = monotonic()
        self.level = min(self.burst, self.level + (now - self.seen) * self.rate)
        self.seen = now
        if self.level < 1:
            return False
        self.level -= 1
        return True
