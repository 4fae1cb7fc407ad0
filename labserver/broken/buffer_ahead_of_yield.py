"""The twin of `backpressure` whose queue has room for everything."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Query, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

PATTERN = "backpressure"
WRONG = "The queue has no limit, so the source runs on while a client does not read, and all it makes stays in memory."

router = APIRouter(dependencies=[Depends(same_origin)])
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no copy in a cache, none in nginx
logger = logging.getLogger("uvicorn.error")
Limits = Annotated[Settings, Depends(get_settings)]
Size = Annotated[int, Query(ge=64, le=1 << 16, description="bytes of a line")]


def line(value: Mapping[str, object], size: int = 0) -> bytes:
    """Return one line of JSON, filled up with blanks to so many bytes."""
    return json.dumps(value).encode().ljust(size - 1) + b"\n"


async def source(
    count: Annotated[int, Query(ge=0, le=4000, description="how many lines")] = 1000,
    size: Size = 1 << 14,
    fail_after: Annotated[int | None, Query(ge=0, description="the source breaks after so many lines")] = None,
) -> AsyncGenerator[bytes]:
    """The source: numbered lines, as fast as they are taken; as a dependency, so that bad input is a 422."""

    async def lines() -> AsyncGenerator[bytes]:
        for number in range(1, count + 1):
            if fail_after is not None and number > fail_after:
                raise ConnectionError("the source went away")
            yield line({"n": number}, size)
            await asyncio.sleep(0)  # where a real source would wait for its next line

    return lines()


class Pump:
    """A source, and a queue with room for so many of its lines."""

    def __init__(self, source: AsyncGenerator[bytes], room: int) -> None:
        self.source = source
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.made = self.sent = 0  # lines that came out of the source, and out of the queue
        self.running = True

    async def fill(self) -> None:
        """Move lines from the source into the queue."""
        try:
            async with aclosing(self.source) as lines:
                async for text in lines:
                    self.made += 1
                    await self.queue.put(text)
            await self.queue.put(line({"done": True, "lines": self.made}))
        except Exception:
            logger.exception("the source of a pump failed")
            await self.queue.put(line({"error": "the source failed", "lines": self.made}))
        finally:
            self.running = False
        await self.queue.put(None)

    async def empty(self) -> AsyncIterator[bytes]:
        """Yield what is in the queue, up to the end."""
        while (text := await self.queue.get()) is not None:
            self.sent += 1
            yield text


pumps: list[Pump] = []


async def pump(source: Annotated[AsyncGenerator[bytes], Depends(source)], settings: Limits) -> AsyncIterator[Pump]:
    """Own a pump and its task for as long as the response lasts, however that ends."""
    pump = Pump(source, settings.pump_lines)
    pumps.append(pump)
    filling = asyncio.create_task(pump.fill())
    try:
        yield pump
    finally:
        pumps.remove(pump)
        filling.cancel()
        await asyncio.wait([filling])


@router.get("/stream/lines")
async def stream_lines(pump: Annotated[Pump, Depends(pump)]) -> StreamingResponse:
    """The lines of the source, and a last one that says how they ended."""
    return StreamingResponse(pump.empty(), media_type="application/x-ndjson", headers=HEADERS)


@router.get("/pumps")
async def look() -> list[dict[str, int | bool]]:
    """Say of each open stream how many lines its source has made, how many went out, and whether it is at work."""
    return [{"made": pump.made, "sent": pump.sent, "running": pump.running} for pump in pumps]


def measured(number: int) -> int:
    """Return the reading of that number, counted from 0: a wave of 200 readings, up and down by one each."""
    return abs(number % 200 - 100)


@router.websocket("/ws/meter/readings")
async def readings(
    websocket: WebSocket,
    settings: Limits,
    size: Size = 64,
    every: Annotated[float, Query(ge=0.001, le=10, description="seconds between two readings")] = 0.01,
) -> None:
    """Readings of a meter that waits for nobody; each says how many were missed since the one before it."""
    await websocket.accept()
    outbox: asyncio.Queue[int] = asyncio.Queue(settings.pump_lines)
    missed = 0

    async def measure() -> None:
        nonlocal missed
        number = 0
        while True:
            if outbox.full():  # the oldest is worth the least
                outbox.get_nowait()
                missed += 1
            outbox.put_nowait(measured(number))
            number += 1
            await asyncio.sleep(every)

    async def send() -> None:
        nonlocal missed
        while True:
            reading = {"value": await outbox.get(), "missed": missed}
            missed = 0
            await websocket.send_text(line(reading, size).decode())

    try:
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(measure()), tasks.create_task(send())]
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass  # this client has nothing to say
            for task in working:
                task.cancel()
    except* (WebSocketDisconnect, RuntimeError):
        pass  # it left while something was on its way
