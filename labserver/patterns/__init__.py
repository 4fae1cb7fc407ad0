"""The subject, a module per topic: plain FastAPI, asyncio and the card's packages, complete on one screen.

Nothing of ours is imported here but `settings`. Each module holds a `router` and its state; the stage loads a fresh
copy of the module for every server, so that no server sees another's state.
"""

__all__ = ["HELPERS", "TOPICS"]

TOPICS = (
    "websocket_basics",
    "websocket_auth",
    "connection_manager",
    "heartbeats",
    "server_sent_events",
    "sse_resume",
    "ndjson",
    "files",
)
"""The topics in the order of the notebooks; their routes are added in this order."""

HELPERS = ("items", "origin")
"""Modules without routes: what several patterns use."""
