"""Misconception: the loop of the tutorials is all that a room needs."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"slow_costs_nobody", "slow_is_sent_away"}

app = FastAPI()
members: dict[str, WebSocket] = {}


async def tell(message):
    for websocket in list(members.values()):
        try:
            await websocket.send_text(json.dumps(message))
        except (WebSocketDisconnect, RuntimeError):
            continue


@app.get("/who")
async def who():
    return {"who": list(members)}


@app.websocket("/ws/chat/{name}")
async def chat(websocket: WebSocket, name: str):
    await websocket.accept()
    await tell({"joined": name})
    members[name] = websocket
    try:
        while True:
            await tell({"from": name, "text": await websocket.receive_text()})
    except WebSocketDisconnect:
        pass
    finally:
        del members[name]
        await tell({"left": name})
