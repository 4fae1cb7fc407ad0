"""Misconception: a module-level name is my connection; but there is one such name, and many clients."""

import json

from fastapi import FastAPI, WebSocket

FAILS = {"clients_apart"}

app = FastAPI()
online = 0
current: WebSocket


@app.get("/online")
async def count_online():
    return {"online": online}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    global online, current
    await websocket.accept()
    current = websocket
    online += 1
    try:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if message.get("text") is None:
                return await websocket.close(1003, "binary")
            try:
                data = json.loads(message["text"])
                if type(data["a"]) is not int or type(data["b"]) is not int:
                    raise TypeError("not whole numbers")
            except Exception:
                return await websocket.close(1007, "wrong")
            await current.send_json({"sum": data["a"] + data["b"]})
    finally:
        online -= 1
