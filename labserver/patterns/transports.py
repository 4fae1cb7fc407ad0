"""One feed by four transports: WebSocket, Server-Sent Events, NDJSON, and bytes with a length before each record.

All four send the same records from one log of bounded size; they differ in how a record is written, and in who may
speak. A reader holds nothing but the id of the last quote it has: one that is slower than the log is long is told of
a `gap`, and nobody waits for it. Ids begin at the clock's milliseconds, so that the next life gives none again.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from struct import Struct
from typing import Annotated, Literal, NamedTuple, get_args

from fastapi import APIRouter, Depends, Header, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, FiniteFloat, ValidationError

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

router = APIRouter(dependencies=[Depends(same_origin)])
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
BODY_MAX = 1024  # bytes of a published quote
ID_MAX = 2**53 - 1  # the largest number that every reader of JSON has exactly

Limits = Annotated[Settings, Depends(get_settings)]
Kind = Literal["quote", "start", "gap", "heartbeat", "done"]


class Quote(BaseModel):
    """What is published."""

    price: FiniteFloat


class Record(NamedTuple):
    """What a reader gets: a quote, or a word about the feed with the id after which it goes on."""

    type: Kind
    id: int
    price: float | None = None


class Feed:
    """The newest quotes. Who publishes waits for nobody; who reads keeps a place of its own."""

    def __init__(self, settings: Settings) -> None:
        first = settings.feed_first_id
        self.last = (first if first is not None else time.time_ns() // 1_000_000) - 1
        self.log: deque[Record] = deque(maxlen=settings.feed_log_records)
        self.news = asyncio.Event()

    def publish(self, price: float) -> int:
        """Keep a quote, wake everyone who waits for it, and return its id."""
        self.last += 1
        self.log.append(Record("quote", self.last, price))
        self.news.set()
        self.news = asyncio.Event()
        return self.last

    async def follow(self, after: int | None, until: int | None, heartbeat: float) -> AsyncIterator[Record]:
        """Yield each quote after an id, or from now on; after `heartbeat` seconds of silence a word; `done` at last."""
        seen = self.last if after is None else after
        yield Record("start", seen)
        while True:
            before = self.last - len(self.log)  # the id before the oldest one kept
            if not before <= seen <= self.last:
                seen = before
                yield Record("gap", seen)
            elif until is not None and seen >= until:
                break
            elif seen < self.last:
                seen += 1
                yield self.log[seen - before - 1]
            else:
                try:
                    await asyncio.wait_for(self.news.wait(), heartbeat)
                except TimeoutError:
                    yield Record("heartbeat", seen)
        yield Record("done", seen)


feeds: dict[str, Feed] = {}


async def quotes(settings: Limits) -> Feed:
    """The feed, made for the first who asks."""
    return feeds.setdefault("quotes", Feed(settings))


Quotes = Annotated[Feed, Depends(quotes)]


async def follow(
    feed: Quotes,
    settings: Limits,
    after: Annotated[int | None, Query(ge=0, le=ID_MAX, description="the last id that the client has")] = None,
    until: Annotated[int | None, Query(ge=0, le=ID_MAX, description="the last id that it wants")] = None,
    last_event_id: Annotated[int | None, Header(ge=0, le=ID_MAX, description="a browser's `after`: it wins")] = None,
) -> AsyncIterator[Record]:
    """What this client is sent, whatever it comes by."""
    return feed.follow(after if last_event_id is None else last_event_id, until, settings.feed_heartbeat)


Records = Annotated[AsyncIterator[Record], Depends(follow)]


def as_json(record: Record) -> str:
    """Return a line of JSON; a quote is the usual case and names no type."""
    fields = ("id", "price") if record.type == "quote" else ("type", "id")
    return json.dumps({name: getattr(record, name) for name in fields}, separators=(",", ":"))


def as_event(record: Record, retry: float) -> str:
    """Return an event, its id where a browser remembers it; `retry` is the seconds until it comes back."""
    if record.type == "heartbeat":
        return ": heartbeat\n\n"
    if record.type == "quote":
        return f'id: {record.id}\ndata: {{"price":{json.dumps(record.price)}}}\n\n'
    first = f"retry: {retry * 1000:.0f}\n" if record.type == "start" else ""
    return f"{first}id: {record.id}\nevent: {record.type}\ndata:\n\n"


LENGTH, HEAD, PRICE = Struct("!H"), Struct("!BQ"), Struct("!d")  # big-endian, as networks have it


def as_bytes(record: Record) -> bytes:
    """Return the length of the rest (2 bytes), the kind (1), the id (8), and of a quote its price (8, a float64)."""
    rest = HEAD.pack(get_args(Kind).index(record.type), record.id)
    rest += PRICE.pack(record.price) if record.price is not None else b""
    return LENGTH.pack(len(rest)) + rest


@router.get("/quotes/events")
async def by_events(records: Records, settings: Limits) -> StreamingResponse:
    """Server-Sent Events: a browser reads them by itself, comes back by itself, and says what it has."""
    stream = (as_event(record, settings.sse_retry) async for record in records)
    return StreamingResponse(stream, media_type="text/event-stream", headers=HEADERS)


@router.get("/quotes/ndjson")
async def by_ndjson(records: Records) -> StreamingResponse:
    """NDJSON: a line of JSON for each record, which any program reads."""
    stream = (as_json(record) + "\n" async for record in records)
    return StreamingResponse(stream, media_type="application/x-ndjson", headers=HEADERS)


@router.get("/quotes/bytes")
async def by_bytes(records: Records) -> StreamingResponse:
    """Bytes: a chunk of a body is no record, so each record says how long it is."""
    stream = (as_bytes(record) async for record in records)
    return StreamingResponse(stream, media_type="application/octet-stream", headers=HEADERS)


@router.websocket("/quotes/ws")
async def by_websocket(websocket: WebSocket, records: Records, feed: Quotes) -> None:
    """A WebSocket: a message for each record, and the client may publish on it."""
    await websocket.accept()

    async def listen() -> None:
        while True:
            feed.publish(Quote.model_validate_json(await websocket.receive_text()).price)

    try:
        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(listen())
            async for record in records:
                await websocket.send_text(as_json(record))
            listener.cancel()
        await websocket.close(1000, "done")
    except* KeyError:  # a binary message has no "text"
        await say_goodbye(websocket, 1003, "text messages only")
    except* ValidationError:
        await say_goodbye(websocket, 1007, "no quote")
    except* (WebSocketDisconnect, RuntimeError):
        pass  # it has left


async def say_goodbye(websocket: WebSocket, code: int, reason: str) -> None:
    """Close, unless the client has left meanwhile."""
    with suppress(WebSocketDisconnect, RuntimeError):
        await websocket.close(code, reason)


@router.post("/quotes", status_code=201, max_body_size=BODY_MAX)
async def publish(quote: Quote, feed: Quotes) -> dict[str, int]:
    """Publish a quote, JSON such as `{"price": 12.5}`, for those whose transport runs one way; say its id."""
    return {"id": feed.publish(quote.price)}
