"""Misconception: `finally` runs only when no `except` did."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, StrictInt

FAILS = {"online_after_close_and_hang_up"}


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
            text = await websocket.receive_text()
            numbers = Numbers.model_validate_json(text)
            await websocket.send_json({"sum": numbers.a + numbers.b})
    except KeyError:
        await websocket.close(1003, "text only")
    except ValueError:
        await websocket.close(1007, "not two numbers")
    except WebSocketDisconnect:
        online -= 1
    finally:
        online -= 1
