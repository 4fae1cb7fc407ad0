"""The twin of `ndjson` that reads through a cursor, as tutorials print it and as it has never run."""

import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any

from anyio import CancelScope
from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from labserver.settings import Settings, get_settings

if TYPE_CHECKING:  # a third of a second: imported where a request needs it
    from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

PATTERN = "ndjson"
WRONG = "It iterates over a coroutine, and asks for entities where it wants columns: a 200 is sent, and no row."

FIRST, BATCH = 50, 500  # rows: the first chunk is small, so that it comes at once
MOST = 2**63 - 1  # the largest key of SQLite
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx

engines: "dict[str, AsyncEngine]" = {}
logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(router: APIRouter) -> AsyncIterator[None]:
    """Close the pool with the server."""
    yield
    while engines:
        await engines.popitem()[1].dispose()


router = APIRouter(lifespan=lifespan)


def database_url(settings: Annotated[Settings, Depends(get_settings)]) -> str:
    """Say where the items are."""
    if settings.database_url is None:
        raise HTTPException(503, "no database: set LABSERVER_DATABASE_URL")
    return settings.database_url


def sessions(
    url: Annotated[str, Depends(database_url)], settings: Annotated[Settings, Depends(get_settings)]
) -> "Callable[[], AbstractAsyncContextManager[AsyncSession]]":
    """Give what opens a session; all share one pool, of 5 connections and 10 more."""
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    if url not in engines:
        engines.setdefault(url, create_async_engine(url, pool_timeout=settings.database_pool_timeout))
    return async_sessionmaker(engines[url])


Db = Annotated[Callable[[], AbstractAsyncContextManager[Any]], Depends(sessions)]
After = Annotated[int, Query(ge=0, le=MOST, description="the last id that the client has")]
Limit = Annotated[int, Query(ge=1, le=100_000, description="rows, at most")]


class Row(BaseModel, from_attributes=True):
    """A line with an item; the price is in cents."""

    id: int
    name: str
    price: int
    created: date


class Done(BaseModel):
    """The last line of a complete stream."""

    done: bool = True
    rows: int


class Broken(BaseModel):
    """The last line of a stream that failed; `after` is where to go on."""

    error: str = "the next items can't be read"
    after: int


async def page(db: Db, after: int, limit: int) -> Sequence[Any]:
    """Read up to `limit` items with a larger id than `after`."""
    from sqlalchemy import select

    from labserver.patterns.items import Item

    query = select(Item.id, Item.name, Item.price, Item.created).where(Item.id > after).order_by(Item.id)
    with CancelScope(shield=True):  # a query that is cut short leaves its connection half open
        async with db() as session:
            rows: Sequence[Any] = (await session.execute(query.limit(limit))).all()
    return rows


@router.get("/items/{id}")
async def one_item(db: Db, id: Annotated[int, Path(ge=1, le=MOST)]) -> Row:
    """Give one item: a query like those of every other endpoint, from the same pool."""
    rows = await page(db, id - 1, 1)
    if not rows or rows[0].id != id:
        raise HTTPException(404, f"there is no item {id}")
    return Row.model_validate(rows[0])


def line(value: dict[str, Any]) -> str:
    """Return one line: JSON escapes every line break inside a text."""
    return json.dumps(value, default=date.isoformat) + "\n"


@router.get("/stream/items")
async def stream_items(db: Db, after: After = 0, limit: Limit = 1000) -> StreamingResponse:
    """Stream items, some hundred lines to a chunk."""
    from sqlalchemy import select

    from labserver.patterns.items import Item

    async def stream() -> AsyncIterator[str]:
        async with db() as session:
            async for row in session.stream(select(Item).where(Item.id > after).limit(limit)):
                yield line(row._asdict())

    return StreamingResponse(stream(), media_type="application/x-ndjson", headers=HEADERS)


@router.get("/stream/items/native")
async def native_items(db: Db, after: After = 0, limit: Limit = 1000) -> AsyncIterator[Row | Done | Broken]:
    """Stream items by FastAPI's own JSON Lines: it encodes what is yielded, each value a chunk."""
    key, sent = after, 0
    try:
        while rows := await page(db, key, min(BATCH, limit - sent)):
            for row in rows:
                yield Row.model_validate(row)
            key, sent = rows[-1].id, sent + len(rows)
        yield Done(rows=sent)
    except Exception:
        logger.exception("the items after %s can't be read", key)
        yield Broken(after=key)
