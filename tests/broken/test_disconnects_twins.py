"""Each twin of the topic fails in the way that it says, where a real client can see it; the pattern does not."""

import asyncio
import gc
import json
import ssl
from collections.abc import Iterator
from contextlib import aclosing, suppress

import httpx
import pytest

from labserver.settings import Settings
from labserver.stage import LiveServer, start

TLS = ssl.create_default_context()  # once: it takes longer to load than any request here
DEADLINE = 5.0


@pytest.fixture
def lab() -> Iterator[LiveServer]:
    with start(name="tests", settings=Settings(work_step=0.01)) as live:
        yield live


def twin(name: str) -> list[str]:
    """Where the twin is, then where its pattern is."""
    return [f"/broken/{name}", ""]


async def work(client: httpx.AsyncClient, path: str) -> dict[str, int]:
    counts: dict[str, int] = (await client.get(f"{path}/work")).json()
    return counts


async def leave_a_full_connection(client: httpx.AsyncClient, path: str) -> None:
    """Read a first chunk, wait until the server makes no more pages, and leave."""
    url, last = f"{path}/stream/report?pages=100000&size=100000", -1
    async with client.stream("GET", url) as response, aclosing(response.aiter_raw()) as body:
        await anext(body)
        async with asyncio.timeout(DEADLINE):
            while last != (now := (await work(client, path))["pages"]):
                last = now
                await asyncio.sleep(0.2)


async def opened(client: httpx.AsyncClient, path: str, wanted: int) -> int:
    """Return how many reports are open, when it is `wanted` or after a second."""
    with suppress(TimeoutError):
        async with asyncio.timeout(1):
            while (await work(client, path))["open"] != wanted:
                await asyncio.sleep(0.01)
    return (await work(client, path))["open"]


async def test_cleanup_left_to_the_collector() -> None:
    left = []
    gc.collect()
    gc.disable()
    try:
        with start(name="tests", settings=Settings(work_step=0)) as lab:
            async with httpx.AsyncClient(base_url=lab.url, timeout=DEADLINE, verify=TLS) as client:
                for path in twin("cleanup_left_to_the_collector"):
                    await leave_a_full_connection(client, path)
                    left.append(await opened(client, path, 0))
                gc.collect()
                assert await opened(client, "/broken/cleanup_left_to_the_collector", 0) == 0
    finally:
        gc.enable()
    assert left == [1, 0]


async def test_generator_without_await() -> None:
    with start(name="tests", process=True, settings=Settings(work_step=0)) as lab:
        async with httpx.AsyncClient(base_url=lab.url, timeout=2, verify=TLS) as client:
            await read_one_page_and_leave(client, "")
            assert await opened(client, "", 0) == 0
            await read_one_page_and_leave(client, "/broken/generator_without_await")
            with pytest.raises(httpx.ReadTimeout):
                await ask_on_and_on(client)


async def read_one_page_and_leave(client: httpx.AsyncClient, path: str) -> None:
    url = f"{path}/stream/report?pages=1000000000"
    async with client.stream("GET", url) as response, aclosing(response.aiter_raw()) as body:
        assert (await anext(body)).startswith(b'{"page": 1,')


async def ask_on_and_on(client: httpx.AsyncClient) -> None:
    """Ask until there is no answer; the first one may come before the server has noticed that the reader has left."""
    while True:
        await client.get("/work")


async def test_state_in_the_connection(lab: LiveServer) -> None:
    found = []
    async with httpx.AsyncClient(base_url=lab.url, timeout=DEADLINE, verify=TLS) as client:
        for path in twin("state_in_the_connection"):
            job = path + (await client.post(f"{path}/jobs", json={"steps": 20})).headers["location"]
            async with client.stream("GET", f"{job}/events") as response, aclosing(response.aiter_lines()) as lines:
                async for line in lines:
                    if line == "id: 10":
                        break
            rest = (await client.get(f"{job}/events", headers={"Last-Event-ID": "10"})).text
            first = next(json.loads(line[6:])["step"] for line in rest.split("\n") if line.startswith("data: "))
            found.append((first, (await work(client, path))["steps"]))
    (broken_first, broken_steps), mended = found
    assert broken_first == 1
    assert broken_steps >= 30
    assert mended == (11, 20)


async def test_waiting_cancels_the_job(lab: LiveServer) -> None:
    states = []
    async with httpx.AsyncClient(base_url=lab.url, timeout=DEADLINE, verify=TLS) as client:
        for path in twin("waiting_cancels_the_job"):
            job = path + (await client.post(f"{path}/jobs", json={"steps": 50})).headers["location"]
            await client.get(job, params={"wait": 0.05})
            states.append((await client.get(job)).json()["state"])
    assert states == ["cancelled", "running"]
