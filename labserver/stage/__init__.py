"""What a notebook needs to stage an experiment: a server, a tape of its wire, claims about what was seen.

The names below are the whole public interface. Each is imported on first use, so that `import labserver.stage` is
quick and a notebook pays only for what it stages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from labserver.stage.browsers import browser
    from labserver.stage.claims import at_least, at_most, between, claim, predict, reveal
    from labserver.stage.databases import Database, database
    from labserver.stage.files import RemoteFiles, download_folder, make_file, remote_files
    from labserver.stage.gauge import Samples, Usage, usage, watch
    from labserver.stage.lab import lab_app
    from labserver.stage.llms.bill import Bill
    from labserver.stage.llms.ledger import LlmRequest
    from labserver.stage.llms.stand import Llm, fake_llm, llm
    from labserver.stage.loops import allow_asyncio_run
    from labserver.stage.panel import page
    from labserver.stage.plots import Band, Bar, Series, bars, plot
    from labserver.stage.proxies.fault_proxy import fault_proxy
    from labserver.stage.proxies.nginx import nginx
    from labserver.stage.questions import Choice, Question, quiz
    from labserver.stage.rich import Picture
    from labserver.stage.server import LiveServer, rescue, start
    from labserver.stage.source import compare, show
    from labserver.stage.tables import Cell, table
    from labserver.stage.tape import Tape, tapes
    from labserver.stage.wire import WireEvent

_HOMES = {
    "Band": "plots",
    "Bar": "plots",
    "Bill": "llms.bill",
    "Cell": "tables",
    "Choice": "questions",
    "Database": "databases",
    "LiveServer": "server",
    "Llm": "llms.stand",
    "LlmRequest": "llms.ledger",
    "Picture": "rich",
    "Question": "questions",
    "RemoteFiles": "files",
    "Samples": "gauge",
    "Series": "plots",
    "Tape": "tape",
    "Usage": "gauge",
    "WireEvent": "wire",
    "allow_asyncio_run": "loops",
    "at_least": "claims",
    "at_most": "claims",
    "bars": "plots",
    "between": "claims",
    "browser": "browsers",
    "claim": "claims",
    "compare": "source",
    "database": "databases",
    "download_folder": "files",
    "fake_llm": "llms.stand",
    "fault_proxy": "proxies.fault_proxy",
    "lab_app": "lab",
    "llm": "llms.stand",
    "make_file": "files",
    "nginx": "proxies.nginx",
    "page": "panel",
    "plot": "plots",
    "predict": "claims",
    "quiz": "questions",
    "remote_files": "files",
    "rescue": "server",
    "reveal": "claims",
    "show": "source",
    "start": "server",
    "table": "tables",
    "tapes": "tape",
    "usage": "gauge",
    "watch": "gauge",
}

__all__ = [
    "Band",
    "Bar",
    "Bill",
    "Cell",
    "Choice",
    "Database",
    "LiveServer",
    "Llm",
    "LlmRequest",
    "Picture",
    "Question",
    "RemoteFiles",
    "Samples",
    "Series",
    "Tape",
    "Usage",
    "WireEvent",
    "allow_asyncio_run",
    "at_least",
    "at_most",
    "bars",
    "between",
    "browser",
    "claim",
    "compare",
    "database",
    "download_folder",
    "fake_llm",
    "fault_proxy",
    "lab_app",
    "llm",
    "make_file",
    "nginx",
    "page",
    "plot",
    "predict",
    "quiz",
    "remote_files",
    "rescue",
    "reveal",
    "show",
    "start",
    "table",
    "tapes",
    "usage",
    "watch",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
