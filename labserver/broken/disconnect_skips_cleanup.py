"""The twin of `websocket_basics` that cleans up where the peer says goodbye, and only there."""

import json

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect

from labserver.patterns.origin import same_origin

PATTERN = "websocket_basics"
WRONG = "Clean-up in `except WebSocketDisconnect` misses every other way out: a dead socket stays in the set for good."

router = APIRouter(dependencies=[Depends(same_origin)])
online: set[WebSocket] = set()


@router.get("/online")
async def count_online() -> dict[str, int]:
    """Say how many sockets are open."""
    return {"online": len(online)}


@router.websocket("/ws")
async def echo_text(websocket: WebSocket) -> None:
    """Send each text message back; a binary one closes 1003."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            try:
                text = await websocket.receive_text()
            except KeyError:  # a binary message has no "text"
                return await websocket.close(1003, "text messages only")
            await websocket.send_text(text)
    except WebSocketDisconnect:
        online.discard(websocket)


@router.websocket("/ws/bytes")
async def echo_bytes(websocket: WebSocket) -> None:
    """Send each binary message back; a text one closes 1003."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            try:
                data = await websocket.receive_bytes()
            except KeyError:  # a text message has no "bytes"
                return await websocket.close(1003, "binary messages only")
            await websocket.send_bytes(data)
    except WebSocketDisconnect:
        online.discard(websocket)


@router.websocket("/ws/json")
async def echo_json(websocket: WebSocket) -> None:
    """Send each JSON value back; a binary message closes 1003, text that is not JSON closes 1007."""
    await websocket.accept()
    online.add(websocket)
    try:
        while True:
            try:
                value = await websocket.receive_json()
                text = json.dumps(value, allow_nan=False)
            except KeyError:
                return await websocket.close(1003, "text messages only")
            except (ValueError, RecursionError):  # not JSON; nested too deep; NaN, which Python takes for JSON
                return await websocket.close(1007, "not JSON")
            await websocket.send_text(text)
    except WebSocketDisconnect:
        online.discard(websocket)
