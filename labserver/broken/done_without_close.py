"""The twin of `sse_resume` whose finite feed ends with `done`, and starts anew when it is asked again."""

import asyncio
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator
from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import FiniteFloat

from labserver.settings import Settings, get_settings

PATTERN = "sse_resume"
WRONG = "`done` ends the stream and not the EventSource: it reconnects, and the same work runs again and again."

router = APIRouter()
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
ID_MAX = 64  # characters; no id of ours is longer
BODY_MAX = 1024  # bytes of a published price

Limits = Annotated[Settings, Depends(get_settings)]
Queue = asyncio.Queue[str | None]  # events in the wire's form; None: nothing more comes, you are too slow


def encode(data: str, *, id: str, event: str | None = None, retry: float | None = None) -> str:
    """Return one event in the wire's form; `data` is one line, `retry` the seconds until a browser reconnects."""
    fields = [f"retry: {retry * 1000:.0f}"] if retry is not None else []
    fields += [f"id: {id}"]
    fields += [f"event: {event}"] if event is not None else []
    return "\n".join([*fields, f"data: {data}"]) + "\n\n"


class Feed:
    """The newest events, numbered from 1, and who listens.

    An id is `epoch-number`. Each start of the server is a new epoch: the numbers begin anew, and an id from before must
    not be taken for one of now.
    """

    def __init__(self) -> None:
        self.own_epoch = secrets.token_hex(4)
        self.last = 0  # number of the newest event
        self.log: deque[str] = deque()
        self.listeners: set[Queue] = set()

    def epoch(self, settings: Settings) -> str:
        return settings.sse_epoch or self.own_epoch

    def id(self, number: int, settings: Settings) -> str:
        return f"{self.epoch(settings)}-{number}"

    def publish(self, data: str, settings: Settings) -> str:
        """Keep an event and hand it to everyone who listens, waiting for nobody; return its id."""
        self.last += 1
        event = encode(data, id=self.id(self.last, settings))
        self.log.append(event)
        while len(self.log) > settings.sse_log_events:
            self.log.popleft()
        for queue in list(self.listeners):
            if queue.qsize() < settings.sse_outbox_events:
                queue.put_nowait(event)
            else:  # it is better off with the log, and we with the memory
                queue.put_nowait(None)
                self.listeners.discard(queue)
        return self.id(self.last, settings)

    def after(self, cursor: str | None, settings: Settings) -> list[str]:
        """Return how a stream begins: where it goes on (`start`, `resume` or `gap`), then the events since then."""
        before = self.last - len(self.log)  # the number before the first one kept
        epoch, _, digits = (cursor or "").rpartition("-")
        number = int(digits) if digits.isdecimal() else -1
        if cursor is None:
            how, number = "start", self.last
        elif epoch == self.epoch(settings) and before <= number <= self.last:
            how = "resume"
        else:  # trimmed away, of another epoch, or never ours
            how, number = "gap", before
        opening = encode(how, id=self.id(number, settings), event=how, retry=settings.sse_retry)
        return [opening, *islice(self.log, number - before, None)]


feed = Feed()


async def last_seen(
    last_event_id: Annotated[str | None, Header()] = None,
    after: Annotated[
        str | None, Query(description="the same for programs; a browser's header is newer, and wins")
    ] = None,
) -> str | None:
    """The id of the last event that the client saw, if it saw one."""
    cursor = last_event_id or after or None
    if cursor is not None and len(cursor) > ID_MAX:
        raise HTTPException(400, f"an id has at most {ID_MAX} characters")
    return cursor


Cursor = Annotated[str | None, Depends(last_seen)]


async def subscribe(cursor: Cursor, settings: Limits) -> AsyncIterator[tuple[list[str], Queue]]:
    """What the client missed, and a queue with all that comes after; left however the response ends."""
    queue = Queue()
    missed = feed.after(cursor, settings)
    feed.listeners.add(queue)  # no await between these two: an event is in one of them, and in one only
    try:
        yield missed, queue
    finally:
        feed.listeners.discard(queue)


Subscription = Annotated[tuple[list[str], Queue], Depends(subscribe)]


@router.get("/events/prices")
async def prices(subscription: Subscription, settings: Limits) -> StreamingResponse:
    """The feed: what the client missed, then what comes, and a comment when nothing came for a while."""
    missed, queue = subscription

    async def stream() -> AsyncIterator[str]:
        for event in missed:
            yield event
        while True:
            try:
                new = await asyncio.wait_for(queue.get(), settings.sse_keepalive)
            except TimeoutError:
                new = ": keepalive\n\n"
            if new is None:
                yield "event: error\ndata: too slow: reconnect, and go on after your last id\n\n"
                return
            yield new

    return StreamingResponse(stream(), media_type="text/event-stream", headers=HEADERS)


@router.post("/events/prices", status_code=201, max_body_size=BODY_MAX)
async def publish(price: Annotated[FiniteFloat, Body(embed=True)], settings: Limits) -> dict[str, str]:
    """Publish a price, JSON such as `{"price": 12.5}`; the answer names its id."""
    return {"id": feed.publish(json.dumps({"price": price}, separators=(",", ":")), settings)}


@router.get("/events/countdown")
async def countdown(cursor: Cursor, settings: Limits, start: Annotated[int, Query(ge=1, le=100)] = 3) -> Response:
    """A finite feed: its last event is `done`, and who comes back after that is told that there is no more, by 204."""

    async def stream() -> AsyncIterator[str]:
        for number in range(start, 0, -1):
            yield encode(str(number), id=str(number), retry=settings.sse_retry)
            await asyncio.sleep(settings.sse_interval)
        yield encode("complete", id="0", event="done")

    return StreamingResponse(stream(), media_type="text/event-stream", headers=HEADERS)
