"""A fork server: a process that has imported what others need, and forks them in milliseconds.

Importing FastAPI, pytest and what belongs to them takes a second of CPU; grading a class would spend most of its time
on that. The server has one thread and holds no secret; each fork gets an environment, a working directory and a
lifeline of its own.

On the wire between both (a socket pair): a request is its length in four bytes, JSON, and the two ends of pipes that
become the fork's stdin and stdout; the answer is the fork's process id in four bytes.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any

from labserver.posix.limits import Limits, adopt_orphans
from labserver.posix.processes import kill_group, kill_tree, reap, tree
from labserver.posix.supervisor import Program, Supervisor, run_call

__all__ = ["ForkServer", "Forked"]

_LOOK = 0.5  # seconds between two looks for children that have ended; a request looks as well
_READ = 1 << 16


class Forked:
    """A process that a fork server started: it ends when its lifeline does, or by itself.

    Attributes:
        pid: its process id, which is also that of its session.
    """

    def __init__(self, pid: int, lifeline: int, output: int) -> None:
        self.pid = pid
        self._lifeline = lifeline
        self._output = output
        self.over = False  # whether its end was read

    def ended(self, timeout: float = 0.0) -> bool:
        """Whether it has said something or has ended; waits up to `timeout` seconds for that."""
        return self.over or bool(select.select([self._output], [], [], timeout)[0])

    def stop(self) -> None:
        """Tell a supervisor to end its program; may be called from another thread, and again."""
        with contextlib.suppress(OSError):
            os.write(self._lifeline, b".")

    def output(self, timeout: float, *, last: int | None = None) -> bytes:
        """Return what it writes until its end or for `timeout` seconds, the `last` bytes of it."""
        deadline, read = time.monotonic() + timeout, b""
        while not self.over and self.ended(max(0.0, deadline - time.monotonic())):
            data = os.read(self._output, _READ)
            self.over = not data
            read = (read + data)[-last:] if last else read + data
        return read

    def close(self) -> None:
        """Let go of it: a process that holds on to its lifeline ends."""
        for descriptor in (self._lifeline, self._output):
            if descriptor >= 0:
                os.close(descriptor)
        self._lifeline = self._output = -1
        self.over = True


class ForkServer:
    """Starts processes as forks of one that has imported `modules`; it ends with us, however we end.

    Args:
        modules: imported before the first fork, so that no fork has to; of `module:function` the function is called.
        environment: of the server itself; each fork has its own.

    Example:
        with ForkServer(["fastapi"], {"PATH": os.defpath}) as forks:
            forked = forks.call("labserver.school.plugin:run", ["-q"], folder, environment)
            print(forked.output(timeout=60))
    """

    def __init__(self, modules: Iterable[str], environment: Mapping[str, str]) -> None:
        self._lock = Lock()
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-m", "labserver.posix.forks", str(theirs.fileno()), *modules]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=dict(environment),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._socket = ours

    def __enter__(self) -> "ForkServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def ready(self) -> None:
        """Wait until everything is imported.

        Raises:
            OSError: if the server is gone.
        """
        with self._lock:
            self._send({"kill": 0}, [])

    def supervise(self, program: Program, environment: Mapping[str, str]) -> Forked:
        """Run a program under a supervisor, whose output is one JSON object (see `Supervisor.run`).

        When its lifeline ends without a word, because we died, it also removes the program's folder.

        Raises:
            OSError: if the server is gone.
        """
        return self._ask({"program": asdict(program)}, program.folder, environment)

    def call(self, function: str, arguments: Iterable[str], folder: Path, environment: Mapping[str, str]) -> Forked:
        """Call `module:function` with a list of arguments in a fork that works in `folder`.

        Raises:
            OSError: if the server is gone.
        """
        return self._ask({"call": function, "arguments": list(arguments)}, str(folder), environment)

    def kill(self, forked: Forked) -> None:
        """Kill a fork and what it started, if it is still there."""
        with contextlib.suppress(OSError), self._lock:
            self._send({"kill": forked.pid}, [])

    def stop(self) -> None:
        """End the server; forks that run lose nothing but their parent."""
        with self._lock:
            self._socket.close()
        self._process.wait()

    def _ask(self, what: dict[str, Any], folder: str, environment: Mapping[str, str]) -> Forked:
        their_lifeline, lifeline = os.pipe()
        output, their_output = os.pipe()
        try:
            with self._lock:
                pid = self._send(
                    {**what, "folder": folder, "environment": dict(environment)}, [their_lifeline, their_output]
                )
        except BaseException:
            os.close(lifeline)
            os.close(output)
            raise
        finally:
            os.close(their_lifeline)
            os.close(their_output)
        return Forked(pid, lifeline, output)

    def _send(self, request: dict[str, Any], descriptors: list[int]) -> int:
        data = json.dumps(request).encode()
        socket.send_fds(self._socket, [len(data).to_bytes(4, "big")], descriptors)
        self._socket.sendall(data)
        answer = _exactly(self._socket, 4)
        if len(answer) < 4:
            raise OSError("the fork server has ended")
        return int.from_bytes(answer, "big")


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := connection.recv(size - len(data))):
        data += more
    return data


def _serve(connection: socket.socket) -> None:
    """Fork on request until the other end is closed."""
    adopt_orphans()
    children: set[int] = set()
    while True:
        asked = bool(select.select([connection], [], [], _LOOK)[0])
        _look_after(children)
        if not asked:
            continue
        length, descriptors, _, _ = socket.recv_fds(connection, 4, 2)
        if not length:
            return
        request = json.loads(_exactly(connection, int.from_bytes(length, "big")))
        if "kill" in request:
            pid = _kill(request["kill"], children)
        elif not (pid := os.fork()):
            connection.close()
            _become(request, descriptors)
        else:
            children.add(pid)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.sendall(pid.to_bytes(4, "big"))


def _look_after(children: set[int]) -> None:
    """Reap what has ended. What lost its own parent has become ours, and is ended: its supervisor can't do it."""
    if ended := reap().keys() & children:
        children -= ended
        for process in tree(os.getpid()):
            if process.parent == os.getpid() and process.pid not in children:
                kill_tree(process.pid)
                with contextlib.suppress(OSError):
                    os.kill(process.pid, signal.SIGKILL)


def _kill(pid: int, children: set[int]) -> int:
    if pid in children:
        kill_tree(pid)
        kill_group(pid)
    return 0


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be what was asked for; never return."""
    code = 127
    try:
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        tempfile.tempdir = None
        gc.enable()
        code = _supervise(request["program"]) if "program" in request else _call(request)
    finally:
        os._exit(code)


def _call(request: dict[str, Any]) -> int:
    os.dup2(1, 2)
    return run_call(request["call"], tuple(request["arguments"]))


def _supervise(fields: dict[str, Any]) -> int:
    parts = {**fields, "limits": Limits(**fields["limits"])}
    supervisor = Supervisor(Program(**parts))
    result = supervisor.run()
    if supervisor.orphaned:
        # in place: with its first process, our namespace has lost the right to start others
        os.execvp("rm", ["rm", "-rf", "--", fields["folder"]])
    os.write(1, json.dumps(result).encode())
    return 0


def _main(descriptor: str, *modules: str) -> None:
    gc.disable()
    for name in modules:
        module, _, function = name.partition(":")
        loaded = importlib.import_module(module)
        if function:
            getattr(loaded, function)()
    gc.freeze()  # what is there now is never collected, and its pages stay shared
    with socket.socket(fileno=int(descriptor)) as connection:
        _serve(connection)


if __name__ == "__main__":
    _main(*sys.argv[1:])
