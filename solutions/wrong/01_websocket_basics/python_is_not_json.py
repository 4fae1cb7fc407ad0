"""Misconception: str() of a dict is JSON."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"one_sum", "many_sums", "clients_apart"}

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
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                break
            if "text" not in message:
                await websocket.close(1003, "text, please")
                break
            try:
                data = json.loads(message["text"])
                if type(data["a"]) is not int or type(data["b"]) is not int:
                    raise TypeError("not whole numbers")
                answer = {"sum": data["a"] + data["b"]}
            except (ValueError, KeyError, TypeError):
                await websocket.close(1007, "a and b, please")
                break
            await websocket.send_text(str(answer))
    except WebSocketDisconnect:
        pass
    finally:
        online -= 1
