"""By hand: the ASGI message itself, and a plain counter."""

import json

from fastapi import FastAPI, WebSocket

app = FastAPI()
online = 0


@app.get("/online")
async def count_online():
    return {"online": online}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    global online
    await websocket.accept()
    online += 1
    try:
        while (message := await websocket.receive())["type"] == "websocket.receive":
            if message.get("text") is None:
                await websocket.close(1003, "text only")
                break
            try:
                data = json.loads(message["text"])
                a, b = data["a"], data["b"]
                if type(a) is not int or type(b) is not int:
                    raise TypeError
            except (ValueError, TypeError, KeyError, IndexError):
                await websocket.close(1007, "a and b")
                break
            await websocket.send_json({"sum": a + b})
    finally:
        online -= 1
