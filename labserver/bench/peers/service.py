"""The service as `labserver serve` runs it: its own endpoints, for the rows that measure more than fan-out."""

import os
from pathlib import Path

from labserver.bench.peers import Options, Peer, Serve
from labserver.bench.peers.serving import uvicorn_with

__all__ = ["PEER", "build"]

PEER = Peer("labserver serve")

_SETTINGS = ("database_url", "files_root", "llm_url")


def build(options: Options) -> Serve:
    """Serve the whole service on one process; options are its settings, as the environment would name them."""
    from labserver.realtime.direct import protocols
    from labserver.service.app import create_app
    from labserver.settings import Settings

    given = {name: options[name] for name in _SETTINGS if name in options}
    if "files_root" in given:
        given["files_root"] = Path(given["files_root"])
    os.environ.setdefault("LABSERVER_LLM", "fake")
    settings = Settings(**given, secret=options.get("secret"))
    return uvicorn_with(create_app(settings), **protocols(settings))
