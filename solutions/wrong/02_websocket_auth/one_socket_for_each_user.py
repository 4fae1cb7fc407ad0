"""Misconception: a user has one socket."""

import asyncio
from hashlib import sha256

import jwt
from fastapi import Depends, FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection
from pydantic import BaseModel

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


FAILS = set()
HIDDEN = {"one_user_twice"}


app = FastAPI()

sockets: dict[str, WebSocket] = {}
"""Where each user is."""


class FirstMessage(BaseModel):
    """The shape of the first message."""

    token: str


def from_our_pages(connection: HTTPConnection) -> None:
    """Refuse a page that is not one of ours; a program has no origin."""
    origin = connection.headers.get("origin")
    if origin is not None and origin not in PAGES:
        raise HTTPException(403, "pages of this origin may not connect")


@app.websocket("/ws/mailbox", dependencies=[Depends(from_our_pages)])
async def mailbox(websocket: WebSocket) -> None:
    """Ask for a token, send the mail of its owner, and answer with the owner's name."""
    await websocket.accept()
    try:
        try:
            async with asyncio.timeout(DEADLINE):
                first = FirstMessage.model_validate_json(await websocket.receive_text())
        except TimeoutError:
            return await websocket.close(4401, "no token in time")
        except (KeyError, ValueError):  # binary; no JSON, or of another shape
            return await websocket.close(4401, 'the first message must be {"token": "..."}')
        if (user := user_of(first.token)) is None:
            return await websocket.close(4401, "no valid token")
        sockets[user] = websocket
        await websocket.send_json({"user": user, "mail": mail_of(user)})
        while True:
            letter = await websocket.receive_json()
            await sockets[user].send_json({"from": user, "text": letter["text"]})
    except WebSocketDisconnect:
        pass  # the client has left
