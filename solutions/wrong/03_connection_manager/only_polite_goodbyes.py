"""Misconception: who leaves says goodbye."""

import asyncio
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"hang_up"}

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
            await websocket.send_text(await outbox.get())

    writer = asyncio.create_task(write())
    try:
        while True:
            tell({"from": name, "text": await websocket.receive_text()})
            await asyncio.sleep(0)
    except WebSocketDisconnect as goodbye:
        writer.cancel()
        if goodbye.code == 1000:
            members.pop(name, None)
            tell({"left": name})
