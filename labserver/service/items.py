"""Items of a database as NDJSON, in batches: `GET /stream/items?limit=&after=`.

No query outlives its page, and no page its query's connection: the next page begins behind the last id. So a reader
who is slow holds a place in a result and not a connection of the pool. Nothing is written, and no model is mapped.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import date
from typing import Annotated, cast

import orjson
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response

from labserver.errors import LabError
from labserver.realtime.message import line
from labserver.realtime.streams import NDJSON, Stream
from labserver.service.state import TheSettings, settings_of
from labserver.settings import Settings

__all__ = ["database_url", "router"]

FIRST, BATCH = 50, 500  # rows: the first batch is small, so that it comes at once
LIMIT = 1000  # rows, where the client names no number
MOST = 100_000  # rows of one stream; who wants more goes on behind the last id
KEY_MAX = 2**63 - 1  # of a BIGINT
EXAMPLE = (
    '{"id":8,"name":"amber vase 8","price":1250,"created":"2021-03-04"}\n'
    '{"id":9,"name":"white stool 9","price":6909,"created":"2020-08-05"}\n'
    '{"done":true,"count":2,"last":9}\n'
)

log = logging.getLogger(__name__)

Row = tuple[int, str, int, date]


class Items:
    """The table `items`: id, name, price (cents), created; behind a pool of 5 connections and 10 more.

    Args:
        url: of the database, for SQLAlchemy's asyncio.
        patience: seconds to wait for a connection of the pool.

    Raises:
        LabError: `url` is none, or its driver is not installed.
    """

    def __init__(self, url: str, patience: float) -> None:
        import sqlalchemy as sa  # a third of a second, for servers that have a database alone
        from sqlalchemy.ext.asyncio import create_async_engine

        try:
            self.engine = create_async_engine(url, pool_timeout=patience)
        except (sa.exc.ArgumentError, sa.exc.InvalidRequestError, ImportError) as error:
            raise LabError(f"LABSERVER_DATABASE_URL is of no use: {error}. Correct or unset it.") from None
        key = sa.column("id", sa.BigInteger)
        columns = key, sa.column("name", sa.String), sa.column("price", sa.BigInteger), sa.column("created", sa.Date)
        behind = sa.select(*columns).select_from(sa.table("items")).where(key > sa.bindparam("after"))
        self._page = behind.order_by(key).limit(sa.bindparam("limit", type_=sa.Integer))

    async def page(self, after: int, limit: int) -> Sequence[Row]:
        """Read up to `limit` items with a larger id than `after`, in the order of their ids."""
        if not limit:
            return ()
        async with self.engine.connect() as connection:
            result = await connection.execute(self._page, {"after": after, "limit": limit})
            return cast(Sequence[Row], result.all())


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Own the pool while the app runs."""
    settings = settings_of(app)
    app.state.items = _of(settings.database_url, settings) if settings.database_url else None
    try:
        yield
    finally:
        if app.state.items is not None:
            await app.state.items.engine.dispose()


router = APIRouter(tags=["items"], lifespan=lifespan)


def _of(url: str, settings: Settings) -> Items:
    return Items(url, settings.database_pool_timeout)


async def database_url(settings: TheSettings) -> str:
    """Say where the items are."""
    if settings.database_url is None:
        raise HTTPException(503, "no database: set LABSERVER_DATABASE_URL")
    return settings.database_url


async def _items(
    request: Request,
    url: Annotated[str, Depends(database_url)],
    settings: TheSettings,
) -> Items:
    state = request.app.state
    state.items = state.items or _of(url, settings)  # an app that names none may have been lent one
    items: Items = state.items
    return items


@dataclass(slots=True)
class Place:
    """How far a stream is: how many items it has given, and the id of the last."""

    last: int
    count: int = 0

    def pass_by(self, rows: Sequence[Row]) -> None:
        """Count these rows as given."""
        self.last, self.count = rows[-1][0], self.count + len(rows)


def encoded(rows: Sequence[Row]) -> bytes:
    """Return one line per row; JSON escapes every line break inside a text."""
    newline = orjson.OPT_APPEND_NEWLINE
    return b"".join(
        [
            orjson.dumps({"id": id, "name": name, "price": price, "created": created}, option=newline)
            for id, name, price, created in rows
        ]
    )


async def batches(items: Items, rows: Sequence[Row], place: Place, limit: int) -> AsyncGenerator[bytes, None]:
    """Yield `rows` and what follows them, a batch at a time, `limit` rows in all."""
    while rows:
        yield encoded(rows)
        place.pass_by(rows)
        rows = await items.page(place.last, min(BATCH, limit - place.count))


async def _first(items: Items, after: int, limit: int) -> Sequence[Row]:
    """Read the first batch: what fails here still gets a status.

    Raises:
        HTTPException: 503, the database can't be read.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return await items.page(after, min(FIRST, limit))
    except (SQLAlchemyError, OSError):
        log.exception("The items after %s can't be read", after)
        raise HTTPException(503, "the items can't be read now", {"Retry-After": "1"}) from None


@router.get(
    "/stream/items",
    response_class=Response,
    responses={
        200: {
            "description": "A line per item, in the order of their ids; `price` is in cents. The last line is "
            '`{"done": true, "count": n, "last": id}`, or `{"error": reason}`; without one of them the stream was cut. '
            "There are no other lines: no keepalive, since many readers stumble over an empty line.",
            "content": {NDJSON: {"schema": {"type": "string"}, "example": EXAMPLE}},
        },
        503: {"description": "There is no database, or it can't be read now."},
    },
)
async def stream_items(
    items: Annotated[Items, Depends(_items)],
    settings: TheSettings,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Number of items at most.", examples=[2])] = LIMIT,
    after: Annotated[
        int, Query(ge=0, le=KEY_MAX, description="The last id that the client has; items behind it come.", examples=[7])
    ] = 0,
) -> Response:
    """Items as NDJSON. Who was cut off, or wants more, comes again with `after=` the last id: nothing comes twice."""
    place = Place(after)
    rows = await _first(items, after, limit)

    def done() -> bytes:
        return line({"done": True, "count": place.count, "last": place.last})

    def failed(reason: str) -> bytes:
        return line({"error": reason})

    return Stream(batches(items, rows, place, limit), NDJSON, done=done, failed=failed, limits=settings)
