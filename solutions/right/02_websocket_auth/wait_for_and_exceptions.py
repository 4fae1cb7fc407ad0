"""By wait_for, by hand, and by FastAPI's WebSocketException; the origin is looked at in the endpoint."""

import asyncio
import json
from hashlib import sha256

import jwt
from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException

PAGES = {"https://mail.example", "https://beta.mail.example"}
DEADLINE = 0.5  # seconds: ten times less than in earnest, so that the checks are quick
SECRET = "known to everyone who does this exercise"


def user_of(token: str) -> str | None:
    """Return whose token it is; None when it is forged, expired, for another service, or none at all."""
    must_have = {"require": ["sub", "aud", "exp"]}
    try:
        return jwt.decode(token, SECRET, ["HS256"], must_have, audience="mailbox")["sub"]
    except (jwt.PyJWTError, UnicodeError):
        return None


def mail_of(user: str) -> str:
    """Return what only this user may read."""
    return f"The code of {user}'s door is {sha256(user.encode()).hexdigest()[:6]}."


app = FastAPI()


async def enter(websocket):
    try:
        message = await asyncio.wait_for(websocket.receive(), DEADLINE)
    except TimeoutError:
        raise WebSocketException(4401, "say who you are") from None
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message["code"])
    try:
        token = json.loads(message.get("text") or "")["token"]
    except (ValueError, TypeError, KeyError):
        raise WebSocketException(4401, "a token, please") from None
    user = user_of(token) if isinstance(token, str) else None
    if not user:
        raise WebSocketException(4401, "not valid")
    return user


@app.websocket("/ws/mailbox")
async def mailbox(websocket: WebSocket):
    if websocket.headers.get("origin", "https://mail.example") not in PAGES:
        return await websocket.close()  # before accept: HTTP 403
    await websocket.accept()
    try:
        user = await enter(websocket)
        await websocket.send_text(json.dumps({"mail": mail_of(user), "user": user}))
        async for text in websocket.iter_text():
            await websocket.send_text(json.dumps({"text": json.loads(text)["text"], "from": user}))
    except WebSocketDisconnect:
        pass
