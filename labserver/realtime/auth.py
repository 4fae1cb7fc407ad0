"""Who somebody is: tokens by six ways in, one-time tickets, which pages may come, who may read and publish what.

A token is a JWT, HS256 (RFC 7519), with `sub`, `aud` and `exp`. Everything else is refused with a reason that never
repeats a credential. What a channel's name says about its readers stands at the end.
"""

import asyncio
import json
import logging
import re
import secrets
import time
import traceback
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import jwt
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from .codes import BROKEN, FORBIDDEN, TRY_LATER, UNAUTHENTICATED, Refused, said, status
from .engines.base import EngineDown
from .limits import Limits

__all__ = ["WAYS", "Auth", "Identity", "Redact", "check_channel", "may_publish", "may_read", "redact_logs"]

ALGORITHM = "HS256"
TICKETS = "/ticket"  # behind the audience of tokens: a ticket is no token, and a token no ticket
WAYS = frozenset({"bearer", "cookie", "subprotocol", "ticket", "query", "first-message"})
PROTOCOL = "labserver.v1"  # the subprotocol that is selected; a browser offers it beside `token.<jwt>`
TOKEN_MAX = 8192  # characters of a credential
SAFE = {"GET", "HEAD", "OPTIONS"}  # RFC 9110, 9.2.1
PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

Claim = Callable[[str, float], Awaitable[bool]]
"""First to claim a key within so many seconds, over all workers: `engines.base.Engine.claim`."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is.

    Attributes:
        sub: the user, the token's `sub`.
        expires: unix time, seconds, at which the token ends.
    """

    sub: str
    expires: float


class Auth:
    """Makes and checks tokens and tickets.

    Args:
        secrets: sign and verify, 32 bytes or more each (RFC 7518, 3.2); the first signs, so one can be rotated out.
        limits: audience, lifetimes and deadlines.
        claim: makes a ticket good for once.
        origins: pages that may come beside the server's own, such as "https://example.com".
        ways: of `WAYS`. "query" puts a token into every log on the way, so it is off unless named.
        cookie: the name of the cookie that holds a token.
    """

    def __init__(
        self,
        secrets: Sequence[str],
        limits: Limits | None = None,
        *,
        claim: Claim,
        origins: Collection[str] = (),
        ways: Collection[str] = WAYS - {"query"},
        cookie: str = "token",
    ) -> None:
        if not secrets or min(len(secret.encode()) for secret in secrets) < 32:
            raise ValueError("sign with one or more secrets of at least 32 bytes: secrets.token_urlsafe(32) makes one")
        if unknown := set(ways) - WAYS:
            raise ValueError(f"no such way in: {', '.join(sorted(unknown))}; there are {', '.join(sorted(WAYS))}")
        self._secrets, self.limits, self._claim = list(secrets), limits or Limits(), claim
        self._origins = {_origin(each) for each in origins}
        if None in self._origins:
            raise ValueError(f'write origins as "https://example.com", not {sorted(origins)}')
        self.ways, self.cookie = frozenset(ways), cookie

    # ---- tokens and tickets
    def mint(self, sub: str, ttl: float | None = None) -> str:
        """Return a token for the user `sub`, valid for `ttl` seconds (None: `token_ttl`)."""
        return self._sign(sub, self.limits.token_audience, self.limits.token_ttl if ttl is None else ttl)

    def verify(self, token: str) -> Identity:
        """Return whose token it is.

        Raises:
            Refused: 4401, it is not one, not for here, not signed by us, or over.
        """
        claims = self._claims(token, self.limits.token_audience)
        return Identity(claims["sub"], float(claims["exp"]))

    def renew(self, identity: Identity, token: str) -> Identity:
        """Return the same user with a new end.

        Raises:
            Refused: 4401 as for `verify`; 4403, the token is another user's.
        """
        renewed = self.verify(token)
        if renewed.sub != identity.sub:
            raise Refused(FORBIDDEN, "the new token is another user's")
        return renewed

    def mint_ticket(self, identity: Identity) -> str:
        """Return a ticket: good once and for `ticket_ttl` seconds, for who ends when `identity` does."""
        audience = self.limits.token_audience + TICKETS
        ttl = min(self.limits.ticket_ttl, identity.expires - time.time())
        return self._sign(identity.sub, audience, ttl, jti=secrets.token_hex(8), until=identity.expires)

    async def redeem(self, ticket: str) -> Identity:
        """Return whose ticket it is, once.

        Raises:
            Refused: 4401, it is not one, over, or used; 1013, the engine can't tell now.
        """
        claims = self._claims(ticket, self.limits.token_audience + TICKETS, "jti", "until")
        try:
            first = await self._claim(f"ticket:{claims['jti']}", self.limits.ticket_ttl + 1)
        except EngineDown as error:
            raise Refused(TRY_LATER, str(error)) from None
        if not first:
            raise Refused(UNAUTHENTICATED, "the ticket was used before")
        return Identity(claims["sub"], claims["until"])

    def _sign(self, sub: str, audience: str, ttl: float, **more: Any) -> str:
        now = time.time()
        claims = {"sub": sub, "aud": audience, "iat": now, "exp": now + ttl, **more}
        return jwt.encode(claims, self._secrets[0], ALGORITHM)

    def _claims(self, token: str, audience: str, *more: str) -> dict[str, Any]:
        asked: Any = {"require": ["exp", "aud", "sub", *more], "verify_iat": False}  # clocks of hosts differ
        for secret in self._secrets if len(token) <= TOKEN_MAX else ():
            try:
                claims = jwt.decode(token, secret, [ALGORITHM], audience=audience, options=asked)
            except jwt.ExpiredSignatureError:
                raise Refused(UNAUTHENTICATED, "the token expired") from None
            except (jwt.InvalidTokenError, ValueError):
                continue
            if claims["sub"]:
                return dict(claims)
        raise Refused(UNAUTHENTICATED)

    # ---- ways in
    async def identify(self, request: Request) -> Identity | None:
        """Return who sent an HTTP request; None when no credential came.

        Raises:
            Refused: 4401, a bad one came; 4403, a foreign page sent it, or a page's cookie came without its origin;
                1013, the engine can't tell now.
        """
        self._check_origin(request)
        found = self._found(request)
        if found is None:
            return None
        way, credential = found
        if way == "cookie" and request.method not in SAFE and "origin" not in request.headers:
            raise Refused(FORBIDDEN, "a cookie alone changes nothing: send an Origin header, or a bearer token")
        return await self._redeemed(way, credential)

    async def enter(
        self, websocket: WebSocket, *, anonymous: bool = False, allowed: Callable[[Identity], bool] = lambda _: True
    ) -> Identity | None:
        """Let a websocket in: accept it and return who it is; None for somebody without a credential, if `anonymous`.

        Args:
            websocket: not accepted yet.
            anonymous: whether who brings no credential is let in; a bad one is refused all the same.
            allowed: whether somebody known may come here.

        Raises:
            Refused: it was not let in, and has been told so: see `refuse`; 1006, it left.
        """
        try:
            return await self._entered(websocket, anonymous, allowed)
        except Refused as refused:
            await self.refuse(websocket, refused)
            raise

    async def refuse(self, websocket: WebSocket, refused: Refused) -> None:
        """Tell why: a program by a denial response, a page (it learns a code only after accept) by a close code."""
        with suppress(OSError, RuntimeError, WebSocketDisconnect, Refused):  # it took too long, or left
            async with asyncio.timeout(self.limits.goodbye_timeout):
                if websocket.application_state.name == "CONNECTED":
                    await websocket.close(refused.code, said(refused.reason))
                elif "origin" in websocket.headers or "websocket.http.response" not in (
                    websocket.scope.get("extensions") or {}
                ):
                    await _accept(websocket)
                    await websocket.close(refused.code, said(refused.reason))
                else:
                    told = JSONResponse({"detail": refused.reason}, *status(refused.code))
                    await websocket.send_denial_response(told)

    async def _entered(
        self, websocket: WebSocket, anonymous: bool, allowed: Callable[[Identity], bool]
    ) -> Identity | None:
        self._check_origin(websocket)
        found = self._found(websocket)
        identity = await self._redeemed(*found) if found else None
        if identity is not None and not allowed(identity):
            raise Refused(FORBIDDEN)
        by_message = identity is None and not anonymous
        if by_message and "first-message" not in self.ways:
            raise Refused(UNAUTHENTICATED, "a token is needed")
        await _accept(websocket)
        if by_message:
            identity = await self._first_message(websocket)
            if not allowed(identity):
                raise Refused(FORBIDDEN)
        return identity

    async def _first_message(self, websocket: WebSocket) -> Identity:
        try:
            async with asyncio.timeout(self.limits.first_message_timeout):
                message = await websocket.receive()
            return self.verify(json.loads(message.get("text") or "")["token"])
        except TimeoutError:
            raise Refused(UNAUTHENTICATED, "no token came in time") from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Refused(UNAUTHENTICATED, 'say {"token": "..."} first') from None

    async def _redeemed(self, way: str, credential: str) -> Identity:
        return await self.redeem(credential) if way == "ticket" else self.verify(credential)

    def _found(self, connection: HTTPConnection) -> tuple[str, str] | None:
        """Return the first way that is on and brought something, and what it brought."""
        scheme, _, bearer = connection.headers.get("authorization", "").partition(" ")
        sources = {
            "bearer": bearer.strip() if scheme.lower() == "bearer" else "",
            "subprotocol": next((each[6:] for each in _offered(connection) if each.startswith("token.")), ""),
            "ticket": connection.query_params.get("ticket", ""),
            "query": connection.query_params.get("token", ""),
            "cookie": connection.cookies.get(self.cookie, ""),
        }
        return next(((way, value) for way, value in sources.items() if value and way in self.ways), None)

    def _check_origin(self, connection: HTTPConnection) -> None:
        origin = connection.headers.get("origin")
        if origin is None:
            return
        page = _origin(origin)
        secure = connection.scope.get("scheme") in {"https", "wss"} or origin.startswith("https:")
        # without TLS here a proxy may have ended it: the Host header has no scheme
        own = _origin(f"{'https' if secure else 'http'}://{connection.headers.get('host', '')}")
        if page is None or page not in {own, *self._origins}:
            raise Refused(FORBIDDEN, "pages of this origin may not come here")


async def _accept(websocket: WebSocket) -> None:
    try:
        await websocket.accept(PROTOCOL if PROTOCOL in _offered(websocket) else None)
    except OSError:  # it left meanwhile
        raise Refused(BROKEN) from None


def _offered(connection: HTTPConnection) -> list[str]:
    return [str(each) for each in connection.scope.get("subprotocols", ())]


def _origin(url: str) -> tuple[str, str, int | None] | None:
    """Return scheme, host and port of an origin (RFC 6454), None for "null" and junk; `ws` counts as its page's."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return (scheme, host.rstrip("."), port or PORTS.get(scheme)) if scheme and host else None


# ---- logs

LOGGERS = ("uvicorn.access", "uvicorn.error", "uvicorn.asgi")  # the last one traces scopes


def _spelt(word: str) -> str:
    """Return a pattern of a query's key, each letter of which may be percent-encoded."""
    return "".join(f"(?:{letter}|%{ord(letter):x}|%{ord(letter.upper()):x})" for letter in word)


class Redact(logging.Filter):
    """On a logger: blanks tokens and tickets in what is logged, in messages, arguments and tracebacks."""

    SECRET = re.compile(
        rf"""(?i)((?:{_spelt("token")}|{_spelt("ticket")})(?:=|["']\s*:\s*["']))[^&\s]+|\bey[\w-]+\.[\w-]+\.[\w-]*"""
    )

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = self.blanked(record.msg)
        if isinstance(record.args, tuple):  # uvicorn's formatter wants them apart
            record.args = tuple(map(self.blanked, record.args))
        if record.exc_info:
            text = "".join(traceback.format_exception(*record.exc_info)).rstrip()
            if (blanked := self.blanked(text)) != text:
                record.exc_text, record.exc_info = blanked, (Exception, Exception(blanked.splitlines()[-1]), None)
        return True

    def blanked(self, value: Any) -> Any:
        """Return what has a secret as text without it, and anything else as it is."""
        blanked = self.SECRET.sub(lambda found: f"{found[1] or ''}***", text := str(value))
        return value if blanked == text else blanked


def redact_logs() -> None:
    """Blank credentials in what uvicorn logs of requests. Again is harmless."""
    for logger in map(logging.getLogger, LOGGERS):
        if not any(isinstance(each, Redact) for each in logger.filters):
            logger.filters.insert(0, Redact())


# ---- whose channel it is

CHANNEL = re.compile(r"[A-Za-z0-9_.:@-]{1,128}")  # fits into a path, a log line and a broker's key without escapes


def check_channel(name: str) -> str:
    """Return `name`.

    Raises:
        ValueError: it is no name for a channel.
    """
    if not CHANNEL.fullmatch(name):
        raise ValueError("a channel's name has 1 to 128 of A-Z a-z 0-9 _ . : @ -")
    return name


def may_read(identity: Identity | None, channel: str) -> bool:
    """Return whether somebody may read a channel, its history, and who is there.

    `public.*` is anyone's, `user.{sub}` that user's alone, any other for who has a token.
    """
    if channel.startswith("public."):
        return True
    if identity is None:
        return False
    return not channel.lower().startswith("user.") or channel == f"user.{identity.sub}"


def may_publish(identity: Identity | None, channel: str) -> bool:
    """Return whether somebody may publish: who may read, and has a token."""
    return identity is not None and may_read(identity, channel)
