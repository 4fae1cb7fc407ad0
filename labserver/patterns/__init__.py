"""The subject, a module per topic: plain FastAPI, asyncio and the card's packages, complete on one screen.

Nothing of ours is imported here but `settings`. Each module holds a `router` and its state; the stage loads a fresh
copy of the module for every server, so that no server sees another's state.
"""

__all__ = ["HELPERS", "TOPICS"]

TOPICS = {
    "websocket_basics": 1,
    "websocket_auth": 2,
    "connection_manager": 3,
    "heartbeats": 4,
    "server_sent_events": 5,
    "sse_resume": 6,
    "ndjson": 7,
    "files": 8,
    "llm_tokens": 9,
    "backpressure": 10,
    "disconnects": 11,
    "blocking": 12,
    "production": 14,
    "transports": 15,
}
"""Each topic with the number of the notebook that teaches it; their routes are added in this order."""

HELPERS = ("items", "origin")
"""Modules without routes: what several patterns use."""
