"""An app whose streams never end by themselves and whose lifespan says when it ends; served in a child process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    print("lifespan ended", flush=True)


app = FastAPI(lifespan=lifespan)


@app.get("/plain")
async def plain() -> StreamingResponse:
    async def stream() -> AsyncIterator[str]:
        try:
            while True:
                yield "data: tick\n\n"
                await asyncio.sleep(0.02)
        finally:
            print("stream ended", flush=True)

    return StreamingResponse(stream(), media_type="text/event-stream")


@app.get("/native", response_class=EventSourceResponse)
async def native() -> AsyncIterator[ServerSentEvent]:
    try:
        while True:
            yield ServerSentEvent(raw_data="tick")
            await asyncio.sleep(0.02)
    finally:
        print("stream ended", flush=True)


@app.websocket("/ws")
async def ws(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive_text()
