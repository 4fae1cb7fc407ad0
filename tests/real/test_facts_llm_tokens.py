"""What notebook 09 teaches about tokens behind FastAPI and uvicorn: each test fails when a new version makes it untrue.

What is about the SDK alone stands in `test_facts_llm_sdk`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pages import chromium_at, page_of

from labserver.settings import Settings
from labserver.stage import LiveServer, Llm, fake_llm, start

TLS = False  # plain HTTP; loading certificates for each client takes longer than a request
TIMEOUT = 60.0  # seconds: on a busy machine importing the SDK takes 20
QUESTION: Any = {"model": "x", "max_tokens": 1000, "messages": [{"role": "user", "content": "hello"}]}

ASK = """([url, done]) => new Promise(resolve => {
  const source = new EventSource(url);
  const heard = {done: 0, errors: 0};
  source.addEventListener("done", () => {
    heard.done += 1;
    if (heard.done === done) resolve({...heard, state: source.readyState});
  });
  source.onerror = () => {
    heard.errors += 1;
    if (source.readyState === EventSource.CLOSED) resolve({...heard, state: source.readyState});
  };
})"""


@pytest.fixture(scope="module")
def llm() -> Iterator[Llm]:
    with fake_llm(name="tokens-facts-llm") as llm:
        yield llm


@pytest.fixture(scope="module")
def tutorial(llm: Llm) -> Iterator[LiveServer]:
    """The forms that tutorials teach."""
    import anthropic

    asynchronous = anthropic.AsyncAnthropic(base_url=llm.url, api_key="any")
    app = FastAPI()

    @app.post("/module")
    async def module() -> StreamingResponse:
        async def tokens() -> AsyncIterator[str]:
            async with anthropic.messages.stream(**QUESTION) as answer:  # type: ignore[attr-defined]
                async for text in answer.text_stream:
                    yield text

        return StreamingResponse(tokens())

    @app.post("/sync")
    async def sync() -> StreamingResponse:
        async def tokens() -> AsyncIterator[str]:
            with anthropic.Anthropic(base_url=llm.url, api_key="any") as client:
                async with client.messages.stream(**QUESTION) as answer:  # type: ignore[attr-defined]
                    async for text in answer.text_stream:
                        yield text

        return StreamingResponse(tokens())

    @app.post("/never-closed")
    async def never_closed() -> StreamingResponse:
        async def tokens() -> AsyncIterator[str]:
            async for event in await asynchronous.messages.create(**QUESTION, stream=True):
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    yield event.delta.text

        return StreamingResponse(tokens())

    @app.post("/async-with")
    async def async_with() -> StreamingResponse:
        async def tokens() -> AsyncIterator[str]:
            async with asynchronous.messages.stream(**QUESTION) as answer:
                async for text in answer.text_stream:
                    yield text

        return StreamingResponse(tokens())

    with start(app, name="tokens-tutorial") as live:
        yield live
        live.submit(asynchronous.close()).result(5)


@asynccontextmanager
async def asked(live: LiveServer, path: str) -> AsyncIterator[httpx.Response]:
    client = httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=TIMEOUT)
    async with client, client.stream("POST", path) as answer:
        yield answer


@pytest.mark.parametrize(
    ("path", "raised"),
    [("/module", "AttributeError: "), ("/sync", "TypeError: ")],
)
async def test_the_snippet_with_the_module_or_the_sync_client_fails_after_a_200(
    tutorial: LiveServer, path: str, raised: str
) -> None:
    async with asked(tutorial, path) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert tutorial.errors()[-1].startswith(raised)


@pytest.mark.parametrize("path", ["/async-with", "/never-closed"])
async def test_a_client_that_leaves_after_five_of_200_tokens_ends_the_upstream(
    tutorial: LiveServer, llm: Llm, path: str
) -> None:
    """On uvicorn the response is cancelled where it waits for the SDK, so that also a stream without a `with` is."""
    llm.set(tokens=200, delay=0.02)
    async with asked(tutorial, path) as answer:
        pieces = answer.aiter_raw()
        for _ in range(5):
            await anext(pieces)
        await pieces.aclose()  # type: ignore[attr-defined]
    last = (await llm.settled(TIMEOUT))[-1]
    assert last.state == "cancelled"
    assert last.sent < 150


async def test_a_busy_llm_is_a_200_for_who_asks_in_the_generator(tutorial: LiveServer, llm: Llm) -> None:
    llm.next("overloaded", times=3)
    async with asked(tutorial, "/async-with") as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert tutorial.errors()[-1].startswith("OverloadedError")


@pytest.mark.real("chromium")
async def test_a_page_that_does_not_close_asks_and_pays_again_and_an_id_that_was_used_ends_it(
    chromium: str, llm: Llm
) -> None:
    """`done` is only an event: EventSource connects again 3 s after the body's end (WHATWG HTML, 9.2.3)."""
    llm.set(tokens=3, delay=0.0)
    with start(name="tokens-facts", settings=Settings(llm_url=llm.url)) as live:
        async with httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=TIMEOUT) as client:
            kept = (await client.post("/chat/prompts", json={"prompt": "by an id"})).json()["id"]
        twin = f"{live.url}/broken/prompt_in_the_url/chat?prompt=in+the+url"
        openapi = f"{live.url}/openapi.json"
        async with asyncio.timeout(60), chromium_at(chromium) as browser, page_of(browser, openapi) as page:
            heard = await asyncio.gather(
                page.evaluate(ASK, [twin, 2]), page.evaluate(ASK, [f"{live.url}/chat?id={kept}", 2])
            )
        assert heard == [{"done": 2, "errors": 1, "state": 1}, {"done": 1, "errors": 2, "state": 2}]
        prompts = [request.prompt for request in llm.requests]
        assert (prompts.count("in the url"), prompts.count("by an id")) == (2, 1)
        assert any("in+the+url" in line for line in live.logs())
