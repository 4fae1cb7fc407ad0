"""Pages from a generator of their own, a smaller first one, bounds by Query, bytes in place of text."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
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


async def pages(after, limit):
    """Yield lists of entries; nothing is lent while one is in somebody's hands."""
    size = 20
    while limit > 0:
        async with ledger.connect() as connection:
            entries = await connection.page(after, min(size, limit))
        if not entries:
            return
        yield entries
        after, limit, size = entries[-1]["id"], limit - len(entries), 500


@app.get("/export")
async def export(
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=100_000)] = 1000,
):
    async def stream():
        last, sent = after, 0
        async with aclosing(pages(after, limit)) as source:
            try:
                async for entries in source:
                    yield b"".join(json.dumps(entry, ensure_ascii=False).encode() + b"\n" for entry in entries)
                    last, sent = entries[-1]["id"], sent + len(entries)
                end = {"rows": sent, "done": True}
            except LedgerError as error:
                end = {"after": last, "error": str(error)}
        yield json.dumps(end).encode()

    return StreamingResponse(stream(), media_type="application/x-ndjson", headers={"Cache-Control": "no-store"})
