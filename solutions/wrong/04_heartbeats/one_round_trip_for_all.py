"""Misconception: there is one round trip to tell, the last one."""

import asyncio
import time
from typing import Any

from fastapi import FastAPI, WebSocket, WebSocketDisconnect


def running_tasks() -> int:
    """Return how many tasks there are on the server's loop; a few are the server's own."""
    return len(asyncio.all_tasks())


FAILS = set()
HIDDEN = {"a_round_trip_for_each"}


app = FastAPI()

clients: dict[WebSocket, float | None] = {}
"""Who is connected, and the last round trip of each, in seconds."""


@app.get("/watched")
async def watched() -> dict[str, Any]:
    """Say who is connected, how long their last round trips took, and how many tasks run."""
    rtt = [seconds * 1000 for seconds in clients.values() if seconds is not None][-1:]
    return {"clients": len(clients), "rtt_ms": rtt, "tasks": running_tasks()}


@app.websocket("/ws/watch")
async def watch(websocket: WebSocket, interval: float = 0.2, silence: float = 0.7) -> None:
    """Ping the client every `interval` seconds, answer its pings, and let go of it after `silence` seconds."""
    sent: dict[int, float] = {}  # when each ping left

    async def beat() -> None:
        while True:
            await asyncio.sleep(interval)
            number = len(sent) + 1
            sent[number] = time.monotonic()
            await websocket.send_json({"type": "ping", "number": number})

    await websocket.accept()
    clients[websocket] = None
    task = asyncio.create_task(beat())
    try:
        while True:
            async with asyncio.timeout(silence):
                message = await websocket.receive_json()
            if message["type"] == "ping":
                await websocket.send_json({"type": "pong", "number": message["number"]})
            elif message["number"] in sent:
                clients[websocket] = time.monotonic() - sent[message["number"]]
    except WebSocketDisconnect:
        pass
    except TimeoutError:
        await websocket.close(4408, "nothing heard from you")
    finally:
        task.cancel()
        del clients[websocket]
        await asyncio.gather(task, return_exceptions=True)  # it may have met the end itself
