"""Misconception: the framework forgets a connection by itself, also in my own data."""

import json

from fastapi import FastAPI, WebSocket

FAILS = {"online_after_close_and_hang_up", "online_after_wrong_messages"}

app = FastAPI()
clients = set()


@app.get("/online")
async def count_online():
    return {"online": len(clients)}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    await websocket.accept()
    clients.add(websocket)
    async for message in messages(websocket):
        if message.get("text") is None:
            await websocket.close(1003, "text only")
            return
        try:
            data = json.loads(message["text"])
            a, b = data["a"], data["b"]
        except (ValueError, TypeError, KeyError, IndexError):
            await websocket.close(1007, "not a sum")
            return
        if not (type(a) is int and type(b) is int):
            await websocket.close(1007, "not numbers")
            return
        await websocket.send_json({"sum": a + b})


async def messages(websocket):
    while True:
        message = await websocket.receive()
        if message["type"] == "websocket.disconnect":
            break
        yield message
