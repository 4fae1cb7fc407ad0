"""Misconception: 1003 is the code for any message that I do not like."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException

FAILS = {"not_json_closes_1007", "wrong_shape_closes_1007", "only_whole_numbers"}

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
            if type(data["a"]) is not int or type(data["b"]) is not int:
                raise ValueError("not numbers")
            await websocket.send_json({"sum": data["a"] + data["b"]})
    except WebSocketDisconnect:
        return
    except Exception:
        raise WebSocketException(code=1003, reason="invalid message") from None
    finally:
        online -= 1
