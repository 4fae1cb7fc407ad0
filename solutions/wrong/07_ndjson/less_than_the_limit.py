"""Misconception: a limit of 100,000 is a limit below it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel


class LedgerError(Exception):
    """An entry can't be read."""


class Setup(BaseModel):
    """What is in the ledger: how many entries, which of them is spoilt, and what is written in each."""

    entries: int = 2000
    bad: int = 0
    step: int = 3
    memo: str = "rent"


class Connection:
    """A connection that was lent: ask it for pages until you give it back."""

    def __init__(self) -> None:
        self.lent = True

    async def page(self, after: int, size: int) -> list[dict]:
        """Return up to `size` entries, 500 at most, with larger ids than `after`."""
        await asyncio.sleep(0.001)
        if not self.lent or size > 500:
            raise RuntimeError("this connection was given back" if not self.lent else "500 entries at most")
        first = after // setup.step + 1
        ids = [number * setup.step for number in range(first, min(first + size, setup.entries + 1))]
        if setup.bad in ids:
            raise LedgerError(f"entry {setup.bad} is spoilt")
        ledger.read += len(ids)
        return [{"id": id, "cents": id * 7 % 10_007, "memo": setup.memo} for id in ids]


class Ledger:
    """Three connections, and how many entries were read through them."""

    def __init__(self) -> None:
        self.read = 0
        self.free = asyncio.Semaphore(3)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """Lend a connection for the length of the block; when all are lent, wait for one, a second at most."""
        await asyncio.wait_for(self.free.acquire(), 1)
        connection = Connection()
        try:
            yield connection
        finally:
            connection.lent = False
            self.free.release()


setup, ledger, app = Setup(), Ledger(), FastAPI()


@app.post("/ledger")
async def set_up(new: Setup) -> None:
    global setup
    setup, ledger.read = new, 0


@app.get("/ledger")
async def how_far() -> dict[str, int]:
    return {"read": ledger.read}


FAILS = set()
HIDDEN = {"bounds_are_included"}

BATCH = 200


def line(value: dict) -> str:
    """Return one line of NDJSON."""
    return json.dumps(value) + "\n"


@app.get("/export")
async def export(
    after: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=1, lt=100_000)] = 1000
) -> StreamingResponse:
    """Stream the entries after an id; the last line says how the stream ended."""

    async def stream() -> AsyncIterator[str]:
        key, sent = after, 0
        try:
            while sent < limit:
                async with ledger.connect() as connection:
                    entries = await connection.page(key, min(BATCH, limit - sent))
                if not entries:
                    break
                yield "".join(line(entry) for entry in entries)
                key, sent = entries[-1]["id"], sent + len(entries)
            yield line({"done": True, "rows": sent})
        except LedgerError:
            yield line({"error": "an entry can't be read", "after": key})

    return StreamingResponse(stream(), media_type="application/x-ndjson")
