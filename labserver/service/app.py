"""The service: one FastAPI app on `labserver.realtime`, made by `create_app`.

Each room of it is a router in a module of its own; what they share is in `state`. Channels, chats and jobs live in the
app, so an app belongs to one server.
"""

import json
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from labserver import __version__
from labserver.errors import LabError
from labserver.realtime.auth import Auth, Claim, redact_logs
from labserver.realtime.channels import Channels
from labserver.realtime.engines.base import Engine
from labserver.realtime.engines.memory import MemoryEngine
from labserver.service import channels, chat, downloads, echo, health, items, jobs, login
from labserver.service.secret import secret_of
from labserver.service.state import settings_of
from labserver.settings import Settings

__all__ = ["create_app", "make_auth", "refuse_bad_input"]

ROUTERS = (login, channels, echo, items, downloads, chat, jobs, health)


async def refuse_bad_input(request: Request, error: Exception) -> Response:
    """Answer 422, and say what is wrong where.

    FastAPI's own handler repeats the input as well: a password goes back over the wire, and NaN or half a character (a
    lone surrogate) can't be written as JSON, so that the answer is a 500.
    """
    assert isinstance(error, RequestValidationError)
    detail = [{name: each[name] for name in ("type", "loc", "msg")} for each in error.errors()]
    return Response(json.dumps({"detail": detail}), 422, media_type="application/json")  # all of it ASCII


def create_app(
    settings: Settings | None = None,
    *,
    make_engine: Callable[[Settings], Engine] | None = None,
    open_login: bool = False,
) -> FastAPI:
    """Make a service app of its own. Its channels and its auth begin with its lifespan.

    Args:
        settings: what its endpoints see; by default the settings of the process. Without a secret one is made.
        make_engine: makes where messages are kept; by default that is this process's memory.
        open_login: whether anyone may log in as anyone, and logs stay as they are: in a lab on one's own machine alone.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        if not open_login:  # lessons show what a log holds
            redact_logs()
        chosen = settings_of(app)
        realtime = Channels((make_engine or _in_memory)(chosen), chosen)
        app.state.channels, app.state.auth = realtime, make_auth(chosen, realtime.engine.claim)
        async with realtime.lifespan(app) as state, chat.running(app), jobs.running(app):
            yield state

    app = FastAPI(
        title="labserver",
        version=__version__,
        description="Real-time and streaming HTTP: channels, files, items, chats and jobs.",
        docs_url=None,  # their pages need a CDN
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.settings, app.state.open_login = settings, open_login  # one override costs a request half of its time
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_exception_handler(RequestValidationError, refuse_bad_input)
    return app


def _in_memory(settings: Settings) -> Engine:
    return MemoryEngine(settings, epoch=settings.sse_epoch)


def make_auth(settings: Settings, claim: Claim) -> Auth:
    """Return who is let in under these settings.

    Raises:
        LabError: the secret is too short, or an origin is none.
    """
    secret = secret_of(settings) if settings.secret is not None else secrets.token_urlsafe(32)
    try:
        return Auth([secret], settings, origins=settings.origins, ways=settings.auth_ways, claim=claim)
    except ValueError as error:
        raise LabError(f"LABSERVER_ORIGINS: {error}.") from None
