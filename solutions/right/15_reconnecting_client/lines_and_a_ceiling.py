"""Another right answer: a parser by hand that yields lines, and a ceiling that is carried on."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from typing import NamedTuple

import httpx

FIRST = 0.1
CAP = 0.8
SILENCE = 1.0


class Event(NamedTuple):
    name: str
    data: str
    id: str


class FeedFailed(Exception):
    pass


class Over(Exception):
    """The feed says that there is no more."""


async def lines(response):
    """Yield each line that has its end, whichever of the three it is."""
    rest, bom, skip = b"", b"\xef\xbb\xbf", False
    first = True
    async for piece in response.aiter_raw():
        for byte in piece:
            if byte == 10 and skip:
                skip = False
                continue
            skip = byte == 13
            if byte in (10, 13):
                line = rest.removeprefix(bom) if first else rest
                yield line.decode("utf-8", "replace")
                rest, first = b"", False
            else:
                rest += bytes([byte])


async def events(response):
    """Yield (event or None, retry or None)."""
    name, data, id = "", None, ""
    async with aclosing(lines(response)) as all_lines:
        async for line in all_lines:
            key, _, value = line.partition(":")
            value = value[1:] if value[:1] == " " else value
            if not line:
                if data is not None:
                    yield Event(name or "message", data, id), None
                name, data = "", None
            elif key == "data":
                data = value if data is None else data + "\n" + value
            elif key == "event":
                name = value
            elif key == "id":
                id = value
            elif key == "retry":
                with suppress(ValueError):
                    yield None, int(value) / 1000


class Follower:
    def __init__(self, client, url):
        self.client, self.url = client, url
        self.ids = []
        self.first = self.ceiling = FIRST
        self.least = 0.0

    def headers(self):
        return {"Accept": "text/event-stream", **({"Last-Event-ID": self.ids[-1]} if self.ids else {})}

    async def once(self):
        """Yield the events of one connection."""
        timeout = httpx.Timeout(5, read=SILENCE)
        async with self.client.stream("GET", self.url, headers=self.headers(), timeout=timeout) as response:
            if response.status_code == 204:
                raise Over
            if response.status_code == 429 or response.status_code >= 500:
                self.least = self.asked(response)
                return
            if response.status_code != 200 or "text/event-stream" not in response.headers.get("content-type", ""):
                raise FeedFailed(f"HTTP {response.status_code}")
            async with aclosing(events(response)) as found:
                async for event, retry in found:
                    if retry is not None:
                        self.first = self.ceiling = retry
                    elif event.name == "done":
                        raise Over
                    elif event.name == "error":
                        raise FeedFailed(event.data)
                    elif event.id not in self.ids[-20:]:
                        self.ids = [*self.ids[-20:], event.id]
                        self.ceiling = self.first
                        yield event

    def asked(self, response):
        try:
            return float(response.headers.get("retry-after", 0))
        except ValueError:
            return 0.0


async def follow(client: httpx.AsyncClient, url: str) -> AsyncIterator[Event]:
    follower = Follower(client, url)
    while True:
        try:
            async with aclosing(follower.once()) as found:
                async for event in found:
                    yield event
        except Over:
            return
        except (httpx.NetworkError, httpx.ProtocolError, httpx.TimeoutException):
            pass
        await asyncio.sleep(follower.least + random.random() * min(CAP, follower.ceiling))
        follower.least, follower.ceiling = 0.0, min(CAP, 2 * follower.ceiling)
