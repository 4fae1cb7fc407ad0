"""A server in a child process: what may freeze or kill its process, or needs the main thread, runs here.

The owner holds `Child`; the child runs `main`. Its stdin is the lifeline: the owner writes the order and later "stop",
and its end, however the owner died, ends the child. A thread watches it, since the loop may be frozen. Its former
stdout carries reports as lines of JSON; what the app prints goes to stderr and becomes part of the log.
"""

import atexit
import contextlib
import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType
from typing import IO, Any

from labserver import posix
from labserver.errors import LabError
from labserver.settings import Settings
from labserver.stage.engine import Engine, Log, one_line

__all__ = ["Child", "importable", "in_child", "main"]

PATIENCE = 0.25  # seconds a child's loop has to answer a stop before it counts as frozen: with `kill` below 300 ms
IMPORT_TIMEOUT = 60.0  # seconds a child may take to import what it needs: among twenty notebooks that start at once
ORPHAN_CHECK = 0.5  # seconds between two looks whether the owner is still our parent

_in_child = False


def in_child() -> bool:
    """Whether this process is a child that the stage started to serve an app."""
    return _in_child


@dataclass(frozen=True, slots=True)
class _Order:
    """What a child is to serve."""

    target: str
    settings: Settings | None
    options: dict[str, Any]
    log_records: int


def importable(app: Any) -> str:
    """Return "module:attribute" under which another process finds this very object.

    Raises:
        LabError: there is no such place, for example because a notebook's cell defines it.
    """
    if isinstance(app, str):
        return app
    places = [app.__module__] if hasattr(app, "__qualname__") else []
    for name in [*places, *sys.modules]:
        module = sys.modules.get(name)
        if module is None or name == "__main__" or getattr(module, "__spec__", None) is None:
            continue
        if (attribute := _attribute(module, app)) is not None:
            return f"{name}:{attribute}"
    raise LabError(
        "process=True serves what another process can import: put the app into a module (a .py file beside the "
        'notebook, for example with %%writefile) and pass "module:app".'
    )


def _attribute(module: ModuleType, thing: Any) -> str | None:
    return next((name for name, value in list(vars(module).items()) if value is thing), None)


class Child:
    """A server in a child process, seen by its owner."""

    kind = "process"

    def __init__(self, name: str, target: str, log: Log, settings: Settings | None, options: dict[str, Any]) -> None:
        self.log = log
        self.address, self.tls = ("127.0.0.1", 0), False  # known once it is up
        self._name = name
        self._grace = float(options.get("timeout_graceful_shutdown") or 0)
        self._report: dict[str, Any] = {}
        self._begun = threading.Event()
        self._reported = threading.Event()
        self._answered = threading.Event()  # a stop has reached its loop, or it is gone
        self._stopping = False
        order = _Order(target, settings, options, log.limit)
        try:
            self._order = pickle.dumps(order)
        except Exception as error:
            raise LabError(f"process=True can't hand this to another process: {one_line(error)}.") from error
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def alive(self) -> bool:
        return self._process is not None and "port" in self._report and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return self._process.pid if self._process is not None else None

    def launch(self, timeout: float) -> None:
        """Start the child and wait until it answers requests.

        Raises:
            LabError: it did not start; the sentence is the child's own.
        """
        first = "import json, sys; sys.path[:] = json.loads(sys.stdin.buffer.readline())"
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-c", f"{first}; from labserver.stage.process import main; main({os.getpid()})"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # an interrupt of the kernel's group is not meant for it
        )
        try:
            self._listen(self._process)
            self._write(json.dumps(sys.path).encode() + b"\n" + self._order)
            if not self._begun.wait(IMPORT_TIMEOUT):
                raise LabError(f"The server's process did not begin within {IMPORT_TIMEOUT:g} s: is this machine busy?")
            if not self._reported.wait(timeout):
                raise LabError(f"The server was not up within {timeout:g} s: its lifespan's start-up does not end.")
            if "port" not in self._report:
                raise LabError(self._report.get("failed", "The server's process ended before it was up."))
        except BaseException:  # also an interrupted cell
            self._kill(self._process)
            raise
        self.address, self.tls = (self._report["host"], self._report["port"]), self._report["tls"]

    def stop(self, timeout: float) -> bool:
        """Ask the child to stop, and kill it and what it started if it does not; return whether it is gone.

        One whose loop takes note has `timeout` seconds for its lifespan's shutdown; a frozen one is killed at once.
        """
        if self._process is None:
            return True
        self._stopping = True
        deadline = time.monotonic() + self._grace + timeout
        self._write(f"stop {self._grace + timeout / 2}\n".encode())
        if self._answered.wait(self._grace + min(PATIENCE, timeout)):
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(deadline - time.monotonic(), PATIENCE))
        if self._process.poll() is None:
            why = f"did not stop within {timeout:g} s" if self._answered.is_set() else "was frozen"
            self.log.add(f"The server's process {why} and was killed: its lifespan's shutdown is not complete.")
        self._kill(self._process)
        return self._process.poll() is not None

    def submit(self, coro: Coroutine[Any, Any, Any]) -> "Future[Any]":
        """Refuse: the child's loop is out of reach."""
        coro.close()
        raise LabError("This server runs in a process of its own: start it without process=True for this.")

    def _listen(self, process: subprocess.Popen[bytes]) -> None:
        self._readers = [
            threading.Thread(target=read, args=(pipe,), name=f"labserver-{self._name}-{what}", daemon=True)
            for read, pipe, what in (
                (self._read_reports, process.stdout, "reports"),
                (self._read_output, process.stderr, "output"),
            )
        ]
        for reader in self._readers:
            reader.start()

    def _read_reports(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self._begun.set()
                report = json.loads(line)
                if "message" in report:
                    self.log.add(report["message"], report["error"])
                elif "stopping" in report:
                    self._answered.set()
                elif report:
                    self._report = report
                    self._reported.set()
        self._answered.set()
        self._begun.set()
        self._reported.set()  # the child ended: nothing more will come
        if "port" in self._report and not self._stopping:
            code = self._process.wait() if self._process is not None else None
            self.log.add(f"The server's process ended by itself, with exit code {code}.")

    def _read_output(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self.log.add(line.decode(errors="replace").rstrip())

    def _write(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it is gone already
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        if process.poll() is None:
            if posix.available():
                posix.kill_tree(process.pid)  # what it started, as long as it is there to be their parent
            process.kill()
            process.wait()
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        for reader in self._readers:
            reader.join(1.0)


class _Reports:
    """The child's side of the reports: one line of JSON each, from any thread."""

    def __init__(self) -> None:
        self._pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
        self._lock = threading.Lock()
        os.dup2(2, 1)  # what the app prints is output, not a report

    def send(self, **report: Any) -> None:
        with self._lock, contextlib.suppress(OSError):
            self._pipe.write(json.dumps(report) + "\n")
            self._pipe.flush()


class _ReportedLog(Log):
    """A log that is kept by the owner."""

    def __init__(self, reports: _Reports, *, access: bool) -> None:
        super().__init__(1, access=access)
        self._reports = reports

    def add(self, message: str, error: str | None = None) -> None:
        self._reports.send(message=message, error=error)


def main(owner: int) -> None:
    """Serve what the owner orders until it says stop or is gone. Runs in the child alone.

    Args:
        owner: the owner's process id.
    """
    global _in_child
    _in_child = True
    reports, lifeline = _Reports(), sys.stdin.buffer
    reports.send()  # everything of ours is imported: from here on the time is the app's
    if posix.available():
        threading.Thread(target=_end_as_orphan, args=(owner,), name="orphan", daemon=True).start()
    order: _Order = pickle.load(lifeline)
    engines: list[Engine] = []
    threading.Thread(target=_obey, args=(lifeline, engines, reports), name="lifeline", daemon=True).start()
    try:
        engines.append(_engine(order, reports))
    except BaseException as error:
        sentence = str(error) if isinstance(error, LabError) else f"The app can't be loaded: {one_line(error)}."
        reports.send(failed=sentence)
    else:
        _serve(engines[0], reports)
    atexit._run_exitfuncs()
    os._exit(0)  # no waiting for threads that the app left


def _serve(engine: Engine, reports: _Reports) -> None:
    threading.Thread(target=_report_start, args=(engine, reports), name="report", daemon=True).start()
    engine.run()
    if not engine.started.is_set():
        reports.send(failed=f"The server did not start: {one_line(engine.error or SystemExit())}.")


def _engine(order: _Order, reports: _Reports) -> Engine:
    from labserver.stage.server import give_settings, resolve

    app = resolve(order.target, factory=order.options.pop("factory", None))
    if order.settings is not None:
        give_settings(app, order.settings)
    log = _ReportedLog(reports, access=order.options.get("access_log", True))
    return Engine(app, log, order.options)


def _report_start(engine: Engine, reports: _Reports) -> None:
    engine.started.wait()
    host, port = engine.address
    reports.send(host=host, port=port, tls=engine.tls)


def _obey(lifeline: IO[bytes], engines: list[Engine], reports: _Reports) -> None:
    """Stop the engine when told so; end this process, however busy, when the lifeline does."""
    if (order := lifeline.readline()) and engines:
        _stop(engines[0], float(order.split()[1]), reports)
        lifeline.read()
    _end_now()


def _stop(engine: Engine, hurry: float, reports: _Reports) -> None:
    """Ask the engine to stop, report that its loop took note, and cancel what has not ended `hurry` seconds later."""
    engine.ask()
    if not engine.call(lambda: reports.send(stopping=True)):  # no loop any more: it is at its end
        reports.send(stopping=True)
    late = threading.Timer(hurry, engine.abort)
    late.daemon = True
    late.start()


def _end_as_orphan(owner: int) -> None:
    """End also when a fork of the dead owner still holds the other end of the lifeline."""
    while os.getppid() == owner:
        time.sleep(ORPHAN_CHECK)
    _end_now()


def _end_now() -> None:
    if posix.available():
        posix.kill_tree(os.getpid())
    os._exit(1)
