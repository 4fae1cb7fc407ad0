"""Misconception: a text with names in it is a list of names."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, FastAPI, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest

FAILS = set()
HIDDEN = {"names_within_names"}

INTERVAL = 1.0  # seconds of silence before a heartbeat; in the world outside 20

metrics = CollectorRegistry()
open_streams = Gauge("open_streams", "Streams that are open now.", registry=metrics)


def event(name: str, text: str, retry: int | None = None) -> str:
    """Return one event; `retry` in milliseconds."""
    first = f"retry: {retry}\n" if retry is not None else ""
    return f"{first}event: {name}\ndata: {text}\n\n"


Item = tuple[str, str] | None  # a channel and a text; None: no more


app = FastAPI()
app.state.draining = False
listeners: dict[asyncio.Queue[Item], str] = {}  # a queue for each stream, and the channels that it is for


@app.post("/news/{channel}")
async def post(channel: str, text: Annotated[str, Body(embed=True)]) -> dict[str, int]:
    """Put a text into the queues of all who listen to its channel."""
    told = [queue for queue, channels in listeners.items() if channel in channels]
    for queue in told:
        queue.put_nowait((channel, text))
    return {"told": len(told)}


@app.get("/news")
async def news(channels: str) -> StreamingResponse:
    """Send what comes into a queue of its own, a heartbeat in the silence, and a goodbye."""

    async def stream() -> AsyncIterator[str]:
        queue: asyncio.Queue[Item] = asyncio.Queue()
        listeners[queue] = channels
        open_streams.inc()
        if app.state.draining:
            queue.put_nowait(None)
        try:
            yield event("ready", channels)
            while True:
                try:
                    item = await asyncio.wait_for(queue.get(), INTERVAL)
                except TimeoutError:
                    yield ": heartbeat\n\n"
                    continue
                if item is None:
                    yield event("drain", "the server is replaced", random.randint(1000, 5000))
                    return
                yield event(*item)
        finally:
            del listeners[queue]
            open_streams.dec()

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.post("/drain", status_code=202)
async def drain() -> None:
    """Begin to drain."""
    app.state.draining = True
    for queue in listeners:
        queue.put_nowait(None)


@app.delete("/drain", status_code=204)
async def stay() -> None:
    """Take it back."""
    app.state.draining = False


@app.get("/readyz")
async def readyz(response: Response) -> dict[str, bool]:
    """May a balancer send clients here?"""
    response.status_code = 503 if app.state.draining else 200
    return {"ready": not app.state.draining}


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """Does the process live?"""
    return {"status": "ok"}


@app.get("/metrics")
async def read_metrics() -> Response:
    """For Prometheus."""
    return Response(generate_latest(metrics), media_type="text/plain")
