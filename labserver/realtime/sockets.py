"""A channel over a WebSocket: what a client may say, what it is answered, and with which code it is sent away.

Who the client is has been decided before (`auth.py`), and the socket is accepted. Every refusal is one of `codes.py`.
"""

from collections.abc import Callable
from typing import Any

from starlette.websockets import WebSocket, WebSocketDisconnect

from .channels import Channels, TooMany
from .codes import BAD_DATA, BAD_MESSAGE, FORBIDDEN, TOO_BIG, TOO_FAST, TOO_MANY, TRY_LATER, WRONG_TYPE, Refused
from .connection import Connection, Goodbye, Plain, Slow
from .direct import DirectWebSocket, direct
from .engines.base import EngineDown
from .expiry import Expiry
from .limits import Rate
from .message import DEFAULT_EVENT, compact, control, json_value

__all__ = ["serve_socket"]

Renew = Callable[[str], float]
"""Takes a token, returns the unix time it ends at; raises `Refused` for one that is not this client's."""

UTF8_BYTES = 4  # the most that one character takes


async def serve_socket(
    websocket: WebSocket,
    channels: Channels,
    channel: str,
    *,
    after: str | None = None,
    user: str | None = None,
    expires: float | None = None,
    may_publish: bool = False,
    renew: Renew | None = None,
    slow: Slow = "close",
) -> None:
    """Serve a channel to an accepted websocket until either side leaves; raises nothing that a peer can cause.

    Args:
        websocket: accepted.
        channels: whose engine and hub.
        channel: its name.
        after: the cursor that the client came with, or None.
        user: who it is, for presence and limits; None for nobody.
        expires: unix time at which its token ends, and with it the connection.
        may_publish: whether it may publish here.
        renew: takes a new token from it; None: its token can't be renewed.
        slow: what happens when the client reads too slowly.
    """
    client = Client(websocket, channels, channel, user, expires, may_publish, renew)
    line = direct(websocket.scope)
    if isinstance(line, DirectWebSocket):
        line.slow = slow
        await client.serve(line, after)
    else:
        plain = _plain(websocket, channels)
        plain.slow = slow
        async with plain.running():
            await client.serve(plain, after)


def _plain(websocket: WebSocket, channels: Channels) -> Plain:
    async def farewell(goodbye: Goodbye) -> None:
        await websocket.close(goodbye[0], goodbye[1])

    return Plain(websocket.send_text, "text", farewell, channels.limits)


class Client:
    """What one client says, handled one message after the other: who does not read its answers is not read from."""

    _connection: Connection

    def __init__(
        self,
        websocket: WebSocket,
        channels: Channels,
        channel: str,
        user: str | None,
        expires: float | None,
        may_publish: bool,
        renew: Renew | None,
    ) -> None:
        self._websocket, self._channels, self._channel, self._user = websocket, channels, channel, user
        self._may_publish, self._renew = may_publish, renew
        self._expires = expires
        self._rate = Rate(channels.limits.rate, channels.limits.rate_burst)

    async def serve(self, connection: Connection, after: str | None) -> None:
        """Serve it on this connection until either side leaves."""
        self._connection = connection
        try:
            with Expiry(connection, self._expires) as self._expiry:
                async with self._channels.subscribe(self._channel, self._user) as subscription:
                    await subscription.enter(connection, after)
                    await self.listen()
        except WebSocketDisconnect:  # it left while something was sent to it
            pass
        except (Refused, TooMany, EngineDown, ValueError) as error:
            code, reason = _refusal(error)
            connection.close((code, reason, 0.0))

    async def listen(self) -> None:
        """Handle what comes until the socket is closed.

        Raises:
            Refused: the client broke a rule; the code says which.
        """
        while (message := await self._websocket.receive())["type"] == "websocket.receive":
            if not self._rate.allows():
                raise Refused(TOO_FAST)
            said = self._read(message.get("text"))
            await SAYS[said["type"]](self, said)
            await self._connection.drained()

    def _read(self, text: str | None) -> dict[str, Any]:
        limit = self._channels.limits.message_max_bytes
        if text is None:
            raise Refused(WRONG_TYPE)
        if len(text) * UTF8_BYTES > limit and len(text.encode()) > limit:
            raise Refused(TOO_BIG, f"a message has at most {limit} bytes")
        try:
            said = json_value(text)
        except ValueError:
            raise Refused(BAD_DATA) from None
        if not isinstance(said, dict) or not isinstance(said.get("type"), str) or said["type"] not in SAYS:
            raise Refused(BAD_MESSAGE, f'say {{"type": ...}}, one of {", ".join(SAYS)}')
        return said

    async def _publish(self, said: dict[str, Any]) -> None:
        event, key = said.get("event", DEFAULT_EVENT), said.get("key")
        if "data" not in said or not isinstance(event, str) or not isinstance(key, str | None):
            raise Refused(BAD_MESSAGE, 'publish takes "data", and perhaps "event" and "key" as strings')
        if not self._may_publish:
            return self._answer("error", code=FORBIDDEN, reason="publishing here needs a token that allows it", key=key)
        try:
            id = await self._channels.publish_json(self._channel, compact(said["data"]), event, key)
        except EngineDown as error:
            return self._answer("error", code=TRY_LATER, reason=str(error), key=key)
        return self._answer("ack", id=id, key=key)

    async def _renewed(self, said: dict[str, Any]) -> None:
        if self._renew is None or not isinstance(said.get("token"), str):
            raise Refused(BAD_MESSAGE, 'renew takes "token", where a token was needed')
        self._answer("renewed", expires=self._expiry.move(self._renew(said["token"])))

    async def _pong(self, said: dict[str, Any]) -> None:
        """The client is there, which a message of any kind tells."""

    def _answer(self, kind: str, **fields: Any) -> None:
        said = {name: value for name, value in fields.items() if value is not None}
        self._connection.tell((control(kind, **said), b""))


SAYS = {"publish": Client._publish, "renew": Client._renewed, "pong": Client._pong}


def _refusal(error: Exception) -> tuple[int, str]:
    """Return the close code and the reason for what went wrong."""
    if isinstance(error, Refused):
        return error.code, error.reason
    codes: dict[type[Exception], int] = {TooMany: TOO_MANY, EngineDown: TRY_LATER}
    return codes.get(type(error), BAD_MESSAGE), str(error)
