"""The lab's own LLM endpoint, asked by the real SDK: words, counts, faults, and what became of each request."""

import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import nullcontext, suppress
from itertools import pairwise
from typing import Any

import anthropic
import httpx
import httpx2
import psutil
import pytest

from labserver.errors import LabError
from labserver.stage import Llm, LlmRequest, fake_llm, rescue, start
from labserver.stage.llms import ledger

ENDS = {"error": anthropic.APIStatusError, "cut": httpx2.RemoteProtocolError, "silent": TimeoutError}
TLS = ssl.create_default_context()  # made once: each costs tens of milliseconds, and nothing here speaks TLS
ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 100}


@pytest.fixture
def llm() -> Iterator[Llm]:
    with fake_llm(tokens=12, delay=0.001, name="llm-test") as llm:
        yield llm
        assert llm.errors() == []


@pytest.fixture
async def client(llm: Llm) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with sdk(llm.url) as client:
        yield client


def sdk(url: str) -> anthropic.AsyncAnthropic:
    plain = anthropic.DefaultAsyncHttpxClient(verify=TLS)
    return anthropic.AsyncAnthropic(base_url=url, api_key="any", http_client=plain)


def says(prompt: str, **more: Any) -> dict[str, Any]:
    return ASK | {"messages": [{"role": "user", "content": prompt}]} | more


async def told(client: anthropic.AsyncAnthropic, prompt: str, **more: Any) -> list[str]:
    """Return the pieces of text that the SDK's stream gives for a prompt."""
    async with client.messages.stream(**says(prompt, **more)) as stream:
        return [text async for text in stream.text_stream]


async def read(stream: anthropic.AsyncMessageStream[None], got: list[str], *, silent_after: int | None = None) -> None:
    """Collect pieces of text as they come; after `silent_after` of them no other is waited for long."""
    texts = stream.text_stream
    with suppress(StopAsyncIteration):
        while True:
            got.append(await asyncio.wait_for(anext(texts), 0.2 if len(got) == silent_after else 20))


async def left(llm: Llm, ask: Awaitable[Any]) -> None:
    """Leave as soon as the endpoint has the request."""
    before = len(llm.requests)
    task = asyncio.ensure_future(ask)
    async with asyncio.timeout(20):
        while len(llm.requests) == before:
            await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_prompt_has_one_answer_and_another_seed_another(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    first, again, other = await told(client, "Hi"), await told(client, "Hi"), await told(client, "Ho")
    llm.set(seed=2)
    assert first == again != other
    assert await told(client, "Hi") != first
    assert len(first) == 12
    assert all(one.strip(" .\n") != two.strip(" .\n").lower() for one, two in pairwise(first))
    assert "".join(first).endswith(".")


async def test_a_long_answer_has_blank_lines_and_letters_beyond_ascii(
    llm: Llm, client: anthropic.AsyncAnthropic
) -> None:
    llm.set(tokens=200, delay=0)
    text = "".join(await told(client, "Hi", max_tokens=500))
    assert text.count("\n\n") == 14
    assert "naïve" in text.lower()


async def test_a_stream_and_a_whole_answer_say_the_same(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**says("Hi")) as stream:
        streamed = await stream.get_final_message()
    whole = await client.messages.create(**says("Hi"))
    assert streamed.content[0].to_dict()["text"] == whole.content[0].to_dict()["text"]
    assert (streamed.id, streamed.stop_reason, streamed.usage.output_tokens) == (whole.id, "end_turn", 12)
    assert streamed.usage.input_tokens == whole.usage.input_tokens > 0
    assert await llm.settled() == [
        LlmRequest("Hi", "some-model", stream, 1, 12, "done", whole.usage.input_tokens, 12) for stream in (True, False)
    ]


async def test_a_longer_prompt_counts_more(client: anthropic.AsyncAnthropic) -> None:
    short, long = [await client.messages.create(**says(text)) for text in ("Hi", "Hi " * 400)]
    system = await client.messages.create(**says("Hi", system="Be brief. " * 40))
    assert long.usage.input_tokens == pytest.approx(300, abs=20)
    assert short.usage.input_tokens < 20 < system.usage.input_tokens


async def test_max_tokens_ends_an_answer(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    whole = await told(client, "Hi")
    async with client.messages.stream(**says("Hi", max_tokens=5)) as stream:
        assert [text async for text in stream.text_stream] == whole[:5]
        message = await stream.get_final_message()
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 5)


async def test_the_answer_takes_its_time(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.set(first=0.2, delay=0.01, tokens=21)
    began = time.monotonic()
    async with client.messages.stream(**says("Hi")) as stream:
        texts = stream.text_stream
        await anext(texts)
        first = time.monotonic() - began
        _ = [text async for text in texts]
    assert first >= 0.2
    assert time.monotonic() - began >= 0.4


async def test_a_change_is_for_requests_to_come(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**says("Hi")) as stream:
        texts = stream.text_stream
        await anext(texts)
        llm.set(tokens=2)
        assert len([text async for text in texts]) == 11
    assert len(await told(client, "Hi")) == 2


async def test_events_come_one_by_one_in_the_documented_order(llm: Llm) -> None:
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    body = says("Hi", stream=True)
    async with httpx.AsyncClient() as plain:
        answer = await plain.post(f"{llm.url}/v1/messages", headers=headers, json=body)
    names = [line[7:] for line in answer.text.splitlines() if line.startswith("event: ")]
    deltas = ["content_block_delta"] * 12
    ends = ["content_block_stop", "message_delta", "message_stop"]
    assert names == ["message_start", "content_block_start", "ping", *deltas, *ends]
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["request-id"].startswith("req_")


REFUSED = [
    ("overloaded", 529, "overloaded_error", anthropic.InternalServerError),
    ("rate_limited", 429, "rate_limit_error", anthropic.RateLimitError),
    ("bad_request", 400, "invalid_request_error", anthropic.BadRequestError),
]


@pytest.mark.parametrize(("fault", "status", "kind", "error"), REFUSED)
@pytest.mark.parametrize("how", ["order", "prompt"])
async def test_a_refusal_comes_before_the_body(
    fault: str,
    status: int,
    kind: str,
    error: type[anthropic.APIStatusError],
    how: str,
    llm: Llm,
    client: anthropic.AsyncAnthropic,
) -> None:
    if how == "order":
        llm.next(fault)
    with pytest.raises(error) as caught:
        await told(client.with_options(max_retries=0), "Hi" if how == "order" else f"Hi #{fault}")
    assert (caught.value.status_code, caught.value.type) == (status, kind)
    assert caught.value.request_id is not None
    again = caught.value.response.headers
    assert ("retry-after" in again, "retry-after-ms" in again) == ((status != 400,) * 2)
    assert [(request.sent, request.state) for request in llm.requests] == [(0, "failed")]


async def test_the_sdk_tries_again_and_each_attempt_is_seen(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.next("overloaded")
    llm.next("rate_limited")
    assert len(await told(client, "ordered")) == 12
    assert len(await told(client, "asked for #overloaded:2")) == 12
    seen = [(request.attempt, request.state) for request in await llm.settled()]
    assert seen == [(1, "failed"), (2, "failed"), (3, "done")] * 2


async def test_a_refusal_that_a_prompt_asks_for_stays(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.InternalServerError):
        await told(client, "Hi #overloaded")
    assert [request.attempt for request in llm.requests] == [1, 2, 3]


@pytest.mark.parametrize("how", ["order", "prompt"])
@pytest.mark.parametrize("fault", ["error", "truncated", "cut", "silent"])
async def test_a_fault_in_the_stream_comes_after_so_many_tokens(
    fault: str, how: str, llm: Llm, client: anthropic.AsyncAnthropic
) -> None:
    whole = await told(client, "Hi")
    if how == "order":
        llm.next(fault, after=3)
    got: list[str] = []
    async with client.messages.stream(**says("Hi" if how == "order" else f"Hi #{fault}:3")) as stream:
        with pytest.raises(ENDS[fault]) if fault in ENDS else nullcontext():
            await read(stream, got, silent_after=3 if fault == "silent" else None)
        if fault == "truncated":
            assert (await stream.get_final_message()).stop_reason is None
    assert got == whole[:3]
    last = (await llm.settled())[-1]
    assert (last.sent, last.state) == (3, "cancelled" if fault == "silent" else "failed")


@pytest.mark.parametrize("after", [0, 12, 99])
async def test_a_fault_comes_at_either_end_too(after: int, llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.next("truncated", after=after)
    async with client.messages.stream(**says("Hi")) as stream:
        assert len([text async for text in stream.text_stream]) == min(after, 12)
    assert (await llm.settled())[-1].state == "failed"


@pytest.mark.parametrize("fault", ["error", "truncated", "cut"])
async def test_a_whole_answer_breaks_off_too_and_is_asked_for_again(
    fault: str, llm: Llm, client: anthropic.AsyncAnthropic
) -> None:
    llm.next(fault)
    message = await client.messages.create(**says("Hi"))
    assert message.usage.output_tokens == 12
    assert [(request.attempt, request.state) for request in await llm.settled()] == [(1, "failed"), (2, "done")]


async def test_orders_queue_up_and_last_for_so_many_answers(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.next("truncated", after=1, times=2)
    llm.next("truncated", after=2)
    assert [len(await told(client, "Hi")) for _ in range(4)] == [1, 1, 2, 12]


async def test_a_request_is_cancelled_when_its_client_leaves(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.set(tokens=10_000, delay=0.01)
    async with client.messages.stream(**says("left", max_tokens=10_000)) as stream:
        texts = stream.text_stream
        for _ in range(3):
            await anext(texts)
        assert llm.requests[0].state == "running"
    (request,) = await llm.settled()
    assert request.state == "cancelled"
    assert 3 <= request.sent < 300
    assert request.output_tokens == request.sent
    await asyncio.sleep(0.05)
    assert llm.requests == [request]  # nothing more is said


async def test_a_request_is_cancelled_before_its_first_token(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    llm.set(first=60)
    for ask in (told(client, "left"), client.messages.create(**says("left"))):
        await left(llm, ask)
    assert [(request.sent, request.state) for request in await llm.settled()] == [(0, "cancelled")] * 2


async def test_waiting_for_what_does_not_end_says_what(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**says("Why #silent:0")) as stream:
        await anext(aiter(stream))
        with pytest.raises(LabError, match=r"Still running after 0\.1 s: 'Why #silent:0'"):
            await llm.settled(0.1)


async def test_many_at_once_are_told_apart(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    answers = await asyncio.gather(*(told(client, f"prompt {number}") for number in range(30)))
    assert len({"".join(answer) for answer in answers}) == 30
    requests = await llm.settled()
    assert {request.prompt for request in requests} == {f"prompt {number}" for number in range(30)}
    assert {(request.sent, request.state) for request in requests} == {(12, "done")}


async def test_programs_read_the_requests_over_http(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    await told(client, "Hi")
    async with httpx.AsyncClient() as plain:
        (found,) = (await plain.get(f"{llm.url}/requests")).json()
    assert LlmRequest(**found) == llm.requests[0]


WRONG: list[tuple[dict[str, str], Any, int, str]] = [
    ({"x-api-key": ""}, {}, 401, "x-api-key"),
    ({"anthropic-version": ""}, {}, 400, "anthropic-version"),
    ({}, {"max_tokens": None}, 400, "max_tokens"),
    ({}, {"max_tokens": 0}, 400, "max_tokens"),
    ({}, {"model": 7}, 400, "model"),
    ({}, {"messages": []}, 400, "messages"),
    ({}, {"messages": [{"role": "robot", "content": "x"}]}, 400, "messages"),
    ({}, {"messages": [{"role": "user", "content": 7}]}, 400, "messages"),
    ({}, {"stream": "yes"}, 400, "stream"),
    ({}, b"{", 400, "JSON"),
    ({}, b"[]", 400, "JSON"),
    ({}, b"\xff", 400, "JSON"),
]


@pytest.mark.parametrize(("headers", "change", "status", "named"), WRONG)
async def test_what_the_real_one_refuses_is_refused(
    headers: dict[str, str], change: Any, status: int, named: str, llm: Llm
) -> None:
    sent = {"x-api-key": "any", "anthropic-version": "2023-06-01"} | headers
    body = change if isinstance(change, bytes) else None
    async with httpx.AsyncClient() as plain:
        answer = await plain.post(
            f"{llm.url}/v1/messages", headers=sent, content=body, json=None if body else says("Hi") | change
        )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["type"] == ("authentication_error" if status == 401 else "invalid_request_error")
    assert named in error["message"]
    assert answer.json()["request_id"] == answer.headers["request-id"]
    assert llm.requests[-1].state == "failed"


@pytest.mark.parametrize("missing", ["model", "max_tokens", "messages"])
async def test_what_is_missing_is_named(missing: str, llm: Llm) -> None:
    body = {name: value for name, value in says("Hi").items() if name != missing}
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient() as plain:
        answer = await plain.post(f"{llm.url}/v1/messages", headers=headers, json=body)
    assert answer.json()["error"] == {"type": "invalid_request_error", "message": f"{missing}: Field required"}


async def test_a_request_that_is_too_large_is_refused(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.ContentTooLargeError):
        await client.messages.create(**says("x" * (33 << 20)))
    assert llm.requests == []


async def test_other_addresses_are_not_there(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        await client.models.list()
    async with httpx.AsyncClient() as plain:
        assert (await plain.get(f"{llm.url}/v1/messages")).status_code == 405


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda llm: fake_llm(tokens=-1), "tokens=-1 can't be"),
        (lambda llm: fake_llm(tokens=True), "tokens=True can't be"),
        (lambda llm: fake_llm(delay=-0.1), "delay=-0.1 can't be"),
        (lambda llm: fake_llm(first=float("nan")), "first=nan can't be"),
        (lambda llm: fake_llm(seed=1.5), "seed=1.5 can't be"),
        (lambda llm: fake_llm(name=""), "name='' is no name"),
        (lambda llm: llm.next("typo"), "no fault 'typo'; the faults are overloaded, rate_limited, bad_request, error"),
        (lambda llm: llm.next(["error"]), "no fault"),
        (lambda llm: llm.next("error", after=-1), "after=-1 can't be"),
        (lambda llm: llm.next("error", times=0), "times=0 can't be"),
        (lambda llm: llm.set(speed=1), "no speed= to set; there are tokens, delay, first, seed"),
        (lambda llm: llm.set(tokens="5"), "tokens='5' can't be"),
    ],
)
def test_a_wrong_argument_is_named_with_what_fits(wrong: Any, sentence: str, llm: Llm) -> None:
    with pytest.raises(LabError) as caught:
        wrong(llm)
    assert sentence in str(caught.value)
    assert llm.alive


async def test_another_of_the_same_name_takes_its_place(llm: Llm) -> None:
    with fake_llm(name=llm.name) as second:
        assert not llm.alive
        async with sdk(second.url) as client:
            assert len(await told(client, "Hi")) == 20
    assert repr(second) == "<Llm 'llm-test' stopped>"
    assert second.stop()


async def test_an_answer_under_way_ends_with_the_server(llm: Llm, client: anthropic.AsyncAnthropic) -> None:
    async with client.messages.stream(**says("Hi #silent:1")) as stream:
        await anext(stream.text_stream)
        await asyncio.to_thread(llm.stop)
        with pytest.raises(httpx2.RemoteProtocolError):
            await stream.get_final_message()
    assert llm.requests[0].state == "cancelled"


async def test_a_tape_records_its_wire(llm: Llm) -> None:
    async with llm.tape("anthropic") as tape, sdk(tape.url) as client:
        await told(client, "Hi")
    assert "message_stop" in tape.text()


def test_what_is_forgotten_is_still_in_the_bill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "KEPT", 3)
    book = ledger.Ledger()
    for number in range(5):
        book.begin(LlmRequest(str(number), "m", True, 1)).set(input_tokens=10, output_tokens=1)
    assert [request.prompt for request in book.requests()] == ["2", "3", "4"]
    assert book.tokens() == ledger.Tokens(5, 50, 5)


def test_fifty_come_and_go_and_leave_nothing() -> None:
    def held() -> tuple[int, int]:
        me = psutil.Process()
        return threading.active_count(), me.num_fds() if hasattr(me, "num_fds") else 0

    with fake_llm(name="llm-many"):
        pass
    before = held()
    for _ in range(50):
        with fake_llm(name="llm-many") as one, httpx.Client(verify=False) as plain:
            assert plain.get(f"{one.url}/requests").json() == []
    after = held()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 2  # what another test's server closes late


def test_rescue_stops_it() -> None:
    one = fake_llm(name="llm-lost")
    assert "llm-lost (thread): stopped" in rescue().twin
    assert not one.alive


def test_a_server_of_its_name_is_replaced() -> None:
    from fastapi import FastAPI

    live = start(FastAPI(), name="llm-same")
    with fake_llm(name="llm-same"):
        assert not live.alive
