"""Another way: no queues; each client follows the numbers, and is woken by a condition."""

import asyncio
from collections import deque
from typing import Annotated, NamedTuple

from fastapi import Body, FastAPI, Header
from fastapi.responses import StreamingResponse

INTERVAL = 0.5  # seconds of silence before a comment; in the world outside 15
KEEP = 20  # ticks that the store keeps


class Tick(NamedTuple):
    number: int
    value: int


class Store:
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

app = FastAPI()
newest: deque[Tick] = deque(maxlen=1000)
posted = asyncio.Condition()


@app.post("/ticks")
async def post(value: Annotated[int, Body(embed=True)]):
    tick = store.add(value)
    newest.append(tick)
    async with posted:
        posted.notify_all()
    return {"id": tick.number}


async def later_than(seen):
    async with posted:
        await posted.wait_for(lambda: newest and newest[-1].number > seen)
        return [tick for tick in newest if tick.number > seen]


@app.get("/ticks")
async def ticks(last_event_id: Annotated[int | None, Header()] = None):
    seen = newest[-1].number if newest else 0
    missed = []
    if last_event_id is not None:
        missed = await store.since(last_event_id)
        seen = missed[-1].number if missed else last_event_id

    async def stream(seen):
        yield ": welcome\n\n"
        if missed and missed[0].number != last_event_id + 1:
            yield "event: gap\ndata: -\n\n"
        for tick in missed:
            yield f"id: {tick.number}\ndata: {tick.value}\n\n"
        while True:
            try:
                fresh = await asyncio.wait_for(later_than(seen), INTERVAL)
            except TimeoutError:
                yield ":\n\n"
                continue
            for tick in fresh:
                seen = tick.number
                yield f"id: {tick.number}\ndata: {tick.value}\n\n"

    return StreamingResponse(stream(seen), media_type="text/event-stream")
