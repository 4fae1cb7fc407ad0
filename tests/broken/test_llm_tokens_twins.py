"""Each twin of the LLM topic fails in the way that it says, where a real client, the log or the upstream can see it."""

import json
from collections.abc import Iterator

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, Llm, fake_llm, start

TLS = False  # plain HTTP; loading certificates for each client takes longer than a request
TIMEOUT = 60.0  # seconds: on a busy machine importing the SDK takes 20


@pytest.fixture(scope="module")
def llm() -> Iterator[Llm]:
    with fake_llm(name="tokens-twins-llm") as llm:
        yield llm


@pytest.fixture(autouse=True)
def _usual(llm: Llm) -> None:
    llm.set(tokens=8, delay=0.005, first=0.0)


@pytest.fixture(scope="module")
def live(llm: Llm) -> Iterator[LiveServer]:
    with start(name="tokens-twins", settings=Settings(llm_url=llm.url)) as live:
        yield live


@pytest.fixture(scope="module")
def child(llm: Llm) -> Iterator[LiveServer]:
    with start(name="tokens-child", process=True, settings=Settings(llm_url=llm.url)) as live:
        yield live


def client(live: LiveServer) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=live.url, verify=TLS, timeout=TIMEOUT)


async def ask(live: LiveServer, path: str, prompt: str) -> tuple[int, list[str], str]:
    """Return the status, the names of the events, and what the last one says."""
    async with client(live) as web:
        answer = await web.post(f"{path}/chat", json={"prompt": prompt})
    blocks = answer.text.split("\n\n")[:-1]
    names = [block.split("\n")[0].removeprefix("event: ") if "event: " in block else "message" for block in blocks]
    return answer.status_code, names, blocks[-1].rpartition("data: ")[2] if blocks else ""


async def leave(live: LiveServer, path: str, llm: Llm, tokens: int) -> tuple[str, int]:
    """Ask, read some pieces and leave; return the upstream's state then, and what it had sent by its end."""
    async with client(live) as web, web.stream("POST", f"{path}/chat", json={"prompt": "a long one"}) as answer:
        lines = answer.aiter_lines()
        while tokens:
            tokens -= (await anext(lines)).startswith("data: ")
        await lines.aclose()  # type: ignore[attr-defined]
    last = (await llm.settled(TIMEOUT))[-1]
    return last.state, last.sent


@pytest.mark.parametrize(("path", "blocks"), [("/broken/sync_client_blocks", True), ("", False)])
async def test_sync_client_blocks(child: LiveServer, llm: Llm, path: str, blocks: bool) -> None:
    """While one client gets its tokens, another asks for something else: is it answered before the end?"""
    await ask(child, path, "the first request imports the SDK")
    llm.set(tokens=40, delay=0.05)
    question = {"prompt": "take your time"}
    async with client(child) as web, client(child) as other, web.stream("POST", f"{path}/chat", json=question) as told:
        await anext(told.aiter_raw())
        await other.get("/broken")
        assert (llm.requests[-1].state == "done") is blocks
    await llm.settled(TIMEOUT)


@pytest.mark.parametrize(("path", "state"), [("/broken/sync_client_blocks", "done"), ("", "cancelled")])
async def test_sync_client_runs_for_nobody(child: LiveServer, llm: Llm, path: str, state: str) -> None:
    llm.set(tokens=60, delay=0.02)
    assert (await leave(child, path, llm, 2))[0] == state


async def test_sync_client_tells_the_same(child: LiveServer) -> None:
    assert await ask(child, "/broken/sync_client_blocks", "hello") == await ask(child, "", "hello")


@pytest.mark.parametrize(("path", "state"), [("/broken/upstream_left_running", "done"), ("", "cancelled")])
async def test_upstream_left_running(live: LiveServer, llm: Llm, path: str, state: str) -> None:
    await ask(live, path, "the first request imports the SDK")
    llm.set(tokens=100, delay=0.02)
    left, sent = await leave(live, path, llm, 5)
    assert left == state
    assert (sent == 100) is (state == "done")


async def test_upstream_left_running_tells_the_same(live: LiveServer) -> None:
    assert await ask(live, "/broken/upstream_left_running", "hello") == await ask(live, "", "hello")


async def test_prompt_in_the_url(live: LiveServer, llm: Llm) -> None:
    async with client(live) as web:
        kept = (await web.post("/chat/prompts", json={"prompt": "PRIVATE-1"})).json()
        mended = await web.get("/chat", params=kept)
        broken = await web.get("/broken/prompt_in_the_url/chat", params={"prompt": "PRIVATE-2"})
        assert [answer.text.count("event: done") for answer in (mended, broken)] == [1, 1]
        log = "\n".join(live.logs())
        assert ("PRIVATE-1" in log, "PRIVATE-2" in log) == (False, True)
        before = len(llm.requests)
        again = [await web.get("/chat", params=kept)]
        again += [await web.get("/broken/prompt_in_the_url/chat", params={"prompt": "PRIVATE-2"})]
        assert [answer.status_code for answer in again] == [404, 200]
        assert len(llm.requests) == before + 1


async def test_truncation_looks_complete(live: LiveServer, llm: Llm) -> None:
    status, names, last = await ask(live, "/broken/truncation_looks_complete", "hello #truncated:3")
    assert (status, names) == (200, ["message"] * 3 + ["done"])
    assert json.loads(last)["stop_reason"] is None
    status, names, last = await ask(live, "", "hello #truncated:3")
    assert (status, names, json.loads(last)) == (200, ["message"] * 3 + ["error"], {"error": "truncated"})
    for fault in ("error", "cut"):  # these it tells
        assert (await ask(live, "/broken/truncation_looks_complete", f"hello #{fault}"))[1][-1] == "error"


async def test_refused_after_200(live: LiveServer) -> None:
    twin = "/broken/refused_after_200"
    async with client(live) as web, web.stream("POST", f"{twin}/chat", json={"prompt": "x #overloaded"}) as answer:
        assert answer.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await answer.aread()
    assert live.errors()[-1] == "RuntimeError: Caught handled exception, but response already started."
    assert (await ask(live, "", "x #overloaded"))[0] == 503
    assert await ask(live, twin, "hello") == await ask(live, "", "hello")


async def test_every_twin_refuses_what_its_pattern_refuses(live: LiveServer) -> None:
    names = ("upstream_left_running", "prompt_in_the_url", "truncation_looks_complete", "refused_after_200")
    for path in ("", *(f"/broken/{name}" for name in names)):
        assert {(await ask(live, path, prompt))[0] for prompt in ("", " ", "x" * 8001)} == {422}
