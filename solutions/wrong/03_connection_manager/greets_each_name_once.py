"""Misconception: who was here before needs no notice."""

import asyncio
import json

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

FAILS = set()
HIDDEN = {"coming_back"}


app = FastAPI()

OUTBOX = 50  # messages


class Member:
    """One client: its name, its socket and what waits to be sent to it."""

    def __init__(self, name: str, websocket: WebSocket) -> None:
        self.name, self.websocket = name, websocket
        self.outbox: asyncio.Queue[str] = asyncio.Queue(OUTBOX)
        self.stay = asyncio.timeout(None)

    async def write(self) -> None:
        while True:
            await self.websocket.send_text(await self.outbox.get())


members: set[Member] = set()
greeted: set[str] = set()


def tell(message: dict[str, str]) -> None:
    """Put a message into every outbox; whose outbox is full is sent away."""
    text = json.dumps(message)
    for member in list(members):
        try:
            member.outbox.put_nowait(text)
        except asyncio.QueueFull:
            members.discard(member)
            member.stay.reschedule(0)


@app.get("/who")
async def who() -> dict[str, list[str]]:
    """Say who is in the room."""
    return {"who": [member.name for member in members]}


@app.websocket("/ws/chat/{name}")
async def chat(websocket: WebSocket, name: str) -> None:
    """Tell all what this client says, and this client what all say."""
    await websocket.accept()
    member = Member(name, websocket)
    if name not in greeted:
        greeted.add(name)
        tell({"joined": name})
    members.add(member)
    try:
        async with member.stay, asyncio.TaskGroup() as tasks:
            tasks.create_task(member.write())
            while True:
                tell({"from": name, "text": await websocket.receive_text()})
                await asyncio.sleep(0)  # the writers' turn
    except* (WebSocketDisconnect, RuntimeError, TimeoutError):
        pass  # it has left, or is too slow
    finally:
        members.discard(member)
        tell({"left": name})
