"""The twin of `heartbeats` that starts a task for each socket and never ends it."""

import asyncio
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, WebSocket, WebSocketDisconnect, WebSocketException
from pydantic import BaseModel, Field, StrictInt, TypeAdapter, ValidationError

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

PATTERN = "heartbeats"
WRONG = (
    "The task goes on when its socket is gone: it beats once more, into nothing, and logs a traceback for each client."
)

router = APIRouter(dependencies=[Depends(same_origin)])
Limits = Annotated[Settings, Depends(get_settings)]
SILENT = 4408  # a close code of our own (RFC 6455, 7.4.2), after HTTP's 408 Request Timeout


class Beat(BaseModel):
    """A ping, or the pong that answers it with the same number."""

    type: Literal["ping", "pong"]
    number: StrictInt


class Text(BaseModel):
    """What the socket is for; it comes back as it was."""

    type: Literal["message"]
    text: str


Message = TypeAdapter[Beat | Text](Annotated[Beat | Text, Field(discriminator="type")])


async def receive(websocket: WebSocket, silence: float) -> Beat | Text:
    """Return the next message; who says nothing for `silence` seconds, or no such message, is sent away."""
    try:
        async with asyncio.timeout(silence):
            return Message.validate_json(await websocket.receive_text())
    except TimeoutError:
        raise WebSocketException(SILENT, "nothing heard from you") from None
    except KeyError:
        raise WebSocketException(1003, "text messages only") from None
    except ValidationError:
        raise WebSocketException(1007, "neither ping, pong nor message") from None


class Heart:
    """Pings one client, and takes the time until its pongs."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.number = 0
        self.sent_at = 0.0
        self.rtt: float | None = None  # seconds

    async def beat(self, interval: float) -> None:
        """Send a ping every `interval` seconds until the client is gone."""
        while True:
            await asyncio.sleep(interval)
            self.number += 1
            self.sent_at = time.monotonic()
            await self.websocket.send_json({"type": "ping", "number": self.number})

    def hear(self, pong: Beat) -> None:
        """Take the time, if this pong answers the last ping."""
        if pong.number == self.number:
            self.rtt = time.monotonic() - self.sent_at


hearts: set[Heart] = set()
tasks: set[asyncio.Task[None]] = set()


@router.get("/heartbeats")
async def heartbeats() -> dict[str, Any]:
    """Say how many sockets are pinged, by how many tasks, and how long their last round trips took."""
    rtt = [heart.rtt * 1000 for heart in hearts if heart.rtt is not None]
    return {"sockets": len(hearts), "tasks": len(tasks), "rtt_ms": rtt}


@router.websocket("/ws/heartbeat/server")
async def heartbeat_by_server(websocket: WebSocket, settings: Limits) -> None:
    """Ping the client, which answers with pongs; its own messages come back."""
    await websocket.accept()
    hearts.add(heart := Heart(websocket))
    tasks.add(task := asyncio.create_task(heart.beat(settings.ws_heartbeat)))
    task.add_done_callback(tasks.discard)
    try:
        while True:
            message = await receive(websocket, settings.ws_silence)
            if isinstance(message, Text):
                await websocket.send_json(message.model_dump())
            elif message.type == "pong":
                heart.hear(message)
    except WebSocketDisconnect:
        pass
    finally:
        hearts.discard(heart)


@router.websocket("/ws/heartbeat/client")
async def heartbeat_by_client(websocket: WebSocket, settings: Limits) -> None:
    """Answer the client's pings with pongs of the same number; its other messages come back."""
    await websocket.accept()
    try:
        while True:
            message = await receive(websocket, settings.ws_silence)
            if isinstance(message, Text):
                await websocket.send_json(message.model_dump())
            elif message.type == "ping":
                await websocket.send_json({"type": "pong", "number": message.number})
    except WebSocketDisconnect:
        pass
