"""Channels over HTTP and WebSocket: publish, live events, history, presence.

`public.*` is readable by anyone, `user.{sub}` by that user alone, any other channel by whoever has a token; publishing
always needs one. A channel needs no making.
"""

from collections.abc import AsyncGenerator
from typing import Annotated, Any

from fastapi import APIRouter, Header, HTTPException, Query, Request, Response, WebSocket
from fastapi.responses import JSONResponse

from labserver.realtime.auth import check_channel, may_publish, may_read
from labserver.realtime.channels import KEY_MAX, PAGE, Channels
from labserver.realtime.codes import BAD_MESSAGE, Refused
from labserver.realtime.engines.base import EngineDown
from labserver.realtime.message import DEFAULT_EVENT, as_text, json_text, line, position
from labserver.realtime.sockets import serve_socket
from labserver.realtime.streams import NDJSON, EventStream, Stream
from labserver.service.state import AnyIdentity, Channel, Known, Readable, TheAuth, TheChannels

__all__ = ["router"]

router = APIRouter(tags=["channels"])

EXAMPLE_ID = "5f3a9c1e-17"
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"description": "No token, or none that is valid here."},
    403: {"description": "The channel is somebody else's."},
    422: {"description": "A parameter is not one; the body says which, and what is wanted."},
}
DOWN: dict[int | str, dict[str, Any]] = {503: {"description": "The engine is down: come again, with the same key."}}

After = Annotated[
    str | None,
    Query(max_length=128, description="The last id seen, for programs; the header wins.", examples=[EXAMPLE_ID]),
]
LastEventId = Annotated[
    str | None, Header(max_length=128, description="The last id seen, as an EventSource sends it when it comes back.")
]


def cursor_of(after: str | None, last_event_id: str | None = None) -> str | None:
    """Return the cursor that a client came with, or None.

    Raises:
        HTTPException: 422, it is not one.
    """
    cursor = last_event_id or after or None
    try:
        return cursor if cursor is None or position(cursor) else None
    except ValueError as error:
        raise HTTPException(422, f"after: {error}") from None


@router.post(
    "/channels/{channel}/messages",
    status_code=201,
    responses={
        201: {"content": {"application/json": {"example": {"id": EXAMPLE_ID}}}},
        413: {"description": "The body is larger than a message may be."},
        **REFUSALS,
        **DOWN,
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {}, "example": {"text": "good morning"}}},
        }
    },
)
async def publish(
    channel: Channel,
    identity: Known,
    channels: TheChannels,
    request: Request,
    event: Annotated[str, Header(description="The event's name.", examples=["greeting"])] = DEFAULT_EVENT,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=KEY_MAX, description="The same key again is answered with the same id."),
    ] = None,
) -> dict[str, str]:
    """Publish a message: the body is its data, any JSON. 201 means that it is stored."""
    if not may_publish(identity, channel):
        raise HTTPException(403, "this channel is somebody else's")
    body = await _body(request, channels.limits.message_max_bytes)
    try:
        return {"id": await channels.publish_json(channel, json_text(body), event, idempotency_key)}
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    except EngineDown as error:
        raise _down(error) from None


async def _body(request: Request, limit: int) -> bytes:
    """Read a body, and no more of it than may be."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise HTTPException(413, f"a message has at most {limit} bytes")
    return body


def _down(error: EngineDown) -> HTTPException:
    return HTTPException(503, str(error), {"Retry-After": "1"})


@router.get(
    "/channels/{channel}/events",
    response_class=Response,
    responses={
        200: {
            "description": "Opens with `start`, `resume` or `gap`; then messages, and comments in silence.",
            "content": {
                "text/event-stream": {
                    "example": f'retry: 3000\nid: {EXAMPLE_ID}\nevent: start\ndata: {{"id":"{EXAMPLE_ID}"}}\n\n'
                }
            },
        },
        429: {"description": "This user has as many connections as one may have."},
        **REFUSALS,
        **DOWN,
    },
)
async def events(
    channel: Readable,
    identity: AnyIdentity,
    channels: TheChannels,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """The channel as Server-Sent Events; a client that comes back with its last id misses nothing, or is told."""
    user, expires = (identity.sub, identity.expires) if identity else (None, None)
    cursor = cursor_of(after, last_event_id)
    return EventStream(channels, channel, after=cursor, user=user, expires=expires)


@router.get(
    "/channels/{channel}/history",
    response_class=Response,
    responses={
        200: {
            "description": 'Messages, one a line; the last record is `{"done": true}` or `{"error": ...}`.',
            "content": {NDJSON: {"example": '{"done":true,"count":0,"gap":false,"id":"5f3a9c1e-17"}\n'}},
        },
        **REFUSALS,
        **DOWN,
    },
)
async def history(
    channel: Readable,
    channels: TheChannels,
    after: After = None,
    limit: Annotated[int, Query(ge=1, le=100_000, description="How many messages at most.")] = 1000,
) -> Response:
    """What is kept of a channel, oldest first, as NDJSON. `gap` says that older ones after `after` may be missing."""
    past = _Past(channels, channel, cursor_of(after), limit)
    return Stream(past.records(), NDJSON, done=past.done, failed=lambda reason: line({"error": reason}))


class _Past:
    """A channel's history while it is written."""

    def __init__(self, channels: Channels, channel: str, after: str | None, limit: int) -> None:
        self._channels, self._channel, self._cursor, self._left = channels, channel, after, limit
        self._count, self._gap = 0, False

    async def records(self) -> AsyncGenerator[bytes, None]:
        engine = self._channels.engine
        while self._left > 0:
            page = await engine.history(self._channel, self._cursor, None, min(PAGE, self._left))
            self._gap |= page.gap
            if not page.messages:
                self._cursor = page.cursor
                return
            self._cursor, self._left = page.cursor, self._left - len(page.messages)
            self._count += len(page.messages)
            yield b"".join(as_text(message).encode() + b"\n" for message in page.messages)

    def done(self) -> bytes:
        return line({"done": True, "count": self._count, "gap": self._gap, "id": self._cursor})


@router.get(
    "/channels/{channel}/presence",
    responses={
        200: {"content": {"application/json": {"example": {"users": {"ana": 2, "ben": 1}, "connections": 3}}}},
        **REFUSALS,
        **DOWN,
    },
)
async def presence(channel: Readable, channels: TheChannels) -> JSONResponse:
    """Who is connected to a channel, on all workers: user -> number of connections."""
    try:
        users = await channels.engine.presence(channel)
    except EngineDown as error:
        raise _down(error) from None
    return JSONResponse({"users": users, "connections": sum(users.values())}, headers={"Cache-Control": "no-store"})


@router.websocket("/ws/channels/{channel}")
async def channel_socket(
    websocket: WebSocket, channel: str, channels: TheChannels, auth: TheAuth, after: str | None = None
) -> None:
    """A channel both ways: messages as they come, and what the client says (`labserver.realtime.sockets`)."""
    try:
        check_channel(channel)
        if after:
            position(after)
    except ValueError as error:
        await auth.refuse(websocket, Refused(BAD_MESSAGE, str(error)))
        return
    try:
        identity = await auth.enter(
            websocket, anonymous=may_read(None, channel), allowed=lambda identity: may_read(identity, channel)
        )
    except Refused:
        return
    await serve_socket(
        websocket,
        channels,
        channel,
        after=after or None,
        user=identity.sub if identity else None,
        expires=identity.expires if identity else None,
        may_publish=may_publish(identity, channel),
        renew=None if identity is None else lambda token: auth.renew(identity, token).expires,
    )
