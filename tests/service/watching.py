"""What the tests of chats and jobs share: a service of its own, its users, viewers who read, leave and come back."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from labserver.realtime.direct import protocols
from labserver.service.app import create_app
from labserver.settings import Settings
from labserver.stage import LiveServer, start

DEADLINE = 60.0  # seconds: on a busy machine importing the SDK takes 20
KINDS = ("direct", "plain")
TLS = False  # plain HTTP; loading certificates for each client takes longer than a request


@dataclass(frozen=True)
class Heard:
    """One event as a viewer got it."""

    id: str
    event: str
    data: Any


def serve(kind: str = "direct", name: str = "runs", **settings: Any) -> LiveServer:
    """Serve a service of its own, on direct connections or as any server would."""
    chosen = Settings(**settings)
    app = create_app(chosen, open_login=True)
    return start(app, name=name, **(protocols(chosen) if kind == "direct" else {}))


def client(live: LiveServer, user: str = "ana") -> httpx.AsyncClient:
    """Return a client with a token of `user`'s."""
    token = httpx.post(f"{live.url}/auth/login", json={"user": user}, verify=TLS).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    return httpx.AsyncClient(base_url=live.url, headers=headers, verify=TLS, timeout=DEADLINE)


def visitor(live: LiveServer) -> httpx.AsyncClient:
    """Return a client without a token."""
    return httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=DEADLINE)


@asynccontextmanager
async def viewing(
    client: httpx.AsyncClient, path: str, after: str | None = None
) -> AsyncIterator[AsyncIterator[Heard]]:
    """Watch from the beginning or behind a cursor; leaving the block hangs up."""
    headers = {"Last-Event-ID": after} if after else {}
    async with asyncio.timeout(DEADLINE), client.stream("GET", path, headers=headers) as response:
        assert response.status_code == 200, (await response.aread(), response.status_code)
        assert response.headers["content-type"].startswith("text/event-stream")
        async with aclosing(_events(response)) as events:
            yield events


async def _events(response: httpx.Response) -> Any:
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if line and name:
            fields[name] = value
        elif fields:
            if "data" in fields:
                yield Heard(fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"]))
            fields = {}


async def whole(client: httpx.AsyncClient, path: str, after: str | None = None) -> list[Heard]:
    """Return all that is told until the stream ends by itself."""
    async with viewing(client, path, after) as events:
        return [event async for event in events]


async def take(events: AsyncIterator[Heard], count: int) -> list[Heard]:
    """Return the next events."""
    return [await anext(events) for _ in range(count)]


def text(heard: list[Heard]) -> str:
    """Return the text as a viewer puts it together."""
    said = ""
    for one in heard:
        if one.event == "snapshot":
            said = one.data["text"]
        elif one.event == "token":
            said += one.data["text"]
    return said


def names(heard: list[Heard]) -> list[str]:
    """Return the events' names, repetitions once."""
    found: list[str] = []
    for one in heard:
        if found[-1:] != [one.event]:
            found.append(one.event)
    return found


async def until(condition: Callable[[], object]) -> None:
    """Wait until something is true."""
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.01)
