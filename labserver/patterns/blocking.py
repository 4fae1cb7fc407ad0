"""Work that blocks, beside an event loop: what waits in a thread, what waits on the loop, and who waits for whom.

The loop serves everyone, so nothing may stop it. A call that blocks runs in a thread; AnyIO has 40 of them for every
`def` endpoint, every `def` dependency and every file of a server, so work that takes long brings threads of its own.
What waits for nobody knows how long waits on the loop, and costs no thread at all.
"""

import asyncio
import hashlib
import json
import math
import time
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Annotated, Any

from anyio import CancelScope, CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Body, Depends, Query
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator

from labserver.settings import Settings, get_settings

router = APIRouter()
NDJSON = "application/x-ndjson"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
BODY_MAX = 1024  # bytes of a password or an alarm


def readable(text: Any) -> Any:
    """Replace half characters (lone surrogates), which JSON can spell and UTF-8 can't."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


Limits = Annotated[Settings, Depends(get_settings)]
Count = Annotated[int, Query(ge=1, le=1000, description="readings")]
Text = Annotated[str, BeforeValidator(readable), Body(embed=True, min_length=1, max_length=200)]


@cache
def threads(work: str, number: int) -> CapacityLimiter:
    """The threads that one kind of work may hold at a time: who finds none waits, and only for work of that kind."""
    return CapacityLimiter(number)


def line(**values: object) -> str:
    """Return one line of NDJSON."""
    return json.dumps(values) + "\n"


class Meter:
    """A meter behind a driver that blocks, as those of databases, mailboxes and serial lines do."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.readings = seconds, 0
        open_meters.add(self)

    def read(self) -> float:
        """Return a reading; takes `seconds`, in which the calling thread can do nothing else."""
        time.sleep(self.seconds)
        self.readings += 1
        return round(20 + math.sin(self.readings), 2)

    def close(self) -> None:
        open_meters.discard(self)


open_meters: set[Meter] = set()


@router.get("/stream/readings")
async def readings(settings: Limits, count: Count = 3) -> StreamingResponse:
    """Stream what a meter of this client's own reads."""
    limiter = threads("meters", settings.meter_threads)

    async def stream() -> AsyncIterator[str]:
        meter = Meter(settings.meter_seconds)
        try:
            for _ in range(count):
                yield line(reading=await run_sync(meter.read, limiter=limiter))
            yield line(done=True)
        finally:
            with CancelScope(shield=True):  # the driver has to hear that its client has left
                await run_sync(meter.close)

    return StreamingResponse(stream(), media_type=NDJSON, headers=HEADERS)


@router.get("/meters")
async def meters() -> dict[str, int]:
    """Say how many meters are open."""
    return {"open": len(open_meters)}


def digest(password: str, rounds: int) -> str:
    """Return what is stored of a password; it is slow on purpose (OWASP, Password Storage Cheat Sheet)."""
    return hashlib.pbkdf2_hmac("sha256", password.encode(), b"a salt for everyone: a lab's", rounds).hex()


@router.post("/passwords", max_body_size=BODY_MAX)
async def password(password: Text, settings: Limits) -> dict[str, str]:
    """Answer with a password's digest."""
    limiter = threads("passwords", settings.password_threads)
    return {"digest": await run_sync(digest, password, settings.password_rounds, limiter=limiter)}


class Alarms:
    """Hands what any thread reports to everyone who listens."""

    def __init__(self) -> None:
        self.listeners: set[Callable[[str], object]] = set()

    def report(self, text: str) -> None:
        """Report from any thread, as a library's callback does."""
        for hand_over in list(self.listeners):
            hand_over(text)


alarms = Alarms()


def put(queue: asyncio.Queue[str], text: str) -> None:
    """Put without waiting; who reads too slowly loses the oldest."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(text)


@router.get("/stream/alarms")
async def stream_alarms(settings: Limits) -> StreamingResponse:
    """Stream alarms as they are reported."""
    loop = asyncio.get_running_loop()

    async def stream() -> AsyncIterator[str]:
        queue: asyncio.Queue[str] = asyncio.Queue(settings.alarm_outbox)

        def hand_over(alarm: str) -> None:
            loop.call_soon_threadsafe(put, queue, alarm)

        alarms.listeners.add(hand_over)
        try:
            yield line(listening=True)
            while True:
                yield line(alarm=await queue.get())
        finally:
            alarms.listeners.discard(hand_over)

    return StreamingResponse(stream(), media_type=NDJSON, headers=HEADERS)


@router.post("/alarms", status_code=202, max_body_size=BODY_MAX)
def report(alarm: Text) -> dict[str, int]:
    """Report an alarm from a thread of the pool; the answer says how many listen."""
    alarms.report(alarm)
    return {"listeners": len(alarms.listeners)}


@router.get("/ping/async")
async def ping_async() -> dict[str, bool]:
    """Answer from the event loop."""
    return {"pong": True}


@router.get("/ping/def")
def ping_def() -> dict[str, bool]:
    """Answer from a thread of the pool."""
    return {"pong": True}


@router.get("/lag")
async def lag(seconds: Annotated[float, Query(gt=0, le=60)] = 0.5) -> dict[str, float]:
    """Watch the loop from inside for some time; `worst` is the longest time, in seconds, that it turned too late."""
    loop, tick, worst = asyncio.get_running_loop(), 0.01, 0.0
    end = loop.time() + seconds
    while (now := loop.time()) < end:
        await asyncio.sleep(tick)
        worst = max(worst, loop.time() - now - tick)
    return {"worst": worst}
