"""Work that outlives the request that began it: each run is a task of its app and tells a channel how it goes.

The channel is all there is to know of a run: it begins with a message that stands for the whole so far (`whole`, or any
event that does), and ends with `done` or `error`. So whoever comes back, to this worker or another, resumes as on any
channel, and what the engine forgets is forgotten. Its name can't be written into a URL and holds the owner, so nobody
else finds it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal

from fastapi import HTTPException, Response

from labserver.realtime.auth import Identity
from labserver.realtime.channels import PAGE, Channels
from labserver.realtime.engines.base import Engine, EngineDown
from labserver.realtime.message import LAST, Message
from labserver.realtime.streams import EventStream
from labserver.service.state import UNKNOWN

__all__ = ["WATCHED", "WHOLE", "Failed", "Past", "Runs", "attended", "past", "private", "watch"]

WHOLE = "snapshot"  # the event that replaces all that was told before
WATCHED: dict[int | str, dict[str, Any]] = {  # what a stream of events may answer beside 200
    204: {"description": "You have seen the last event: don't come back. An EventSource does not."},
    401: {"description": "No token, or none that is valid here."},
    403: UNKNOWN[403],
    404: {"description": "You have no such thing, or it ended too long ago."},
    422: {"description": "A parameter is not one; the body says which, and what is wanted."},
    429: {"description": "You have as many connections as one may have."},
    503: {"description": "The engine is down: come again."},
}
STOPPED = "the server stopped"
BROKEN = "it failed: the server's log says why"
RACE = 10.0  # seconds in which the same, asked for twice at once, begins once
WAIT = 10  # seconds until one of too many may be over
ATTEMPTS = 20  # at telling the end of a run to an engine that is down
PAUSE = 0.5  # seconds between two of them

Last = Literal["done", "error"]
Work = Callable[[], Awaitable[Any]]

log = logging.getLogger("uvicorn.error")


class Failed(Exception):
    """A run can't go on; the sentence is told to those who watch it."""


def private(kind: str, owner: str, id: str) -> str:
    """Return the name of a run's channel: the same owner and id name the same, and no route takes a slash."""
    return f"{kind}/{blake2b(repr((owner, id)).encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


# ---- who does the work


class Runs:
    """The tasks of one kind of work, as an async context manager that ends them.

    Args:
        channels: what they tell their channels by.
    """

    def __init__(self, channels: Channels) -> None:
        self._channels = channels
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = 0

    async def __aenter__(self) -> "Runs":
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._tasks)

    async def begin(self, channel: str, event: str, data: Any, work: Work, *, most: int) -> None:
        """Tell `channel` its first message, and let `work` tell it the rest; what `work` returns is said with `done`.

        Where the channel tells of a run already, on any worker, nothing happens.

        Raises:
            HTTPException: 503, nothing has begun: `most` are running, the engine is down, or the same comes twice at
                once.
        """
        with _served():
            if (await self._channels.engine.history(channel, None, None, 1)).messages:
                return
            with self._place(most):
                if not await self._channels.engine.claim(channel, RACE):
                    raise _later("the same is about to begin: come again", RACE)
                await self._channels.publish(channel, data, event)
                task = asyncio.create_task(self._run(channel, work))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                await asyncio.sleep(0)  # it has its first turn before the answer to this request is made

    @contextmanager
    def _place(self, most: int) -> Iterator[None]:
        if len(self._tasks) + self._places >= most:
            raise _later(f"{most} of these are running already", WAIT)
        self._places += 1
        try:
            yield
        finally:
            self._places -= 1

    async def _run(self, channel: str, work: Work) -> None:
        try:
            await self._end(channel, await work())
        except asyncio.CancelledError:
            await self._end(channel, {"reason": STOPPED}, "error", attempts=1)
            raise
        except (Failed, EngineDown) as error:
            await self._end(channel, {"reason": str(error)}, "error")
        except Exception:
            log.exception("A run failed")
            await self._end(channel, {"reason": BROKEN}, "error")

    async def _end(self, channel: str, data: Any, event: Last = "done", attempts: int = ATTEMPTS) -> None:
        for _ in range(attempts):
            try:
                await self._channels.end(channel, data, event)
                return
            except EngineDown:
                await asyncio.sleep(PAUSE)


@asynccontextmanager
async def attended(engine: Engine, channel: str, grace: float) -> AsyncIterator[None]:
    """End what is inside when nobody was present on `channel`, on any worker, for `grace` seconds.

    Raises:
        Failed: so it was.
    """
    loop, limit = asyncio.get_running_loop(), asyncio.timeout(grace)

    async def look() -> None:
        while True:
            await asyncio.sleep(grace / 5)
            if await _somebody(engine, channel):
                limit.reschedule(loop.time() + grace)

    looking = asyncio.create_task(look())
    try:
        async with limit:
            yield
    except TimeoutError:
        if not limit.expired():
            raise
        raise Failed("nobody was there") from None
    finally:
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)


async def _somebody(engine: Engine, channel: str) -> bool:
    try:
        return bool(await engine.presence(channel))
    except EngineDown:
        return True  # who knows


def _later(reason: str, seconds: float) -> HTTPException:
    return HTTPException(503, reason, {"Retry-After": f"{seconds:.0f}"})


@contextmanager
def _served() -> Iterator[None]:
    """Answer 503 when the engine is down."""
    try:
        yield
    except EngineDown as error:
        raise _later(str(error), 1) from None


# ---- who watches it


@dataclass(frozen=True, slots=True)
class Past:
    """What a channel keeps of a run.

    Attributes:
        start: the cursor behind which the newest `WHOLE` comes, or else the oldest message.
        last: its newest message.
    """

    start: str
    last: Message


async def past(engine: Engine, channel: str) -> Past | None:
    """Return what is kept of a run, or None when there is no such run, or it is forgotten.

    Raises:
        EngineDown: it can't be asked now.
    """
    start, last = "", None
    page = await engine.history(channel, None, None, PAGE)
    while page.messages:
        before = page.start
        for last in page.messages:
            start = before if last.event == WHOLE or not start else start
            before = last.id
        page = await engine.history(channel, page.cursor, None, PAGE)
    return Past(start, last) if last else None


async def watch(channels: Channels, channel: str, identity: Identity, cursor: str | None) -> Response:
    """Return a run's events as a finite stream: from the whole so far, or behind a cursor.

    Raises:
        HTTPException: 404, `identity` has no such run; 503, the engine is down.
    """
    with _served():
        known = await past(channels.engine, channel)
    if known is None:
        raise HTTPException(404, "there is no such thing of yours, or it ended too long ago")
    if cursor == known.last.id and known.last.event in LAST:
        return Response(status_code=204)
    after = cursor or known.start
    return EventStream(channels, channel, after=after, user=identity.sub, expires=identity.expires)
