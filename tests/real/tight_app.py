"""An app for a child process: an endless stream in forms that do, and do not, give the loop back between two chunks."""

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse

app = FastAPI()


async def tight() -> AsyncIterator[str]:
    while True:
        yield "x"


async def polite() -> AsyncIterator[str]:
    while True:
        yield "x"
        await asyncio.sleep(0)


@app.get("/tight")
async def returned() -> StreamingResponse:
    return StreamingResponse(tight())


@app.get("/polite")
async def with_sleep() -> StreamingResponse:
    return StreamingResponse(polite())


@app.get("/lines")
async def native_lines() -> AsyncIterator[str]:
    async for each in tight():
        yield each


@app.get("/events", response_class=EventSourceResponse)
async def native_events() -> AsyncIterator[str]:
    async for each in tight():
        yield json.dumps(each)


@app.get("/other")
async def other() -> str:
    return "here"
