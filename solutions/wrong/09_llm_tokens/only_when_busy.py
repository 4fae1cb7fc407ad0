"""Misconception: a refusal is a 429 or a 529."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException
from fastapi.responses import StreamingResponse

from labserver.stage import LlmRequest, fake_llm

FAILS = set()
HIDDEN = {"any_refusal"}

llm = fake_llm(tokens=40, delay=0.03, name="exercise 09")
given = APIRouter()


@given.get("/llm/requests")
async def requests() -> list[LlmRequest]:
    """Tell what the LLM was asked."""
    return llm.requests


def new_client() -> httpx.AsyncClient:
    """Return a client, for `async with`; it loads no certificates, for the LLM speaks plain HTTP."""
    return httpx.AsyncClient(timeout=5, trust_env=False, verify=False)


def question(prompt: str) -> dict[str, Any]:
    """Return what the LLM wants to be asked: `client.stream(**question(prompt))`."""
    body = {"model": "any", "max_tokens": 100, "stream": True, "messages": [{"role": "user", "content": prompt}]}
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    return {"method": "POST", "url": f"{llm.url}/v1/messages", "json": body, "headers": headers}


async def events_of(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield each event that the LLM sends; raise httpx.HTTPError where the connection is cut."""
    async for line in response.aiter_lines():
        if line.startswith("data: "):
            yield json.loads(line.removeprefix("data: "))


app = FastAPI()
app.include_router(given)  # GET /llm/requests


async def asked(prompt: Annotated[str, Body(embed=True)]) -> AsyncIterator[httpx.Response]:
    """Ask the LLM, and yield its response; what goes wrong before that still has a status."""
    async with new_client() as client, client.stream(**question(prompt)) as response:
        if response.status_code in (429, 529):
            raise HTTPException(503, "the LLM is busy", {"Retry-After": "10"})
        yield response


async def tell(response: httpx.Response) -> AsyncIterator[str]:
    """Yield an event for each piece of text, and a last one that says how it ended."""
    stop_reason, whole = None, False
    try:
        async for event in events_of(response):
            if event["type"] == "content_block_delta":
                yield f"data: {json.dumps({'text': event['delta']['text']})}\n\n"
            elif event["type"] == "message_delta":
                stop_reason = event["delta"]["stop_reason"]
            whole = event["type"] == "message_stop"
    except httpx.HTTPError:
        whole = False
    if whole:
        yield f"event: done\ndata: {json.dumps({'stop_reason': stop_reason})}\n\n"
    else:
        yield 'event: error\ndata: "the answer is not whole"\n\n'


@app.post("/ask")
async def ask(response: Annotated[httpx.Response, Depends(asked)]) -> StreamingResponse:
    """Stream the LLM's answer."""
    return StreamingResponse(tell(response), media_type="text/event-stream")
