"""By the SDK, which reads the events; the three questions stay the same."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import httpx2
from anthropic import AnthropicError, APIStatusError, AsyncAnthropic
from anthropic.lib.streaming import AsyncMessageStream
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from labserver.stage import LlmRequest, fake_llm

llm = fake_llm(tokens=40, delay=0.03, name="exercise 09")
given = APIRouter()


@given.get("/llm/requests")
async def requests() -> list[LlmRequest]:
    """Tell what the LLM was asked."""
    return llm.requests


app = FastAPI()
app.include_router(given)


async def asked(prompt: Annotated[str, Body(embed=True)]) -> AsyncIterator[AsyncMessageStream[None]]:
    async with AsyncAnthropic(base_url=llm.url, api_key="any", max_retries=0) as sdk, AsyncExitStack() as stack:
        messages: Any = [{"role": "user", "content": prompt}]
        stream = sdk.messages.stream(model="any", max_tokens=100, messages=messages)
        try:
            yield await stack.enter_async_context(stream)
        except APIStatusError:
            raise HTTPException(503, "the LLM is busy") from None


async def tell(answer: AsyncMessageStream[None]) -> AsyncIterator[str]:
    try:
        async for text in answer.text_stream:
            yield f"data: {json.dumps({'text': text})}\n\n"
        reason = answer.current_message_snapshot.stop_reason
        last = ("done", {"stop_reason": reason}) if reason else ("error", "cut off")
    except (AnthropicError, httpx2.HTTPError) as error:
        last = ("error", type(error).__name__)
    yield f"event: {last[0]}\ndata: {json.dumps(last[1])}\n\n"


@app.post("/ask")
async def ask(answer: Annotated[AsyncMessageStream[None], Depends(asked)]) -> StreamingResponse:
    return StreamingResponse(tell(answer), media_type="text/event-stream")
