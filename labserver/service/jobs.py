"""Work that takes its time: `POST /jobs` begins it, `GET /jobs/{id}/events` shows how far it is, to whoever began it.

A job runs to its end whether or not anybody watches; only the end of the server is the end of it as well.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Header, Path, Request, Response
from pydantic import BaseModel, Field

from labserver.realtime.channels import KEY_MAX, Channels
from labserver.service.channels import After, LastEventId, cursor_of
from labserver.service.runs import WATCHED, Runs, private, watch
from labserver.service.state import UNKNOWN, UNREADABLE, Known, TheChannels, TheSettings
from labserver.settings import Settings

__all__ = ["router", "running"]

router = APIRouter(tags=["jobs"])

STEPS_MAX = 500  # half of the messages that a channel keeps: who comes late sees all of them
BODY_MAX = 1024  # bytes of an order
EXAMPLE_ID = "Vn2cG8yWx1M"
EXAMPLE = (
    'id: 5f3a9c1e-1\nevent: progress\ndata: {"step":0,"of":1}\n\n'
    'id: 5f3a9c1e-2\nevent: progress\ndata: {"step":1,"of":1}\n\n'
    'id: 5f3a9c1e-3\nevent: done\ndata: {"steps":1}\n\n'
)


class Order(BaseModel):
    """What a job is to do."""

    steps: int = Field(ge=1, le=STEPS_MAX, examples=[3])


class Begun(BaseModel):
    """A job's id, and where its events are."""

    id: str = Field(examples=[EXAMPLE_ID])
    events: str = Field(examples=[f"/jobs/{EXAMPLE_ID}/events"])


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    """Own the jobs while the app runs: those that are under way end with it, and say so."""
    async with Runs(app.state.channels) as app.state.jobs:
        yield


async def _jobs(request: Request) -> Runs:
    jobs: Runs = request.app.state.jobs
    return jobs


def id_of(owner: str, key: str | None) -> str:
    """Return a job's id: with a key always the same for the same owner, on each worker; else one of its own."""
    if key is None:
        return secrets.token_urlsafe(8)
    return blake2b(repr((owner, key)).encode(errors="surrogatepass"), digest_size=8).hexdigest()


async def step(number: int, of: int, settings: Settings) -> dict[str, int]:
    """Do one step of a job; return what there is to tell about it."""
    await asyncio.sleep(settings.work_step)
    return {"step": number, "of": of}


async def work(channels: Channels, channel: str, steps: int, settings: Settings) -> dict[str, int]:
    """Do a job, step by step; whoever watches hears of it."""
    for number in range(1, steps + 1):
        await channels.publish(channel, await step(number, steps, settings), "progress")
    return {"steps": steps}


@router.post(
    "/jobs",
    status_code=202,
    max_body_size=BODY_MAX,
    responses={
        202: {"headers": {"Location": {"description": "Where its events are.", "schema": {"type": "string"}}}},
        **UNREADABLE,
        **UNKNOWN,
        413: {"description": "The body is larger than an order may be."},
        503: {
            "description": "As many jobs are running as may be, or the engine is down: come again, with the same key."
        },
    },
)
async def create(
    order: Order,
    identity: Known,
    channels: TheChannels,
    jobs: Annotated[Runs, Depends(_jobs)],
    settings: TheSettings,
    request: Request,
    response: Response,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=KEY_MAX, description="The same key again is answered with the same job."),
    ] = None,
) -> Begun:
    """Begin a job and return at once. Whoever asks twice with one key, because the answer was lost, begins it once."""
    id = id_of(identity.sub, idempotency_key)
    channel = private("jobs", identity.sub, id)

    async def job() -> Any:
        return await work(channels, channel, order.steps, settings)

    await jobs.begin(channel, "progress", {"step": 0, "of": order.steps}, job, most=settings.jobs_max)
    response.headers["Location"] = f"{request.scope.get('root_path', '')}/jobs/{id}/events"
    return Begun(id=id, events=response.headers["Location"])


@router.get(
    "/jobs/{id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "`progress` after each step; `done` comes last, or `error` with a reason.",
            "content": {"text/event-stream": {"example": EXAMPLE}},
        },
        **WATCHED,
    },
)
async def events(
    id: Annotated[str, Path(max_length=64)],
    identity: Known,
    channels: TheChannels,
    after: After = None,
    last_event_id: LastEventId = None,
) -> Response:
    """A job as Server-Sent Events, from its beginning or behind the last id seen, for its owner alone."""
    return await watch(channels, private("jobs", identity.sub, id), identity, cursor_of(after, last_event_id))
