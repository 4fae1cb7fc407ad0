"""What `realtime.direct` and `realtime.strict` rest on inside uvicorn and websockets, name by name.

None of it is public. A version that changes a name fails here, with a sentence that says which, before a socket does.
"""

import ast
import inspect
from pathlib import Path
from typing import Any

import pytest
import uvicorn
import websockets
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.server import ServerProtocol
from websockets.streams import StreamReader

from labserver.realtime import direct, strict

Surface = dict[str, tuple[str, ...] | None]
"""The names of a class: a method has the names of what it takes, an attribute None."""


def attributes(names: str) -> Surface:
    return dict.fromkeys(names.split())


BOTH: Surface = {
    **attributes("transport loop config connections scope"),
    "connection_lost": ("exc",),
    "data_received": ("data",),
    "pause_writing": (),
    "resume_writing": (),
    "shutdown": (),
}
CONTRACT: dict[type, Surface] = {
    WebSocketsSansIOProtocol: {
        **BOTH,
        **attributes(
            "conn queue writable read_paused handshake_initiated handshake_complete close_sent close_timer logger"
            " request response"
        ),
        "receive": (),
        "send": ("message",),
        "handle_connect": ("event",),
        "handle_events": (),
        "handle_ping": (),
        "handle_parser_exception": (),
        "keepalive_timeout": (),
        "on_task_complete": ("task",),
        "run_asgi": (),
    },
    HttpToolsProtocol: {
        **BOTH,
        **attributes("cycle flow parser pipeline"),
        "connection_made": ("transport",),
        "on_message_begin": (),
        "on_headers_complete": (),
        "on_response_complete": (),
        "handle_websocket_upgrade": (),
        "timeout_keep_alive_handler": (),
        "_start_asgi_task": ("cycle", "app"),
    },
    RequestResponseCycle: attributes("scope response_started response_complete chunked_encoding disconnected"),
    FlowControl: {**attributes("write_paused"), "drain": ()},
    ServerProtocol: {
        **attributes("available_extensions extensions state logger reader parser parser_exc writes"),
        **attributes("current_size close_sent close_rcvd handshake_exc"),
        "parse": (),
        "recv_frame": ("frame",),
        "receive_data": ("data",),
        "data_to_send": (),
        "send_close": ("code", "reason"),
    },
    StreamReader: {**attributes("buffer"), "at_eof": ()},
}
USERS = (direct, strict)
VERSIONS = {"uvicorn": uvicorn.__version__, "websockets": websockets.__version__}


def source_of(cls: type) -> str:
    """Return the source of a class and of its bases, up to those of Python itself."""
    ours = [each for each in cls.__mro__ if each.__module__.partition(".")[0] in VERSIONS]
    return "\n\n".join(inspect.getsource(each) for each in reversed(ours))


def surface(source: str) -> Surface:
    """Return the methods that classes define and the attributes that they set on `self`."""
    found: Surface = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            taken = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            found[node.name] = tuple(each.arg for each in taken if each.arg != "self")
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.setdefault(node.attr, None)
    return found


def broken(cls: type, source: str) -> list[str]:
    """Return a sentence for each name that is not as agreed."""
    package = cls.__module__.partition(".")[0]
    found = surface(source)
    said = f"{package} {VERSIONS[package]}: {cls.__name__}"
    gone = [f"{said}.{name} is gone." for name in CONTRACT[cls] if name not in found]
    return gone + [
        f"{said}.{name} takes {found[name]}, not {taken}."
        for name, taken in CONTRACT[cls].items()
        if taken is not None and name in found and found[name] != taken
    ]


@pytest.mark.parametrize("cls", CONTRACT)
def test_the_installed_version_has_every_name(cls: type) -> None:
    assert broken(cls, source_of(cls)) == [], "Mend labserver/realtime, or bound the package in pyproject.toml."


@pytest.mark.parametrize("cls", CONTRACT)
def test_a_version_without_one_of_the_names_is_told_by_that_name(cls: type) -> None:
    source = source_of(cls)
    for name in CONTRACT[cls]:
        stand_in = ast.parse(source)
        for node in ast.walk(stand_in):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
                node.name = "other"
            elif isinstance(node, ast.Attribute) and node.attr == name:
                node.attr = "other"
        (sentence,) = broken(cls, ast.unparse(stand_in))
        assert sentence.endswith(f"{cls.__name__}.{name} is gone.")


def test_a_version_whose_method_takes_something_else_is_told() -> None:
    source = source_of(HttpToolsProtocol).replace(
        "def _start_asgi_task(self, cycle", "def _start_asgi_task(self, request"
    )
    (sentence,) = broken(HttpToolsProtocol, source)
    name = f"uvicorn {uvicorn.__version__}: HttpToolsProtocol._start_asgi_task"
    assert sentence == f"{name} takes ('request', 'app'), not ('cycle', 'app')."


def test_no_name_of_theirs_is_used_that_the_contract_does_not_have() -> None:
    """A name counts as theirs when ours reads or overrides it on `self`, or on what these hold, and theirs has it."""
    for cls, classes in {
        WebSocketsSansIOProtocol: {"Direct", "DirectWebSocket", "StrictWebSocket"},
        HttpToolsProtocol: {"Direct", "DirectHttp", "StrictHttp"},
        ServerProtocol: {"StrictProtocol"},
        StreamReader: {"Held"},
    }.items():
        theirs = surface(source_of(cls))
        assert {name for name in used(classes) if name in theirs} <= set(CONTRACT[cls]), cls.__name__


def used(classes: set[str]) -> set[str]:
    """Return what our classes read from `self`, and the methods they define."""
    found: set[str] = set()
    for node in [each for module in USERS for each in defined(module) if each.name in classes]:
        for inner in ast.walk(node):
            if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef) and inner.name != "__init__":
                found.add(inner.name)
            elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
                found.add(inner.attr)
    return found


def defined(module: Any) -> list[ast.ClassDef]:
    tree = ast.parse(Path(module.__file__).read_text(encoding="utf-8"))
    return [node for node in tree.body if isinstance(node, ast.ClassDef)]
