"""Misconception: a client that comes back has to come back, whatever happens."""

import asyncio
import codecs
import random
from collections import deque
from collections.abc import AsyncIterator
from io import IncrementalNewlineDecoder
from typing import NamedTuple

import httpx

FAILS = {"refusals"}

FIRST = 0.1  # seconds, the ceiling of the first wait; in the world outside 1 to 3
CAP = 0.8  # seconds, the highest ceiling; outside 30 to 60
SILENCE = 1.0  # seconds without a byte after which a connection is dead; outside 40, for a comment every 15


class Event(NamedTuple):
    name: str
    data: str
    id: str


class FeedFailed(Exception):
    pass


class Parser:
    def __init__(self):
        utf8 = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self.decoder = IncrementalNewlineDecoder(utf8, translate=True)
        self.rest = ""

    def feed(self, piece):
        self.rest += self.decoder.decode(piece)
        *blocks, self.rest = self.rest.split("\n\n")
        for block in blocks:
            yield [(name, value.removeprefix(" ")) for name, _, value in (x.partition(":") for x in block.split("\n"))]


async def follow(client: httpx.AsyncClient, url: str) -> AsyncIterator[Event]:
    last, first, failures = "", FIRST, 0
    had = deque(maxlen=50)
    while True:
        asked = 0
        headers = {"Last-Event-ID": last} if last else {}
        try:
            async with client.stream("GET", url, headers=headers, timeout=SILENCE) as response:
                if response.status_code != 200:
                    later = response.headers.get("Retry-After", "")
                    asked = int(later) if later.isdigit() else 0
                else:
                    parser = Parser()
                    async for piece in response.aiter_bytes():
                        for fields in parser.feed(piece):
                            name, data, id = "message", [], ""
                            for field, value in fields:
                                if field == "event":
                                    name = value
                                elif field == "data":
                                    data.append(value)
                                elif field == "id":
                                    id = value
                                elif field == "retry" and value.isdigit():
                                    first = int(value) / 1000
                            if not data or id in had:
                                continue
                            if name == "error":
                                raise FeedFailed("\n".join(data))
                            if name == "done":
                                return
                            last, failures = id, 0
                            had.append(id)
                            yield Event(name, "\n".join(data), id)
        except httpx.TransportError:
            pass
        await asyncio.sleep(asked + random.uniform(0, min(CAP, first * 2 ** min(failures, 10))))
        failures += 1
