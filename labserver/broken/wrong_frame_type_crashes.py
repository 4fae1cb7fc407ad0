"""The twin of `websocket_basics` that most tutorials teach: nobody thought of the other frame type."""

import json

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect

from labserver.patterns.origin import same_origin

PATTERN = "websocket_basics"
WRONG = "The wrong type of message raises KeyError or ValueError: the peer sees 1006, no close frame and no reason."

router = APIRouter(dependencies=[Depends(same_origin)])
online: set[WebSocket] = set()


@router.get("/online")
async def count_online() -> dict[str, int]:
    """Say how many sockets are open."""
    return {"online": len(online)}


@router.websocket("/ws")
async def echo_text(websocket: WebSocket) -> None:
    """Send each text message back; a binary one raises KeyError."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            text = await websocket.receive_text()
            await websocket.send_text(text)
    except WebSocketDisconnect:
        pass  # the peer left, with a close frame or without
    finally:
        online.discard(websocket)


@router.websocket("/ws/bytes")
async def echo_bytes(websocket: WebSocket) -> None:
    """Send each binary message back; a text one raises KeyError."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            data = await websocket.receive_bytes()
            await websocket.send_bytes(data)
    except WebSocketDisconnect:
        pass
    finally:
        online.discard(websocket)


@router.websocket("/ws/json")
async def echo_json(websocket: WebSocket) -> None:
    """Send each JSON value back; a binary message raises KeyError, text that is not JSON raises JSONDecodeError."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            value = await websocket.receive_json()
            text = json.dumps(value, allow_nan=False)
            await websocket.send_text(text)
    except WebSocketDisconnect:
        pass
    finally:
        online.discard(websocket)
