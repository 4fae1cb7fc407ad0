"""The close codes of a WebSocket, in one table: number, reason, and whether the client may reconnect by itself.

1000 to 1015 are RFC 6455's (section 7.4.1); 4000 to 4999 are private, and ours follow HTTP's status codes.
"""

from dataclasses import dataclass

__all__ = ["CODES", "Code", "Refused", "may_reconnect", "said", "status"]

REASON_BYTES = 123  # RFC 6455, 5.5: a control frame holds 125 bytes, two of them the code


@dataclass(frozen=True, slots=True)
class Code:
    """One way to end.

    Attributes:
        number: the close code.
        reason: what a person reads; a more precise one may take its place on the wire.
        reconnect: whether the same client may come again by itself, after a while.
    """

    number: int
    reason: str
    reconnect: bool


class Refused(Exception):
    """Somebody is sent away, or something is not done for them.

    Attributes:
        code: a number of `CODES`.
        reason: what a person reads; it never repeats a credential.
    """

    def __init__(self, code: int, reason: str | None = None) -> None:
        self.code, self.reason = code, reason or CODES[code].reason
        super().__init__(self.reason)


def said(reason: str) -> str:
    """Return a reason that fits into a close frame: cut after `REASON_BYTES` bytes of UTF-8."""
    return reason.encode()[:REASON_BYTES].decode(errors="ignore")


CODES = {
    code.number: code
    for code in (
        Code(1000, "done", False),
        Code(1001, "going away", True),
        Code(1003, "only text is understood here", False),
        Code(1006, "the connection broke", True),
        Code(1007, "the text is not JSON", False),
        Code(1009, "the message is too big", False),
        Code(1011, "the server failed", True),
        Code(1012, "the server restarts", True),
        Code(1013, "try again later", True),
        Code(4400, "no such message", False),
        Code(4401, "no valid token", False),
        Code(4403, "not allowed", False),
        Code(4409, "too many connections", False),
        Code(4429, "too many messages", True),
        Code(4430, "too slow: reconnect, and go on after your last id", True),
    )
}

NORMAL, GOING_AWAY, WRONG_TYPE, BROKEN, BAD_DATA = 1000, 1001, 1003, 1006, 1007
TOO_BIG, FAILED, RESTART, TRY_LATER = 1009, 1011, 1012, 1013
BAD_MESSAGE, UNAUTHENTICATED, FORBIDDEN, TOO_MANY, TOO_FAST, TOO_SLOW = 4400, 4401, 4403, 4409, 4429, 4430

STATUSES: dict[int, tuple[int, dict[str, str]]] = {
    BAD_MESSAGE: (400, {}),
    UNAUTHENTICATED: (401, {"WWW-Authenticate": "Bearer"}),  # RFC 9110, 11.6.1
    TRY_LATER: (503, {"Retry-After": "1"}),
}


def status(number: int) -> tuple[int, dict[str, str]]:
    """Return how a refusal is said over HTTP: a status, and headers that belong to it; 403 for what has no other."""
    return STATUSES.get(number, (403, {}))


def may_reconnect(number: int) -> bool:
    """Return whether a client that was closed with `number` may come again by itself; an unknown code says yes.

    No code at all (1005) is what a proxy or a crash leaves behind.
    """
    return CODES[number].reconnect if number in CODES else True
