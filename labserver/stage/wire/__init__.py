"""What the bytes of a recorded connection mean: reads in, events out, no I/O and no clock of its own.

HTTP/1.1 is parsed by h11, WebSocket frames by websockets' own frame parser, Server-Sent Events as WHATWG HTML 9.2 says.
Whatever can't be parsed becomes an event of kind "error"; nothing in here raises because of what was on the wire.
The events do not depend on how the bytes were split into reads; only their times do.
"""

from labserver.stage.wire.event import DATA, MESSAGES, WireEvent
from labserver.stage.wire.exchange import Exchange, Lane, exchanges, is_keepalive, lanes
from labserver.stage.wire.frames import CLOSE_NAMES, close_name, parse_frame
from labserver.stage.wire.label import counted, elide, hexed
from labserver.stage.wire.parser import parse, parse_chunks
from labserver.stage.wire.published import Match, Publication, trace
from labserver.stage.wire.recording import Conversation, End, Read, Sender
from labserver.stage.wire.sse import sse_blocks

__all__ = [
    "CLOSE_NAMES",
    "DATA",
    "MESSAGES",
    "Conversation",
    "End",
    "Exchange",
    "Lane",
    "Match",
    "Publication",
    "Read",
    "Sender",
    "WireEvent",
    "close_name",
    "counted",
    "elide",
    "exchanges",
    "hexed",
    "is_keepalive",
    "lanes",
    "parse",
    "parse_chunks",
    "parse_frame",
    "sse_blocks",
    "trace",
]
