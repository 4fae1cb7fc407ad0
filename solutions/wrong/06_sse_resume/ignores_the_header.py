"""Misconception: whoever connects is new."""

import asyncio
from collections import deque
from typing import Annotated, NamedTuple

from fastapi import Body, FastAPI
from fastapi.responses import StreamingResponse

FAILS = {"resume", "gap", "nothing_lost"}

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
listeners = set()


@app.post("/ticks")
async def post(value: Annotated[int, Body(embed=True)]):
    tick = store.add(value)
    for queue in listeners:
        queue.put_nowait(tick)
    return {"id": tick.number}


@app.get("/ticks")
async def ticks():
    async def stream():
        queue = asyncio.Queue()
        listeners.add(queue)
        try:
            yield ": hello\n\n"
            while True:
                try:
                    tick = await asyncio.wait_for(queue.get(), INTERVAL)
                except TimeoutError:
                    yield ": keepalive\n\n"
                    continue
                yield f"id: {tick.number}\ndata: {tick.value}\n\n"
        finally:
            listeners.discard(queue)

    return StreamingResponse(stream(), media_type="text/event-stream")
