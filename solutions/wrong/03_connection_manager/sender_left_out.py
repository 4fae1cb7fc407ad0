"""Misconception: the sender knows already what it said."""

import asyncio
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"everyone_hears"}

app = FastAPI()
members: dict[str, asyncio.Queue[str]] = {}


def tell(message, but=None):
    text = json.dumps(message)
    for name, outbox in list(members.items()):
        if name == but:
            continue
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
            await websocket.send_text(await outbox.get())

    writer = asyncio.create_task(write())
    try:
        while True:
            tell({"from": name, "text": await websocket.receive_text()}, but=name)
            await asyncio.sleep(0)
    except WebSocketDisconnect:
        pass
    finally:
        members.pop(name, None)
        writer.cancel()
        tell({"left": name})
