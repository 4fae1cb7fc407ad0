"""The twin of `llm_tokens` that reads the answer by a task of its own, which nobody ends."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Body, Depends, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, StringConstraints

from labserver.settings import Settings, get_settings

if TYPE_CHECKING:  # two seconds: imported where a request needs it
    from anthropic import AsyncAnthropic as Client
    from anthropic.lib.streaming import AsyncMessageStream as Answer

PATTERN = "llm_tokens"
WRONG = "When the client leaves, the task reads on: the whole answer is generated, and paid, for nobody."

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
PROMPT_MAX = 8_000  # characters: some 2,000 tokens, four pages
BODY_MAX = 12 * PROMPT_MAX + 1_000  # bytes: JSON may write a character as two escapes of six

clients: "dict[str | None, Client]" = {}
prompts: dict[str, tuple[str, float]] = {}  # by id: what waits for its stream, and until when
logger = logging.getLogger("uvicorn.error")


@asynccontextmanager
async def lifespan(router: APIRouter) -> AsyncIterator[None]:
    """Leave no connection open when the server stops."""
    yield
    while clients:
        await clients.popitem()[1].close()


def readable(text: Any) -> Any:
    """Replace half characters (lone surrogates), which a page's JSON may hold and UTF-8 can't."""
    return text.encode(errors="replace").decode() if isinstance(text, str) else text


router = APIRouter(lifespan=lifespan)
Lab = Annotated[Settings, Depends(get_settings)]
Text = StringConstraints(strip_whitespace=True, min_length=1, max_length=PROMPT_MAX)
Prompt = Annotated[str, Text, BeforeValidator(readable), Body(embed=True)]


def llm_url(settings: Lab) -> str | None:
    """Say where the LLM is; None is Anthropic's own address."""
    if settings.llm == "fake" and settings.llm_url is None:
        raise HTTPException(503, "no LLM: set LABSERVER_LLM_URL")
    return settings.llm_url


def client(url: Annotated[str | None, Depends(llm_url)], settings: Lab) -> "Client":
    """Return the one client of all requests. A `def`: its first call imports the SDK, in a thread, while others run."""
    from anthropic import AsyncAnthropic

    if url not in clients:
        key = "none is needed" if settings.llm == "fake" else None  # None: the SDK looks for it in its usual places
        clients.setdefault(url, AsyncAnthropic(base_url=url, api_key=key, timeout=settings.llm_timeout))
    return clients[url]


def refusal(error: Exception) -> HTTPException:
    """Return the status for what failed before the first piece. The upstream's own words may quote the prompt."""
    from anthropic import APITimeoutError
    from httpx2 import TimeoutException

    kind, status = getattr(error, "type", None), getattr(error, "status_code", None)
    logger.warning("the LLM gave no answer: %s, %s", type(error).__name__, kind)
    if status in (429, 503, 529) or kind in ("rate_limit_error", "overloaded_error"):
        return HTTPException(503, "the LLM is busy", {"Retry-After": "10"})
    if status in (400, 413):
        return HTTPException(400, "the LLM does not take this prompt")
    if isinstance(error, APITimeoutError | TimeoutException):
        return HTTPException(504, "the LLM does not answer in time")
    return HTTPException(502, "the LLM can't be asked")


async def asking(
    llm: Annotated[Any, Depends(client)], settings: Lab
) -> "AsyncIterator[Callable[[str], Awaitable[Answer[None]]]]":
    """Give what asks the LLM; the answer belongs to whoever reads it."""
    async with AsyncExitStack() as answers:

        async def ask(prompt: str) -> "Answer[None]":
            messages = [{"role": "user", "content": prompt}]
            question = llm.messages.stream(model=settings.model, max_tokens=settings.llm_max_tokens, messages=messages)
            try:
                answer: Answer[None] = await answers.enter_async_context(question)
                await anext(answer)  # `message_start`: until it is here, there is a status to say what went wrong
            except Exception as error:
                raise refusal(error) from error
            answers.pop_all()  # whoever reads it closes it
            return answer

        yield ask


Ask = Annotated[Callable[[str], Awaitable[Any]], Depends(asking)]


def event(data: dict[str, Any], name: str | None = None) -> str:
    """Return one event: JSON is one line, whatever line breaks the text has."""
    return (f"event: {name}\n" if name else "") + f"data: {json.dumps(data)}\n\n"


async def tell(answer: "Answer[None]") -> AsyncIterator[str]:
    """Yield each piece of text as it comes; last, how it ended: `done`, or `error` when the answer is not whole."""
    try:
        async for text in answer.text_stream:
            yield event({"text": text})
        message = answer.current_message_snapshot
        if message.stop_reason is None:  # the body ended early, which the SDK takes for success
            raise EOFError("truncated")
        usage = {"input_tokens": message.usage.input_tokens, "output_tokens": message.usage.output_tokens}
        yield event({"stop_reason": message.stop_reason, "usage": usage}, "done")
    except Exception as error:  # told, cut, silent for too long, or no sense in it
        logger.warning("the LLM's answer broke: %s", type(error).__name__)
        kind = "truncated" if isinstance(error, EOFError) else getattr(error, "type", None)
        yield event({"error": kind or "broken"}, "error")


async def behind(answer: "Answer[None]") -> AsyncIterator[str]:
    """Yield what a task has read."""
    queue: asyncio.Queue[str] = asyncio.Queue()

    async def read() -> None:
        async for told in tell(answer):
            queue.put_nowait(told)

    task = asyncio.create_task(read())
    while not (task.done() and queue.empty()):
        yield await queue.get()


def streamed(answer: "Answer[None]") -> StreamingResponse:
    """Return the response that tells an answer."""
    return StreamingResponse(behind(answer), media_type="text/event-stream", headers=HEADERS)


@router.post("/chat", max_body_size=BODY_MAX)
async def chat(prompt: Prompt, ask: Ask) -> StreamingResponse:
    """Answer a prompt, for whoever can POST: programs, and pages by `fetch`."""
    return streamed(await ask(prompt))


@router.post("/chat/prompts", status_code=201, max_body_size=BODY_MAX)
async def keep(prompt: Prompt, settings: Lab) -> dict[str, str]:
    """Keep a prompt for EventSource, which can't POST, and return an id that stands for it in a URL."""
    now = time.monotonic()
    while prompts and (len(prompts) >= settings.prompts_max or next(iter(prompts.values()))[1] < now):
        del prompts[next(iter(prompts))]  # the oldest
    id = secrets.token_urlsafe(16)
    prompts[id] = prompt, now + settings.prompt_ttl
    return {"id": id}


def kept(id: str) -> str:
    """Return the prompt behind an id, once: a browser that connects again must not pay again. 404 ends EventSource."""
    prompt, until = prompts.pop(id, ("", 0.0))
    if time.monotonic() > until:
        raise HTTPException(404, "no such prompt: answered already, or too old")
    return prompt


@router.get("/chat")
async def chat_by_id(prompt: Annotated[str, Depends(kept)], ask: Ask) -> StreamingResponse:
    """Answer the prompt that an id stands for; what a log keeps of the URL is worth nothing, because it was used."""
    return streamed(await ask(prompt))
