"""One line is handed over at a time: the callback returns when it has been taken."""

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


class Hand:
    """Holds one line at a time."""

    def __init__(self) -> None:
        self.line: str | None = None
        self.changed = asyncio.Condition()

    async def give(self, value: dict) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.line is None)
            self.line = json.dumps(value) + "\n"
            self.changed.notify_all()

    async def take(self) -> str:
        async with self.changed:
            await self.changed.wait_for(lambda: self.line is not None)
            taken, self.line = self.line, None
            self.changed.notify_all()
        return taken


@app.get("/relay")
async def relay() -> StreamingResponse:
    hand = Hand()

    async def run() -> None:
        try:
            await source.listen(hand.give)
            await hand.give({"done": True})
        except SourceError as error:
            await hand.give({"error": repr(error)})

    async def stream() -> AsyncIterator[str]:
        running = asyncio.create_task(run())
        try:
            while not running.done() or hand.line is not None:
                yield await hand.take()
                await asyncio.sleep(0)
        finally:
            running.cancel()

    headers = {"x-accel-buffering": "no", "cache-control": "no-store"}
    return StreamingResponse(stream(), media_type="application/x-ndjson; charset=utf-8", headers=headers)
