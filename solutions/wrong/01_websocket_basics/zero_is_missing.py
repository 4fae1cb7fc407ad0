"""Misconception: a number that is missing is falsy, so a falsy number is missing."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = set()
HIDDEN = {"zero_is_a_number"}


app = FastAPI()

online: set[WebSocket] = set()


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
        while True:
            try:
                text = await websocket.receive_text()
            except KeyError:  # a binary message has no text
                return await websocket.close(1003, "text messages only")
            try:
                message = json.loads(text)
                a, b = message.get("a"), message.get("b")
            except (ValueError, AttributeError):  # no JSON, or no object
                return await websocket.close(1007, 'expected JSON such as {"a": 2, "b": 3}')
            if not a or not b or type(a) is not int or type(b) is not int:
                return await websocket.close(1007, "a and b are whole numbers")
            await websocket.send_text(json.dumps({"sum": a + b}))
    except WebSocketDisconnect:
        pass  # the client has left, with a close frame or without
    finally:
        online.discard(websocket)
