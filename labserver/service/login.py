"""Where tokens and tickets come from: `POST /auth/login` and `POST /auth/ticket`.

Passwords come from the settings (`LABSERVER_PASSWORDS`). The app in a lab on one's own machine lets anyone be anyone.
"""

import hmac
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field, SecretStr

from labserver.service.state import UNKNOWN, UNREADABLE, Known, TheAuth, TheSettings
from labserver.settings import Settings

__all__ = ["router"]

router = APIRouter(prefix="/auth", tags=["auth"])

USER_MAX = 64  # characters of a user's name: it is part of the names of channels
REFUSED: dict[int | str, dict[str, Any]] = {401: {"description": "No such user, or another password."}, **UNREADABLE}


class Login(BaseModel):
    """Who wants a token."""

    user: Annotated[str, Field(min_length=1, max_length=USER_MAX, pattern=r"^[A-Za-z0-9_.@-]+$", examples=["ana"])]
    password: Annotated[SecretStr, Field(max_length=1024, examples=["correct horse battery staple"])] = SecretStr("")


class Token(BaseModel):
    """A token, and the unix time in seconds at which it ends."""

    token: Annotated[str, Field(examples=["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmVk"])]
    expires: Annotated[float, Field(examples=[1795000000.0])]


class Ticket(BaseModel):
    """A ticket: good once, for `ttl` seconds."""

    ticket: Annotated[str, Field(examples=["eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbmEifQ.c2lnbmVk"])]
    ttl: Annotated[float, Field(examples=[10.0])]


@router.post("/login", responses=REFUSED)
async def login(
    who: Login,
    auth: TheAuth,
    request: Request,
    response: Response,
    settings: TheSettings,
) -> Token:
    """Return a token. It is set as a cookie as well, for pages of this origin."""
    if not request.app.state.open_login and not _password_fits(who, settings):
        raise HTTPException(401, "no such user, or another password")
    token = auth.mint(who.user)
    response.headers["Cache-Control"] = "no-store"
    response.set_cookie(auth.cookie, token, max_age=int(auth.limits.token_ttl), httponly=True, samesite="strict")
    return Token(token=token, expires=auth.verify(token).expires)


def _password_fits(who: Login, settings: Settings) -> bool:
    known = settings.passwords.get(who.user)
    given, wanted = who.password.get_secret_value(), known.get_secret_value() if known else ""
    return hmac.compare_digest(given.encode(), wanted.encode()) and bool(wanted)


@router.post("/ticket", responses=UNKNOWN)
async def ticket(identity: Known, auth: TheAuth, response: Response) -> Ticket:
    """Return a ticket for a socket or an EventSource, `?ticket=...`: a log that holds it holds nothing of worth."""
    response.headers["Cache-Control"] = "no-store"
    return Ticket(ticket=auth.mint_ticket(identity), ttl=auth.limits.ticket_ttl)
