"""The twin of `server_sent_events` that puts text into an event as it is."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from labserver.settings import Settings, get_settings

PATTERN = "server_sent_events"
WRONG = "A line break ends the `data:` line: what follows is lost, and after a blank line it is an event of its own."

router = APIRouter()
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx


async def news(
    settings: Annotated[Settings, Depends(get_settings)],
    say: Annotated[tuple[str, ...], Query(max_length=100)] = ("one", "two", "three"),
    fail_after: Annotated[int | None, Query(ge=0, description="the source breaks after so many messages")] = None,
) -> AsyncIterator[tuple[int, str]]:
    """The source: numbered messages, one after the other; as a dependency, so that bad input is a 422 and no stream."""

    async def messages() -> AsyncIterator[tuple[int, str]]:
        for number, text in enumerate(say, start=1):
            if fail_after is not None and number > fail_after:
                raise ConnectionError("the source went away")
            yield number, text
            await asyncio.sleep(settings.sse_interval)

    return messages()


News = Annotated[AsyncIterator[tuple[int, str]], Depends(news)]


def encode(data: str, *, event: str | None = None, id: int | None = None) -> str:
    """Return one event in the wire's form."""
    fields = [f"id: {id}"] if id is not None else []
    fields += [f"event: {event}"] if event is not None else []
    fields += [f"data: {data}"]
    return "\n".join(fields) + "\n\n"


@router.get("/events")
async def events(news: News) -> StreamingResponse:
    """The feed, every byte written by hand."""

    async def stream() -> AsyncIterator[str]:
        try:
            async for number, text in news:
                yield encode(text, id=number)
            yield encode("complete", event="done")
        except ConnectionError as error:
            yield encode(str(error), event="error")

    return StreamingResponse(stream(), media_type="text/event-stream", headers=HEADERS)


@router.get("/events/native", response_class=EventSourceResponse)
async def native_events(news: News) -> AsyncIterator[ServerSentEvent]:
    """The feed by FastAPI's own response: it encodes, sets the headers and sends a comment every 15 s."""
    try:
        async for number, text in news:
            yield ServerSentEvent(raw_data=text, id=str(number))
        yield ServerSentEvent(raw_data="complete", event="done")
    except ConnectionError as error:
        yield ServerSentEvent(raw_data=str(error), event="error")
