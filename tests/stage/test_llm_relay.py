"""The relay to Anthropic, asked by the real SDK. Anthropic's part is played by a second endpoint of the lab's own."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from labserver.errors import LabError
from labserver.settings import Settings, get_settings
from labserver.stage import Llm, fake_llm, llm, start
from labserver.stage.llms.relay import base_url
from labserver.stage.llms.stand import endpoint

ROOT = Path(__file__).parents[2]
ENDS = {"error": anthropic.APIStatusError, "cut": httpx2.RemoteProtocolError, "silent": TimeoutError}
TLS = ssl.create_default_context()  # made once: each costs tens of milliseconds, and nothing here speaks TLS
ASK: dict[str, Any] = {"model": "some-model", "max_tokens": 100}


@pytest.fixture
def upstream() -> Iterator[Llm]:
    with fake_llm(tokens=12, delay=0.001, name="llm-upstream") as upstream:
        yield upstream
        assert upstream.errors() == []


@pytest.fixture
def chosen(upstream: Llm) -> Iterator[pytest.MonkeyPatch]:
    """Anthropic is chosen, and answers at `upstream`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LABSERVER_LLM", "anthropic")
        patch.setenv("ANTHROPIC_API_KEY", "the real key")
        patch.setenv("ANTHROPIC_BASE_URL", f"{upstream.url}/")
        get_settings.cache_clear()
        yield patch
    get_settings.cache_clear()


@pytest.fixture
def relay(chosen: pytest.MonkeyPatch) -> Iterator[Llm]:
    with llm(name="llm-relay") as relay:
        yield relay
        assert relay.errors() == []


@pytest.fixture
async def client(relay: Llm) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with sdk(relay.url) as client:
        yield client


def sdk(url: str) -> anthropic.AsyncAnthropic:
    plain = anthropic.DefaultAsyncHttpxClient(verify=TLS)
    return anthropic.AsyncAnthropic(base_url=url, api_key="any", http_client=plain)


def says(prompt: str, **more: Any) -> dict[str, Any]:
    return ASK | {"messages": [{"role": "user", "content": prompt}]} | more


async def told(client: anthropic.AsyncAnthropic, prompt: str, **more: Any) -> list[str]:
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


async def test_what_anthropic_says_comes_as_it_is(relay: Llm, upstream: Llm) -> None:
    headers = {"x-api-key": "any", "anthropic-version": "2023-06-01"}
    async with httpx.AsyncClient(headers=headers) as plain:
        for stream in (True, False):
            asked = [
                await plain.post(f"{each.url}/v1/messages", json=says("Hi", stream=stream))
                for each in (upstream, relay)
            ]
            assert asked[0].content == asked[1].content
            assert asked[0].headers["content-type"] == asked[1].headers["content-type"]
            ids = [answer.headers["request-id"] for answer in asked]
            assert int(ids[1][4:]) == int(ids[0][4:]) + 1  # of the one that answered, who counts both


async def test_requests_are_recorded_on_both_sides_and_have_a_price(
    relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    await told(client, "Hi")
    await client.messages.create(**says("Ho"))
    requests = await relay.settled()
    assert [(each.prompt, each.stream, each.sent, each.state, each.paid) for each in requests] == [
        ("Hi", True, 12, "done", True),
        ("Ho", False, 12, "done", True),
    ]
    assert [(each.prompt, each.input_tokens, each.output_tokens) for each in requests] == [
        (each.prompt, each.input_tokens, each.output_tokens) for each in upstream.requests
    ]
    read = sum(each.input_tokens for each in requests)
    assert relay.cost == pytest.approx((read * 3 + 24 * 15) / 1_000_000)
    bill = relay.bill()
    assert (bill.requests, bill.input_tokens, bill.output_tokens, bill.paid) == (2, read, 24, True)
    assert f"{relay.cost:.6f}" in bill._repr_mimebundle_()["text/html"]
    assert repr(bill) == "Anthropic was asked, and takes this."


async def test_the_labs_own_costs_nothing_and_says_what_anthropic_would_take(upstream: Llm) -> None:
    async with sdk(upstream.url) as client:
        await told(client, "Hi")
    assert upstream.cost == 0
    bill = upstream.bill()
    assert bill.dollars > 0
    assert not bill.paid
    assert repr(bill) == "The lab's own endpoint was asked, and takes nothing. Anthropic's would take this."
    assert not any(character.isdigit() for character in bill._repr_mimebundle_()["text/plain"])


async def test_anthropic_is_left_when_the_client_leaves(
    relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    upstream.set(tokens=10_000, delay=0.01)
    async with client.messages.stream(**says("left", max_tokens=1000)) as stream:
        await anext(stream.text_stream)
    (there,), (here,) = await upstream.settled(), await relay.settled()
    assert here.state == there.state == "cancelled"
    assert there.sent < 300
    assert here.output_tokens == here.sent > 0  # the price of what came, though nobody said how much that was
    assert relay.cost > 0


async def test_anthropic_is_left_before_its_first_token_too(
    relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    upstream.set(first=60)
    for ask in (told(client, "left"), client.messages.create(**says("left"))):
        await left(upstream, ask)
    assert [each.state for each in await upstream.settled()] == ["cancelled"] * 2
    assert [each.state for each in await relay.settled()] == ["cancelled"] * 2


@pytest.mark.parametrize(("fault", "status"), [("overloaded", 529), ("rate_limited", 429), ("bad_request", 400)])
async def test_a_refusal_is_made_here_for_nothing(
    fault: str, status: int, relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    relay.next(fault)
    with pytest.raises(anthropic.APIStatusError) as caught:
        await told(client.with_options(max_retries=0), "Hi")
    assert caught.value.status_code == status
    assert upstream.requests == []
    assert relay.cost == 0


@pytest.mark.parametrize("fault", ["error", "truncated", "cut", "silent"])
async def test_a_fault_in_the_stream_is_made_here_and_anthropic_is_left(
    fault: str, relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    upstream.set(tokens=1000, delay=0.01)
    relay.next(fault, after=3)
    got: list[str] = []
    async with client.messages.stream(**says("Hi", max_tokens=1000)) as stream:
        with pytest.raises(ENDS[fault]) if fault in ENDS else nullcontext():
            await read(stream, got, silent_after=3 if fault == "silent" else None)
    assert len(got) == 3
    assert (await upstream.settled())[0].state == "cancelled"
    assert (await relay.settled())[0].state == ("cancelled" if fault == "silent" else "failed")


async def test_a_fault_after_more_than_anthropic_says_comes_before_its_end(
    relay: Llm, client: anthropic.AsyncAnthropic
) -> None:
    relay.next("truncated", after=99)
    async with client.messages.stream(**says("Hi")) as stream:
        message = await stream.get_final_message()
    assert (message.stop_reason, (await relay.settled())[0].state) == (None, "failed")


async def test_what_fails_there_fails_here(relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic) -> None:
    upstream.next("rate_limited")
    assert len(await told(client, "Hi")) == 12  # at the second attempt: the SDK hears of the first
    upstream.next("truncated", after=2)
    assert len(await told(client, "Hi")) == 2
    upstream.next("cut", after=2)
    with pytest.raises(httpx2.RemoteProtocolError):
        await told(client, "Hi")
    upstream.next("error", after=2)
    with pytest.raises(anthropic.APIStatusError):
        await told(client, "Hi")
    seen = [(each.attempt, each.state) for each in await relay.settled()]
    assert seen == [(1, "failed"), (2, "done"), (1, "failed"), (1, "failed"), (1, "failed")]


async def test_the_ceiling_holds_for_every_answer(chosen: pytest.MonkeyPatch, upstream: Llm) -> None:
    chosen.setenv("LABSERVER_LLM_MAX_TOKENS", "4")
    get_settings.cache_clear()
    with llm(name="llm-relay") as relay:
        async with sdk(relay.url) as client:
            async with client.messages.stream(**says("Hi", max_tokens=100_000)) as stream:
                message = await stream.get_final_message()
            assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 4)
            assert len(await told(client, "Hi", max_tokens=3)) == 3


async def test_a_silent_anthropic_is_given_up(chosen: pytest.MonkeyPatch, upstream: Llm) -> None:
    chosen.setenv("LABSERVER_LLM_TIMEOUT", "0.3")
    get_settings.cache_clear()
    with llm(name="llm-relay") as relay:
        async with sdk(relay.url) as client:
            upstream.next("silent", after=2)
            with pytest.raises(httpx2.RemoteProtocolError):
                await told(client, "Hi")
            assert (await upstream.settled())[0].state == "cancelled"


async def test_an_anthropic_that_is_not_there_is_an_error_that_says_so(
    relay: Llm, upstream: Llm, client: anthropic.AsyncAnthropic
) -> None:
    upstream.stop()
    with pytest.raises(anthropic.InternalServerError, match="could not reach") as caught:
        await told(client.with_options(max_retries=0), "Hi")
    assert (caught.value.status_code, caught.value.type) == (502, "api_error")
    assert relay.cost == 0


async def test_the_key_is_sent_there_and_never_asked_of_the_client(chosen: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []

    async def answer(request: Request) -> JSONResponse:
        seen.append(dict(request.headers))
        return JSONResponse({"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}, 400)

    with start(Starlette(routes=[Route("/v1/messages", answer, methods=["POST"])]), name="headers") as there:
        chosen.setenv("ANTHROPIC_BASE_URL", there.url)
        with llm(name="llm-relay") as relay:
            for key in ({"api_key": "any"}, {"auth_token": "any"}):
                async with anthropic.AsyncAnthropic(base_url=relay.url, **key) as client:
                    with pytest.raises(anthropic.BadRequestError, match="no"):
                        await client.messages.create(
                            **says("Hi"), extra_headers={"cookie": "mine", "anthropic-beta": "b"}
                        )
            assert "the real key" not in str(relay.logs()) + repr(relay)
    for headers in seen:
        assert headers["x-api-key"] == "the real key"
        assert headers["anthropic-beta"] == "b"
        assert headers["anthropic-version"]
        assert headers["accept-encoding"] == "identity"
        assert not {"cookie", "authorization"} & set(headers)
        assert headers["host"] == there.url[7:]


def test_without_a_key_it_says_what_to_do(chosen: pytest.MonkeyPatch) -> None:
    chosen.delenv("ANTHROPIC_API_KEY")
    with pytest.raises(LabError, match="set it, or unset LABSERVER_LLM"):
        llm(name="llm-relay")


def test_an_address_that_is_none_is_named(chosen: pytest.MonkeyPatch) -> None:
    chosen.setenv("ANTHROPIC_BASE_URL", "api.example")
    with pytest.raises(LabError, match=r"ANTHROPIC_BASE_URL='api\.example' is no address"):
        llm(name="llm-relay")


def test_wrong_arguments_are_named_whichever_is_asked(relay: Llm) -> None:
    with pytest.raises(LabError, match="tokens=-1"):
        llm(tokens=-1)
    with pytest.raises(LabError, match="tokens=-1"):
        relay.set(tokens=-1)
    relay.set(tokens=5)  # changes nothing, and says nothing


def test_the_default_address_is_anthropics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    assert base_url() == str(anthropic.Anthropic(api_key="any").base_url).rstrip("/") == "https://api.anthropic.com"


def test_a_key_alone_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a key")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    assert not endpoint(Settings(llm="fake")).source.paid
    assert endpoint(Settings(llm="anthropic")).source.paid
    code = "from labserver.stage import llm; one = llm(); print(one.bill().paid)"
    environment = {name: value for name, value in os.environ.items() if name != "LABSERVER_LLM"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_run_of_tests_and_of_notebooks_asks_the_labs_own_whatever_is_chosen() -> None:
    code = "import conftest; from labserver.settings import get_settings; print(get_settings().llm); "
    code += "conftest.pytest_unconfigure()"
    chosen = os.environ | {"LABSERVER_LLM": "anthropic", "ANTHROPIC_API_KEY": "a key"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=chosen, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "fake\n"
