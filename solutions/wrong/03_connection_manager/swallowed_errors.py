"""Misconception: errors of a client that is gone are nobody's business."""

import asyncio
import json

from fastapi import FastAPI, WebSocket

FAILS = {"who", "hang_up", "notices"}

app = FastAPI()
members: dict[str, asyncio.Queue[str]] = {}


def tell(message):
    text = json.dumps(message)
    for name, outbox in list(members.items()):
        if outbox.full():
            members.pop(name, None)
        else:
            outbox.put_nowait(text)


@app.get("/who")
async def who():
    return {"who": list(members)}


@app.websocket("/ws/chat/{name}")
async def chat(websocket: WebSocket, name: str):
    await websocket.accept()
    tell({"joined": name})
    members[name] = outbox = asyncio.Queue(50)

    async def write():
        while True:
            text = await outbox.get()
            try:
                await websocket.send_text(text)
            except Exception:
                continue

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        try:
            while True:
                tell({"from": name, "text": await websocket.receive_text()})
                await asyncio.sleep(0)
        except Exception:
            pass
    members.pop(name, None)
    tell({"left": name})
