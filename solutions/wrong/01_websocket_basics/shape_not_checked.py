"""Misconception: what is valid JSON is valid input."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"wrong_shape_closes_1007", "only_whole_numbers"}

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
            try:
                text = await websocket.receive_text()
            except KeyError:
                await websocket.close(1003, "send text")
                return
            try:
                data = json.loads(text)
            except json.JSONDecodeError:
                await websocket.close(1007, "send JSON")
                return
            await websocket.send_json({"sum": data["a"] + data["b"]})
    except WebSocketDisconnect:
        pass
    finally:
        online -= 1
