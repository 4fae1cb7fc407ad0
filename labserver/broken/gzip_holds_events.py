"""The twin of `server_sent_events` that compresses the feed and leaves it to the compressor when to send."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent

from labserver.settings import Settings, get_settings

PATTERN = "server_sent_events"
WRONG = "The compressor keeps small events back until it has enough or is done: all of them arrive at the end."

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
    fields += [f"data: {line}" for line in re.split(r"\r\n|\r|\n", data)]
    return "\n".join(fields) + "\n\n"


async def squeeze(stream: AsyncIterator[str]) -> AsyncIterator[bytes]:
    """Compress the events one by one."""
    gzip = zlib.compressobj(wbits=31)  # 31: with the header and the checksum of gzip
    async for event in stream:
        yield gzip.compress(event.encode())
    yield gzip.flush()


@router.get("/events")
async def events(news: News, accept_encoding: Annotated[str, Header()] = "") -> StreamingResponse:
    """The feed, every byte written by hand."""

    async def stream() -> AsyncIterator[str]:
        try:
            async for number, text in news:
                yield encode(text, id=number)
            yield encode("complete", event="done")
        except ConnectionError as error:
            yield encode(str(error), event="error")

    if "gzip" in accept_encoding:
        headers = HEADERS | {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return StreamingResponse(squeeze(stream()), media_type="text/event-stream", headers=headers)
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
