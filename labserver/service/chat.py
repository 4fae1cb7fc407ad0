"""A prompt goes in by `POST /chat`, its answer comes out as events at `GET /chat/{id}/events`, to several viewers.

A task of the app asks the LLM (`llm`) and tells a channel of its own (`runs`). It ends early when nobody is there.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Path, Request, Response
from pydantic import StringConstraints

from labserver.realtime.channels import Channels
from labserver.realtime.message import dumps
from labserver.service.channels import After, LastEventId, cursor_of
from labserver.service.llm import Clients, ask
from labserver.service.runs import WATCHED, WHOLE, Runs, attended, private, watch
from labserver.service.state import UNKNOWN, UNREADABLE, Known, TheChannels, TheSettings

__all__ = ["llm_url", "router", "running"]

router = APIRouter(tags=["chat"])

PROMPT_MAX = 8_000  # characters: some 2,000 tokens, four pages
BODY_MAX = 12 * PROMPT_MAX + 1_000  # bytes: JSON may write a character as two escapes of six
EXAMPLE_ID = "Vn2cG8yWx1M"
EXAMPLE = (
    'id: 5f3a9c1e-1\nevent: snapshot\ndata: {"text":""}\n\n'
    'id: 5f3a9c1e-2\nevent: token\ndata: {"text":"A river"}\n\n'
    "id: 5f3a9c1e-3\nevent: done\n"
    'data: {"stop_reason":"end_turn","usage":{"input_tokens":14,"output_tokens":2}}\n\n'
)

Prompt = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=PROMPT_MAX),
    Body(embed=True, examples=["Tell me about rivers."]),
]


@dataclass(frozen=True, slots=True)
class Chats:
    """What the app owns for its chats: the tasks that answer, and the LLM's clients."""

    runs: Runs
    clients: Clients


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[None]:
    """Own the chats while the app runs: answers that are under way end with it, and say so."""
    async with Clients() as clients, Runs(app.state.channels) as runs:
        app.state.chats = Chats(runs, clients)
        yield


async def _chats(request: Request) -> Chats:
    chats: Chats = request.app.state.chats
    return chats


TheChats = Annotated[Chats, Depends(_chats)]


async def llm_url(settings: TheSettings) -> str | None:
    """Say where the LLM is; None is Anthropic's own address."""
    if settings.llm == "fake" and settings.llm_url is None:
        raise HTTPException(503, "no LLM: set LABSERVER_LLM_URL")
    return settings.llm_url


class Telling:
    """Tells a channel an answer, text by text.

    An engine keeps so many messages, for so long. A `snapshot` of the whole comes twice as often, so that one is always
    kept and whoever begins with it has all; for who has read so far it says nothing new.
    """

    def __init__(self, channels: Channels, channel: str) -> None:
        self._channels, self._channel = channels, channel
        self._texts: list[str] = []
        self._every, self._seconds = channels.limits.history_messages // 2, channels.limits.history_seconds / 2
        self._rest, self._due = self._every, monotonic() + self._seconds

    async def __call__(self, text: str) -> None:
        self._texts.append(text)
        await self._channels.publish_json(self._channel, dumps({"text": text}), "token")
        self._rest -= 1
        if self._rest <= 0 or monotonic() > self._due:
            self._rest, self._due = self._every, monotonic() + self._seconds
            await self._channels.publish(self._channel, {"text": "".join(self._texts)}, WHOLE)


@router.post(
    "/chat",
    status_code=201,
    max_body_size=BODY_MAX,
    responses={
        201: {"content": {"application/json": {"example": {"id": EXAMPLE_ID, "events": f"/chat/{EXAMPLE_ID}/events"}}}},
        **UNREADABLE,
        **UNKNOWN,
        413: {"description": "The body is larger than a prompt may be."},
        503: {"description": "As many answers are under way as may be, there is no LLM, or the engine is down."},
    },
)
async def chat(
    prompt: Prompt,
    identity: Known,
    channels: TheChannels,
    chats: TheChats,
    settings: TheSettings,
    url: Annotated[str | None, Depends(llm_url)],
    request: Request,
) -> dict[str, str]:
    """Ask the LLM. 201 comes at once: what it says, and what goes wrong with it, are events."""
    id = secrets.token_urlsafe(8)
    channel = private("chat", identity.sub, id)

    async def answer() -> Any:
        async with attended(channels.engine, channel, settings.chat_grace):
            client = await chats.clients.at(url, settings)
            return await ask(client, settings, prompt, Telling(channels, channel))

    await chats.runs.begin(channel, WHOLE, {"text": ""}, answer, most=settings.chats_max)
    return {"id": id, "events": f"{request.scope.get('root_path', '')}/chat/{id}/events"}


@router.get(
    "/chat/{id}/events",
    response_class=Response,
    responses={
        200: {
            "description": "`snapshot` is all of the text so far, in place of what you have; `token` its next piece. "
            "`done` comes last, or `error` with a reason: then what came is not the whole.",
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
    """An answer as Server-Sent Events, from its beginning or behind the last id seen, for its owner alone.

    When the last viewer is gone for `chat_grace` seconds, the LLM is left.
    """
    return await watch(channels, private("chat", identity.sub, id), identity, cursor_of(after, last_event_id))
