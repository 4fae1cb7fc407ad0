"""Asking the LLM: `Answer` understands what comes back, without any I/O; `ask` reads it through the SDK's client.

The SDK sends, retries and knows its errors. Its own reading of a stream builds model objects for every token, and most
of a relay's time would go there; an event needs one look at its JSON. `upstream` is how it reaches the server.
"""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.request import getproxies

import orjson

from labserver.realtime.engines.base import EngineDown
from labserver.service.runs import Failed
from labserver.settings import Settings

if TYPE_CHECKING:  # two seconds: imported where a request needs it
    from anthropic import AsyncAnthropic as Client

__all__ = ["Answer", "Clients", "ask"]

BUSY = "the LLM is busy: ask again later"
REFUSED = "the LLM does not take this prompt"
LATE = "the LLM does not answer in time"
AWAY = "the LLM can't be asked"
BROKEN = "the answer broke off"
TRUNCATED = "the answer is truncated"

BLANK = re.compile(rb"\r\n\r\n|\n\n|\r\r")  # what ends an event
TURN = 0.0003  # seconds, of which three pass until a token goes out
EVENT_MAX = 1 << 20  # bytes of one; a token has two hundred

log = logging.getLogger("uvicorn.error")


class Answer:
    """One answer of the Messages API while it streams (facts.md, 8).

    Attributes:
        stop_reason: why it ended; None until it has, and of one that is truncated for ever.
        usage: number of tokens read and written, `{"input_tokens": n, "output_tokens": n}`.
        begun: whether any text came.
    """

    def __init__(self) -> None:
        self.stop_reason: str | None = None
        self.usage: dict[str, int] = {}
        self.begun = False
        self._rest = b""

    def feed(self, piece: bytes) -> Iterator[str]:
        """Yield the texts that a piece of the body completes; those before a failure come before it.

        Raises:
            Failed: the LLM says that it failed.
            ValueError: it makes no sense.
        """
        *events, self._rest = BLANK.split(self._rest + piece)
        if len(self._rest) > EVENT_MAX:
            raise ValueError(f"an event of more than {EVENT_MAX} bytes")
        for event in events:
            for line in event.splitlines():
                if line.startswith(b"data:") and (text := self._text(orjson.loads(line[5:]))):
                    yield text

    def end(self) -> dict[str, Any]:
        """Return how it ended, when the body has.

        Raises:
            Failed: it is truncated.
        """
        if self.stop_reason is None:
            raise Failed(TRUNCATED)
        return {"stop_reason": self.stop_reason, "usage": self.usage}

    def _text(self, event: dict[str, Any]) -> str:
        kind = event["type"]
        if kind == "content_block_delta":
            text: str = event["delta"].get("text", "")
            self.begun = True
            return text
        if kind == "message_start":
            self._count(event["message"].get("usage"))
        elif kind == "message_delta":
            self.stop_reason = event["delta"]["stop_reason"]
            self._count(event.get("usage"))
        elif kind == "error":
            raise Failed(_said(event["error"].get("type"), None) or BROKEN)
        return ""

    def _count(self, usage: dict[str, Any] | None) -> None:
        for name in ("input_tokens", "output_tokens"):
            if usage and isinstance(usage.get(name), int):
                self.usage[name] = usage[name]


def _said(kind: str | None, status: int | None) -> str | None:
    """Return the sentence for an error that the LLM itself told; its own words may quote the prompt."""
    if status in (429, 503, 529) or kind in ("rate_limit_error", "overloaded_error"):
        return BUSY
    return REFUSED if status in (400, 413) else None


def _why(error: Exception, *, begun: bool) -> str:
    """Return the sentence for what the SDK or its transport raised."""
    from anthropic import APITimeoutError
    from httpx2 import TimeoutException

    if isinstance(error, APITimeoutError | TimeoutException):
        return LATE
    said = _said(getattr(error, "type", None), getattr(error, "status_code", None))
    return said or (BROKEN if begun else AWAY)


async def ask(client: "Client", settings: Settings, prompt: str, tell: Callable[[str], Awaitable[Any]]) -> Any:
    """Ask, `tell` each text as it comes, and return how it ended: `{"stop_reason": ..., "usage": ...}`.

    The upstream is closed when this is over, however that ends.

    Raises:
        Failed: there is no answer, or not the whole of it.
    """
    question: Any = {"model": settings.model, "max_tokens": settings.llm_max_tokens, "stream": True}
    question["messages"] = [{"role": "user", "content": prompt}]
    answer = Answer()
    try:
        async with (
            client.messages.with_streaming_response.create(**question) as response,
            aclosing(response.iter_bytes()) as pieces,
        ):
            async for piece in _in_turns(pieces):
                for text in answer.feed(piece):
                    await tell(text)
    except (Failed, EngineDown):
        raise
    except Exception as error:
        log.warning("the LLM failed: %s, %s", type(error).__name__, getattr(error, "type", None))
        raise Failed(_why(error, begun=answer.begun)) from error
    return answer.end()


async def _in_turns(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield pieces, and let others have their turn now and then: what has come already is read without waiting."""
    until = monotonic() + TURN
    async for piece in pieces:
        yield piece
        if monotonic() > until:
            await asyncio.sleep(0)
            until = monotonic() + TURN


class Clients:
    """The SDK's clients of one app, one for each address, as an async context manager that closes them."""

    def __init__(self) -> None:
        self._clients: dict[str | None, Client] = {}
        self._stack = AsyncExitStack()

    async def at(self, url: str | None, settings: Settings) -> "Client":
        """Return the client for `url`; None is Anthropic's own address. The first call imports the SDK, in a thread."""
        if url not in self._clients:
            made = await asyncio.to_thread(_client, url, settings)
            if url not in self._clients:
                self._clients[url] = await self._stack.enter_async_context(made)
        return self._clients[url]

    async def __aenter__(self) -> "Clients":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._stack.aclose()


def _client(url: str | None, settings: Settings) -> "Client":
    from anthropic import AsyncAnthropic, DefaultAsyncHttpxClient

    from labserver.service.upstream import Transport

    key = "none is needed" if settings.llm == "fake" else None  # None: the SDK looks for it in its usual places
    http = None if getproxies() else DefaultAsyncHttpxClient(transport=Transport())
    return AsyncAnthropic(base_url=url, api_key=key, timeout=settings.llm_timeout, http_client=http)
