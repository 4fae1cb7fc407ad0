"""Misconception: what can be added to a whole number is one."""

import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = set()
HIDDEN = {"whole_on_either_side"}


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
                if type(message["a"]) is not int:
                    raise TypeError
                total = message["a"] + message["b"]
            except (ValueError, TypeError, KeyError):  # no JSON, or of another shape
                return await websocket.close(1007, 'expected JSON such as {"a": 2, "b": 3}')
            await websocket.send_text(json.dumps({"sum": total}))
    except WebSocketDisconnect:
        pass  # the client has left, with a close frame or without
    finally:
        online.discard(websocket)
