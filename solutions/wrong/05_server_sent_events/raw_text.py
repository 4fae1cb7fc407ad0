"""Misconception: `data:` takes any text."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import StreamingResponse

FAILS = {"line_breaks"}

MARKETS = {"lisbon": "ACME", "nairobi": "ZEBU", "osaka": "KOI"}


class Line(NamedTuple):
    number: int
    name: str
    text: str


async def read_market(market: str, notes: tuple[str, ...], fail_after: int | None) -> AsyncIterator[Line]:
    stock = MARKETS[market]
    said = [("price", f"{stock} 12.50"), *(("note", note) for note in notes), ("price", f"{stock} 12.75")]
    for number, (name, text) in enumerate(said, start=1):
        if fail_after is not None and number > fail_after:
            raise ConnectionError("the line to the market broke")
        yield Line(number, name, text)
        await asyncio.sleep(0.05)


app = FastAPI()


def encode(line):
    return f"id: {line.number}\nevent: {line.name}\ndata: {line.text}\n\n"


@app.get("/prices/{market}")
async def prices(market: str, note: Annotated[tuple[str, ...], Query()] = (), fail_after: int | None = None):
    if market not in MARKETS:
        raise HTTPException(404, "no such market")

    async def stream():
        try:
            async for line in read_market(market, note, fail_after):
                yield encode(line)
            yield "event: done\ndata: closed\n\n"
        except ConnectionError as error:
            yield f"event: error\ndata: {error}\n\n"

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)
