"""What is measured and what is to be reached: a row per kind of work, with its entries and goals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from labserver.bench.figures import Goal, Sample, Samples
from labserver.bench.measure import Measure, Size, Under, chat, download, fanout, idle, llm_direct, rows
from labserver.bench.place import Place
from labserver.errors import LabError

__all__ = ["OURS", "ROWS", "Entry", "Row"]

OURS = "labserver"
IN_FLIGHT = 16  # messages of the saturated row
STALL_BYTES = 2048  # of a message with a stalled reader: the kernel's buffers, then ours, are full in a second
FIRST_TOKEN, PACE = 0.02, 0.001  # seconds the LLM thinks, time to connect for the events; and between two tokens
SECRET = "a secret of the benchmark alone, 32 bytes or more"

Prepare = Callable[[Place, Size], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a row measures: a peer's server, and how a sample of it is taken.

    Attributes:
        label: its name in the row; unique there.
        peer: a module of `labserver.bench.peers`.
        measure: takes one sample.
        prepare: makes the options of its server.
        beside: whether its server runs on the load's core: it is not what is measured.
    """

    label: str
    peer: str
    measure: Measure
    prepare: Prepare = lambda place, size: {}
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A kind of work.

    Attributes:
        name: as on the command line.
        title: what is done.
        unit: of each entry's cost.
        entries, goals: what is measured, and what it is for.
        fresh: whether each sample needs a server that has served nobody.
    """

    name: str
    title: str
    unit: str
    entries: tuple[Entry, ...]
    goals: tuple[Goal, ...]
    fresh: bool = False


# ---- goals


def slower(than: str, must: float, aim: float, label: str = "", key: str = "cost", ours: str = OURS) -> Goal:
    """Return the goal to cost at most so many times as much as another."""

    def ratio(samples: Samples) -> float:
        return samples[ours][key] / samples[than][key]

    return Goal(label or f"against {than}", (ours, than), ratio, must=must, aim=aim)


def faster(than: str, must: float | None = None, aim: float | None = None) -> Goal:
    """Return the goal to be at least so many times faster than another."""

    def ratio(samples: Samples) -> float:
        return samples[than]["cost"] / samples[OURS]["cost"]

    return Goal(f"faster than {than}", (OURS, than), ratio, must=must, aim=aim, at_least=True)


def alone(
    label: str, unit: str, must: float | None = None, aim: float | None = None, entry: str = OURS, key: str = "cost"
) -> Goal:
    """Return the goal that a number of one entry's is at most so large."""
    return Goal(label, (entry,), lambda samples: samples[entry][key], unit, must, aim)


# ---- what servers need


def _loop(place: Place, size: Size) -> Mapping[str, Any]:
    program = place.build("fanout")
    if not program:
        raise LabError("the C compiler could not build its loop")
    return {"program": program}


def _database(place: Place, size: Size) -> Mapping[str, Any]:
    from labserver.stage.databases import database

    return {"database_url": place.owned.enter_context(database(size.rows)).url}


def _file(place: Place, size: Size) -> Mapping[str, Any]:
    folder = place.folder / "files"
    file = folder / "file.bin"
    if not file.exists():
        folder.mkdir()
        with file.open("w+b") as made:
            made.truncate(size.file_bytes)
            while made.read(1 << 20):  # it is in the page cache for everyone
                pass
    return {"files_root": str(folder)}


def _answers(place: Place, size: Size, delay: float = PACE) -> Mapping[str, Any]:
    return {"tokens": size.tokens, "delay": delay, "first": FIRST_TOKEN}


def _upstream(place: Place, size: Size, delay: float = PACE) -> Mapping[str, Any]:
    endpoint = place.serve("llm_endpoint", _answers(place, size, delay), core=place.load_core)
    return {"llm_url": f"http://127.0.0.1:{endpoint.port}", "secret": SECRET}


def _token() -> str:
    from labserver.realtime.auth import Auth
    from labserver.realtime.engines.memory import MemoryEngine

    return Auth([SECRET], claim=MemoryEngine().claim).mint("bench")


# ---- rows

_C, _PICOWS, _BROADCAST, _NAIVE = "C", "picows", "broadcast of websockets", "naive FastAPI"
_CHANNELS, _SOCKETIO, _STARLETTE, _NATIVE = (
    "Channels on daphne",
    "python-socketio",
    "sse-starlette",
    "FastAPI's own SSE",
)
_NGINX, _SQLALCHEMY = "nginx", "SQLAlchemy row by row"
_DIRECT, _PACED = "the SDK, without a relay", f"{OURS}, one each ms"
_WITH, _WITHOUT = "one stalled", "none stalled"
_ON, _OFF = "deflate on", "deflate off"
_OUR_WS, _OUR_SSE = f"{OURS}, WebSocket", f"{OURS}, SSE"
_SSE = partial(fanout, sse=True)
_CHANNEL = "public.bench"


def _few(stalled: int) -> Measure:
    return lambda under: fanout(
        under, readers=under.size.few, size=STALL_BYTES, stalled=stalled, seconds=2 * under.size.seconds
    )


FANOUT = Row(
    "fanout",
    "WebSocket fan-out, one message in flight",
    "us a delivery",
    (
        Entry(OURS, "ours", fanout),
        Entry(_C, "c_loop", fanout, _loop),
        Entry(_PICOWS, "picows", fanout),
        Entry(_BROADCAST, "websockets_broadcast", fanout),
        Entry(_NAIVE, "naive_fastapi", fanout),
        Entry(_CHANNELS, "channels_daphne", fanout),
        Entry(_SOCKETIO, "socketio_uvicorn", fanout),
    ),
    (
        slower(_C, 1.45, 1.3),
        slower(_PICOWS, 1.3, 1.05),
        faster(_BROADCAST, 1.35, 1.6),
        faster(_NAIVE, 3, 3.8),
        faster(_CHANNELS, 50, 70),
        faster(_SOCKETIO),
    ),
)

SATURATED = Row(
    "saturated",
    f"WebSocket fan-out, {IN_FLIGHT} messages in flight",
    "us a delivery",
    (
        Entry(OURS, "ours", partial(fanout, flight=IN_FLIGHT)),
        Entry(_C, "c_loop", partial(fanout, flight=IN_FLIGHT), _loop),
    ),
    (slower(_C, 0.25, 0.13),),
)

STALLED = Row(
    "stalled",
    "Fan-out to a few readers, one of them stalled",
    "us a delivery",
    (Entry(_WITH, "ours", _few(1)), Entry(_WITHOUT, "ours", _few(0))),
    (slower(_WITHOUT, 1.5, 1.1, "p99 of the others", "p99", _WITH),),
)

EVENTS = Row(
    "sse",
    "SSE fan-out, one message in flight",
    "us a delivery",
    (
        Entry(OURS, "ours", _SSE),
        Entry(_C, "c_loop", _SSE, _loop),
        Entry(_STARLETTE, "sse_starlette", _SSE),
        Entry(_NATIVE, "fastapi_sse", _SSE),
    ),
    (slower(_C, 1.45, 1.25), faster(_STARLETTE, 10, 13), faster(_NATIVE, 40, 55)),
)

MEMORY = Row(
    "memory",
    "Memory of an idle connection",
    "KiB",
    (
        Entry(_OUR_WS, "service", partial(idle, path=f"/ws/channels/{_CHANNEL}", upgrade=True)),
        Entry(_OUR_SSE, "service", partial(idle, path=f"/channels/{_CHANNEL}/events", upgrade=False)),
        Entry(f"{_NAIVE}, WebSocket", "naive_fastapi", partial(idle, path="/ws", upgrade=True)),
        Entry(_NATIVE, "fastapi_sse", partial(idle, path="/sse", upgrade=False)),
    ),
    (
        alone("a WebSocket", "KiB", 32, 24, _OUR_WS),
        alone("an event stream", "KiB", 23, 20, _OUR_SSE),
    ),
    fresh=True,
)

DEFLATE = Row(
    "deflate",
    "WebSocket fan-out, compressed",
    "us a delivery",
    (
        Entry(_ON, "ours", partial(fanout, frames=1, deflate=1), lambda place, size: {"deflate": True}),
        Entry(_OFF, "ours", partial(fanout, frames=0, deflate=1)),
    ),
    (slower(_OFF, 1.15, 1.05, "on against off", ours=_ON),),
)

ITEMS = Row(
    "ndjson",
    "NDJSON from a database",
    "ms of CPU",
    (Entry(OURS, "service", rows, _database), Entry(_SQLALCHEMY, "sqlalchemy_rows", rows, _database)),
    (faster(_SQLALCHEMY, 6, 8), alone("first byte", "ms", 5, 2, key="first")),
)

FILES = Row(
    "download",
    "Download of a large file",
    "ms of CPU",
    (Entry(OURS, "service", download, _file), Entry(_NGINX, "nginx_files", download, _file)),
    (slower(_NGINX, 1.4, 1.2),),
)


def _relayed(samples: Samples) -> float:
    return samples[OURS]["cost"] - samples[_DIRECT]["cost"]


def _asked(under: Under) -> Sample:
    return chat(under, token=_token())


def _per_token(under: Under) -> Sample:
    return {"cost": _asked(under)["token"]}


LLM = Row(
    "llm",
    "Relay of an LLM's answer",
    "ms to the first token",
    (Entry(OURS, "service", _asked, _upstream), Entry(_DIRECT, "llm_endpoint", llm_direct, _answers, beside=True)),
    (Goal("added to the first token", (OURS, _DIRECT), _relayed, "ms", 2.0),),
)

TOKENS = Row(
    "tokens",
    "Tokens of an LLM's answer",
    "us of CPU a token",
    (
        Entry(OURS, "service", _per_token, partial(_upstream, delay=0)),
        Entry(_PACED, "service", _per_token, _upstream),
    ),
    (alone("as fast as they come", "us", 50), alone("one each ms", "us", entry=_PACED)),
)

ROWS = {row.name: row for row in (FANOUT, SATURATED, STALLED, EVENTS, MEMORY, DEFLATE, ITEMS, FILES, LLM, TOKENS)}
"""All rows, in the order in which they are measured."""
