"""What an endpoint was asked, and what became of it. Written on its server's loop, read from any thread."""

from collections import deque
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

__all__ = ["Ledger", "LlmRequest", "State", "Tokens"]

KEPT = 2000  # requests; older ones are forgotten
State = Literal["running", "done", "cancelled", "failed"]


@dataclass(frozen=True, slots=True)
class LlmRequest:
    """One request as the endpoint saw it.

    Attributes:
        prompt: the text of the last message of the user.
        model: the model's name.
        stream: whether a stream was asked for.
        attempt: 1, and one more for each retry of the SDK.
        sent: tokens sent so far; events with text, when the endpoint is Anthropic's.
        state: "running"; "done" (told whole); "cancelled" (the client left); "failed" (refused, broken off, an error).
        input_tokens: what was read, as counted by the endpoint.
        output_tokens: what was said, as counted by it; of an answer broken off, at least `sent`.
        paid: whether Anthropic was asked.
    """

    prompt: str
    model: str
    stream: bool
    attempt: int
    sent: int = 0
    state: State = "running"
    input_tokens: int = 0
    output_tokens: int = 0
    paid: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """How many requests took how many tokens; `+` adds a request."""

    requests: int = 0
    read: int = 0
    written: int = 0

    def __add__(self, more: LlmRequest) -> "Tokens":
        return Tokens(self.requests + 1, self.read + more.input_tokens, self.written + more.output_tokens)


class Ledger:
    """All requests, oldest first."""

    def __init__(self) -> None:
        self._lines: deque[Line] = deque()
        self._past = Tokens()

    def begin(self, request: LlmRequest) -> "Line":
        """Enter a request, which runs from now on."""
        self._lines.append(line := Line(request))
        if len(self._lines) > KEPT:
            self._past += self._lines.popleft().now
        return line

    def tokens(self) -> "Tokens":
        """Return what all requests have taken so far, those that are forgotten included."""
        taken = self._past
        for request in self.requests():
            taken += request
        return taken

    def requests(self) -> list[LlmRequest]:
        """Return all requests as they stand now."""
        return [line.now for line in self._lines.copy()]

    def running(self) -> list[LlmRequest]:
        """Return those that are answered just now."""
        return [request for request in self.requests() if request.state == "running"]

    def as_json(self) -> list[dict[str, Any]]:
        """Return all requests as they stand now, for a program."""
        return [asdict(request) for request in self.requests()]


class Line:
    """One request's line in the ledger; `now` is replaced whole, so that a reader never sees half of a change."""

    def __init__(self, request: LlmRequest) -> None:
        self.now = request

    def set(self, **changes: Any) -> None:
        """Change what is known of the request."""
        self.now = replace(self.now, **changes)

    def end(self, state: State) -> None:
        """Say how it ended, unless that is known."""
        if self.now.state == "running":
            self.set(state=state)

    def token(self) -> None:
        """Count one token more."""
        self.set(sent=self.now.sent + 1, output_tokens=max(self.now.output_tokens, self.now.sent + 1))

    def usage(self, usage: Any) -> None:
        """Take the counts that the wire carries."""
        for name in ("input_tokens", "output_tokens"):
            if isinstance(usage, dict) and isinstance(found := usage.get(name), int):
                self.set(**{name: max(found, getattr(self.now, name))})
