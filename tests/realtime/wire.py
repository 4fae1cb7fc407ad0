"""What the tests of `labserver.realtime` share: a small app on it, its server, and clients that misbehave."""

import asyncio
import json
import os
import socket
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from time import time
from typing import Any, ClassVar

from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.uri import parse_uri

from labserver.realtime.channels import Channels
from labserver.realtime.codes import UNAUTHENTICATED, Refused
from labserver.realtime.direct import protocols
from labserver.realtime.engines.memory import MemoryEngine
from labserver.realtime.limits import Limits
from labserver.realtime.metrics import exposition
from labserver.realtime.sockets import serve_socket
from labserver.realtime.streams import EventStream
from labserver.stage import LiveServer, start

DEADLINE = 10.0  # seconds: for a machine that does much else
SMALL = [(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 14)]  # what the system holds for a client: by default megabytes
KINDS = ("direct", "plain")
WIRES = ("ws", "sse")


async def until(condition: Callable[[], object], seconds: float = DEADLINE) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


class Marked(Response):
    """A response, and a mark when it is over."""

    def __init__(self, lab: Any, response: Response) -> None:
        self.lab, self.response = lab, response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.lab.marked():
            await self.response(scope, receive, send)


class Lab:
    """An app with one socket and one event stream for each channel; it counts who came and whose `finally` ran."""

    def __init__(self, limits: Limits | None = None, engine: Any = None) -> None:
        self.limits = limits or Limits()
        self.channels = Channels(engine or MemoryEngine(self.limits, epoch="e"), self.limits)
        self.entered = self.left = 0
        routes = [WebSocketRoute("/ws/{channel}", self.socket), Route("/sse/{channel}", self.events)]
        self.app = Starlette(routes=routes, lifespan=self.channels.lifespan)

    async def socket(self, websocket: WebSocket) -> None:
        query = websocket.query_params
        await websocket.accept()
        with self.marked():
            await serve_socket(
                websocket,
                self.channels,
                websocket.path_params["channel"],
                after=query.get("after"),
                user=query.get("user"),
                expires=_in(query.get("ttl")),
                may_publish="publish" in query,
                renew=self.renew if "ttl" in query else None,
                slow=query.get("slow", "close"),
            )

    async def events(self, request: Request) -> Response:
        query = request.query_params
        response = EventStream(
            self.channels,
            request.path_params["channel"],
            after=query.get("after"),
            user=query.get("user"),
            expires=_in(query.get("ttl")),
            slow=query.get("slow", "close"),
        )
        return Marked(self, response)

    @contextmanager
    def marked(self) -> Iterator[None]:
        self.entered += 1
        try:
            yield
        finally:
            self.left += 1

    @staticmethod
    def renew(token: str) -> float:
        """Take a number of seconds for a token."""
        if token == "bad":
            raise Refused(UNAUTHENTICATED)
        return time() + float(token)

    def empty(self) -> bool:
        """Return whether nothing is left of any reader."""
        channels, engine = self.channels, self.channels.engine
        kept = (channels.open, channels.hub.channels(), channels.hub._held, channels._users)
        return self.left == self.entered and not any(kept) and not engine._attached and not engine._members  # type: ignore[attr-defined]

    def metric(self, name: str) -> float:
        lines = exposition(self.channels).decode().splitlines()
        values = {key: float(value) for key, _, value in (line.partition(" ") for line in lines if line[0] != "#")}
        return values[f"realtime_{name}_total" if f"realtime_{name}_total" in values else f"realtime_{name}"]


def _in(seconds: str | None) -> float | None:
    return None if seconds is None else time() + float(seconds)


def options(kind: str, limits: Limits) -> dict[str, Any]:
    """Return uvicorn's options for one kind of connection."""
    return protocols(limits) if kind == "direct" else {"ws": "websockets-sansio"}


@contextmanager
def served(lab: Lab, kind: str, app: Any = None, **more: Any) -> Iterator[LiveServer]:
    with start(app or lab.app, name="realtime", **{**options(kind, lab.limits), **more}) as live:
        yield live


async def on(live: LiveServer, coro: Coroutine[Any, Any, Any]) -> Any:
    """Run `coro` on the server's loop."""
    return await asyncio.wait_for(asyncio.wrap_future(live.submit(coro)), DEADLINE)


async def publish(live: LiveServer, lab: Lab, *values: Any, channel: str = "c") -> list[str]:
    """Publish values in one turn of the server's loop."""

    async def all_of_them() -> list[str]:
        return [await lab.channels.publish(channel, value) for value in values]

    return await on(live, all_of_them())


# ---- clients


class Raw:
    """A client on a bare socket with a tiny buffer: it reads when told to, by `more`, and never by itself."""

    def __init__(self, sock: socket.socket, path: str, wire: str, head: dict[str, str] | None = None) -> None:
        self.sock, self.wire = sock, wire
        self.data = b""
        self.protocol = ClientProtocol(parse_uri(f"ws://test{path}"), max_size=None)
        self.frames: list[Frame] = []
        self.path, self.head = path, head or {}

    async def ask(self) -> None:
        lines = [f"GET {self.path} HTTP/1.1", "Host: test", *(f"{name}: {value}" for name, value in self.head.items())]
        if self.wire == "ws":
            request = self.protocol.connect()
            request.headers.update(self.head)
            self.protocol.send_request(request)
            await self.send(b"".join(self.protocol.data_to_send()))
        else:
            await self.send("\r\n".join([*lines, "\r\n"]).encode())

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, data)

    async def say(self, value: Any) -> None:
        self.protocol.send_text((value if isinstance(value, str) else json.dumps(value)).encode())
        await self.send(b"".join(self.protocol.data_to_send()))

    async def more(self) -> bool:
        """Read once; return whether there was anything but the end."""
        try:
            async with asyncio.timeout(DEADLINE):
                data = await asyncio.get_running_loop().sock_recv(self.sock, 1 << 16)
        except ConnectionError:
            data = b""
        self.data += data
        if self.wire == "ws" and data:
            self.protocol.receive_data(data)
            self.frames += [each for each in self.protocol.events_received() if isinstance(each, Frame)]
        return bool(data)

    async def read_until(self, condition: Callable[["Raw"], object]) -> None:
        async with asyncio.timeout(DEADLINE):
            while not condition(self):
                assert await self.more(), f"ended early: {self.data[-300:]!r}"

    async def read_all(self) -> None:
        async with asyncio.timeout(DEADLINE):
            while await self.more():
                pass

    async def opened(self) -> None:
        await self.read_until(lambda raw: raw.said())

    def said(self) -> list[dict[str, Any]]:
        """Return what came: messages as {"id", "data", ...}, what is about the connection as {"type", ...}."""
        if self.wire == "ws":
            return [json.loads(frame.data) for frame in self.frames if frame.opcode in (0, 1)]
        return list(parsed(self.data))

    def numbers(self) -> list[int]:
        """Return the numbers that were published as {"n": number, ...}, in order."""
        return [each["data"]["n"] for each in self.said() if "type" not in each]

    def reset(self) -> None:
        """Leave without a goodbye."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()


def parsed(data: bytes) -> Iterator[dict[str, Any]]:
    """Parse a chunked response with events; comments are {"type": "comment"}."""
    for block in dechunked(data.partition(b"\r\n\r\n")[2]).decode().split("\n\n")[:-1]:
        fields: dict[str, str] = {}
        for line in block.split("\n"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        if "data" not in fields:
            yield {"type": "comment"}
        elif fields.get("event", "message") in ("start", "resume", "gap", "drain", "error", "done"):
            yield {"type": fields["event"], "retry": fields.get("retry"), **json.loads(fields["data"])}
        else:
            yield {"id": fields.get("id"), "event": fields.get("event", "message"), "data": json.loads(fields["data"])}


def dechunked(body: bytes) -> bytes:
    """Return the complete chunks of a chunked body, joined."""
    whole = []
    while b"\r\n" in body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        if len(rest) < length + 2:
            break
        assert rest[length : length + 2] == b"\r\n"
        whole.append(rest[:length])
        body = rest[length + 2 :]
    return b"".join(whole)


@asynccontextmanager
async def raw(
    live: LiveServer, path: str, *, head: dict[str, str] | None = None, small: bool = False
) -> AsyncIterator[Raw]:
    """Connect and ask for /ws/... or /sse/...; leave at the end."""
    sock = socket.socket()
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, (live.host, live.port))
        client = Raw(sock, path, path.split("/")[1], head)
        await client.ask()
        yield client
    finally:
        sock.close()


# ---- who is still alive


def recorded(chosen: dict[str, Any]) -> tuple[dict[str, Any], list["weakref.ref[Any]"]]:
    """Return options whose protocols are recorded as weak references, in the order of their making."""
    made: list[weakref.ref[Any]] = []

    def connection_made(self: Any, transport: Any) -> None:
        made.append(weakref.ref(self))
        if hasattr(self, "conn"):
            made.append(weakref.ref(self.conn))
        super(type(self), self).connection_made(transport)

    def subclass(base: type) -> type:
        return type(base.__name__, (base,), {"connection_made": connection_made})

    return {**chosen, "http": subclass(chosen["http"]), "ws": subclass(chosen["ws"])}, made


def alive(made: list["weakref.ref[Any]"]) -> list[str]:
    return [type(thing).__name__ for each in made if (thing := each()) is not None]


def resident(pid: int) -> int:
    """Return the bytes of memory that a process holds, on Linux."""
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- other servers, and what stands between


class Left(OSError):
    """The client has left."""


class Newer:
    """Makes a server speak ASGI 2.4; one that is not `strict` says so and still sends without a word."""

    SPECS: ClassVar[dict[str, bool | None]] = {"2.3": None, "2.4": True, "2.4 silent": False}

    def __init__(self, app: ASGIApp, *, strict: bool) -> None:
        self.app, self.strict = app, strict

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Any) -> None:
            await send(message)
            if self.strict and send.__self__.disconnected:  # type: ignore[attr-defined]  # a request of uvicorn's
                raise Left

        if scope["type"] != "http":
            await self.app(scope, receive, send)
        else:
            with suppress(Left, ClientDisconnect):  # its own error is none to such a server
                await self.app({**scope, "asgi": {**scope["asgi"], "spec_version": "2.4"}}, receive, checked)


def wrapped(app: ASGIApp, middleware: str = "none", strict: bool | None = None) -> ASGIApp:
    """Return an app under middleware ("none", "base", "gzip", "both"), on a server of ASGI 2.4 if `strict` says how."""
    if middleware in ("gzip", "both"):
        app = GZipMiddleware(app, minimum_size=1)
    if middleware in ("base", "both"):
        app = BaseHTTPMiddleware(app, dispatch=lambda request, call_next: call_next(request))
    return app if strict is None else Newer(app, strict=strict)
