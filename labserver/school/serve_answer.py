"""Serve one answer: execute its module file, find its app, serve it on a port of its own, say which.

    python -m labserver.school.serve_answer MODULE.py --object app --announce FILE --message-max-bytes 1048576

The announcement is one JSON object, `{"port": 40001}` or `{"error": "one sentence"}`, put in place by a rename so that
nobody reads half of it. The process ends with its standard input.
"""

import argparse
import contextlib
import json
import linecache
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

from labserver.errors import LabError
from labserver.school import grading
from labserver.school.asgi import answer_problem, app_of, what_was_raised
from labserver.school.lifeline import end_with_owner

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> int:
    """Serve until standard input ends; return 1 when the answer cannot be served."""
    parser = argparse.ArgumentParser(prog="labserver.school.serve_answer", description="Serve one answer.")
    parser.add_argument("module", type=Path)
    parser.add_argument("--object", default="app")
    parser.add_argument("--announce", type=Path, required=True)
    parser.add_argument("--message-max-bytes", type=int, required=True, help="largest WebSocket message")
    options = parser.parse_args(arguments)
    end_with_owner()
    grading.on()
    # both are opened before the answer runs: it may use up all files that a process may open
    with (
        socket.create_server(("127.0.0.1", 0), backlog=2048) as listener,
        options.announce.with_suffix(".partial").open("w", encoding="utf-8") as draft,
    ):
        announce = partial(_announce, draft, options.announce)
        try:
            app = _load(options.module, options.object)
            _serve(app, listener, announce, options.message_max_bytes)
        except LabError as error:
            announce({"error": str(error)})
            return 1
    return 0


def _load(path: Path, object_name: str) -> Any:
    """Execute the module and return its app; of a client the app that runs it.

    Raises:
        LabError: if it raises, exits, or defines no answer.
    """
    source = path.read_text(encoding="utf-8")
    module = ModuleType("answer")
    module.__file__ = str(path)
    sys.modules["answer"] = module
    linecache.cache[str(path)] = (len(source), None, source.splitlines(keepends=True), str(path))
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as error:
        raise LabError(f"The answer raised {what_was_raised(error, str(path))}.") from None
    if not hasattr(module, object_name):
        raise LabError(f"The answer does not define `{object_name}`.")
    found = getattr(module, object_name)
    if problem := answer_problem(found, object_name):
        raise LabError(problem)
    return app_of(found, object_name)


def _serve(
    app: Any, listener: socket.socket, announce: Callable[[dict[str, Any]], None], message_max_bytes: int
) -> None:
    """Serve until this process ends.

    Raises:
        LabError: if the app's start-up fails, with what it raised.
    """
    import uvicorn

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                announce({"port": listener.getsockname()[1]})

    messages: list[str] = []
    logger = logging.getLogger("uvicorn.error")
    handler = logging.Handler(logging.ERROR)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    config = uvicorn.Config(
        app, log_config=None, access_log=False, timeout_graceful_shutdown=1, ws_max_size=message_max_bytes
    )
    server = Announcing(config)
    with contextlib.suppress(SystemExit):  # uvicorn's own end after a start-up that failed
        server.run([listener])
    if not server.started:
        raised = next(
            (text.strip().rpartition("\n")[2] for text in messages if "Traceback" in text), "see its lifespan"
        )
        raise LabError(f"The app's start-up failed: {raised}.")


def _announce(draft: TextIO, path: Path, value: dict[str, Any]) -> None:
    draft.write(json.dumps(value))
    draft.flush()
    os.replace(draft.name, path)


if __name__ == "__main__":
    sys.exit(main())
