"""Misconception: there is one source for all clients."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class SourceError(Exception):
    """The source broke."""


class Setup(BaseModel):
    """What the source gives: how many lines, where it breaks, what stands in each, and the seconds between two."""

    lines: int = 100
    bad: int = 0
    text: str = "tick"
    pause: float = 0


class Source:
    """It calls you back, as fast as you let it. It counts the lines it gave, and who is listening."""

    def __init__(self) -> None:
        self.given = 0
        self.listening = 0

    async def listen(self, callback: Callable[[dict], Awaitable[None]]) -> None:
        """Await `callback(line)` for each line, one after the other; then return. SourceError when it breaks."""
        now = setup
        self.listening += 1
        try:
            for number in range(1, now.lines + 1):
                if number == now.bad:
                    raise SourceError(f"broke at line {number}")
                self.given += 1
                await callback({"n": number, "text": now.text})
                await asyncio.sleep(now.pause)
        finally:
            self.listening -= 1


setup, source, app = Setup(), Source(), FastAPI()


@app.post("/source")
async def set_up(new: Setup) -> None:
    global setup
    setup, source.given = new, 0


@app.get("/source")
async def look() -> dict[str, int]:
    return {"given": source.given, "listening": source.listening}


FAILS = set()
HIDDEN = {"a_source_for_each"}

ROOM = 16  # lines that may wait for a client


def line(value: dict) -> str:
    """Return one line of NDJSON."""
    return json.dumps(value) + "\n"


turn = asyncio.Lock()


async def fill(queue: asyncio.Queue[dict | None]) -> None:
    """Put each line of the source into the queue, then how it ended, then None."""
    try:
        async with turn:
            await source.listen(queue.put)
        last = {"done": True}
    except SourceError as error:
        last = {"error": str(error)}
    await queue.put(last)
    await queue.put(None)


@app.get("/relay")
async def relay() -> StreamingResponse:
    """Stream what the source gives; the last line says how it ended."""
    queue: asyncio.Queue[dict | None] = asyncio.Queue(ROOM)

    async def stream() -> AsyncIterator[str]:
        filling = asyncio.create_task(fill(queue))
        try:
            while (value := await queue.get()) is not None:
                yield line(value)
        finally:
            filling.cancel()

    return StreamingResponse(stream(), media_type="application/x-ndjson", headers={"X-Accel-Buffering": "no"})
