"""What the lab says of the `anthropic` SDK and its wire: each test fails when a new version makes it untrue.

The other end is the lab's own endpoint, or a server that says word for word what a test writes.
"""

import asyncio
import gc
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from anthropic._streaming import SSEDecoder
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from labserver.stage import LiveServer, Llm, fake_llm, start
from labserver.stage.llms.wire import frame

TLS = ssl.create_default_context()  # made once: each costs tens of milliseconds, and nothing here speaks TLS
ASK: dict[str, Any] = {"model": "m", "max_tokens": 1000, "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
START = frame("message_start", message=MESSAGE).raw
BLOCK = frame("content_block_start", index=0, content_block={"type": "text", "text": ""}).raw
END = b"".join(
    [
        frame("content_block_stop", index=0).raw,
        frame(
            "message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 7}
        ).raw,
        frame("message_stop").raw,
    ]
)


def says(text: str) -> bytes:
    return frame("content_block_delta", index=0, delta={"type": "text_delta", "text": text}).raw


class Script:
    """A server that answers as it is told; `asked` counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.statuses: list[int] = []  # of the next answers; then 200
        self.body = b""
        routes = [Route("/v1/messages", self.answer, methods=["POST"])]
        self.live: LiveServer = start(Starlette(routes=routes), name="llm-script")

    async def answer(self, request: Request) -> Response:
        self.asked += 1
        if self.statuses and (status := self.statuses.pop(0)) != 200:
            error = {"type": "error", "error": {"type": "some_error", "message": "no"}}
            return JSONResponse(error, status, {"retry-after-ms": "1"})
        return Response(self.body, media_type="text/event-stream")


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    with script.live:
        yield script


@pytest.fixture
def llm() -> Iterator[Llm]:
    with fake_llm(tokens=12, delay=0.001, name="llm-facts") as llm:
        yield llm


def to(server: Llm | LiveServer) -> anthropic.AsyncAnthropic:
    plain = anthropic.DefaultAsyncHttpxClient(verify=TLS)
    return anthropic.AsyncAnthropic(base_url=server.url, api_key="any", http_client=plain)


async def text_of(server: Llm | LiveServer) -> str:
    async with to(server) as client, client.messages.stream(**ASK) as stream:
        return "".join([text async for text in stream.text_stream])


# --- which client


def the_module(url: str) -> Any:
    return anthropic


def the_sync_client(url: str) -> Any:
    return anthropic.Anthropic(base_url=url, api_key="any")


def the_async_client(url: str) -> Any:
    return anthropic.AsyncAnthropic(base_url=url, api_key="any")


@pytest.mark.parametrize(
    ("make", "error"),
    [(the_module, "AttributeError: module 'anthropic'"), (the_sync_client, "TypeError: "), (the_async_client, "")],
)
async def test_the_tutorials_snippet_fails_after_a_200_but_with_the_async_client(
    make: Callable[[str], Any], error: str, llm: Llm
) -> None:
    app = FastAPI()

    @app.get("/chat")
    async def chat() -> StreamingResponse:
        async def tokens() -> AsyncIterator[str]:
            client = make(llm.url)
            async with client.messages.stream(**ASK) as stream:
                async for text in stream.text_stream:
                    yield f"data: {text}\n\n"

        return StreamingResponse(tokens(), media_type="text/event-stream")

    with start(app, name="llm-snippet") as live:
        async with httpx.AsyncClient() as client, client.stream("GET", f"{live.url}/chat") as answer:
            assert answer.status_code == 200
            if error:
                with pytest.raises(httpx.RemoteProtocolError):
                    await answer.aread()
            else:
                assert (await answer.aread()).count(b"data: ") == 12
        assert [each[: len(error)] for each in live.errors()] == [error] * bool(error)


async def test_it_rests_on_httpx2_and_not_on_httpx() -> None:
    async with to_nowhere() as client:
        assert isinstance(client._client, httpx2.AsyncClient)
        with pytest.raises(anthropic.APIConnectionError) as caught:
            await client.messages.create(**ASK)
    assert isinstance(caught.value.__cause__, httpx2.ConnectError)
    assert not isinstance(caught.value.__cause__, httpx.HTTPError)


def to_nowhere() -> anthropic.AsyncAnthropic:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return anthropic.AsyncAnthropic(base_url=f"http://127.0.0.1:{port}", api_key="any", max_retries=0)


# --- retries


@pytest.mark.parametrize(
    ("status", "attempts"),
    [
        (400, 1),
        (401, 1),
        (403, 1),
        (404, 1),
        (413, 1),
        (422, 1),
        (408, 3),
        (409, 3),
        (429, 3),
        (500, 3),
        (503, 3),
        (529, 3),
    ],
)
async def test_it_tries_three_times_before_the_body_where_that_may_help(
    status: int, attempts: int, script: Script
) -> None:
    script.statuses = [status] * 9
    with pytest.raises(anthropic.APIStatusError) as caught:
        await text_of(script.live)
    assert (caught.value.status_code, script.asked) == (status, attempts)


async def test_a_third_attempt_that_is_answered_is_all_the_caller_sees(script: Script) -> None:
    script.statuses, script.body = [529, 429], START + BLOCK + says("a") + END
    assert await text_of(script.live) == "a"
    assert script.asked == 3


@pytest.mark.parametrize("fault", ["error", "truncated", "cut"])
async def test_it_never_tries_again_when_the_body_has_begun(fault: str, llm: Llm) -> None:
    llm.next(fault, after=0)
    try:
        await text_of(llm)
    except (anthropic.APIStatusError, httpx2.RemoteProtocolError):
        assert fault != "truncated"
    assert len(await llm.settled()) == 1


# --- ends


async def test_a_clean_end_without_message_stop_is_taken_for_success(llm: Llm) -> None:
    llm.next("truncated", after=3)
    async with to(llm) as client, client.messages.stream(**ASK) as stream:
        texts = [text async for text in stream.text_stream]
        message = await stream.get_final_message()
    assert (len(texts), message.stop_reason) == (3, None)
    assert message.content[0].to_dict()["text"] == "".join(texts)


async def test_a_whole_answer_says_why_it_ended(llm: Llm) -> None:
    async with to(llm) as client, client.messages.stream(**ASK) as stream:
        assert (await stream.get_final_message()).stop_reason == "end_turn"


async def test_even_an_answer_of_nothing_raises_nothing_while_it_is_read(script: Script) -> None:
    async with to(script.live) as client, client.messages.stream(**ASK) as stream:
        assert [text async for text in stream.text_stream] == []
        with pytest.raises(AssertionError):
            await stream.get_final_message()


async def test_a_cut_connection_is_an_error_of_httpx2_and_none_of_the_sdk(llm: Llm) -> None:
    llm.next("cut", after=3)
    with pytest.raises(httpx2.RemoteProtocolError) as caught:
        await text_of(llm)
    assert not isinstance(caught.value, anthropic.AnthropicError)


async def test_silence_in_the_stream_is_an_error_of_httpx2_and_none_of_the_sdk(llm: Llm) -> None:
    llm.next("silent", after=3)
    async with to(llm) as client:
        with pytest.raises(httpx2.ReadTimeout) as caught:
            async with client.with_options(timeout=1.0).messages.stream(**ASK) as stream:
                await stream.get_final_message()
    assert not isinstance(caught.value, anthropic.AnthropicError)


async def test_an_error_in_the_stream_has_status_200_and_its_type(llm: Llm) -> None:
    llm.next("error", after=3)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await text_of(llm)
    assert (caught.value.status_code, caught.value.type) == (200, "overloaded_error")
    assert type(caught.value) is anthropic.APIStatusError  # and not the OverloadedError of a 529


async def test_an_error_before_the_body_has_its_own_status_and_class(llm: Llm) -> None:
    for fault, status, kind, error in (
        ("overloaded", 529, "overloaded_error", "OverloadedError"),
        ("rate_limited", 429, "rate_limit_error", "RateLimitError"),
        ("bad_request", 400, "invalid_request_error", "BadRequestError"),
    ):
        llm.next(fault, times=3 if status > 400 else 1)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await text_of(llm)
        assert (caught.value.status_code, caught.value.type, type(caught.value).__name__) == (status, kind, error)


# --- events


async def test_a_frame_without_its_name_as_event_is_ignored(script: Script) -> None:
    nameless = says("lost ").partition(b"\n")[2]
    assert nameless.startswith(b"data: ")
    script.body = START + BLOCK + says("kept ") + nameless + says("kept") + END
    assert await text_of(script.live) == "kept kept"


async def test_pings_may_come_anywhere(script: Script) -> None:
    script.body = frame("ping").raw.join([b"", START, BLOCK, says("a"), says("b"), END, b""])
    assert await text_of(script.live) == "ab"


async def test_an_event_of_a_name_to_come_does_no_harm(script: Script) -> None:
    script.body = frame("news_of_tomorrow", index=0).raw.join([START, BLOCK, says("a"), says("b"), END])
    assert await text_of(script.live) == "ab"


async def test_an_error_may_come_at_any_time(script: Script) -> None:
    error = frame("error", error={"type": "overloaded_error", "message": "Overloaded"}).raw
    for before in (b"", START, START + BLOCK, START + BLOCK + says("a")):
        script.body = before + error
        with pytest.raises(anthropic.APIStatusError, match="Overloaded"):
            await text_of(script.live)


async def test_the_count_of_tokens_is_what_the_last_message_delta_says(script: Script) -> None:
    first = frame("message_delta", delta={"stop_reason": None, "stop_sequence": None}, usage={"output_tokens": 3}).raw
    script.body = START + BLOCK + says("a") + first + END
    async with to(script.live) as client, client.messages.stream(**ASK) as stream:
        message = await stream.get_final_message()
    assert message.usage.output_tokens == 7  # cumulative: neither 3 + 7 nor 1 + 7


# --- leaving


async def test_leaving_the_block_ends_the_answer_at_once(llm: Llm, measured: Callable[[str], None]) -> None:
    llm.set(tokens=1000, delay=0.01)
    async with to(llm) as client:
        async with client.messages.stream(**ASK) as stream:
            async with aclosing(stream.text_stream) as texts:
                for _ in range(5):
                    await anext(texts)
            assert llm.requests[0].state == "running"
            left = time.monotonic()
        (request,) = await llm.settled()
        measured(f"LLM: an answer left inside `async with` ended after {(time.monotonic() - left) * 1000:.0f} ms")
    assert request.state == "cancelled"
    assert request.sent < 500


async def test_the_request_goes_out_with_the_block_and_not_with_the_call(llm: Llm) -> None:
    async with to(llm) as client:
        manager = client.messages.stream(**ASK)
        await asyncio.sleep(0.05)
        assert llm.requests == []
        async with manager as stream:
            assert await stream.get_final_text()
    assert len(llm.requests) == 1


async def test_break_without_close_keeps_it_generating(llm: Llm) -> None:
    llm.set(tokens=1000, delay=0.001)
    async with to(llm) as client:
        stream = await client.messages.create(**ASK, stream=True)
        async for _ in stream:
            break
        until = time.monotonic() + 30
        while (request := llm.requests[0]).sent < 100 and time.monotonic() < until:
            await asyncio.sleep(0.01)
        assert (request.sent >= 100, request.state) == (True, "running")
        await stream.close()
        assert (await llm.settled())[0].state == "cancelled"


async def test_a_dropped_stream_is_closed_by_the_collector_alone(llm: Llm) -> None:
    llm.set(tokens=100_000, delay=0.001)
    async with to(llm) as client:
        stream = await client.messages.create(**ASK | {"max_tokens": 100_000}, stream=True)
        async for _ in stream:
            break
        held = [stream]
        del stream
        await asyncio.sleep(0.05)
        assert llm.requests[0].state == "running"
        held.clear()
        gc.collect()
        assert (await llm.settled())[0].state == "cancelled"


# --- the decoders of SSE (facts.md, section 5)

BOM = b"\xef\xbb\xbf"
FIRST = b"event: a\ndata: 1\n\n"
NO_DATA = b"id: 7\n\nretry: 10\n\nevent: a\n\n"


def by_anthropic(raw: bytes) -> list[tuple[str | None, str]]:
    return [(event.event, event.data) for event in SSEDecoder().iter_bytes(iter([raw]))]


def by_httpx2(raw: bytes) -> list[tuple[str | None, str]]:
    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, content=raw, headers={"content-type": "text/event-stream"})

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as client, client.sse("http://any/") as source:
        return [(event.event, event.data) for event in source]


@pytest.mark.parametrize("decoder", [by_anthropic, by_httpx2])
def test_a_bom_spoils_the_first_event(decoder: Callable[[bytes], list[tuple[str | None, str]]]) -> None:
    assert decoder(FIRST + FIRST) == [("a", "1"), ("a", "1")]
    assert decoder(BOM + FIRST + FIRST) == [(None if decoder is by_anthropic else "message", "1"), ("a", "1")]
    assert decoder(BOM + b"data: 1\n\n" + FIRST) == [("a", "1")]


async def test_a_bom_costs_the_sdk_its_message(script: Script) -> None:
    script.body = BOM + START + BLOCK + says("a") + END
    async with to(script.live) as client, client.messages.stream(**ASK) as stream:
        assert [text async for text in stream.text_stream] == ["a"]
        with pytest.raises(AssertionError):  # without `message_start` there is none, and no sentence that says so
            await stream.get_final_message()


@pytest.mark.parametrize("decoder", [by_anthropic, by_httpx2])
def test_blocks_without_data_are_dispatched_empty(
    decoder: Callable[[bytes], list[tuple[str | None, str]]],
) -> None:
    name = None if decoder is by_anthropic else "message"
    assert decoder(NO_DATA) == [(name, ""), (name, ""), ("a", "")]  # a browser dispatches none of them
    assert decoder(b"retry: 10\ndata: 1\n\n") == [(name, "1")]  # so `retry:` goes together with data
