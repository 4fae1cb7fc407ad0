"""Misconception: the server's own close raises WebSocketDisconnect too, so cleaning up there is enough."""

from json import JSONDecodeError

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, StrictInt, ValidationError

FAILS = {"online_after_wrong_messages"}


class Numbers(BaseModel):
    a: StrictInt
    b: StrictInt


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
            numbers = Numbers.model_validate(await websocket.receive_json())
            await websocket.send_json({"sum": numbers.a + numbers.b})
    except KeyError:
        await websocket.close(1003, "text only")
    except (JSONDecodeError, ValidationError):
        await websocket.close(1007, "two whole numbers a and b, please")
    except WebSocketDisconnect:
        online -= 1
