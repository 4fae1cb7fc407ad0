"""Kernels as a class makes them: twenty at once, each with its lab server, and shut down while streams are open."""

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.manager import AsyncKernelManager
from real_jupyter import private_environment, still_running
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

KERNELS = 20
SHUTDOWN = 2.0  # seconds: the promise
START = 60.0  # seconds for one kernel among twenty that start on two busy cores

APP = """
import asyncio, json, os
from fastapi import FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from labserver.stage import start

app = FastAPI()

@app.get("/who")
async def who():
    return os.getpid()

@app.get("/events")
async def events():
    async def ticks():
        number = 0
        while True:
            yield f"data: {number}\\n\\n"
            number += 1
            await asyncio.sleep(0.05)
    return StreamingResponse(ticks(), media_type="text/event-stream")

@app.websocket("/ws")
async def echo(socket: WebSocket):
    await socket.accept()
    async for text in socket.iter_text():
        await socket.send_text(text)

live = start(app)
"""
STAGE = APP + "print(live.url)"
STAGE_WITH_CHILD = (
    APP + "import labserver.stage.lab; child = start(name='child', process=True); print(live.url); print(child.url)"
)


@dataclass
class Kernel:
    """A running kernel, with the process that it is."""

    manager: AsyncKernelManager
    client: AsyncKernelClient
    process: psutil.Process

    async def run(self, code: str, *, deadline: float = START) -> str:
        """Run a cell and return what it printed; an error of the cell fails the test."""
        printed: list[str] = []

        def collect(message: dict[str, Any]) -> None:
            if message["msg_type"] == "stream":
                printed.append(message["content"]["text"])

        reply = await self.client.execute_interactive(
            code, timeout=deadline, output_hook=collect, allow_stdin=False, store_history=False
        )
        assert reply["content"]["status"] == "ok", reply["content"]
        return "".join(printed)

    async def shut_down(self) -> tuple[float, list[psutil.Process]]:
        """Ask the kernel to end, as Jupyter does; return the seconds it took and who of its family is left."""
        family = [self.process, *self.process.children(recursive=True)]
        begin = time.perf_counter()
        self.client.shutdown()
        left = await still_running(family, deadline=4 * SHUTDOWN)
        return time.perf_counter() - begin, left


@asynccontextmanager
async def kernel(folder: Path) -> AsyncIterator[Kernel]:
    """Start a kernel with its files, sockets included, in `folder`; whatever happens it is gone on leaving."""
    environment = private_environment(folder)
    # Unix sockets, since Jupyter picks TCP ports before the kernel binds them: among twenty somebody else may take one.
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", connection_file=str(folder / "k.json"))
    await manager.start_kernel(env=environment, cwd=str(folder), extra_arguments=["--IPCompleter.use_jedi=False"])
    client = manager.client()
    client.start_channels(hb=False)  # its thread would take a second to notice that the kernel ended
    try:
        await client.wait_for_ready(timeout=START)
        yield Kernel(manager, client, psutil.Process(manager.provisioner.process.pid))
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)


@pytest.fixture
def short_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a path short enough for the name of a Unix socket (104 bytes on macOS)."""
    folder = tmp_path_factory.mktemp("k")
    assert len(str(folder)) < 80
    return folder


async def read_events(client: httpx.AsyncClient, url: str, started: asyncio.Event) -> str:
    """Read an endless stream; tell when three events have come, and return how it ended."""
    try:
        async with client.stream("GET", f"{url}/events", timeout=httpx.Timeout(START)) as answer:
            lines = 0
            async for line in answer.aiter_lines():
                lines += line.startswith("data:")
                if lines == 3:
                    started.set()
    except httpx.HTTPError as error:
        return type(error).__name__
    return "end"


@asynccontextmanager
async def streams(urls: list[str]) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Hold one event stream open on each of `urls`; on entry three events have come over every one."""
    async with httpx.AsyncClient(trust_env=False) as client:
        started = [asyncio.Event() for _url in urls]
        tasks = [asyncio.create_task(read_events(client, url, event)) for url, event in zip(urls, started, strict=True)]
        try:
            async with asyncio.timeout(START):
                await asyncio.gather(*(event.wait() for event in started))
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def test_twenty_kernels_serve_side_by_side_and_leave_nothing(
    short_folder: Path, measured: Callable[[str], None]
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        begin = time.perf_counter()
        kernels = await asyncio.gather(
            *(stack.enter_async_context(kernel(short_folder / str(number))) for number in range(KERNELS))
        )
        ready = time.perf_counter()
        urls = [printed.strip() for printed in await asyncio.gather(*(each.run(STAGE) for each in kernels))]
        served = time.perf_counter()

        assert len(set(urls)) == KERNELS
        async with httpx.AsyncClient(trust_env=False, timeout=START) as client:
            who = [(await client.get(f"{url}/who")).json() for url in urls]
        assert who == [each.process.pid for each in kernels]

        async with streams(urls) as readers:
            memory = [each.process.memory_info().rss / 2**20 for each in kernels]
            ended = [await each.shut_down() for each in kernels]
            assert [left for _seconds, left in ended] == [[]] * KERNELS
            slowest = max(seconds for seconds, _left in ended)
            assert slowest <= SHUTDOWN
            async with asyncio.timeout(START):
                await asyncio.gather(*readers)

    measured(
        f"{KERNELS} kernels: all ready after {ready - begin:.1f} s, all serving after {served - begin:.1f} s; "
        f"memory of each {statistics.median(memory):.0f} MiB ({max(memory):.0f} at most, {sum(memory):.0f} in all); "
        f"shut down with a stream open in {statistics.median(s for s, _ in ended):.2f} s ({slowest:.2f} at most)"
    )


async def test_kernel_with_open_streams_and_a_child_shuts_down_in_two_seconds(
    short_folder: Path, measured: Callable[[str], None]
) -> None:
    async with kernel(short_folder) as one:
        url, child_url = (await one.run(STAGE_WITH_CHILD)).split()
        children = one.process.children(recursive=True)
        assert children, "process=True starts a process"

        async with streams([url]) as readers, connect(f"ws{url.removeprefix('http')}/ws", proxy=None) as socket:
            await socket.send("here?")
            assert await asyncio.wait_for(socket.recv(), START) == "here?"

            seconds, left = await one.shut_down()

            assert left == []
            assert seconds <= SHUTDOWN
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(socket.recv(), START)
            async with asyncio.timeout(START):
                await asyncio.gather(*readers)

        for address in (url, child_url):
            async with httpx.AsyncClient(trust_env=False) as client:
                with pytest.raises(httpx.ConnectError):
                    await client.get(f"{address}/who")
    measured(f"a kernel with two servers, an event stream and a WebSocket open shut down in {seconds:.2f} s")


async def test_killed_kernel_takes_its_child_server_along(short_folder: Path) -> None:
    async with kernel(short_folder) as one:
        await one.run(STAGE_WITH_CHILD)
        family = [one.process, *one.process.children(recursive=True)]
        assert len(family) > 1

        one.process.kill()

        assert await still_running(family, deadline=4 * SHUTDOWN) == []
