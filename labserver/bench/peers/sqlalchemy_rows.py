"""NDJSON as most examples have it: SQLAlchemy's entities one by one, `json.dumps` for each, a chunk a row."""

import json
from collections.abc import AsyncGenerator
from datetime import date

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("SQLAlchemy row by row, json")


def build(options: Options) -> Serve:
    """Serve the items of the database at `options["database_url"]`."""
    from fastapi import FastAPI
    from fastapi.responses import StreamingResponse
    from sqlalchemy import select
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
    from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

    class Base(DeclarativeBase):
        pass

    class Item(Base):
        __tablename__ = "items"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        price: Mapped[int]
        created: Mapped[date]

    app, sessions = FastAPI(), async_sessionmaker(create_async_engine(options["database_url"]))

    async def lines(limit: int) -> AsyncGenerator[str, None]:
        async with sessions() as session:
            async for item in await session.stream_scalars(select(Item).order_by(Item.id).limit(limit)):
                row = {"id": item.id, "name": item.name, "price": item.price, "created": item.created.isoformat()}
                yield json.dumps(row) + "\n"

    async def stream(limit: int = 100) -> StreamingResponse:
        return StreamingResponse(lines(limit), media_type="application/x-ndjson")

    app.add_api_route("/stream/items", stream, response_model=None)
    return uvicorn_with(app)
