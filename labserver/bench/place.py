"""Where a benchmark runs: a private folder, one core for the server and one for the load, and every process it starts.

All are members of a keeper's group, so that none outlives this process, not even one that is killed.
"""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labserver import posix
from labserver.bench.load import cpu_us
from labserver.errors import LabError

__all__ = ["Place", "Server", "place"]

START = 60.0  # seconds a server may take to start: one that imports Django on a busy machine takes five
STOP = 5.0  # seconds until a process that is told to end is killed
RUN = 120.0  # seconds one run of the load generator may take: a slow peer's handshakes take ten
PULSE = 0.01  # seconds between two looks whether a server is up
SETTLED = 0.2  # seconds without growth after which a server's memory counts as settled

_UP = re.compile(rb"Listening on port (\d+)")


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs in a process of its own: where it listens, and what it has used so far."""

    process: "subprocess.Popen[bytes]"
    port: int
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def cpu(self) -> float:
        """Return the CPU time of its process, us."""
        return cpu_us(self.pid)

    def resident(self) -> int:
        """Return the bytes of memory that are its process's, as soon as they grow no more."""
        import psutil  # type: ignore[import-untyped]

        process, seen, since = psutil.Process(self.pid), 0, time.monotonic()
        end = since + STOP
        while time.monotonic() - since < SETTLED and time.monotonic() < end:
            size = process.memory_info().rss
            if size != seen:
                seen, since = size, time.monotonic()
            time.sleep(PULSE)
        return seen

    def stop(self) -> None:
        """End it. Again is harmless."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.process.kill()
        self.process.wait(STOP)


@dataclass(slots=True)
class Place:
    """One benchmark's folder, cores and processes.

    Attributes:
        folder: private, removed at the end.
        server_core, load_core: None where processes can't be pinned, or there is one core.
        compiler: path of a C compiler, or "".
        servers: what runs, or ran.
        owned: what ends with the place, beside these.
    """

    folder: Path
    group: int | None
    server_core: int | None
    load_core: int | None
    compiler: str
    servers: list[Server] = field(default_factory=list)
    owned: ExitStack = field(default_factory=ExitStack)
    _built: dict[str, str] = field(default_factory=dict)

    def serve(self, peer: str, options: Mapping[str, Any] | None = None, *, core: int | None = None) -> Server:
        """Start a peer's server on the server's core, or on `core`; return it once it is up.

        Raises:
            LabError: it did not start; the sentence ends with its own last words.
        """
        command = [sys.executable, "-m", "labserver.bench.host", peer, json.dumps(dict(options or {}))]
        log = self.folder / f"{peer}-{len(self.servers)}.log"
        with log.open("wb") as output:
            process = self._start(command, self.server_core if core is None else core, output, output)
        server = Server(process, 0, log)
        self.servers.append(server)
        server = self.servers[-1] = Server(process, _port(server, peer), log)
        return server

    def load(self, *arguments: str, python: bool = False) -> dict[str, float]:
        """Run the load generator on its core and return what it counted.

        Args:
            arguments: as `load.c` describes them.
            python: take the one in Python even where there is a compiler.

        Raises:
            LabError: it had to give up; the sentence says why.
        """
        program = "" if python else self.build("load")
        command = [program] if program else [sys.executable, str(Path(__file__).with_name("load.py"))]
        process = self._start([*command, *arguments], self.load_core, subprocess.PIPE, subprocess.PIPE)
        try:
            said, error = process.communicate(timeout=RUN)
        except subprocess.TimeoutExpired:
            raise LabError(f"the load generator did not end within {RUN:g} s") from None
        finally:
            process.kill()
            process.wait()
        try:
            found: dict[str, Any] = json.loads(said)
        except ValueError:
            raise LabError(f"the load generator failed: {error.decode(errors='replace')[-200:]}") from None
        if "error" in found:
            raise LabError(str(found["error"]))
        return found

    def build(self, name: str) -> str:
        """Compile `name`.c of this folder's, once; return the program's path, or "" where that can't be done."""
        if name not in self._built:
            program = self.folder / name
            command = [self.compiler, "-O2", "-o", str(program), str(Path(__file__).with_name(f"{name}.c"))]
            done = bool(self.compiler) and subprocess.run(command, capture_output=True, check=False).returncode == 0
            self._built[name] = str(program) if done else ""
        return self._built[name]

    def stop(self) -> None:
        """End every server. Again is harmless."""
        for server in self.servers:
            server.stop()

    def _start(self, command: Sequence[str], core: int | None, out: Any, error: Any) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=error,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            process_group=self.group,
        )
        _pin(process.pid, core)
        return process


def _port(server: Server, peer: str) -> int:
    end = time.monotonic() + START
    while time.monotonic() < end:
        found = _UP.search(server.log.read_bytes())
        if found:
            return int(found[1])
        if server.process.poll() is not None:
            break
        time.sleep(PULSE)
    said = server.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["it was not up in time"]
    server.stop()
    raise LabError(f"the server of {peer} did not start: {said[-1]}")


def _pin(pid: int, core: int | None) -> None:
    if core is not None:
        with contextlib.suppress(OSError):  # it has ended already
            os.sched_setaffinity(pid, {core})


def _cores() -> tuple[int | None, int | None]:
    """Return a core for the server and another for the load, where there are two and processes can be pinned."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[-1]) if len(cores) > 1 else (None, None)


@contextmanager
def place() -> Iterator[Place]:
    """Yield a place to measure in; at its end every server is ended and the folder removed.

    Raises:
        LabError: the extra "lab" is not installed.
    """
    if importlib.util.find_spec("psutil") is None:
        raise LabError('psutil is not installed here: run `pip install -e ".[lab,bench]"`.')
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="labserver-bench-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        keeper = posix.start_keeper(folder)
        if keeper is not None:
            stack.enter_context(keeper)
            stack.callback(keeper.kill)
        compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), "")
        made = Place(folder, keeper.pid if keeper is not None else None, *_cores(), compiler)
        stack.enter_context(_moved(made.load_core))
        stack.enter_context(made.owned)
        stack.callback(made.stop)
        with contextlib.suppress(ImportError):
            posix.allow_open_files()
        yield made


@contextmanager
def _moved(core: int | None) -> Iterator[None]:
    """Run this process on `core` while inside: it must not take from the server's."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
