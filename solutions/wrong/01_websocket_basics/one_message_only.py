"""Misconception: a WebSocket endpoint answers and returns, as an HTTP endpoint does."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = {"many_sums", "clients_apart"}

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
        text = await websocket.receive_text()
        data = json.loads(text)
        if not isinstance(data, dict) or not all(type(data.get(name)) is int for name in "ab"):
            raise ValueError("shape")
        await websocket.send_text(json.dumps({"sum": data["a"] + data["b"]}))
    except KeyError:
        await websocket.close(code=1003, reason="text only")
    except ValueError:
        await websocket.close(code=1007, reason="bad data")
    except WebSocketDisconnect:
        pass
    finally:
        online -= 1
