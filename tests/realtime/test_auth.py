"""Who gets in by which way, who is refused and how they learn of it, and that no log holds a credential."""

import asyncio
import base64
import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from realtime.wire import DEADLINE, KINDS, on, options, until
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from labserver.realtime.auth import (
    LOGGERS,
    WAYS,
    Auth,
    Identity,
    Redact,
    check_channel,
    may_publish,
    may_read,
    redact_logs,
)
from labserver.realtime.codes import FORBIDDEN, UNAUTHENTICATED, Refused
from labserver.realtime.engines.memory import MemoryEngine
from labserver.realtime.limits import Limits
from labserver.stage import LiveServer, start

SECRET, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
LIMITS = Limits(first_message_timeout=30, goodbye_timeout=5)
PAGE = "https://pages.example"
ALL = sorted(WAYS)
ON_HTTP = ("bearer", "cookie", "ticket", "query")


def make(limits: Limits = LIMITS, ways: Collection[str] = WAYS, **more: Any) -> Auth:
    secrets = more.pop("secrets", [SECRET])
    return Auth(secrets, limits, claim=more.pop("claim", MemoryEngine().claim), ways=ways, origins=[PAGE], **more)


def signed(audience: str = "labserver", secret: str = SECRET, algorithm: str = "HS256", **claims: Any) -> str:
    """Return a token that `mint` would not make; a claim of None is left out."""
    whole = {"sub": "ana", "aud": audience, "exp": time.time() + 60, **claims}
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, secret, algorithm)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def tampered() -> str:
    head, _, signature = signed().split(".")
    return ".".join([head, b64(json.dumps({"sub": "root", "aud": "labserver", "exp": 9e9}).encode()), signature])


def unsigned() -> str:
    head = b64(b'{"alg":"none","typ":"JWT"}')
    return f"{head}.{signed().split('.')[1]}."


BAD: dict[str, Callable[[], str]] = {
    "expired": lambda: signed(exp=time.time() - 5),
    "tampered": tampered,
    "unsigned": unsigned,
    "encoded as none": lambda: jwt.encode({"sub": "ana", "aud": "labserver", "exp": 9e9}, None, "none"),
    "another secret": lambda: signed(secret=OTHER),
    "another algorithm": lambda: signed(secret=SECRET * 2, algorithm="HS512"),
    "another audience": lambda: signed("elsewhere"),
    "no audience": lambda: signed(aud=None),
    "no end": lambda: signed(exp=None),
    "an end without end": lambda: signed(exp=float("inf")),
    "no user": lambda: signed(sub=None),
    "an empty user": lambda: signed(sub=""),
    "a number for a user": lambda: jwt.api_jws.encode(
        json.dumps({"sub": 5, "aud": "labserver", "exp": 9e9}).encode(), SECRET, "HS256"
    ),
    "not yet": lambda: signed(nbf=time.time() + 60),
    "a ticket or a token": lambda: signed(),  # by each way in what belongs to the others
    "junk": lambda: "x.y.z",
    "a deep header": lambda: b64(b"[" * 5900) + ".e30.e30",
}
"""name -> makes a credential that opens nothing."""


# ---- tokens and tickets


@pytest.mark.parametrize("name", [name for name in BAD if name != "a ticket or a token"])
def test_a_token_that_is_none_is_refused_and_not_repeated(name: str) -> None:
    token = BAD[name]()
    with pytest.raises(Refused) as refused:
        make().verify(token)
    assert refused.value.code == UNAUTHENTICATED
    assert token not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_token_says_who_and_until_when() -> None:
    auth, before = make(), time.time()
    identity = auth.verify(auth.mint("ana", 90))
    assert identity.sub == "ana"
    assert before + 90 <= identity.expires <= time.time() + 90
    assert auth.verify(auth.mint("ana")).expires >= before + LIMITS.token_ttl


def test_an_end_that_is_written_as_text_is_a_number_all_the_same() -> None:
    assert make().verify(signed(exp="9999999999")).expires == 9999999999.0


def test_a_token_of_a_host_whose_clock_is_ahead_is_valid_here() -> None:
    assert make().verify(signed(iat=time.time() + 30)).sub == "ana"


def test_a_secret_is_rotated_without_a_token_becoming_void() -> None:
    old, both, new = make(), make(secrets=[OTHER, SECRET]), make(secrets=[OTHER])
    assert both.verify(old.mint("ana")).sub == "ana"
    assert new.verify(both.mint("ana")).sub == "ana"
    with pytest.raises(Refused):
        new.verify(old.mint("ana"))
    with pytest.raises(Refused, match="expired"):
        both.verify(old.mint("ana", -5))


@pytest.mark.parametrize("wrong", [{"secrets": []}, {"secrets": [SECRET, "short"]}, {"ways": ["smell"]}])
def test_what_it_can_not_be_made_with_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"make|no such way") as error:
        make(**wrong)
    assert "short" not in str(error.value)


@pytest.mark.parametrize("origin", ["*", "null", "example.com", "", "https://", "https://[", "https://a:port"])
def test_an_origin_that_is_none_is_refused_where_it_is_written(origin: str) -> None:
    with pytest.raises(ValueError, match="write origins as"):
        Auth([SECRET], claim=MemoryEngine().claim, origins=[origin])


def test_a_query_is_no_way_in_unless_it_is_named() -> None:
    assert Auth([SECRET], claim=MemoryEngine().claim).ways == WAYS - {"query"}


async def test_a_ticket_is_good_once_and_a_token_is_none() -> None:
    auth = make()
    identity = auth.verify(auth.mint("ana"))
    ticket = auth.mint_ticket(identity)
    assert await auth.redeem(ticket) == identity
    with pytest.raises(Refused, match="used"):
        await auth.redeem(ticket)
    with pytest.raises(Refused):
        auth.verify(auth.mint_ticket(identity))
    with pytest.raises(Refused):
        await auth.redeem(auth.mint("ana"))


async def test_of_many_who_bring_one_ticket_at_once_one_gets_in_over_all_workers() -> None:
    claim = MemoryEngine().claim
    workers = [make(claim=claim) for _ in range(4)]
    ticket = workers[0].mint_ticket(Identity("ana", time.time() + 60))
    got = await asyncio.gather(*(worker.redeem(ticket) for worker in workers * 5), return_exceptions=True)
    assert sum(isinstance(each, Identity) for each in got) == 1
    assert all(isinstance(each, Identity | Refused) for each in got)


async def test_a_ticket_ends_with_its_token_and_lacks_nothing() -> None:
    auth = make()
    for ticket in (
        auth.mint_ticket(Identity("ana", time.time() - 1)),
        signed("labserver/ticket"),
        signed("labserver/ticket", jti="a"),
        signed("labserver/ticket", until=9e9),
    ):
        with pytest.raises(Refused):
            await auth.redeem(ticket)


def test_renewal_moves_the_end_and_changes_nobody() -> None:
    auth = make()
    ana = auth.verify(auth.mint("ana", 30))
    assert auth.renew(ana, auth.mint("ana", 900)).expires > ana.expires + 800
    for token, code in ((auth.mint("ben"), FORBIDDEN), (auth.mint("Ana"), FORBIDDEN), ("x", UNAUTHENTICATED)):
        with pytest.raises(Refused) as refused:
            auth.renew(ana, token)
        assert refused.value.code == code


# ---- an app that lets in


class Gate:
    """An app with one socket and one page, which say who is there."""

    def __init__(self, auth: Auth) -> None:
        self.auth, self.inside, self.refused = auth, 0, 0
        routes = [
            WebSocketRoute("/ws", self.socket),
            Route("/who", self.who, methods=["GET", "POST"]),
            Route("/fails", self.fails),
        ]
        self.app = Starlette(routes=routes)

    async def socket(self, websocket: WebSocket) -> None:
        try:
            identity = await self.auth.enter(websocket, anonymous="anonymous" in websocket.query_params)
        except Refused:
            self.refused += 1
            return
        self.inside += 1
        await websocket.send_json(identity.sub if identity else None)
        await websocket.receive()

    async def who(self, request: Request) -> Response:
        try:
            identity = await self.auth.identify(request)
        except Refused as refused:
            self.refused += 1
            return JSONResponse(refused.reason, 401 if refused.code == UNAUTHENTICATED else 403)
        self.inside += 1
        return JSONResponse(identity.sub if identity else None)

    async def fails(self, request: Request) -> Response:
        raise RuntimeError(f"no answer to {request.url}, {request.headers.items()}")


@contextmanager
def opened(kind: str = "plain", gate: Gate | None = None, app: ASGIApp | None = None, **more: Any) -> Iterator[Any]:
    gate = gate or Gate(make())
    with start(app or gate.app, name="auth", **{**options(kind, LIMITS), **more}) as live:
        yield live, gate


@pytest.fixture(scope="module", params=KINDS)
def door(request: pytest.FixtureRequest) -> Iterator[tuple[LiveServer, Gate]]:
    with opened(request.param) as both:
        yield both


@dataclass(frozen=True)
class Brought:
    """What a client brings, and how."""

    query: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    protocols: tuple[str, ...] = ()
    first: str | None = None


def brought(way: str, credential: str) -> Brought:
    match way:
        case "bearer":
            return Brought(headers=(("Authorization", f"Bearer {credential}"),))
        case "cookie":
            return Brought(headers=(("Cookie", f"a=1; token={credential}; b=2"),))
        case "subprotocol":
            return Brought(protocols=("labserver.v1", f"token.{credential}"))
        case "first-message":
            return Brought(first=json.dumps({"token": credential}))
        case "ticket":
            return Brought(f"?ticket={credential}")
        case _:
            return Brought(f"?token={credential}")


def good(auth: Auth, way: str) -> str:
    return auth.mint_ticket(Identity("ana", time.time() + 60)) if way == "ticket" else auth.mint("ana")


def bad(auth: Auth, way: str, name: str) -> str:
    if name == "a ticket or a token":
        return good(auth, "bearer" if way == "ticket" else "ticket")
    if way != "ticket":
        return BAD[name]()
    more = {"jti": "1", "until": 9e9}
    remade = {"expired": lambda: signed("labserver/ticket", exp=time.time() - 5, **more)}
    return remade.get(name, BAD[name])()


@asynccontextmanager
async def client(live: LiveServer, what: Brought, origin: str | None = None) -> AsyncIterator[ClientConnection]:
    connection = connect(
        f"{live.ws_url}/ws{what.query}",
        additional_headers=what.headers,
        subprotocols=what.protocols or None,  # type: ignore[arg-type]
        origin=origin,  # type: ignore[arg-type]
        compression=None,
    )
    async with asyncio.timeout(2 * DEADLINE), connection as websocket:
        if what.first is not None:
            with suppress(ConnectionClosed):  # it was refused before
                await websocket.send(what.first)
        yield websocket


async def outcome(live: LiveServer, what: Brought, origin: str | None = None) -> Any:
    """Return what the socket says, the code it is closed with, or the HTTP status."""
    try:
        async with client(live, what, origin) as websocket:
            try:
                return json.loads(await websocket.recv())
            except ConnectionClosed:
                return websocket.close_code if websocket.close_reason else "no reason"
    except InvalidStatus as refused:
        answer = refused.response
    assert json.loads(answer.body or b"{}")["detail"]
    assert ("www-authenticate" in answer.headers) == (answer.status_code == 401)
    return answer.status_code


# ---- ways in


@pytest.mark.parametrize("way", ALL)
async def test_who_has_a_credential_gets_in(door: tuple[LiveServer, Gate], way: str) -> None:
    live, gate = door
    for origin in (None, PAGE, live.url):
        assert await outcome(live, brought(way, good(gate.auth, way)), origin) == "ana"


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ALL)
async def test_a_credential_that_is_none_opens_no_socket(door: tuple[LiveServer, Gate], way: str, name: str) -> None:
    live, gate = door
    before = gate.inside
    credential = bad(gate.auth, way, name)
    assert await outcome(live, brought(way, credential)) == (4401 if way == "first-message" else 401)
    credential = bad(gate.auth, way, name)
    assert await outcome(live, brought(way, credential), PAGE) == 4401
    if way != "first-message":
        what = brought(way, credential)
        anonymous = replace(what, query=f"{what.query or '?'}&anonymous")
        assert await outcome(live, anonymous) == 401
    assert gate.inside == before


FOREIGN = ["https://evil.example", "null", "https://pages.example.evil.example", "https://pages.example:8443", "junk"]


@pytest.mark.parametrize("origin", [*FOREIGN, "http://pages.example", "https://127.0.0.1:1", "http://[", ""])
@pytest.mark.parametrize("way", [*ALL, "none"])
async def test_a_foreign_page_gets_nothing_by_any_way(door: tuple[LiveServer, Gate], way: str, origin: str) -> None:
    live, gate = door
    before = gate.inside
    what = Brought("?anonymous") if way == "none" else brought(way, good(gate.auth, way))
    assert await outcome(live, what, origin) == 4403
    if way == "ticket":
        assert await outcome(live, what) == "ana", "the ticket of a refused page is not used up"
        return
    if way in ON_HTTP:
        headers = dict([*what.headers, ("Origin", origin)])
        async with httpx.AsyncClient() as web:
            assert (await web.get(f"{live.url}/who{what.query}", headers=headers)).status_code == 403
    assert gate.inside == before


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        ("lab.example", "http://lab.example", True),
        ("lab.example", "https://lab.example", True),  # a proxy has ended TLS
        ("lab.example", "https://lab.example:443", True),
        ("lab.example:443", "https://lab.example", True),
        ("lab.example:80", "http://lab.example", True),
        ("LAB.example", "http://lab.EXAMPLE", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("[::1]", "http://[::1]:80", True),
        ("lab.example", "http://lab.example:8000", False),
        ("lab.example:8000", "http://lab.example", False),
        ("lab.example:443", "http://lab.example", False),
        ("[::1]:8000", "http://[::2]:8000", False),
        ("lab.example", "http://other.lab.example", False),
        ("lab.example", "http://lab.example.evil.example", False),
        ("lab.example", "http://lab.example@evil.example", False),
        ("lab.example", "chrome-extension://lab.example", False),
        ("null", "null", False),
        ("", "http://", False),
    ],
)
async def test_the_servers_own_pages_come_from_its_host(
    door: tuple[LiveServer, Gate], host: str, origin: str, own: bool
) -> None:
    headers = {"Host": host, "Origin": origin}
    async with httpx.AsyncClient() as web:
        assert (await web.get(f"{door[0].url}/who", headers=headers)).status_code == (200 if own else 403)


async def test_behind_tls_a_page_without_it_is_foreign() -> None:
    gate = Gate(make())

    async def secure(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.app({**scope, "scheme": "https"}, receive, send)

    with opened("plain", gate, secure) as (live, _):
        async with httpx.AsyncClient() as web:
            for scheme, status in (("https", 200), ("http", 403)):
                headers = {"Host": "lab.example", "Origin": f"{scheme}://lab.example"}
                assert (await web.get(f"{live.url}/who", headers=headers)).status_code == status


@pytest.mark.parametrize("way", ALL)
async def test_a_way_that_is_off_is_none(way: str) -> None:
    with opened("plain", Gate(make(ways=WAYS - {way, "first-message"}))) as (live, gate):
        assert await outcome(live, brought(way, good(gate.auth, way))) == 401
        if way in ON_HTTP:
            what = brought(way, good(gate.auth, way))
            async with httpx.AsyncClient() as web:
                answer = await web.get(f"{live.url}/who{what.query}", headers=dict(what.headers))
            assert answer.json() is None


async def test_nobody_is_let_in_as_nobody_where_that_is_allowed(door: tuple[LiveServer, Gate]) -> None:
    assert await outcome(door[0], Brought("?anonymous")) is None
    assert await outcome(door[0], Brought("?anonymous"), PAGE) is None


async def test_the_subprotocol_that_was_offered_is_selected_and_a_token_never(door: tuple[LiveServer, Gate]) -> None:
    live, gate = door
    async with client(live, brought("subprotocol", gate.auth.mint("ana"))) as websocket:
        assert websocket.subprotocol == "labserver.v1"
    async with client(live, replace(brought("subprotocol", "x.y.z")), PAGE) as websocket:
        assert websocket.subprotocol == "labserver.v1"  # else a page would not learn of the code
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 4401
    only = Brought(protocols=(f"token.{gate.auth.mint('ana')}",))
    async with client(live, only) as websocket:
        assert websocket.subprotocol is None


@pytest.mark.parametrize(
    "first",
    [
        *("", "{", "[]", "1", "null", '"x"', "{}", "[" * 5000, "1" * 5000, '{"ticket": "x"}'),
        *(f'{{"token": {value}}}' for value in ("5", "null", '""', '"\\ud800"', '["x"]')),
    ],
    ids=lambda first: first[:20],
)
async def test_a_first_message_that_is_none_is_told_so(door: tuple[LiveServer, Gate], first: str) -> None:
    assert await outcome(door[0], Brought(first=first)) == 4401
    assert door[0].errors() == []


async def test_a_binary_first_message_is_refused(door: tuple[LiveServer, Gate]) -> None:
    async with client(door[0], Brought()) as websocket:
        await websocket.send(json.dumps({"token": door[1].auth.mint("ana")}).encode())
        with pytest.raises(ConnectionClosed):
            await websocket.recv()
        assert websocket.close_code == 4401


async def test_a_server_that_can_not_deny_closes_after_accept() -> None:
    gate = Gate(make(ways=WAYS - {"first-message"}))

    async def bare(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.app({name: scope[name] for name in scope if name != "extensions"}, receive, send)

    with opened("plain", gate, bare) as (live, _):
        assert await outcome(live, Brought()) == 4401
        assert await outcome(live, brought("bearer", "x.y.z")) == 4401
        assert live.errors() == []


# ---- over HTTP


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("way", ON_HTTP)
async def test_over_http_the_same_holds(door: tuple[LiveServer, Gate], way: str, name: str) -> None:
    live, gate = door
    async with httpx.AsyncClient() as web:
        for credential, status in ((good(gate.auth, way), 200), (bad(gate.auth, way, name), 401)):
            what = brought(way, credential)
            answer = await web.get(f"{live.url}/who{what.query}", headers=dict(what.headers))
            assert answer.status_code == status
            assert credential not in answer.text
        assert (await web.get(f"{live.url}/who")).json() is None


async def test_one_source_counts_and_what_was_named_comes_before_the_cookie(door: tuple[LiveServer, Gate]) -> None:
    live, gate = door
    ben = {"Cookie": f"token={gate.auth.mint('ben')}"}
    async with httpx.AsyncClient(headers=ben) as web:
        assert (await web.get(f"{live.url}/who")).json() == "ben"
        for way in ("bearer", "ticket", "query"):
            what = brought(way, good(gate.auth, way))
            assert (await web.get(f"{live.url}/who{what.query}", headers=dict(what.headers))).json() == "ana"
            what = brought(way, "x.y.z")
            answer = await web.get(f"{live.url}/who{what.query}", headers=dict(what.headers))
            assert answer.status_code == 401, "a bad one is not made good by the next"


async def test_a_cookie_changes_nothing_without_an_origin(door: tuple[LiveServer, Gate]) -> None:
    live, gate = door
    cookie = {"Cookie": f"token={gate.auth.mint('ana')}"}
    async with httpx.AsyncClient() as web:
        for headers, status in (
            (cookie, 403),
            ({**cookie, "Origin": "https://evil.example"}, 403),
            ({**cookie, "Origin": live.url}, 200),
            ({**cookie, "Origin": PAGE}, 200),
            ({**cookie, "Authorization": f"Bearer {gate.auth.mint('ana')}"}, 200),
        ):
            assert (await web.post(f"{live.url}/who", headers=headers)).status_code == status


async def test_a_credential_that_is_too_long_is_none(door: tuple[LiveServer, Gate]) -> None:
    long = signed(more="x" * 9000)  # longer than a line of a handshake may be
    assert await outcome(door[0], brought("first-message", long)) == 4401
    async with httpx.AsyncClient() as web:
        assert (await web.get(f"{door[0].url}/who?token={long}")).status_code == 401


# ---- deadlines


@pytest.mark.parametrize("kind", KINDS)
async def test_300_silent_sockets_are_gone_after_the_deadline(kind: str) -> None:
    limits = Limits(first_message_timeout=0.5, goodbye_timeout=0.5)
    loop = asyncio.get_running_loop()
    request = b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"

    async def ended(sock: socket.socket) -> bytes:
        data = b""
        with suppress(ConnectionError):
            while got := await loop.sock_recv(sock, 1 << 16):
                data += got
        return data

    with opened(kind, Gate(make(limits))) as (live, gate), ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection((live.host, live.port))) for _ in range(300)]
        for sock in sockets:
            sock.setblocking(False)
            await loop.sock_sendall(sock, request)
        async with asyncio.timeout(60):
            got = await asyncio.gather(*map(ended, sockets))
        await until(lambda: gate.refused == 300)
        assert gate.inside == 0
        assert all(b"\x11\x31" in data for data in got), "each was told 4401"
        assert live.errors() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_before_the_first_message_leaves_no_error(kind: str) -> None:
    with opened(kind) as (live, gate):
        for reset in (False, True):
            async with client(live, Brought()) as websocket:
                if reset:
                    websocket.transport.abort()
        await until(lambda: gate.refused == 2)
        assert live.errors() == []


@pytest.mark.parametrize("kind", KINDS)
async def test_who_leaves_while_a_ticket_is_claimed_leaves_no_error(kind: str) -> None:
    claimed, go = asyncio.Event(), asyncio.Event()

    async def slow(key: str, seconds: float) -> bool:
        claimed.set()
        await go.wait()
        return True

    async def set_(event: asyncio.Event) -> None:
        event.set()

    gate = Gate(make(claim=slow))
    with opened(kind, gate) as (live, _):
        ticket = good(gate.auth, "ticket")
        leaver = asyncio.create_task(outcome(live, brought("ticket", ticket)))
        await until(claimed.is_set)
        leaver.cancel()
        with suppress(asyncio.CancelledError):
            await leaver
        await on(live, set_(go))
        await until(lambda: gate.refused + gate.inside)
        assert live.errors() == []


# ---- logs


SERVER = """
import sys, uvicorn
from labserver.realtime.auth import redact_logs
from realtime.test_auth import Gate, make
config = uvicorn.Config(Gate(make()).app, port=0, log_level=sys.argv[1], ws="websockets-sansio", http="h11")
if sys.argv[2] == "redacted":
    redact_logs()
uvicorn.Server(config).run()
"""


UNNAMED = {"opaque-bearer", "opaque-subprotocol"}  # neither a token, nor beside a name: nothing tells it from text


@dataclass(frozen=True)
class Own:
    """A uvicorn in a process of its own, and the file of all that it writes."""

    url: str
    ws_url: str
    file: Path

    def text(self) -> str:
        return self.file.read_text(encoding="utf-8")


@contextmanager
def logging_server(folder: Path, level: str, kind: str = "redacted") -> Iterator[Own]:
    file = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    command = [sys.executable, "-c", SERVER, level, kind]
    with file.open("w") as out, subprocess.Popen(command, stdout=out, stderr=out, env=environment) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := re.search(r"running on http://([\d.:]+)", file.read_text(encoding="utf-8"))):
                assert process.poll() is None, file.read_text(encoding="utf-8")
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield Own(f"http://{found[1]}", f"ws://{found[1]}", file)
        finally:
            process.terminate()


async def bring_all(server: Any) -> list[str]:
    """Bring credentials, good and bad, by every way to every page and socket; return them."""
    auth, secrets = make(), []
    for way in ALL:
        for credential in (good(auth, way), tampered(), f"opaque-{way}"):
            secrets.append(credential)
            what = brought(way, credential)
            for origin in (None, PAGE, "https://evil.example"):
                await outcome(server, what, origin)
            async with httpx.AsyncClient() as web:
                for path in ("/who", "/nothing", "/fails"):
                    await web.get(f"{server.url}{path}{what.query}", headers=dict(what.headers))
    for key in ("%74oken", "%54oken", "%74%6F%6b%65%6e", "tic%6bet", "a=1&token", "TICKET"):
        secrets.append(f"spelt-{len(secrets)}")
        await outcome(server, Brought(f"?{key}={secrets[-1]}&seen=yes&anonymous"))
        async with httpx.AsyncClient() as web:
            await web.get(f"{server.url}/who?{key}={secrets[-1]}&seen=yes")
    return secrets


def leaked(text: str, secrets: list[str]) -> list[str]:
    """Return the lines of a log that hold a secret, or the signature of one."""
    parts = {part for secret in secrets for part in (secret, secret.split(".")[-1])} - UNNAMED
    return [line[:300] for line in text.splitlines() if any(part in line for part in parts)]


@pytest.mark.parametrize("level", ["info", "debug", "trace"])
async def test_no_way_in_leaves_a_credential_in_a_log(tmp_path: Path, level: str) -> None:
    with logging_server(tmp_path, level) as server:
        secrets = await bring_all(server)
    text = server.text()
    assert "Traceback" in text
    assert text.count("seen=yes") >= 12, "what is beside a secret stays"
    assert leaked(text, secrets) == []


async def test_without_the_filter_the_same_would_be_in_the_log(tmp_path: Path) -> None:
    with logging_server(tmp_path, "info", "as it is") as server:
        secrets = await bring_all(server)
    assert len(leaked(server.text(), secrets)) > 20


def test_the_filter_is_installed_once() -> None:
    before = {name: list(logging.getLogger(name).filters) for name in LOGGERS}
    redact_logs()
    redact_logs()
    for name in LOGGERS:
        logger = logging.getLogger(name)
        assert sum(isinstance(each, Redact) for each in logger.filters) == 1
        logger.filters[:] = before[name]


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/x?token=abc&after=1", "/x?token=***&after=1"),
        ("/x?a=%0Aforged&ticket=abc", "/x?a=%0Aforged&ticket=***"),
        ("/x?%74oken=abc", "/x?%74oken=***"),
        ("/x?broken=1&after=e-1", "/x?broken=1&after=e-1"),
        ("labserver.v1, token.eyJh.eyJz.c2ln", "labserver.v1, token.***"),
        ("Authorization: Bearer eyJh.eyJz.c2ln", "Authorization: Bearer ***"),
        ("no token came in time", "no token came in time"),
        ("the key is 5", "the key is 5"),
    ],
)
def test_the_filter_blanks_secrets_and_nothing_else(said: str, kept: str) -> None:
    record = logging.LogRecord("n", logging.INFO, "f", 1, f"{said.replace('%', '%%')} %s %d", (said, 5), None)
    assert Redact().filter(record)
    assert record.getMessage() == f"{kept} {kept} 5"


def test_a_traceback_is_blanked_and_stays_one() -> None:
    try:
        try:
            raise ValueError("at /x?token=abc")
        except ValueError as error:
            raise RuntimeError("it failed") from error
    except RuntimeError as error:
        record = logging.LogRecord("n", logging.ERROR, "f", 1, "failed", (), (RuntimeError, error, error.__traceback__))
    Redact().filter(record)
    written = logging.Formatter().format(record)
    assert "token=***" in written
    assert "RuntimeError: it failed" in written
    assert "abc" not in written


# ---- whose channel it is

ANA = Identity("ana", 9e9)


@pytest.mark.parametrize(
    ("identity", "channel", "read", "publish"),
    [
        (None, "public.news", True, False),
        (ANA, "public.news", True, True),
        (None, "tea", False, False),
        (ANA, "tea", True, True),
        (ANA, "user.ana", True, True),
        (None, "user.ana", False, False),
        (Identity("ben", 9e9), "user.ana", False, False),
        (ANA, "user.ana.more", False, False),
        (ANA, "user.Ana", False, False),
        (ANA, "USER.ana", False, False),
        (ANA, "User.ben", False, False),
        (ANA, "user.", False, False),
        (None, "public", False, False),
        (None, "Public.news", False, False),
        (None, "publicity", False, False),
        (ANA, "users.ben", True, True),
        (Identity("a.b", 9e9), "user.a.b", True, True),
        (Identity("a", 9e9), "user.a.b", False, False),
        (Identity("a.b", 9e9), "user.a", False, False),
        (Identity("ana ", 9e9), "user.ana", False, False),
        (Identity("\u0430na", 9e9), "user.ana", False, False),  # a Cyrillic letter
        (Identity("stra\u00dfe", 9e9), "user.strasse", False, False),
        (Identity("../ana", 9e9), "user.ana", False, False),
    ],
)
def test_whose_channel_it_is(identity: Identity | None, channel: str, read: bool, publish: bool) -> None:
    assert (may_read(identity, channel), may_publish(identity, channel)) == (read, publish)


@pytest.mark.parametrize("name", ["a", "public.news", "user.ana@lab.example", "A-Z_0:9", "x" * 128])
def test_a_name_for_a_channel(name: str) -> None:
    assert check_channel(name) == name


@pytest.mark.parametrize(
    "name", ["", "x" * 129, "a b", "a/b", "a\\b", "a\n", "\n", "\x00", "\x7f", "\u00e4", "a%b", "*", ">"]
)
def test_what_is_no_name_for_a_channel_is_said(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 128"):
        check_channel(name)
