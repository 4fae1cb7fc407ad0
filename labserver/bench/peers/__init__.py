"""The servers that are measured, a module each: `PEER` says what it is, `build(options)` returns what serves it.

What a peer is made of is imported by its `build`, in a process of its own, so that this room can be imported without
the extra "bench".
"""

import importlib
import importlib.util
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

__all__ = ["Options", "Peer", "Serve", "Wire", "find", "packages"]

Options = Mapping[str, Any]
"""What a row asks of a peer's server: JSON values."""

Serve = Callable[[socket.socket], None]
"""Serves a listening socket until its process is ended."""


@dataclass(frozen=True, slots=True)
class Wire:
    """How the load generator speaks to a server: its paths, and what a protocol of its own adds to each message.

    Attributes:
        ws, sse, publish: where readers and the publisher connect.
        hello, greet: text frames, one a line, that a reader and the publisher send first.
        head, tail: around each message that is published.
    """

    ws: str = "/ws"
    sse: str = "/sse"
    publish: str = "/publish"
    hello: str = ""
    greet: str = ""
    head: str = ""
    tail: str = ""


@dataclass(frozen=True, slots=True)
class Peer:
    """A server under test.

    Attributes:
        title: what a table calls it.
        missing: returns "" when it can be built here, else a sentence that says why not and what to do.
        wire: how to speak to it.
    """

    title: str
    missing: Callable[[], str] = lambda: ""
    wire: Wire = Wire()


def packages(*names: str) -> Callable[[], str]:
    """Return the `missing` of a peer that is made of these packages."""

    def missing() -> str:
        lacking = [name for name in names if importlib.util.find_spec(name) is None]
        return f'{lacking[0]} is not installed: run `pip install -e ".[lab,bench]"`' if lacking else ""

    return missing


def find(name: str) -> Peer:
    """Return the peer of that module."""
    return cast(Peer, importlib.import_module(f"{__name__}.{name}").PEER)
