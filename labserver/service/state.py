"""What the service's endpoints share: the app's settings, channels and auth, and who asks.

These dependencies are async: FastAPI calls any other in a thread, once for each request.
"""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Request
from starlette.requests import HTTPConnection

from labserver.realtime.auth import Auth, Identity, check_channel, may_read
from labserver.realtime.channels import Channels
from labserver.realtime.codes import Refused, status
from labserver.settings import Settings, get_settings

__all__ = [
    "UNKNOWN",
    "UNREADABLE",
    "AnyIdentity",
    "Channel",
    "Known",
    "Readable",
    "TheAuth",
    "TheChannels",
    "TheSettings",
    "refusal",
    "settings_of",
]

UNREADABLE: dict[int | str, dict[str, Any]] = {400: {"description": "The body is no text in UTF-8, or breaks off."}}
FOREIGN = {"description": "A foreign page sent it, or a page's cookie came without its origin."}
UNKNOWN: dict[int | str, dict[str, Any]] = {  # what an endpoint that needs a token may answer
    401: {"description": "No token, or none that is valid here."},
    403: FOREIGN,
    503: {"description": "The engine is down, and can't tell whether a ticket was used: come again."},
}


def settings_of(app: FastAPI) -> Settings:
    """Return the settings of an app: those a stage lends it, those it was made with, else those of the process."""
    lent = app.dependency_overrides.get(get_settings)
    settings: Settings = lent() if lent else app.state.settings or get_settings()
    return settings


async def _settings(connection: HTTPConnection) -> Settings:
    return settings_of(connection.app)


async def _channels(connection: HTTPConnection) -> Channels:
    channels: Channels = connection.app.state.channels
    return channels


async def _auth(connection: HTTPConnection) -> Auth:
    auth: Auth = connection.app.state.auth
    return auth


TheSettings = Annotated[Settings, Depends(_settings)]
TheChannels = Annotated[Channels, Depends(_channels)]
TheAuth = Annotated[Auth, Depends(_auth)]


def refusal(refused: Refused) -> HTTPException:
    """Return a refusal as an HTTP error."""
    number, headers = status(refused.code)
    return HTTPException(number, refused.reason, headers)


async def _identity(request: Request, auth: TheAuth) -> Identity | None:
    try:
        return await auth.identify(request)
    except Refused as refused:
        raise refusal(refused) from None


AnyIdentity = Annotated[Identity | None, Depends(_identity)]


async def _known(identity: AnyIdentity) -> Identity:
    if identity is None:
        raise HTTPException(401, "this needs a token", {"WWW-Authenticate": "Bearer"})
    return identity


Known = Annotated[Identity, Depends(_known)]


async def _channel(channel: str) -> str:
    try:
        return check_channel(channel)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


Channel = Annotated[str, Depends(_channel)]


async def _readable(channel: Channel, identity: AnyIdentity) -> str:
    if may_read(identity, channel):
        return channel
    if identity is None:
        raise HTTPException(401, "this channel needs a token", {"WWW-Authenticate": "Bearer"})
    raise HTTPException(403, "this channel is somebody else's")


Readable = Annotated[str, Depends(_readable)]
