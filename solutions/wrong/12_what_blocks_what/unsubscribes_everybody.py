"""Misconception: each of the callbacks is to be unsubscribed."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class Setup(BaseModel):
    """What the checks set: words on each page, seconds for which no page comes, and the garbage collector."""

    title: str = "page"
    hold: float = 0
    collector: bool = True


class Reader:
    """A reader of the archive, to be closed by whoever has opened it."""

    def page(self, number: int) -> str:
        """Return a page when it is there; blocks the thread that calls it until then."""
        with archive.lock:
            archive.reading += 1
            archive.most = max(archive.most, archive.reading)
        archive.released.wait(max(0.0, archive.until - time.monotonic()))
        time.sleep(0.01)
        with archive.lock:
            archive.reading -= 1
        return f"{archive.title} {number}"

    def close(self) -> None:
        archive.readers.discard(self)


class Archive:
    """Opens readers, and knows what they do."""

    def __init__(self) -> None:
        self.title, self.until, self.released = "page", 0.0, threading.Event()
        self.readers: set[Reader] = set()
        self.reading = self.most = 0
        self.lock = threading.Lock()

    def open(self) -> Reader:
        reader = Reader()
        self.readers.add(reader)
        return reader


class Wire:
    """Calls back, in a thread of its own, whoever has subscribed."""

    def __init__(self) -> None:
        self.callbacks: set[Callable[[str], object]] = set()

    def subscribe(self, callback: Callable[[str], object]) -> None:
        self.callbacks.add(callback)

    def unsubscribe(self, callback: Callable[[str], object]) -> None:
        self.callbacks.discard(callback)

    def send(self, texts: list[str]) -> None:
        def run() -> None:
            for text in texts:
                for callback in list(self.callbacks):
                    callback(text)

        threading.Thread(target=run).start()


archive, wire, app = Archive(), Wire(), FastAPI()


@app.post("/archive")
async def set_up(new: Setup) -> None:
    archive.released.set()
    archive.title, archive.until, archive.released = new.title, time.monotonic() + new.hold, threading.Event()
    archive.most = 0
    (gc.enable if new.collector else gc.disable)()


@app.get("/archive")
async def state() -> dict[str, int]:
    counts = {"reading": archive.reading, "most": archive.most}
    return counts | {"readers": len(archive.readers), "listeners": len(wire.callbacks)}


@app.post("/news")
async def news_come(texts: list[str]) -> None:
    wire.send(texts)


@app.get("/health")
async def health() -> dict[str, bool]:
    return {"healthy": True}


@app.get("/version")
def version() -> dict[str, int]:
    return {"version": 12}


FAILS = set()
HIDDEN = {"who_stays_hears_on"}

arms = CapacityLimiter(5)


@app.get("/stream/pages")
async def pages(count: int = 3) -> StreamingResponse:
    """Stream the first pages of the archive, each as a line."""

    async def stream():
        reader = archive.open()
        try:
            for number in range(1, count + 1):
                yield await run_sync(reader.page, number, limiter=arms) + "\n"
        finally:
            reader.close()

    return StreamingResponse(stream(), media_type="text/plain")


@app.get("/stream/news")
async def news() -> StreamingResponse:
    """Stream each news as a line, from when its client has asked until it leaves."""
    loop = asyncio.get_running_loop()

    async def stream():
        queue = asyncio.Queue()

        def callback(text: str) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, text)

        wire.subscribe(callback)
        try:
            while True:
                yield await queue.get() + "\n"
        finally:
            for each in list(wire.callbacks):
                wire.unsubscribe(each)

    return StreamingResponse(stream(), media_type="text/plain")
