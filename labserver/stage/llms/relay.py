"""The way to Anthropic: what a client sends goes there under the key of this process, what comes back is told as it is.

Used only where `LABSERVER_LLM` is anthropic. The client of the lab never holds the key, and a request that its client
has left is closed there at once, so that nobody pays for what nobody reads.
"""

import json
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage.llms.endpoint import Answer, Broken
from labserver.stage.llms.wire import Ask, Frame, Refusal

if TYPE_CHECKING:
    import httpx

__all__ = ["DEFAULT_URL", "Relay", "base_url"]

DEFAULT_URL = "https://api.anthropic.com"
NOT_PASSED_UP = ("host", "content-length", "connection", "accept-encoding", "x-api-key", "authorization", "cookie")
PASSED_DOWN = ("content-type", "content-encoding", "request-id", "retry-after", "retry-after-ms", "x-should-retry")
_END = re.compile(rb"\r?\n\r?\n")
_NAME = re.compile(rb"^event: ?([^\r\n]*)", re.MULTILINE)


def base_url() -> str:
    """Return where Anthropic is: `ANTHROPIC_BASE_URL`, as the SDK reads it, else its own address."""
    return (os.environ.get("ANTHROPIC_BASE_URL") or DEFAULT_URL).rstrip("/")


class Relay:
    """Anthropic as a source.

    Args:
        settings: `llm_max_tokens` is the ceiling of every answer, `llm_timeout` how long Anthropic may be silent.

    Raises:
        LabError: there is no key, or its address is none.
    """

    paid = True

    def __init__(self, settings: Settings) -> None:
        key = os.environ.get("ANTHROPIC_API_KEY")
        if not key:
            raise LabError(
                "LABSERVER_LLM is anthropic, but ANTHROPIC_API_KEY is not set: set it, or unset LABSERVER_LLM to use "
                "the lab's own endpoint, which costs nothing."
            )
        if urlsplit(base_url()).scheme not in ("http", "https"):
            raise LabError(f"ANTHROPIC_BASE_URL={base_url()!r} is no address: write it as https://host, or unset it.")
        self._key, self._url = key, f"{base_url()}/v1/messages"
        self._ceiling, self._timeout = settings.llm_max_tokens, settings.llm_timeout
        self._client: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def answer(self, ask: Ask) -> AsyncIterator[Answer]:
        import httpx

        if self._client is None:
            self._client = httpx.AsyncClient(timeout=self._timeout)
        try:
            asked = self._client.build_request("POST", self._url, headers=self._headers(ask), content=self._body(ask))
            response = await self._client.send(asked, stream=True)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = f"the lab could not reach {self._url} ({type(error).__name__})"
            raise Refusal(502, "api_error", why) from None
        async with aclosing(response):
            down = {name: response.headers[name] for name in PASSED_DOWN if name in response.headers}
            frames = _events(response) if ask.stream and response.status_code == 200 else _body(response)
            async with aclosing(frames):
                yield Answer(frames, response.status_code, down)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _headers(self, ask: Ask) -> dict[str, str]:
        kept = {name: value for name, value in ask.headers.items() if name not in NOT_PASSED_UP}
        return {**kept, "x-api-key": self._key, "accept-encoding": "identity"}

    def _body(self, ask: Ask) -> bytes:
        if ask.max_tokens <= self._ceiling:
            return ask.raw
        return json.dumps({**ask.body, "max_tokens": self._ceiling}).encode()


async def _events(response: "httpx.Response") -> AsyncGenerator[Frame]:
    """Yield the stream's events, each with the bytes that came."""
    held = b""
    async with aclosing(_raw(response)) as pieces:
        async for piece in pieces:
            held += piece
            while found := _END.search(held):
                raw, held = held[: found.end()], held[found.end() :]
                name = _NAME.search(raw)
                yield Frame(name[1].decode(errors="replace") if name else "", raw)
    if held:
        yield Frame("", held)


async def _body(response: "httpx.Response") -> AsyncGenerator[Frame]:
    async with aclosing(_raw(response)) as pieces:
        yield Frame("body", b"".join([piece async for piece in pieces]))


async def _raw(response: "httpx.Response") -> AsyncGenerator[bytes]:
    import httpx

    try:
        async for piece in response.aiter_raw():
            yield piece
    except httpx.HTTPError as error:
        raise Broken from error
