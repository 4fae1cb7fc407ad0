"""What the service's endpoints share: the app's channels and auth, and who asks."""

from typing import Annotated

from fastapi import Depends, HTTPException, Request
from starlette.requests import HTTPConnection

from labserver.realtime.auth import Auth, Identity, check_channel, may_read
from labserver.realtime.channels import Channels
from labserver.realtime.codes import FORBIDDEN, Refused

__all__ = ["AnyIdentity", "Channel", "Known", "Readable", "TheAuth", "TheChannels", "refusal"]


async def _channels(connection: HTTPConnection) -> Channels:
    channels: Channels = connection.app.state.channels
    return channels


async def _auth(connection: HTTPConnection) -> Auth:
    auth: Auth = connection.app.state.auth
    return auth


TheChannels = Annotated[Channels, Depends(_channels)]
TheAuth = Annotated[Auth, Depends(_auth)]


def refusal(refused: Refused) -> HTTPException:
    """Return a refusal as an HTTP error: 403 for who is known, else 401 with the scheme to use (RFC 9110, 11.6.1)."""
    if refused.code == FORBIDDEN:
        return HTTPException(403, refused.reason)
    return HTTPException(401, refused.reason, {"WWW-Authenticate": "Bearer"})


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
