"""A Jupyter kernel as JupyterLab would start it, but private: nothing of the user's is read for it or written by it.

Its files, progress and history lie in a folder that the rehearsal removes, and its environment holds a mark, by which
whatever it started is found and killed, also when its own parent is gone.
"""

import asyncio
import contextlib
import json
import os
import subprocess
from ast import literal_eval
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import zmq.asyncio
from jupyter_client.manager import AsyncKernelManager

from labserver.school.rehearse.plan import Cell
from labserver.school.verdicts import Report

__all__ = ["MARK", "Kernel", "KernelTrouble", "end_marked", "environment"]

MARK = "LABSERVER_REHEARSAL"
"""The variable that says which rehearsal a process belongs to."""
_START_TIMEOUT = 120.0  # seconds: thirty kernels at once on two cores take half a minute
_CELL_TIMEOUT = 180.0  # seconds: three times what a cell may take on a machine of its own
_LOOK = 0.5  # seconds between two looks whether the kernel lives
_ASK = "import json as _json\nfrom labserver.school.notebook import last_report as _last_report"
_REPORT = "_json.dumps(_last_report().to_json() if _last_report() else None)"


class KernelTrouble(Exception):
    """What ended a person's work, as a sentence: a cell raised, hung, or the kernel died."""


def environment(folder: Path, name: str, mark: str) -> dict[str, str]:
    """Return the environment of one person's kernels.

    Args:
        folder: the person's own; made here with its subfolders.
        name: what a room's board calls the person.
        mark: value of `MARK`.
    """
    private = {"LABSERVER_HOME": "home", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime"}
    private |= dict.fromkeys(("TMPDIR", "TEMP", "TMP"), "tmp")
    for place in set(private.values()):
        (folder / place).mkdir(parents=True)
    paths = {variable: str(folder / place) for variable, place in private.items()}
    return {**os.environ, **paths, "LABSERVER_LLM": "fake", "LABSERVER_NAME": name, MARK: mark}


class Kernel:
    """One kernel; `start`, then `run` its cells, then `close`."""

    def __init__(self, context: zmq.asyncio.Context, connection_file: Path) -> None:
        self._manager = AsyncKernelManager(kernel_name="python3", context=context, connection_file=str(connection_file))
        self._client: Any = None

    @property
    def pid(self) -> int | None:
        """Its process id, None before it runs."""
        return getattr(self._manager.provisioner, "pid", None)

    async def start(self, folder: Path, variables: Mapping[str, str]) -> None:
        """Start it in `folder` and wait until it answers.

        Raises:
            KernelTrouble: if it does not.
        """
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        try:
            await self._manager.start_kernel(cwd=str(folder), env=dict(variables), **quiet)
            self._client = self._manager.client()
            self._client.start_channels(stdin=False, hb=False, control=False)
            await self._client.wait_for_ready(timeout=_START_TIMEOUT)
        except (RuntimeError, OSError) as error:
            raise KernelTrouble(f"its kernel did not start ({error})") from None

    async def run(self, cell: Cell) -> None:
        """Run one cell to its end.

        Raises:
            KernelTrouble: if it raises without being meant to, hangs, or the kernel dies.
        """
        reply = await self._execute(cell.source, store_history=True)
        if reply["status"] != "ok" and not cell.may_fail:
            raise KernelTrouble(f"cell {cell.id} raised {reply.get('ename', reply['status'])}: {_line(reply)}")

    async def report(self) -> Report | None:
        """Return the report of the kernel's last check, None if nothing was checked.

        Raises:
            KernelTrouble: as `run`.
        """
        reply = await self._execute(_ASK, silent=True, user_expressions={"report": _REPORT})
        told = reply["user_expressions"]["report"]
        if told["status"] != "ok":
            raise KernelTrouble(f"its report can't be read: {told.get('evalue', '')}")
        data = json.loads(literal_eval(told["data"]["text/plain"]))
        return Report.from_json(data) if data else None

    async def close(self) -> None:
        """End it: asked first, so that it stops what it has started, then killed."""
        if self._client is not None:
            self._client.stop_channels()
        if self._manager.has_kernel:
            await self._manager.shutdown_kernel()

    async def _execute(self, source: str, **options: Any) -> dict[str, Any]:
        running = asyncio.create_task(
            self._client.execute_interactive(
                source, allow_stdin=False, timeout=_CELL_TIMEOUT, output_hook=_ignore, **options
            )
        )
        death = asyncio.create_task(self._death())
        try:
            await asyncio.wait({running, death}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                content: dict[str, Any] = running.result()["content"]
                return content
            raise KernelTrouble(death.result())
        except TimeoutError:
            raise KernelTrouble(f"a cell took more than {_CELL_TIMEOUT:g} s") from None
        finally:
            for task in (running, death):
                task.cancel()
            await asyncio.gather(running, death, return_exceptions=True)

    async def _death(self) -> str:
        """Wait until the kernel is dead; return how it ended."""
        while await self._manager.is_alive():  # noqa: ASYNC110  there is nothing to wait for but to look
            await asyncio.sleep(_LOOK)
        code = await self._manager.provisioner.poll() if self._manager.provisioner else None
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        return f"its kernel was killed or died ({how}); a limit on memory does that"


def end_marked(mark: str) -> int:
    """Kill every process of this user whose environment holds the mark; return how many there were."""
    found = [process for process in psutil.process_iter() if _is_marked(process, mark)]
    for process in found:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(found, timeout=10)
    return len(found)


def _is_marked(process: psutil.Process, mark: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        return bool(process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE)
    return False


def _ignore(message: Any) -> None:
    """Outputs are for the eyes of a person."""


def _line(reply: Mapping[str, Any]) -> str:
    return str(reply.get("evalue", "")).partition("\n")[0][:200]
