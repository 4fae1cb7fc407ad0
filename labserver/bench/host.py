"""The process of one server under test: `python -m labserver.bench.host PEER OPTIONS`.

It builds the peer, says where it listens, and serves until its standard input ends, which its owner holds.
"""

import contextlib
import importlib
import json
import os
import socket
import sys
from threading import Thread

from labserver import posix

__all__ = ["main"]

BACKLOG = 4096  # connections that may wait to be accepted: all of a test


def main(peer: str, options: str) -> None:
    """Serve `peer`, a module of `labserver.bench.peers`, with `options`, a JSON object."""
    Thread(target=_end_with_owner, name="lifeline", daemon=True).start()
    with contextlib.suppress(ImportError):
        posix.allow_open_files()
    serve = importlib.import_module(f"labserver.bench.peers.{peer}").build(json.loads(options))
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
        print(f"Listening on port {listener.getsockname()[1]}", flush=True)
        serve(listener)


def _end_with_owner() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
