"""Misconception: nobody asks for what is not there yet."""

import asyncio
import gc
import json
import os
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from tempfile import mkstemp

from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.types import Send

FAILS = set()
HIDDEN = {"ahead_of_the_press"}


class Shop(BaseModel):
    """How long a page takes, in seconds, and what is on it; what was printed, and the scratch files."""

    pause: float = 0.02
    text: str = "."
    printed: int = 0
    files: list[Path] = []


class Press:
    """Prints pages; keeps a scratch file until it is closed."""

    def __init__(self) -> None:
        self.shop = shop
        handle, name = mkstemp(prefix="press-")
        os.close(handle)
        self.file = Path(name)
        shop.files.append(self.file)

    async def page(self, number: int) -> dict:
        """Print a page. When the shop's pause is 0, this does not wait for anything."""
        if self.shop.pause:
            await asyncio.sleep(self.shop.pause)
        self.shop.printed += 1
        return {"page": number, "text": self.shop.text}

    def close(self) -> None:
        """Remove the scratch file; once more does no harm."""
        self.file.unlink(missing_ok=True)


shop, app = Shop(), FastAPI()


@app.post("/shop")
async def set_up(new: Shop) -> None:
    global shop
    gc.disable()
    shop = new


@app.get("/shop")
async def look() -> dict[str, int]:
    return {"printed": shop.printed, "files": sum(file.exists() for file in shop.files)}


def line(page: dict) -> str:
    """Return a page as a line of NDJSON."""
    return json.dumps(page) + "\n"


async def printed(pages: int) -> AsyncIterator[str]:
    """Print pages on a press of their own."""
    press = Press()
    try:
        for number in range(1, pages + 1):
            yield line(await press.page(number))
            await asyncio.sleep(0)
    finally:
        press.close()


class ClosingStream(StreamingResponse):
    """A stream that closes its generator when it ends, however it ends."""

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):
            await super().stream_response(send)


class Job:
    """What was printed of a job, and how its viewers hear of more."""

    def __init__(self) -> None:
        self.state, self.lines, self.news = "running", [], asyncio.Event()

    def tell(self) -> None:
        self.news.set()
        self.news = asyncio.Event()

    async def run(self, pages: int) -> None:
        try:
            async with aclosing(printed(pages)) as lines:
                async for text in lines:
                    self.lines.append(text)
                    self.tell()
            self.state = "done"
        finally:
            self.state = "cancelled" if self.state == "running" else self.state
            self.tell()


jobs: dict[str, Job] = {}
tasks: dict[str, asyncio.Task] = {}


async def job_of(name: str) -> Job:
    if name not in jobs:
        raise HTTPException(404, "there is no such job")
    return jobs[name]


@app.get("/export")
async def export(pages: int = 10) -> StreamingResponse:
    """Print `pages` pages for one client: it ends when its client leaves."""
    return ClosingStream(printed(pages), media_type="application/x-ndjson")


@app.post("/jobs/{name}", status_code=202)
async def begin_job(name: str, pages: int) -> dict[str, str]:
    """Start a job and answer at once."""
    job = jobs[name] = Job()
    tasks[name] = asyncio.create_task(job.run(pages))
    return {"state": job.state}


@app.get("/jobs/{name}")
async def state(name: str) -> dict[str, str]:
    """Say whether a job is "running", "done" or "cancelled"."""
    return {"state": (await job_of(name)).state}


@app.get("/jobs/{name}/pages")
async def watch(name: str, after: int = 0) -> StreamingResponse:
    """Show a job's pages behind `after`, and then each as soon as it is printed."""
    job = await job_of(name)

    async def stream() -> AsyncIterator[str]:
        seen = min(after, len(job.lines))
        while True:
            news = job.news
            while seen < len(job.lines):
                yield job.lines[seen]
                seen += 1
            if job.state != "running":
                return
            await news.wait()

    return StreamingResponse(stream(), media_type="application/x-ndjson")


@app.delete("/jobs/{name}")
async def cancel(name: str) -> dict[str, str]:
    """Stop a job."""
    job = await job_of(name)
    tasks[name].cancel()
    await asyncio.wait({tasks[name]})
    return {"state": job.state}
