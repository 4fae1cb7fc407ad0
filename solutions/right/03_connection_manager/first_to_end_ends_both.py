"""Another right answer: reader and writer are two tasks, and the first to end ends the other; a writer is cancelled."""

import asyncio
import json
from typing import Any

from fastapi import FastAPI, WebSocket

app = FastAPI()


class Room:
    """Outboxes and writers by name."""

    def __init__(self) -> None:
        self.outboxes: dict[str, asyncio.Queue[str]] = {}
        self.writers: dict[str, asyncio.Task[Any]] = {}

    async def tell(self, **message: str) -> None:
        slow = []
        for name, outbox in self.outboxes.items():
            if outbox.full():
                slow.append(name)
            else:
                outbox.put_nowait(json.dumps(message, ensure_ascii=False))
        for name in slow:
            del self.outboxes[name]
            self.writers[name].cancel()
        await asyncio.sleep(0)


room = Room()


async def read(websocket: WebSocket, name: str) -> None:
    async for text in websocket.iter_text():
        await room.tell(**{"from": name, "text": text})


async def write(websocket: WebSocket, outbox: asyncio.Queue[str]) -> None:
    while True:
        await websocket.send_text(await outbox.get())


@app.get("/who")
async def who() -> dict[str, list[str]]:
    return {"who": sorted(room.outboxes)}


@app.websocket("/ws/chat/{name}")
async def chat(websocket: WebSocket, name: str) -> None:
    await websocket.accept()
    room.outboxes[name] = outbox = asyncio.Queue(100)
    room.writers[name] = writer = asyncio.create_task(write(websocket, outbox))
    reader = asyncio.create_task(read(websocket, name))
    try:
        await room.tell(joined=name)
        await asyncio.wait([reader, writer], return_when=asyncio.FIRST_COMPLETED)
    finally:
        reader.cancel()
        writer.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
        room.outboxes.pop(name, None)
        del room.writers[name]
        await room.tell(left=name)
