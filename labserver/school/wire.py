"""The clients that checks are written with: real WebSocket and HTTP, waits with deadlines, failures as sentences.

Whatever the answer under test does to a client here ends as `Failed(seen, expected)`; anything else that is raised is a
fault of the check. Payloads come from `answer.random`, seeded per run, check and round.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from labserver.school.checking import Failed

__all__ = ["WAIT", "AnswerUnderTest", "Peer", "until"]

WAIT = 2.0
"""Seconds a check waits for one thing to happen. On loopback it takes milliseconds; two seconds bear a busy machine."""

_SHOWN = 60


class Peer:
    """One WebSocket client of the answer."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    async def send(self, data: str | bytes) -> None:
        """Send one text (`str`) or binary (`bytes`) message.

        Raises:
            Failed: if the connection has ended or the server does not read.
        """
        try:
            async with asyncio.timeout(WAIT):
                await self._connection.send(data)
        except ConnectionClosed:
            raise Failed(self.ending(), "an open connection") from None
        except TimeoutError:
            raise Failed(f"the server did not read for {WAIT:g} s", "a server that reads") from None

    async def send_json(self, value: Any) -> None:
        """Send one text message of JSON."""
        await self.send(json.dumps(value))

    async def receive(self, expected: str) -> str | bytes:
        """Return the next message.

        Raises:
            Failed: if none comes in time, or the connection ends; `expected` says what was waited for.
        """
        try:
            async with asyncio.timeout(WAIT):
                return await self._connection.recv()
        except TimeoutError:
            raise Failed(f"nothing came within {WAIT:g} s", expected) from None
        except ConnectionClosed:
            raise Failed(self.ending(), expected) from None

    async def expect_json(self, value: Any) -> None:
        """Receive one text message that holds this JSON value: 5.0 is not 5, and true is not 1.

        Raises:
            Failed: if it is binary, not JSON, or another value.
        """
        expected = f"the text message {json.dumps(value)}"
        message = await self.receive(expected)
        if isinstance(message, bytes):
            raise Failed(f"the binary message {_short(message)}", expected)
        try:
            came = json.loads(message)
        except ValueError:
            raise Failed(f"the text message {_short(message)}, which is not JSON", expected) from None
        if json.dumps(came, sort_keys=True) != json.dumps(value, sort_keys=True):
            raise Failed(f"the text message {_short(message)}", expected)

    async def expect_close(self, code: int, because: str) -> None:
        """Wait until the server closes with this code and some reason.

        Raises:
            Failed: if it sends a message, stays silent, closes otherwise or cuts the connection.
        """
        expected = f"close {code} with a reason, because {because}"
        try:
            async with asyncio.timeout(WAIT):
                message = await self._connection.recv()
        except TimeoutError:
            raise Failed(f"the connection stayed open for {WAIT:g} s", expected) from None
        except ConnectionClosed:
            pass
        else:
            raise Failed(f"the message {_short(message)}", expected)
        close = self._connection.protocol.close_rcvd
        if close is None or close.code != code:
            raise Failed(self.ending(), expected)
        if not close.reason.strip():
            raise Failed(f"close {code} without a reason", expected)

    async def over(self, wait: float = WAIT) -> bool:
        """Wait until the server has ended this connection in any way; False when it did not in time (seconds)."""
        try:
            async with asyncio.timeout(wait):
                while True:
                    await self._connection.recv()
        except ConnectionClosed:
            return True
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Leave as a polite client does: close 1000."""
        await self._connection.close()

    async def hang_up(self) -> None:
        """End the TCP connection without a close frame, as the system does for a killed client.

        The server is told (FIN). A network that is lost tells it nothing: no check here is about that.
        """
        self._connection.transport.abort()
        await self._connection.wait_closed()

    def ending(self) -> str:
        """How the connection ended, as words."""
        close = self._connection.protocol.close_rcvd
        if close is None:
            return "the connection was cut without a close frame (1006)"
        reason = f" {close.reason!r}" if close.reason else " without a reason"
        return f"the server closed {int(close.code)}{reason}"


class AnswerUnderTest:
    """The answer as a check sees it: addresses on the wire, clients, random payloads.

    Attributes:
        url: `http://host:port`, through the tape.
        ws_url: the same as `ws://`.
        direct_url: past the tape, for questions asked again and again that would only fill it.
        random: the payloads of this run of this check.
    """

    def __init__(self, url: str, ws_url: str, direct_url: str, random: Random) -> None:
        self.url = url
        self.ws_url = ws_url
        self.direct_url = direct_url
        self.random = random

    @asynccontextmanager
    async def websocket(self, path: str) -> AsyncIterator[Peer]:
        """Connect a WebSocket client; it leaves politely at the end of the block.

        Raises:
            Failed: if the server does not accept within `WAIT`.
        """
        expected = f"a WebSocket at {path}"
        try:
            async with asyncio.timeout(WAIT):
                connection = await connect(self.ws_url + path, compression=None, proxy=None, close_timeout=WAIT)
        except InvalidStatus as error:
            raise Failed(f"HTTP {error.response.status_code} in place of the handshake", expected) from None
        except TimeoutError:
            raise Failed(f"no handshake within {WAIT:g} s", expected) from None
        except (InvalidHandshake, OSError) as error:
            raise Failed(f"no connection ({type(error).__name__})", expected) from None
        try:
            yield Peer(connection)
        finally:
            await connection.close()

    async def get_json(self, path: str, expected: str, *, taped: bool = True) -> Any:
        """GET a path, through the tape or past it, and return its JSON body.

        Raises:
            Failed: if there is no answer in time, it is not 200, or not JSON.
        """
        try:
            # verify=False: plain HTTP, and loading certificates would take longer than the request.
            async with httpx.AsyncClient(timeout=WAIT, trust_env=False, verify=False) as client:
                response = await client.get((self.url if taped else self.direct_url) + path)
        except httpx.TimeoutException:
            raise Failed(f"GET {path} had no answer within {WAIT:g} s", expected) from None
        except httpx.HTTPError as error:
            raise Failed(f"GET {path} failed ({type(error).__name__})", expected) from None
        if response.status_code != 200:
            raise Failed(f"GET {path} answered {response.status_code}", expected)
        try:
            return response.json()
        except ValueError:
            raise Failed(f"GET {path} answered {_short(response.text)}, which is not JSON", expected) from None


async def until(probe: Callable[[], Awaitable[bool]], *, deadline: float = WAIT, every: float = 0.02) -> bool:
    """Await `probe()` again and again until it is true; False when the deadline (seconds) passed first."""
    clock = asyncio.get_running_loop().time
    ends = clock() + deadline
    while not await probe():
        if clock() > ends:
            return False
        await asyncio.sleep(every)
    return True


def _short(message: str | bytes) -> str:
    text = message if isinstance(message, str) else repr(message)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
