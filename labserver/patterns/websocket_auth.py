"""WebSocket authentication: five ways to bring a token along, one `verify`, and one rule: accept first, refuse then.

A page can't set headers on `new WebSocket`. So its token comes in the query, in a cookie, as the first message, in the
name of a subprotocol, or is exchanged for a ticket that works once. A close before `accept` is an HTTP 403, and a page
sees neither that nor a reason; a close 4401 after it arrives. Who somebody is, the token alone says.
"""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import Annotated, Literal, NamedTuple

import jwt
from fastapi import APIRouter, Body, Cookie, Depends, HTTPException, Response, WebSocket, WebSocketDisconnect
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

router = APIRouter(dependencies=[Depends(same_origin)])
Config = Annotated[Settings, Depends(get_settings)]
Bearer = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]
NOTES = {"ana": "door code 4711", "ben": "door code 2718"}


class User(NamedTuple):
    """Who a token was signed for, and when it expires, in seconds of Unix time."""

    name: str
    expires: float


class FirstMessage(BaseModel):
    """The shape of a first message."""

    token: str


tickets: dict[str, tuple[User, float]] = {}


def key(settings: Settings) -> str:
    """Return the secret that tokens are signed with; the stage gives each server one of its own."""
    if settings.secret is None:
        raise HTTPException(503, "this server has no secret: set LABSERVER_SECRET")
    return settings.secret.get_secret_value()


def sign(name: str, settings: Settings) -> str:
    """Return a token (a JWT, RFC 7519) for one user, one audience and `settings.token_ttl` seconds."""
    claims = {"sub": name, "aud": settings.token_audience, "exp": int(time.time() + settings.token_ttl)}
    return jwt.encode(claims, key(settings), "HS256")


def verify(token: str, settings: Settings) -> User | None:
    """Return who the token was signed for; None when it is forged, expired, for another audience, or no token."""
    try:
        claims = jwt.decode(
            token,
            key(settings),
            algorithms=["HS256"],
            audience=settings.token_audience,
            options={"require": ["sub", "aud", "exp"]},
        )
    except (jwt.PyJWTError, UnicodeError):
        return None
    return User(claims["sub"], claims["exp"])


async def refuse(websocket: WebSocket, reason: str = "no valid token") -> None:
    """Close 4401 (the range for private use, RFC 6455, 7.4.2; after HTTP's 401)."""
    with suppress(WebSocketDisconnect):
        await websocket.close(4401, reason)


async def serve(websocket: WebSocket, user: User) -> None:
    """Send what this user alone may read, then stay until the client leaves or the token expires."""
    try:
        async with asyncio.timeout(user.expires - time.time()):
            await websocket.send_json({"user": user.name, "note": NOTES.get(user.name, "no note")})
            while (await websocket.receive())["type"] != "websocket.disconnect":
                pass  # this endpoint takes no messages
    except TimeoutError:
        await refuse(websocket, "the token expired")
    except WebSocketDisconnect:
        pass


@router.post("/login")
async def login(
    user: Annotated[Literal["ana", "ben"], Body(embed=True)], response: Response, settings: Config
) -> dict[str, str]:
    """Give a token, in the body for programs and as a cookie for pages. For demonstration: it asks no password."""
    token = sign(user, settings)
    response.set_cookie("session", token, max_age=int(settings.token_ttl), httponly=True, samesite="lax")
    return {"token": token}


@router.websocket("/ws/{user_id}")
async def by_query(websocket: WebSocket, user_id: str, settings: Config, token: str = "") -> None:
    """`?token=`: any client can do that, and every log of URLs holds the token. The path is checked, never believed."""
    await websocket.accept()
    if (user := verify(token, settings)) is None or user.name != user_id:
        return await refuse(websocket, "no valid token for this path")
    return await serve(websocket, user)


@router.websocket("/ws/auth/cookie")
async def by_cookie(websocket: WebSocket, settings: Config, session: Annotated[str, Cookie()] = "") -> None:
    """A cookie: the browser sends it by itself, whichever page connects, and only `same_origin` tells pages apart."""
    await websocket.accept()
    if (user := verify(session, settings)) is None:
        return await refuse(websocket)
    return await serve(websocket, user)


@router.websocket("/ws/auth/first-message")
async def by_first_message(websocket: WebSocket, settings: Config) -> None:
    """`{"token": "..."}` as the first message: no log holds it, but the socket is open to anyone until it comes."""
    await websocket.accept()
    try:
        async with asyncio.timeout(settings.first_message_timeout):
            token = FirstMessage.model_validate_json(await websocket.receive_text()).token
    except TimeoutError:
        return await refuse(websocket, "too late")
    except (KeyError, ValueError):  # binary; no JSON, or of another shape
        return await refuse(websocket, 'the first message must be {"token": "..."}')
    except WebSocketDisconnect:
        return None
    if (user := verify(token, settings)) is None:
        return await refuse(websocket)
    return await serve(websocket, user)


@router.websocket("/ws/auth/subprotocol")
async def by_subprotocol(websocket: WebSocket, settings: Config) -> None:
    """`["lab", "token.<the token>"]` as subprotocols: the server selects `lab`, for it must select an offered one."""
    offered: list[str] = websocket.scope["subprotocols"]
    token = next((name.removeprefix("token.") for name in offered if name.startswith("token.")), "")
    await websocket.accept("lab" if "lab" in offered else None)
    if (user := verify(token, settings)) is None:
        return await refuse(websocket)
    return await serve(websocket, user)


@router.post("/ticket")
async def issue_ticket(bearer: Bearer, settings: Config) -> dict[str, str]:
    """Exchange the token of an `Authorization: Bearer` header for a ticket: it works once, and soon or not at all."""
    if (user := verify(bearer.credentials, settings)) is None:
        raise HTTPException(401, "no valid token", {"WWW-Authenticate": "Bearer"})
    while len(tickets) >= settings.tickets_max:
        del tickets[next(iter(tickets))]  # the oldest
    ticket = secrets.token_urlsafe(16)
    tickets[ticket] = user, time.monotonic() + settings.ticket_ttl
    return {"ticket": ticket}


@router.websocket("/ws/auth/ticket")
async def by_ticket(websocket: WebSocket, ticket: str = "") -> None:
    """`?ticket=`: what a log holds of it is worth nothing, because it was used."""
    await websocket.accept()
    user, until = tickets.pop(ticket, (None, 0.0))
    if user is None or time.monotonic() > until:
        return await refuse(websocket, "no valid ticket")
    return await serve(websocket, user)
