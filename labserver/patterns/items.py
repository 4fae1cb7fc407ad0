"""The table of items as SQLAlchemy maps it: what an application keeps in its models. No routes.

It stands apart because SQLAlchemy takes a third of a second to import: `ndjson` does that when a request needs it.
"""

from datetime import date

from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """What maps this application's tables."""


class Item(Base):
    """Something for sale."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    price: Mapped[int]  # cents
    created: Mapped[date]
