"""Misconception: who has sent one right message sends right messages."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from pydantic import BaseModel, StrictInt, ValidationError

FAILS = set()
HIDDEN = {"wrong_after_right"}


app = FastAPI()

online: set[WebSocket] = set()


class Numbers(BaseModel):
    """The shape of a message."""

    a: StrictInt
    b: StrictInt


@app.get("/online")
async def count_online() -> dict[str, int]:
    """Say how many clients are connected."""
    return {"online": len(online)}


@app.websocket("/ws/sum")
async def add(websocket: WebSocket) -> None:
    """Answer each message with its sum, until the client leaves or sends what is none."""
    await websocket.accept()
    online.add(websocket)
    try:
        try:
            numbers = Numbers.model_validate_json(await websocket.receive_text())
        except KeyError:  # a binary message has no text
            return await websocket.close(1003, "text messages only")
        except ValidationError:  # no JSON, or of another shape
            return await websocket.close(1007, 'expected JSON such as {"a": 2, "b": 3}')
        await websocket.send_text(json.dumps({"sum": numbers.a + numbers.b}))
        while True:
            message = await websocket.receive_json()
            await websocket.send_text(json.dumps({"sum": message["a"] + message["b"]}))
    except WebSocketDisconnect:
        pass  # the client has left, with a close frame or without
    finally:
        online.discard(websocket)
