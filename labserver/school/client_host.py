"""Serves an answer that is a client: over HTTP it is told a URL, follows that, and tells what it got.

    POST /   {"url": "http://127.0.0.1:40001/feed"}
    200      {"event": ["message", "21", "7"]}              a line of NDJSON for each thing that the answer yields
             {"end": "done", "raised": [], "text": ""}      the last line: how the answer ended, and what it raised

So run, sandbox and grader need to know nothing of clients: they serve an app. Whoever asks and hangs up is the caller
who stops early: the answer is closed at once, by the task that runs it.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any

import httpx
from fastapi import Body, FastAPI, Request, Response

from labserver.patterns.disconnects import TiedStream

__all__ = ["Follow", "client_app"]

Follow = Callable[[httpx.AsyncClient, str], AsyncIterator[Any]]
"""What a client exercise asks for: an async generator function of an HTTP client, which it uses, and a URL."""

_SHOWN = 80


def client_app(follow: Follow) -> FastAPI:
    """Return the app that runs a client for whoever asks.

    All runs share one `httpx.AsyncClient`, as they would in a program: so a connection that the answer forgets stays
    open, and is seen.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # verify=False: plain HTTP on this machine, and loading certificates would take longer than a request
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(trust_env=False, verify=False, limits=limits) as app.state.web:
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)

    @app.post("/")
    async def run(request: Request, url: Annotated[str, Body(embed=True)]) -> Response:
        return TiedStream(_lines(follow(request.app.state.web, url)), media_type="application/x-ndjson")

    return app


async def _lines(events: AsyncIterator[Any]) -> AsyncIterator[str]:
    """Yield a line for each event, and one for the end."""
    raised: Exception | None = None
    try:
        async with aclosing(events) as opened:  # type: ignore[type-var]  # a generator, as `asgi.client_problem` has seen
            async for value in opened:
                yield json.dumps(_told(value)) + "\n"
                await asyncio.sleep(0)  # an answer that never waits would freeze the loop when its reader has left
    except Exception as error:
        raised = error
    names = [kind.__name__ for kind in type(raised).__mro__] if raised else []
    text = str(raised or "")[:_SHOWN]
    yield json.dumps({"end": "raised" if raised else "done", "raised": names, "text": text}) + "\n"


def _told(value: Any) -> dict[str, Any]:
    """A thing that was yielded: `event` for name, data and id, else `odd` with what it is."""
    if isinstance(value, tuple) and len(value) == 3 and all(isinstance(part, str) for part in value):
        return {"event": list(value)}
    return {"odd": repr(value)[:_SHOWN]}
