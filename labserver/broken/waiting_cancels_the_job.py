"""The twin of `disconnects` that waits for a job with a time-out, as one waits for anything."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from starlette.types import Receive, Scope, Send

from labserver.settings import Settings, get_settings

PATTERN = "disconnects"
WRONG = (
    "wait_for cancels what it waits for: the first question that is not answered in time ends the job for everybody."
)

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
BODY_MAX = 1024  # bytes of an order
WAIT_MAX = 30.0  # seconds that one question may wait for the end of a job: less than any proxy's limit

Limits = Annotated[Settings, Depends(get_settings)]
logger = logging.getLogger("uvicorn.error")


class Work(BaseModel):
    """What was done since the server started, and what is open now."""

    pages: int = 0
    open: int = 0
    steps: int = 0


work = Work()


@asynccontextmanager
async def lifespan(router: APIRouter) -> AsyncIterator[None]:
    """Own the jobs: those that still run end with the server."""
    yield
    tasks = list(running.values())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


router = APIRouter(lifespan=lifespan)


@router.get("/work")
async def done_so_far() -> Work:
    """Say how much was done, for whoever wants to know who is still working."""
    return work


# --- work that ends with its connection


class TiedStream(StreamingResponse):
    """A stream whose source is closed when the client leaves: at once, by the task that runs it.

    StreamingResponse closes no generator that stands at its `yield`, and from ASGI 2.4 on it hears only when it sends
    that nobody is there. This one listens in any case; and clean-up that awaits is not cancelled.
    """

    closing = False  # the source is being closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streaming = asyncio.create_task(self.stream_response(send))
        leaving = asyncio.create_task(self.listen_for_disconnect(receive))
        try:
            await asyncio.wait({streaming, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not self.closing:
                streaming.cancel()
            leaving.cancel()
            await asyncio.wait({streaming, leaving})
        if not streaming.cancelled():
            streaming.result()  # raises what the source raised

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.body_iterator):  # type: ignore[type-var]  # a generator, and these have aclose
            try:
                await super().stream_response(send)
            finally:
                self.closing = True


async def pages(count: int, size: int, settings: Settings) -> AsyncGenerator[str]:
    """The source: make page after page, and give back what that takes, however it ends."""
    work.open += 1
    try:
        for number in range(1, count + 1):
            await asyncio.sleep(settings.work_step)  # also of 0 seconds: it lets everybody else have a turn
            work.pages += 1
            yield json.dumps({"page": number, "text": "." * size}) + "\n"
        yield json.dumps({"done": True, "pages": count}) + "\n"
    finally:
        work.open -= 1


@router.get("/stream/report")
async def report(
    settings: Limits,
    count: Annotated[int, Query(alias="pages", ge=1, le=10**9)] = 100,
    size: Annotated[int, Query(ge=1, le=1 << 20, description="characters to a page")] = 100,
) -> StreamingResponse:
    """A report for whoever reads it, as NDJSON: nobody else gets it, so it ends when its reader leaves."""
    return TiedStream(pages(count, size, settings), media_type="application/x-ndjson", headers=HEADERS)


# --- work that outlives it


class Order(BaseModel):
    """What a job is to do, and its id: who asks twice for one id, because the answer was lost, starts it once."""

    steps: int = Field(ge=1, le=1000)
    id: str = Field(default_factory=lambda: secrets.token_urlsafe(9), pattern="^[A-Za-z0-9_-]{1,40}$")


class Job:
    """A job's progress: its events so far, numbered from 1, and how viewers hear that there are more."""

    def __init__(self, order: Order) -> None:
        self.id, self.steps = order.id, order.steps
        self.state, self.ended = "running", 0.0
        self.events: list[str] = []
        self.news = asyncio.Event()

    def tell(self, event: str, **data: Any) -> None:
        """Add an event and wake up all who wait for one."""
        self.events.append(encode(event, len(self.events) + 1, data))
        self.news.set()
        self.news = asyncio.Event()

    def end(self, task: "asyncio.Task[None]") -> None:
        """Tell how the job's task ended: the last event of all."""
        del running[self.id]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("job %s failed", self.id, exc_info=error)
        self.state = "cancelled" if task.cancelled() else "error" if error else "done"
        self.ended = time.monotonic()
        self.tell(self.state, steps=self.steps)


jobs: dict[str, Job] = {}
running: "dict[str, asyncio.Task[None]]" = {}


def encode(event: str, number: int, data: dict[str, Any]) -> str:
    """Return one event in the wire's form."""
    return f"id: {number}\nevent: {event}\ndata: {json.dumps(data)}\n\n"


async def step(job: Job, number: int, settings: Settings) -> dict[str, int]:
    """Do one step of a job; return what there is to tell about it."""
    await asyncio.sleep(settings.work_step)
    work.steps += 1
    return {"step": number, "of": job.steps}


async def run(job: Job, settings: Settings) -> None:
    """Do a job, step by step; whoever watches hears of it."""
    for number in range(1, job.steps + 1):
        job.tell("progress", **await step(job, number, settings))


def forget(settings: Settings, most: int) -> None:
    """Forget jobs that ended long ago, and of those that ended the oldest, until there are at most `most` jobs."""
    over = [job for job in jobs.values() if job.state != "running"]
    for job in sorted(over, key=lambda job: job.ended):
        if time.monotonic() - job.ended > settings.job_ttl or len(jobs) > most:
            del jobs[job.id]


async def known(id: str, settings: Limits) -> Job:
    """Find the job of a path."""
    forget(settings, settings.jobs_max)
    if id not in jobs:
        raise HTTPException(404, "there is no such job, or it ended too long ago")
    return jobs[id]


Known = Annotated[Job, Depends(known)]


class State(BaseModel, from_attributes=True):
    """How far a job is: running, done, cancelled or error."""

    id: str
    state: str
    steps: int


@router.post("/jobs", status_code=202, max_body_size=BODY_MAX)
async def create(order: Order, response: Response, settings: Limits) -> State:
    """Start a job and return at once; whoever knows its id may watch it."""
    response.headers["Location"] = f"/jobs/{order.id}"
    if order.id in jobs:
        return State.model_validate(jobs[order.id])
    forget(settings, settings.jobs_max - 1)
    if len(jobs) >= settings.jobs_max:
        raise HTTPException(503, "too many jobs are running", {"Retry-After": "10"})
    job = jobs[order.id] = Job(order)
    task = running[job.id] = asyncio.create_task(run(job, settings))
    task.add_done_callback(job.end)
    return State.model_validate(job)


@router.get("/jobs/{id}")
async def state(job: Known, wait: Annotated[float, Query(ge=0, le=WAIT_MAX, description="seconds")] = 0) -> State:
    """Say how far a job is; wait for its end first, for a while. The job does not notice."""
    if wait and job.id in running:
        with suppress(TimeoutError):
            await asyncio.wait_for(running[job.id], wait)
    return State.model_validate(job)


async def watch(job: Job, seen: int, settings: Settings) -> AsyncGenerator[str]:
    """Yield a job's events behind the one that was seen, then each as it comes; a comment in a long silence."""
    while True:
        news = job.news  # before we look: what is told from here on sets it
        while seen < len(job.events):
            yield job.events[seen]
            seen += 1
        if job.id not in running:
            return
        try:
            await asyncio.wait_for(news.wait(), settings.sse_keepalive)
        except TimeoutError:
            yield ": keepalive\n\n"


@router.get("/jobs/{id}/events")
async def events(job: Known, settings: Limits, last_event_id: Annotated[str, Header(max_length=20)] = "0") -> Response:
    """Show a job to whoever asks, from the last event that they saw; 204 to who has seen all of it."""
    seen = int(last_event_id) if last_event_id.isdecimal() and int(last_event_id) <= len(job.events) else 0
    if seen == len(job.events) and job.id not in running:
        return Response(status_code=204)
    return TiedStream(watch(job, seen, settings), media_type="text/event-stream", headers=HEADERS)


@router.delete("/jobs/{id}")
async def cancel(job: Known) -> State:
    """End a job, if it still runs, for all who watch it."""
    if job.id in running:
        task = running[job.id]
        task.cancel()
        await asyncio.wait({task})
    return State.model_validate(job)
