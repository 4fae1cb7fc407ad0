"""Compressed and flushed, with CRLF line ends, comments between the events, and the done of an outer generator."""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import StreamingResponse

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


def event(name, text, *more):
    lines = [*more, f"event: {name}", *(f"data: {line}" for line in re.split("\r\n|\r|\n", text))]
    return "\r\n".join(lines) + "\r\n\r\n"


async def feed(lines):
    yield ": welcome\r\n\r\n"
    try:
        async for number, name, text in lines:
            yield event(name, text, f"id: {number}")
            yield ": still here\r\n\r\n"
    except ConnectionError as error:
        yield event("error", repr(error))
        return
    yield event("done", "")


async def squeeze(events):
    gzip = zlib.compressobj(wbits=31)
    async for each in events:
        yield gzip.compress(each.encode()) + gzip.flush(zlib.Z_SYNC_FLUSH)
    yield gzip.flush()


@app.get("/prices/{market}")
async def prices(
    request: Request, market: str, note: Annotated[tuple[str, ...], Query()] = (), fail_after: int | None = None
):
    if market not in MARKETS:
        return Response("no such market", 404)
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    events = feed(read_market(market, note, fail_after))
    if "gzip" in request.headers.get("accept-encoding", ""):
        return StreamingResponse(
            squeeze(events), media_type="text/event-stream", headers=headers | {"Content-Encoding": "gzip"}
        )
    return StreamingResponse(events, media_type="text/event-stream", headers=headers)
