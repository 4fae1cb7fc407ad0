"""Misconception: WebSocketDisconnect is the only way a connection ends."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {
    "binary_closes_1003",
    "not_json_closes_1007",
    "wrong_shape_closes_1007",
    "only_whole_numbers",
    "online_after_wrong_messages",
}

app = FastAPI()
clients: list[WebSocket] = []


@app.get("/online")
async def count_online():
    return {"online": len(clients)}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket):
    await websocket.accept()
    clients.append(websocket)
    try:
        while True:
            data = await websocket.receive_json()
            await websocket.send_json({"sum": int(data["a"]) + int(data["b"])})
    except WebSocketDisconnect:
        clients.remove(websocket)
