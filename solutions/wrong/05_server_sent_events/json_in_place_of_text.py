"""Misconception: `data=` is the text."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, NamedTuple

from fastapi import Depends, FastAPI, HTTPException, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

FAILS = {"events_in_order", "line_breaks", "any_text"}

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


def known(market: str) -> str:
    if market not in MARKETS:
        raise HTTPException(404, "no such market")
    return market


@app.get("/prices/{market}", response_class=EventSourceResponse)
async def prices(
    market: Annotated[str, Depends(known)],
    note: Annotated[tuple[str, ...], Query()] = (),
    fail_after: int | None = None,
) -> AsyncIterator[ServerSentEvent]:
    try:
        async for line in read_market(market, note, fail_after):
            yield ServerSentEvent(data=line.text, event=line.name, id=str(line.number))
        yield ServerSentEvent(data="closed", event="done")
    except ConnectionError as error:
        yield ServerSentEvent(data=str(error), event="error")
