"""The twin of `connection_manager` that awaits one send after the other."""

import asyncio
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Body, Depends, HTTPException, Path, WebSocket, WebSocketDisconnect

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

PATTERN = "connection_manager"
WRONG = "Each send waits for its client to read, so one client that does not read stops the room for everyone."

router = APIRouter(dependencies=[Depends(same_origin)])
Room = Annotated[str, Path(pattern="^[a-z0-9-]{1,40}$")]
Limits = Annotated[Settings, Depends(get_settings)]


class Connection:
    """One socket in a room."""

    def __init__(self, websocket: WebSocket, room: str, settings: Settings) -> None:
        self.websocket, self.room, self.settings = websocket, room, settings
        self.stay = asyncio.timeout(None)  # no deadline, until `send_away` sets it to now
        self.goodbye = (1000, "")

    async def close(self) -> None:
        """Say why; not for longer than a moment, because `close` too waits for a client that does not read."""
        with suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(self.settings.goodbye_timeout):
                await self.websocket.close(*self.goodbye)


class ConnectionManager:
    """Who is in which room, in this process."""

    def __init__(self) -> None:
        self.rooms: dict[str, set[Connection]] = {}

    def connect(self, connection: Connection) -> None:
        """Let a connection into its room."""
        self.rooms.setdefault(connection.room, set()).add(connection)

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection; again is harmless."""
        members = self.rooms.get(connection.room, set())
        members.discard(connection)
        if not members:
            self.rooms.pop(connection.room, None)

    def send_away(self, connection: Connection, code: int, reason: str) -> None:
        """Forget a connection and end its endpoint, whatever that waits for."""
        self.disconnect(connection)
        connection.goodbye = (code, reason)
        connection.stay.reschedule(0)

    def count(self, room: str) -> int:
        """Return how many are in a room."""
        return len(self.rooms.get(room, ()))

    async def broadcast(self, room: str, text: str) -> int:
        """Send `text` to everyone in the room, one after the other, and return how many that are."""
        for connection in list(self.rooms.get(room, ())):
            with suppress(WebSocketDisconnect, RuntimeError):  # it has just left
                await connection.websocket.send_text(text)
        return self.count(room)


manager = ConnectionManager()


@router.get("/rooms/{room}")
async def look(room: Room) -> dict[str, int]:
    """Say how many are in the room."""
    return {"online": manager.count(room)}


@router.post("/rooms/{room}/messages")
async def publish(room: Room, text: Annotated[str, Body(embed=True)], settings: Limits) -> dict[str, int]:
    """Say something to everyone in the room; longer than `message_max_bytes` is a 413."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:  # JSON can spell half a character, and no socket can send it
        raise HTTPException(422, "text that UTF-8 can't hold") from None
    if size > settings.message_max_bytes:
        raise HTTPException(413, "message too long")
    return {"receivers": await manager.broadcast(room, text)}


@router.websocket("/ws/rooms/{room}")
async def join(websocket: WebSocket, room: Room, settings: Limits) -> None:
    """Everything that is said in the room. What this client sends is said to all, itself included."""
    await websocket.accept()
    connection = Connection(websocket, room, settings)
    manager.connect(connection)
    try:
        async with connection.stay:
            while True:
                try:
                    text = await websocket.receive_text()
                except KeyError:  # a binary message has no "text"
                    manager.send_away(connection, 1003, "text messages only")
                else:
                    await manager.broadcast(room, text)
    except* (WebSocketDisconnect, RuntimeError):
        pass  # it has left; or the server has given it up, and then a send is a RuntimeError
    except* TimeoutError:
        await connection.close()
    finally:
        manager.disconnect(connection)
