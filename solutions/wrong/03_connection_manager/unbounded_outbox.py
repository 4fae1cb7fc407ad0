"""Misconception: a queue between the broadcast and a client is enough."""

import asyncio
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"slow_is_sent_away"}

app = FastAPI()
members: dict[str, asyncio.Queue[str]] = {}


def tell(message):
    text = json.dumps(message)
    for outbox in members.values():
        outbox.put_nowait(text)


@app.get("/who")
async def who():
    return {"who": list(members)}


@app.websocket("/ws/chat/{name}")
async def chat(websocket: WebSocket, name: str):
    await websocket.accept()
    tell({"joined": name})
    members[name] = outbox = asyncio.Queue()

    async def write():
        while True:
            await websocket.send_text(await outbox.get())

    writer = asyncio.create_task(write())
    try:
        while True:
            tell({"from": name, "text": await websocket.receive_text()})
            await asyncio.sleep(0)
    except WebSocketDisconnect:
        pass
    finally:
        members.pop(name, None)
        writer.cancel()
        tell({"left": name})
