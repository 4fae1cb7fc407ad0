"""Misconception: a line feed and a carriage return are one line break, in either order."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import FastAPI, HTTPException, Query
from fastapi.responses import StreamingResponse

MARKETS = {"lisbon": "ACME", "nairobi": "ZEBU", "osaka": "KOI"}


class Line(NamedTuple):
    """What a market says: a price, or a note in somebody's own words."""

    number: int
    name: str
    text: str


async def read_market(market: str, notes: tuple[str, ...], fail_after: int | None) -> AsyncIterator[Line]:
    """Yield a price, each note, and a price, every 50 ms; raise ConnectionError after `fail_after` lines."""
    stock = MARKETS[market]
    said = [("price", f"{stock} 12.50"), *(("note", note) for note in notes), ("price", f"{stock} 12.75")]
    for number, (name, text) in enumerate(said, start=1):
        if fail_after is not None and number > fail_after:
            raise ConnectionError("the line to the market broke")
        yield Line(number, name, text)
        await asyncio.sleep(0.05)


FAILS = set()
HIDDEN = {"three_line_breaks"}


app = FastAPI()

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


def encode(name: str, text: str, number: int | None = None) -> str:
    """Return one event: a `data:` line for each line of the text."""
    fields = [f"id: {number}"] if number is not None else []
    fields += [f"event: {name}"]
    fields += [f"data: {line}" for line in re.split(r"\r\n|\n\r|\r|\n", text)]
    return "\n".join(fields) + "\n\n"


async def stream(lines: AsyncIterator[Line]) -> AsyncIterator[str]:
    """Send each line, and say how it ended."""
    try:
        async for line in lines:
            yield encode(line.name, line.text, line.number)
        yield encode("done", "the market is closed")
    except ConnectionError as error:
        yield encode("error", str(error))


@app.get("/prices/{market}")
async def prices(
    market: str, note: Annotated[tuple[str, ...], Query()] = (), fail_after: int | None = None
) -> StreamingResponse:
    """Send what `read_market(market, note, fail_after)` yields."""
    if market not in MARKETS:
        raise HTTPException(404, "no such market")
    lines = read_market(market, note, fail_after)
    return StreamingResponse(stream(lines), media_type="text/event-stream", headers=HEADERS)
