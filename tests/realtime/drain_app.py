"""The app that test_drain.py serves in processes of its own; its limits come from the environment."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from realtime.wire import Lab
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from labserver.realtime import direct
from labserver.realtime.limits import Limits

LIMITS = Limits(
    drain_seconds=float(os.environ.get("DRAIN", "1")), goodbye_timeout=0.3, sse_retry=2, outbox_bytes=1 << 23
)


class Http(direct.DirectHttp):
    """For `uvicorn --http`, which takes a name."""

    limits = LIMITS


class Socket(direct.DirectWebSocket):
    """For `uvicorn --ws`."""

    limits = LIMITS


lab = Lab(LIMITS)


async def state(request: Request) -> Response:
    channels = lab.channels
    behind = sum(each.behind for each in channels.open)
    return JSONResponse(
        {"pid": os.getpid(), "open": len(channels.open), "behind": behind, "begun": channels.drain.begun}
    )


async def publish(request: Request) -> Response:
    for n in range(int(request.query_params["count"])):
        await lab.channels.publish("c", {"n": n, "pad": "x" * 1000})
    return JSONResponse({})


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
    async with lab.channels.lifespan(app) as found:
        yield found
    print("the lifespan has ended", flush=True)


app = lab.app
app.router.lifespan_context = lifespan
app.router.routes += [Route("/state", state), Route("/publish", publish)]
