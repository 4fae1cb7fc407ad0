"""In a real ipykernel: nothing else has the loop, the signals and the output streams of a notebook."""

import queue
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

DEADLINE = 60.0  # seconds for a kernel to start and for any cell, on a loaded machine
SOON = 10.0  # seconds until an interrupt shows: the ticker promises 0.2, the rest is for formatting the traceback
LONG = 30.0  # seconds the interrupted cell would wait for


@dataclass
class Cell:
    """What one executed cell left."""

    status: str = ""
    error: str = ""
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(output.get("text", "") for output in self.outputs)


@dataclass
class Kernel:
    manager: KernelManager
    client: BlockingKernelClient

    def run(self, code: str) -> Cell:
        cell = Cell()

        def keep(message: dict[str, Any]) -> None:
            if message["msg_type"] in ("stream", "display_data", "execute_result", "error"):
                cell.outputs.append(message["content"])

        reply = self.client.execute_interactive(code, timeout=DEADLINE, output_hook=keep, allow_stdin=False)
        cell.status = reply["content"]["status"]
        cell.error = reply["content"].get("ename", "")
        return cell

    def interrupt(self, code: str, soon: float = SOON) -> str | None:
        """Execute `code`, interrupt it once it has printed, return the name of its error; None if it went on."""
        sent = self.client.execute(code)
        while self.client.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "stream":
            pass
        self.manager.interrupt_kernel()
        deadline = time.monotonic() + soon
        while time.monotonic() < deadline:
            try:
                reply = self.client.get_shell_msg(timeout=soon)
            except queue.Empty:
                return None
            if reply["parent_header"].get("msg_id") == sent:
                return str(reply["content"].get("ename"))
        return None


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel for one test, because what it does to its loop can't be undone."""
    with fresh_kernel() as fresh:
        yield fresh


@pytest.fixture(scope="module")
def shared() -> Iterator[Kernel]:
    """A kernel for all tests that start servers and nothing else."""
    with fresh_kernel() as fresh:
        yield fresh


@contextmanager
def fresh_kernel() -> Iterator[Kernel]:
    manager = KernelManager(kernel_name="python3")
    manager.kernel_spec.argv[0] = sys.executable
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE)
        yield Kernel(manager, client)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


START = "from fastapi import FastAPI\nfrom labserver.stage import rescue, start\nlive = start(FastAPI())"
FAILS = """
import httpx, logging
from fastapi import FastAPI
from labserver.stage import rescue, start

app = FastAPI()

@app.get("/")
async def fail():
    logging.getLogger("app").warning("a warning")
    raise KeyError("text")

live = start(app)
async with httpx.AsyncClient() as client:
    answer = await client.get(live.url)
"""
# prints from a timer, so that the loop is idle with nothing due when the interrupt comes
WAIT = f"""
import asyncio, sys
asyncio.get_running_loop().call_later(0.3, print, "waiting")
await asyncio.sleep({LONG})
"""


def test_an_idle_await_can_be_interrupted(shared: Kernel) -> None:
    assert shared.run(START).outputs == []
    assert shared.run(START).outputs == []  # the second start adds no second ticker
    tickers = "import asyncio\nprint([t.get_name() for t in asyncio.all_tasks()].count('labserver-ticker'))"
    assert shared.run(tickers).text == "1\n"
    assert shared.interrupt(WAIT) in ("KeyboardInterrupt", "CancelledError")
    assert shared.run("print(live)").text == "<LiveServer 'lab' running>\n"


def test_without_our_ticker_it_can_not(kernel: Kernel) -> None:
    """The reason why there is a ticker; when this fails, ipykernel has mended it and the ticker can go."""
    assert kernel.interrupt(WAIT, soon=3.0) is None


def test_nothing_of_a_server_is_printed_in_a_cell(shared: Kernel) -> None:
    made = shared.run(FAILS)
    assert (made.status, made.outputs) == ("ok", [])
    shown = shared.run("live")
    assert shown.outputs[0]["data"]["text/plain"] == "<LiveServer 'lab' running>"
    assert shared.run("print(answer.status_code, live.errors())").text == "500 [\"KeyError: 'text'\"]\n"
    assert shared.run("rescue()").outputs[0]["data"]["text/plain"] == "lab (thread): stopped"


def test_a_sync_client_and_an_interrupted_one_leave_the_server_alive(shared: Kernel) -> None:
    """The server is not on the kernel's loop, so a cell that blocks does not freeze it."""
    shared.run(START)
    assert shared.run("import httpx\nprint(httpx.get(live.url + '/docs').status_code)").text == "200\n"
    blocked = shared.interrupt(f"import time\nprint('waiting', flush=True)\ntime.sleep({LONG})")
    assert blocked == "KeyboardInterrupt"
    assert shared.run("print(httpx.get(live.url + '/docs').status_code)").text == "200\n"


def test_asyncio_run_in_a_cell(kernel: Kernel) -> None:
    cell = (
        "import asyncio\nasync def answer():\n    await asyncio.sleep(0)\n    return 42\nprint(asyncio.run(answer()))"
    )
    assert kernel.run(cell).error == "RuntimeError"
    allowed = kernel.run(f"from labserver.stage import allow_asyncio_run\nallow_asyncio_run()\n{cell}")
    assert allowed.text.endswith("42\n")
    # servers before and after it, a tape's thread, and an await in a cell all go on working
    assert kernel.run(START).status == "ok"
    served = kernel.run(
        "import httpx\n"
        "with live.tape() as tape:\n    print(httpx.get(tape.url + '/docs').status_code)\n"
        "async with httpx.AsyncClient() as client:\n    print((await client.get(live.url + '/docs')).status_code)\n"
        "print(live.stop(), bool(tape.events))"
    )
    assert served.text == "200\n200\nTrue True\n"


def test_asyncio_run_can_be_allowed_for_a_block_alone(kernel: Kernel) -> None:
    before = "before = (asyncio.run, asyncio.Task, asyncio.get_event_loop, type(asyncio.get_running_loop())._run_once)"
    after = "(asyncio.run, asyncio.Task, asyncio.get_event_loop, type(asyncio.get_running_loop())._run_once)"
    assert kernel.run(f"import asyncio\nfrom labserver.stage import allow_asyncio_run\n{before}").status == "ok"
    block = "async def answer():\n    await asyncio.sleep(0)\n    return 42\nwith allow_asyncio_run():\n    "
    for _ in range(3):
        assert kernel.run(block + "print(asyncio.run(answer()))").text == "42\n"
        assert kernel.run(f"print(all(a is b for a, b in zip(before, {after})))").text == "True\n"
        assert kernel.run("coroutine = answer()\nasyncio.run(coroutine)").error == "RuntimeError"
        assert kernel.run("coroutine.close()\nprint(await answer())").text == "42\n"


def test_nest_asyncio_changes_how_a_response_ends_that_crashes_beside_it(kernel: Kernel) -> None:
    read = """
import httpx
def read():
    try:
        return len(httpx.get(live.url + "/broken/crash_looks_like_the_end/events/native?fail_after=2").text)
    except httpx.HTTPError as error:
        return type(error).__name__
"""
    started = kernel.run("from labserver.stage import allow_asyncio_run, start\nlive = start()")
    assert started.status == "ok"
    assert kernel.run(f"{read}\nprint(read())").text == "34\n"  # a clean end: anyio is in use from here on
    assert kernel.run("with allow_asyncio_run():\n    print(read())").text == "RemoteProtocolError\n"
    assert kernel.run("print(read())").text == "34\n"  # taken back: all is as before


def test_a_ticker_is_for_notebooks_alone() -> None:
    code = """
import asyncio
from labserver.stage.loops import keep_interruptible
keep_interruptible()
async def main():
    keep_interruptible()
    print(len(asyncio.all_tasks()))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("1\n", "")
