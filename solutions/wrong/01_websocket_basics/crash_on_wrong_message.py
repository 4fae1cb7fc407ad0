"""Misconception: with clean-up in `finally`, an exception in the loop harms nobody."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"binary_closes_1003", "not_json_closes_1007", "wrong_shape_closes_1007", "only_whole_numbers"}

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
            data = await websocket.receive_json()
            await websocket.send_json({"sum": int(data["a"]) + int(data["b"])})
    except WebSocketDisconnect:
        print("client left")
    finally:
        online -= 1
