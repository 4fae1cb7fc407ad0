"""Misconception: a number is a number, and float() takes them all."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"one_sum", "many_sums", "clients_apart", "only_whole_numbers"}

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
                await websocket.close(1003, "text only")
                return
            try:
                data = json.loads(text)
                total = float(data["a"]) + float(data["b"])
            except (ValueError, TypeError, KeyError):
                await websocket.close(1007, "a and b, please")
                return
            await websocket.send_json({"sum": total})
    except WebSocketDisconnect:
        pass
    finally:
        online -= 1
