"""WebSocket basics: an echo for text, for bytes and for JSON, and a count of who is connected.

A loop ends in one of three ways: the peer leaves (`WebSocketDisconnect`), it sends what this endpoint does not take
(close 1003 or 1007; RFC 6455, 7.4.1), or the code fails. `finally` covers all three, so the count is always right.
"""

import json

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect

from labserver.patterns.origin import same_origin

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
        pass  # the peer left, with a close frame or without
    finally:
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
        pass
    finally:
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
        pass
    finally:
        online.discard(websocket)
