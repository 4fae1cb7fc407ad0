"""Misconception: one tick that is missing is no gap."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import Body, FastAPI, Header
from fastapi.responses import StreamingResponse

INTERVAL = 0.5  # seconds of silence before a comment; in the world outside 15
KEEP = 20  # ticks that the store keeps


class Tick(NamedTuple):
    """A value that was measured, and its number."""

    number: int
    value: int


class Store:
    """The newest ticks. To add one is quick, to read them takes a fifth of a second."""

    def __init__(self) -> None:
        self._ticks: deque[Tick] = deque(maxlen=KEEP)
        self._last = 0

    def add(self, value: int) -> Tick:
        """Keep a value; return it with its number."""
        self._last += 1
        self._ticks.append(Tick(self._last, value))
        return self._ticks[-1]

    async def since(self, number: int) -> list[Tick]:
        """Return the ticks with a number above this one that are still here, the oldest first."""
        await asyncio.sleep(0.1)  # the question is on its way
        found = [tick for tick in self._ticks if tick.number > number]
        await asyncio.sleep(0.1)  # the answer is on its way
        return found


store = Store()

FAILS = set()
HIDDEN = {"one_is_a_gap"}


app = FastAPI()

listeners: set[asyncio.Queue[Tick]] = set()


def encode(tick: Tick) -> str:
    """Return a tick as an event."""
    return f"id: {tick.number}\ndata: {tick.value}\n\n"


async def follow(queue: asyncio.Queue[Tick], after: int | None) -> AsyncIterator[str]:
    """Send the ticks after a number from the store, then those from the queue that are newer."""
    seen = after or 0
    if after is not None:
        missed = await store.since(after)
        if missed and missed[0].number - after > 2:
            yield "event: gap\ndata: some ticks are no longer here\n\n"
        for tick in missed:
            yield encode(tick)
            seen = tick.number
    while True:
        try:
            tick = await asyncio.wait_for(queue.get(), INTERVAL)
        except TimeoutError:
            yield ": keepalive\n\n"
            continue
        if tick.number > seen:
            yield encode(tick)


@app.post("/ticks")
async def post(value: Annotated[int, Body(embed=True)]) -> dict[str, int]:
    """Add a tick, and hand it to everybody who listens."""
    tick = store.add(value)
    for queue in listeners:
        queue.put_nowait(tick)
    return {"id": tick.number}


@app.get("/ticks")
async def ticks(last_event_id: Annotated[int | None, Header()] = None) -> StreamingResponse:
    """Send what the client missed, then what is posted, and a comment in the silence."""

    async def stream() -> AsyncIterator[str]:
        queue: asyncio.Queue[Tick] = asyncio.Queue()
        listeners.add(queue)
        try:
            yield ": hello\n\n"
            async for event in follow(queue, last_event_id):
                yield event
        finally:
            listeners.discard(queue)

    return StreamingResponse(stream(), media_type="text/event-stream")
