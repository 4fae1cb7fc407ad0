"""The relay of an LLM's tokens over real sockets, by the real SDK: pieces, ends, statuses, ids, and who pays."""

import asyncio
import gc
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager, suppress
from types import ModuleType
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Response

from labserver.patterns import llm_tokens
from labserver.settings import Settings
from labserver.stage import LiveServer, Llm, fake_llm, start
from labserver.stage.lab import fresh

Event = tuple[str, dict[str, object]]
TLS = False  # plain HTTP; loading certificates for each client takes longer than a request
TIMEOUT = 60.0  # seconds: on a busy machine importing the SDK takes 20


@pytest.fixture(scope="module")
def llm() -> Iterator[Llm]:
    with fake_llm(name="tokens-tests") as llm:
        yield llm


@pytest.fixture(autouse=True)
def _usual(llm: Llm) -> None:
    llm.set(tokens=8, delay=0.005, first=0.0)


@pytest.fixture(scope="module")
def live(llm: Llm) -> Iterator[LiveServer]:
    with serve("tokens", llm_url=llm.url) as live:
        yield live
        assert live.errors() == []


@pytest.fixture(scope="module")
def web(live: LiveServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=live.url, verify=TLS, timeout=TIMEOUT) as client:
        client.post("/chat", json={"prompt": "the first request imports the SDK"})
        yield client


def serve(name: str, pattern: ModuleType | None = None, **settings: Any) -> LiveServer:
    """Serve the pattern alone, with a state of its own."""
    app = FastAPI()
    app.include_router((pattern or fresh("labserver.patterns.llm_tokens")).router)
    return start(app, name=name, settings=Settings(**settings))


def events(body: str) -> list[Event]:
    """Return name and data of each event of a body."""
    found = []
    for block in body.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", "message"), json.loads(fields["data"])))
    return found


def said(heard: list[Event]) -> str:
    return "".join(str(data["text"]) for name, data in heard if name == "message")


@asynccontextmanager
async def streaming(
    live: LiveServer, prompt: str, method: str = "POST", path: str = "/chat"
) -> AsyncIterator[AsyncIterator[Event]]:
    """Ask, and give the events as they come; leaving the block hangs up."""
    body = {"json": {"prompt": prompt}} if method == "POST" else {"params": {"id": prompt}}
    async with (
        asyncio.timeout(TIMEOUT),
        httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=TIMEOUT) as client,
        client.stream(method, path, **body) as response,  # type: ignore[arg-type]
    ):
        assert response.status_code == 200

        async def heard() -> AsyncIterator[Event]:
            block = ""
            async for line in response.aiter_lines():
                if line:
                    block += line + "\n"
                else:
                    yield events(block + "\n")[0]
                    block = ""

        async with aclosing(heard()) as pieces:
            yield pieces


# --- an answer


def test_pieces_then_how_it_ended(web: httpx.Client, llm: Llm) -> None:
    answer = web.post("/chat", json={"prompt": "say something"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert (answer.headers["cache-control"], answer.headers["x-accel-buffering"]) == ("no-store", "no")
    *pieces, last = events(answer.text)
    assert {name for name, _ in pieces} == {"message"}
    assert len(pieces) == llm.requests[-1].sent
    assert last == ("done", {"stop_reason": "end_turn", "usage": usage(llm)})
    assert llm.requests[-1].state == "done"


def usage(llm: Llm) -> dict[str, int]:
    last = llm.requests[-1]
    return {"input_tokens": last.input_tokens, "output_tokens": last.output_tokens}


async def test_the_first_piece_is_here_while_the_llm_still_talks(live: LiveServer, llm: Llm, web: httpx.Client) -> None:
    llm.set(tokens=40, delay=0.05)
    async with streaming(live, "take your time") as pieces:
        await anext(pieces)
        assert llm.requests[-1].state == "running"
    await llm.settled()


@pytest.mark.parametrize("text", ["two\nlines", "a\n\nevent: done\ndata: {}", "\r", "\u2028", "🌊", "\x00", '"', ""])
def test_any_text_is_one_line_of_data(text: str) -> None:
    block = llm_tokens.event({"text": text})
    assert block.endswith("\n\n")
    assert block.count("\n") == 2
    assert "\r" not in block
    assert events(block) == [("message", {"text": text})]


def test_who_reaches_the_limit_is_told_so(llm: Llm) -> None:
    llm.set(tokens=30)
    with serve("short", llm_url=llm.url, llm_max_tokens=3) as live:
        answer = httpx.post(f"{live.url}/chat", json={"prompt": "go on"}, verify=TLS, timeout=TIMEOUT)
        assert events(answer.text)[-1][1]["stop_reason"] == "max_tokens"
        assert len(events(answer.text)) == 4


async def test_many_at_once_each_get_their_own(live: LiveServer, llm: Llm, web: httpx.Client) -> None:
    async with httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=TIMEOUT) as client:

        async def ask(number: int) -> str:
            return said(events((await client.post("/chat", json={"prompt": f"topic {number}"})).text))

        alone = [await ask(number) for number in range(12)]
        together = await asyncio.gather(*map(ask, range(12)))
    assert together == alone
    assert len(set(alone)) > 6


# --- who leaves


@pytest.mark.parametrize("collector", [True, False])
async def test_who_leaves_ends_the_upstream(live: LiveServer, llm: Llm, web: httpx.Client, collector: bool) -> None:
    llm.set(tokens=400, delay=0.02)
    gc.enable() if collector else gc.disable()
    try:
        async with streaming(live, f"a long one, {collector}") as pieces:
            for _ in range(5):
                await anext(pieces)
        await llm.settled()
    finally:
        gc.enable()
    assert llm.requests[-1].state == "cancelled"
    assert llm.requests[-1].sent < 200


async def test_who_leaves_before_the_first_piece_ends_it_too(live: LiveServer, llm: Llm, web: httpx.Client) -> None:
    llm.set(first=30)
    async with streaming(live, "think first"):
        assert llm.requests[-1].state == "running"
    await llm.settled()
    assert llm.requests[-1].state == "cancelled"


async def test_who_does_not_read_holds_the_upstream_back_and_leaving_still_ends_it(web: httpx.Client) -> None:
    """The generator is suspended at its `yield` then, where no cancellation reaches the SDK's own generators."""
    sent, left = 0, asyncio.Event()

    async def floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(
            frame("message_start", message={"role": "assistant", "content": [], "usage": {"output_tokens": 1}})
        )
        writer.write(frame("content_block_start", index=0, content_block={"type": "text", "text": ""}))
        with suppress(ConnectionError):
            while True:
                writer.write(frame("content_block_delta", index=0, delta={"type": "text_delta", "text": "x" * 200_000}))
                await writer.drain()
                sent += 1
        left.set()

    body = b'{"prompt": "more than I read"}'
    head = f"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with asyncio.timeout(TIMEOUT), await asyncio.start_server(floods, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]
        with serve("much", llm_url=f"http://127.0.0.1:{port}") as much:
            reader, writer = await asyncio.open_connection(much.host, much.port, limit=1024)
            writer.write(head.encode() + body)
            await reader.readexactly(200)
            before = -1
            while before != sent:
                before = sent
                await asyncio.sleep(0.5)
            gc.disable()
            try:
                writer.transport.abort()
                await left.wait()
            finally:
                gc.enable()


async def test_who_leaves_before_the_llm_begins_is_noticed_as_soon_as_it_does(web: httpx.Client) -> None:
    """There is no response yet that could be cancelled: the price of a status for a refusal."""
    asked, left, begin = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def hesitates(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await begin.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        writer.write(
            frame("message_start", message={"role": "assistant", "content": [], "usage": {"output_tokens": 1}})
        )
        with suppress(ConnectionError):
            while await reader.read(65536):
                pass
        left.set()
        writer.close()

    async with asyncio.timeout(TIMEOUT), await asyncio.start_server(hesitates, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]
        with serve("hesitates", llm_url=f"http://127.0.0.1:{port}") as live:
            async with httpx.AsyncClient(base_url=live.url, verify=TLS) as client:
                question = asyncio.create_task(client.post("/chat", json={"prompt": "x"}))
                await asked.wait()
                question.cancel()
            begin.set()
            await left.wait()
            assert live.errors() == []


def frame(kind: str, **data: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


# --- before the first piece


@pytest.mark.parametrize(
    ("fault", "status", "again"),
    [("overloaded", 503, "10"), ("rate_limited", 503, "10"), ("bad_request", 400, None)],
)
def test_what_fails_before_the_first_piece_has_a_status(
    web: httpx.Client, fault: str, status: int, again: str | None
) -> None:
    answer = web.post("/chat", json={"prompt": f"PRIVATE #{fault}"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers.get("retry-after") == again
    assert "PRIVATE" not in answer.text


def test_the_sdk_tries_again_before_that(web: httpx.Client, llm: Llm) -> None:
    before = len(llm.requests)
    assert events(web.post("/chat", json={"prompt": "hello #overloaded:2"}).text)[-1][0] == "done"
    assert [request.attempt for request in llm.requests[before:]] == [1, 2, 3]


@pytest.mark.parametrize(("fault", "status"), [("error:0", 503), ("truncated:0", 502)])
def test_an_event_that_comes_in_place_of_the_first_has_a_status_as_well(fault: str, status: int) -> None:
    """Headers are here, `message_start` is not: a server of our own, because the fake always begins with it."""
    app = FastAPI()
    error = 'event: error\ndata: {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}\n\n'

    @app.post("/v1/messages")
    async def messages() -> Response:
        return Response(error if fault == "error:0" else "", media_type="text/event-stream")

    with (
        start(app, name="first-event") as upstream,
        serve("relay", llm_url=upstream.url) as live,
    ):
        assert httpx.post(f"{live.url}/chat", json={"prompt": "x"}, verify=TLS, timeout=TIMEOUT).status_code == status
        assert live.errors() == []


def test_no_llm_one_that_is_away_and_one_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        nowhere, mute = "http://127.0.0.1:1", f"http://127.0.0.1:{silent.getsockname()[1]}"
        for url, status in ((nowhere, 502), (mute, 504)):
            with serve("away", llm_url=url, llm_timeout=0.2) as live:
                answer = httpx.post(f"{live.url}/chat", json={"prompt": "x"}, verify=TLS, timeout=TIMEOUT)
                assert answer.status_code == status
                assert live.errors() == []


def test_without_an_address_it_says_what_to_set() -> None:
    with serve("unset") as live:
        answer = httpx.post(f"{live.url}/chat", json={"prompt": "x"}, verify=TLS, timeout=TIMEOUT)
        assert (answer.status_code, "LABSERVER_LLM_URL" in answer.text) == (503, True)


# --- after it


@pytest.mark.parametrize(
    ("fault", "why"),
    [("truncated", "truncated"), ("error", "overloaded_error"), ("cut", "broken"), ("truncated:0", "truncated")],
)
def test_what_fails_later_is_an_event(web: httpx.Client, llm: Llm, fault: str, why: str) -> None:
    heard = events(web.post("/chat", json={"prompt": f"hello #{fault}"}).text)
    assert heard[-1] == ("error", {"error": why})
    assert [name for name, _ in heard[:-1]] == ["message"] * llm.requests[-1].sent


def test_silence_is_not_waited_for_in_vain(llm: Llm) -> None:
    with serve("patience", llm_url=llm.url, llm_timeout=0.5) as live:
        answer = httpx.post(f"{live.url}/chat", json={"prompt": "hello #silent:2"}, verify=TLS, timeout=TIMEOUT)
        assert [name for name, _ in events(answer.text)] == ["message", "message", "error"]


# --- prompts


@pytest.mark.parametrize("path", ["/chat", "/chat/prompts"])
def test_a_prompt_is_a_text_with_something_in_it_and_not_too_long(web: httpx.Client, path: str) -> None:
    for prompt in ("", "  \n ", None, 5, ["x"], {"a": "b"}, "x" * (llm_tokens.PROMPT_MAX + 1)):
        assert web.post(path, json={"prompt": prompt}).status_code == 422
    for body in (b"", b"{}", b"[]", b"no JSON", b"\xff\xfe", b'{"prompt": "\xff"}'):
        assert web.post(path, content=body, headers={"Content-Type": "application/json"}).status_code in (400, 422)
    assert web.post(path, json={"prompt": "x" * 2 * llm_tokens.BODY_MAX}).status_code == 413
    assert web.post(path, json={"prompt": "🌊" * llm_tokens.PROMPT_MAX}).status_code in (200, 201)


def test_half_a_character_is_replaced(web: httpx.Client, llm: Llm) -> None:
    answer = web.post("/chat", content=rb'{"prompt": "a\ud83d"}', headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert llm.requests[-1].prompt == "a?"


# --- an id for EventSource


def test_an_id_stands_for_a_prompt_once(web: httpx.Client, llm: Llm) -> None:
    kept = web.post("/chat/prompts", json={"prompt": "by an id"})
    assert kept.status_code == 201
    answer = web.get("/chat", params=kept.json())
    assert events(answer.text)[-1][0] == "done"
    assert llm.requests[-1].prompt == "by an id"
    before = len(llm.requests)
    for again in (kept.json(), {"id": "x"}, {"id": ""}):
        assert web.get("/chat", params=again).status_code == 404
    assert web.get("/chat").status_code == 422
    assert len(llm.requests) == before


@pytest.fixture
def id(web: httpx.Client) -> str:
    return str(web.post("/chat/prompts", json={"prompt": "x"}).json()["id"])


async def test_who_leaves_the_stream_of_an_id_ends_the_upstream(live: LiveServer, llm: Llm, id: str) -> None:
    llm.set(tokens=400, delay=0.02)
    async with streaming(live, id, "GET") as pieces:
        await anext(pieces)
    await llm.settled()
    assert llm.requests[-1].state == "cancelled"


def test_an_id_does_not_wait_for_ever(llm: Llm) -> None:
    pattern = fresh("labserver.patterns.llm_tokens")
    with (
        serve("ttl", pattern, llm_url=llm.url, prompt_ttl=0.05) as live,
        httpx.Client(base_url=live.url, verify=TLS) as client,
    ):
        kept = client.post("/chat/prompts", json={"prompt": "x"}).json()
        _, until = pattern.prompts[kept["id"]]
        while pattern.time.monotonic() <= until:
            pattern.time.sleep(0.01)
        other = client.post("/chat/prompts", json={"prompt": "y"}).json()
        assert list(pattern.prompts) == [other["id"]]  # no prompt stays longer than it must
        assert client.get("/chat", params=kept).status_code == 404


def test_only_so_many_ids_wait(llm: Llm) -> None:
    with (
        serve("bounded", llm_url=llm.url, prompts_max=2) as live,
        httpx.Client(base_url=live.url, verify=TLS, timeout=TIMEOUT) as client,
    ):
        kept = [client.post("/chat/prompts", json={"prompt": f"{n}"}).json() for n in range(3)]
        assert [client.get("/chat", params=each).status_code for each in kept] == [404, 200, 200]


# --- what it logs


def test_no_log_holds_a_prompt(live: LiveServer, web: httpx.Client) -> None:
    for fault in ("", "#overloaded", "#bad_request", "#error", "#cut"):
        web.post("/chat", json={"prompt": f"PRIVATE {fault}"})
        web.get("/chat", params=web.post("/chat/prompts", json={"prompt": f"PRIVATE {fault}"}).json())
    assert any("the LLM's answer broke" in line for line in live.logs())
    assert not any("PRIVATE" in line for line in live.logs())
