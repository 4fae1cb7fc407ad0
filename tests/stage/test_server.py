"""A real server from a cell: started and stopped in milliseconds, quiet, with nothing left of it."""

import asyncio
import logging
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from statistics import median
from typing import Annotated, Any

import httpx
import psutil
import pytest
import websockets
from fastapi import Depends, FastAPI, WebSocket
from fastapi.responses import StreamingResponse
from starlette.routing import Mount
from websockets.sync.client import connect

from labserver.errors import LabError
from labserver.settings import Settings, get_settings
from labserver.stage import rescue, start
from labserver.stage.engine import Engine, Log
from labserver.stage.server import LiveServer, give_settings, resolve

QUICK = 1.0  # seconds; what is measured is far below, this bound is for a loaded machine


@pytest.fixture(autouse=True)
def stopped() -> Iterator[None]:
    yield
    rescue()


class Streams:
    """An app with an endless stream of each kind that notes how each ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.app = FastAPI()
        self.app.get("/sse")(self.sse)
        self.app.get("/stalled")(self.stalled)
        self.app.get("/slow")(self.slow)
        self.app.get("/sync")(self.sync)
        self.app.get("/fail")(self.fail)
        self.app.websocket("/ws")(self.ws)
        self.app.websocket("/deaf")(self.deaf)

    async def sse(self) -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            try:
                yield "data: first\n\n"
                await asyncio.Event().wait()
            finally:
                self.ended.append("sse")

        return StreamingResponse(events(), media_type="text/event-stream")

    async def stalled(self) -> StreamingResponse:
        async def flood() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 20)
            finally:
                self.ended.append("stalled")

        return StreamingResponse(flood())

    async def slow(self) -> str:
        try:
            await asyncio.sleep(60)
        finally:
            self.ended.append("slow")
        return "done"

    def sync(self) -> str:
        return threading.current_thread().name

    async def fail(self) -> None:
        raise KeyError("text")

    async def ws(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            await socket.receive_text()
        finally:
            self.ended.append("ws")

    async def deaf(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.append("deaf")


def open_streams(live: LiveServer, clients: ExitStack, *paths: str) -> None:
    """Open a stream of each path and wait until it has begun."""
    http = clients.enter_context(httpx.Client(timeout=10, verify=False))
    for path in paths:
        if path in ("/ws", "/deaf"):
            clients.enter_context(connect(live.ws_url + path))
        else:
            response = clients.enter_context(http.stream("GET", live.url + path))
            chunks = response.iter_raw()
            next(chunks)
            clients.callback(chunks.close)  # kept until then: httpx leaves the server when its iterator is dropped


def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        time.sleep(0.005)


def test_answers_and_stops() -> None:
    live = start(Streams().app)
    assert live.alive
    assert httpx.get(f"{live.url}/sync").status_code == 200
    assert repr(live) == "<LiveServer 'lab' running>"
    assert live.stop()
    assert not live.alive
    assert repr(live) == "<LiveServer 'lab' stopped>"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((live.host, live.port), timeout=2)
    assert live.stop()  # again is harmless


def test_the_text_twin_has_no_port_and_the_link_has() -> None:
    live = start(Streams().app)
    bundle = live._repr_mimebundle_()
    assert bundle["text/plain"] == "<LiveServer 'lab' running>"
    assert live.url in bundle["text/html"]


def test_start_and_stop_are_quick_with_open_streams() -> None:
    starts, stops = [], []
    for _ in range(5):
        streams = Streams()
        with ExitStack() as clients:
            began = time.perf_counter()
            live = start(streams.app)
            starts.append(time.perf_counter() - began)
            open_streams(live, clients, "/sse", "/ws", "/deaf")
            began = time.perf_counter()
            assert live.stop()
            stops.append(time.perf_counter() - began)
        assert sorted(streams.ended) == ["deaf", "sse", "ws"]
    assert median(starts) < QUICK
    assert median(stops) < QUICK


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
@pytest.mark.parametrize("path", ["/sse", "/ws", "/deaf", "/stalled"])
def test_finally_of_a_stream_has_run_when_stop_returns(path: str, loop: str) -> None:
    streams = Streams()
    live = start(streams.app, loop=loop)
    with ExitStack() as clients:
        open_streams(live, clients, path)
        assert live.stop()
        assert streams.ended == [path[1:]]
    assert live.errors() == []


def test_a_request_that_takes_long_is_cancelled_by_stop() -> None:
    streams = Streams()
    live = start(streams.app)
    with ThreadPoolExecutor(1) as pool:
        request = pool.submit(httpx.get, f"{live.url}/slow", timeout=10)
        until(lambda: len(live._runner._engine._server.server_state.tasks) == 1)  # type: ignore[attr-defined]
        assert live.stop()
        assert streams.ended == ["slow"]
        assert request.result(5).status_code == 500


async def test_a_client_sees_the_server_go() -> None:
    live = start(Streams().app)
    async with websockets.connect(f"{live.ws_url}/ws") as client, httpx.AsyncClient() as http:
        async with http.stream("GET", f"{live.url}/sse") as response:
            chunks = response.aiter_raw()
            await anext(chunks)
            live.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                await anext(chunks)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            await client.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


def test_running_again_replaces_the_server_of_that_name() -> None:
    first = start(Streams().app)
    second = start(Streams().app)
    assert (first.alive, second.alive) == (False, True)
    assert httpx.get(f"{second.url}/sync").status_code == 200


def test_two_names_are_two_servers() -> None:
    one, two = start(Streams().app, name="one"), start(Streams().app, name="two")
    assert one.port != two.port
    assert one.stop()
    assert httpx.get(f"{two.url}/sync").status_code == 200


def test_a_stopped_one_does_not_forget_its_successor() -> None:
    first = start(Streams().app)
    second = start(Streams().app)
    first.stop()
    assert rescue().twin == "lab (thread): stopped"
    assert not second.alive


def test_a_port_in_use_is_one_sentence() -> None:
    taken = start(Streams().app, name="first")
    with pytest.raises(LabError, match=rf"port {taken.port} .*leave out port="):
        start(Streams().app, name="second", port=taken.port)
    assert taken.alive


def test_a_port_just_left_is_free_again() -> None:
    for _ in range(3):
        with ExitStack() as clients:
            live = start(Streams().app, port=_free_port())
            open_streams(live, clients, "/sse")
            port = live.port
            again = start(Streams().app, port=port)
            assert again.port == port


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 70_000])
def test_a_port_that_does_not_exist(port: int) -> None:
    with pytest.raises(LabError, match="leave out port="):
        start(Streams().app, port=port)


def test_a_failing_lifespan_gives_its_cause() -> None:
    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        raise ConnectionError("no broker")
        yield

    with pytest.raises(LabError, match="did not start: ConnectionError: no broker") as failed:
        start(FastAPI(lifespan=lifespan))
    assert isinstance(failed.value.__cause__, ConnectionError)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("labserver-lab")]


def test_a_lifespan_that_does_not_begin_is_given_up() -> None:
    ended = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        try:
            await asyncio.Event().wait()
            yield
        finally:
            ended.append("lifespan")

    with pytest.raises(LabError, match=r"not up within 0\.2 s"):
        start(FastAPI(lifespan=lifespan), settings=Settings(start_timeout=0.2))
    assert ended == ["lifespan"]


def test_a_lifespan_that_does_not_end_is_given_up() -> None:
    ended = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lifespan")

    live = start(FastAPI(lifespan=lifespan), settings=Settings(stop_timeout=0.4))
    assert live.stop()
    assert ended == ["lifespan"]


def test_streams_end_before_what_the_lifespan_owns() -> None:
    streams = Streams()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        streams.ended.append("lifespan")

    app = FastAPI(lifespan=lifespan)
    app.mount("/", streams.app)
    live = start(app)
    with ExitStack() as clients:
        open_streams(live, clients, "/sse", "/ws", "/deaf")
        live.stop()
    assert streams.ended[-1] == "lifespan"
    assert len(streams.ended) == 4


def drained(drain: Any) -> tuple[str, LiveServer, float]:
    """Stop a server whose app offers `drain`, with a stream open; return what the client read and how long it took."""
    goodbye = asyncio.Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
        yield {"drain": lambda: drain(goodbye)}

    app = FastAPI(lifespan=lifespan)

    @app.get("/")
    async def stream() -> StreamingResponse:
        async def events() -> AsyncIterator[str]:
            yield "hello\n"
            await goodbye.wait()
            yield "goodbye\n"

        return StreamingResponse(events())

    live = start(app)
    with httpx.stream("GET", live.url) as answer:
        pieces = answer.iter_text()
        text = next(pieces)
        began = time.monotonic()
        assert live.stop()
        took = time.monotonic() - began
        with suppress(httpx.RemoteProtocolError):
            text += "".join(pieces)
    return text, live, took


def test_an_app_that_offers_a_drain_says_goodbye_before_its_streams_are_cut() -> None:
    async def drain(goodbye: asyncio.Event) -> None:
        goodbye.set()
        await asyncio.sleep(0.05)

    text, live, _ = drained(drain)
    assert text == "hello\ngoodbye\n"
    assert live.errors() == []


def test_a_drain_that_fails_is_logged_and_one_that_does_not_end_is_not_waited_for() -> None:
    async def fails(goodbye: asyncio.Event) -> None:
        raise ValueError("no goodbye today")

    async def endless(goodbye: asyncio.Event) -> None:
        await asyncio.Event().wait()

    text, live, _ = drained(fails)
    assert (text, live.errors()) == ("hello\n", ["ValueError: no goodbye today"])
    text, live, took = drained(endless)
    assert (text, live.errors()) == ("hello\n", ["TimeoutError"])
    assert took < Settings().stop_timeout


def test_a_task_of_the_app_is_ended() -> None:
    ended = []

    async def endless() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("task")

    tasks = set()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        tasks.add(asyncio.create_task(endless()))
        yield

    live = start(FastAPI(lifespan=lifespan))
    until(lambda: bool(tasks))
    assert live.stop()
    assert ended == ["task"]


def test_logs_are_kept_and_never_printed(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    live = start(Streams().app)
    httpx.get(f"{live.url}/fail")
    httpx.get(f"{live.url}/sync")
    live.stop()
    assert "Application startup complete." in live.logs()
    assert any(line.endswith('"GET /fail HTTP/1.1" 500') for line in live.logs())
    assert live.errors() == ["KeyError: 'text'"]
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []


def test_logs_of_two_servers_are_told_apart() -> None:
    one, two = start(Streams().app, name="one"), start(Streams().app, name="two")
    httpx.get(f"{one.url}/fail")
    httpx.get(f"{two.url}/sync")
    assert one.errors() == ["KeyError: 'text'"]
    assert two.errors() == []
    assert any("/sync" in line for line in two.logs())
    assert not any("/sync" in line for line in one.logs())


def test_logs_are_bounded() -> None:
    live = start(Streams().app, settings=Settings(log_records=5))
    for _ in range(8):
        httpx.get(f"{live.url}/fail")
    assert len(live.logs()) == 5
    assert len(live.errors()) == 5


def test_access_log_of_one_server_alone_is_switched_off() -> None:
    quiet, loud = start(Streams().app, name="quiet", access_log=False), start(Streams().app, name="loud")
    for live in (quiet, loud):
        httpx.get(f"{live.url}/sync")
    assert not any("/sync" in line for line in quiet.logs())
    assert any("/sync" in line for line in loud.logs())


def test_an_apps_own_warning_is_kept_and_others_are_printed() -> None:
    code = """
import logging, httpx
from fastapi import FastAPI
from labserver.stage import start
app = FastAPI()
@app.get("/here")
async def here(): logging.getLogger("app").warning("from the loop")
@app.get("/there")
def there(): logging.getLogger("app").warning("from a worker thread")
with start(app, access_log=False) as live:
    httpx.get(live.url + "/here"), httpx.get(live.url + "/there")
    logging.getLogger("cell").warning("from the cell")
print([line for line in live.logs() if line.startswith("from")])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stderr == "from the cell\n"
    assert done.stdout == "['from the loop', 'from a worker thread']\n"


def test_a_badly_formatted_log_call_is_kept_and_harms_no_request() -> None:
    code = """
import logging, httpx
from fastapi import FastAPI
from labserver.stage import start
app = FastAPI()
@app.get("/")
async def here(): logging.getLogger("app").warning("%d items", "x")
with start(app, access_log=False) as live:
    print(httpx.get(live.url).status_code)
print([line for line in live.logs() if "items" in line], live.errors())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("200\n['%d items'] []\n", "")


def test_a_task_nobody_awaited_is_an_error_of_its_server() -> None:
    app = FastAPI()

    async def fail() -> None:
        raise ValueError("lost")

    @app.get("/")
    async def spawn() -> None:
        asyncio.create_task(fail())  # noqa: RUF006 - the mistake under test

    with start(app) as live:
        httpx.get(live.url)
        until(lambda: "ValueError: lost" in live.errors())


def test_logging_of_everybody_else_is_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    start(Streams().app)
    with caplog.at_level(logging.INFO):
        logging.getLogger("uvicorn.error").info("another uvicorn")
    assert "another uvicorn" in caplog.messages


def echo_settings() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def interval(settings: Annotated[Settings, Depends(get_settings)]) -> float:
        return settings.sse_interval

    @app.websocket("/ws")
    async def ws(socket: WebSocket, settings: Annotated[Settings, Depends(get_settings)]) -> None:
        await socket.accept()
        await socket.send_json(settings.sse_interval)

    return app


def test_settings_belong_to_one_server_and_reach_mounted_apps() -> None:
    apps = []
    for _ in range(2):
        app, part, deep = echo_settings(), echo_settings(), echo_settings()
        part.mount("/deep", deep)
        app.routes.append(Mount("/part", app=part))
        apps.append(app)
    fast = start(apps[0], name="fast", settings=Settings(sse_interval=0.001))
    usual = start(apps[1], name="usual")
    for path in ("/", "/part/", "/part/deep/"):
        assert httpx.get(fast.url + path).json() == 0.001
        assert httpx.get(usual.url + path).json() == get_settings().sse_interval
    with connect(f"{fast.ws_url}/part/ws") as client:
        assert client.recv() == "0.001"


def test_each_server_has_a_secret_of_its_own_unless_the_settings_hold_one() -> None:
    app = FastAPI()

    @app.get("/")
    def secret(settings: Annotated[Settings, Depends(get_settings)]) -> str:
        return settings.secret.get_secret_value() if settings.secret else ""

    made = [httpx.get(start(app, settings=Settings(secret=None)).url).json() for _ in range(2)]
    assert all(len(secret) >= 32 for secret in made)
    assert made[0] != made[1]
    assert httpx.get(start(app, settings=Settings(secret="yours" * 7)).url).json() == "yours" * 7


def test_settings_do_not_stick_to_the_app() -> None:
    app = echo_settings()
    for _ in range(2):
        assert httpx.get(start(app, settings=Settings(sse_interval=0.001)).url).json() == 0.001
    assert httpx.get(start(app).url).json() == get_settings().sse_interval


def test_an_override_that_was_there_comes_back() -> None:
    app = echo_settings()
    give_settings(app, Settings(sse_interval=0.5))
    assert httpx.get(start(app).url).json() == 0.5
    assert httpx.get(start(app, settings=Settings(sse_interval=0.001)).url).json() == 0.001
    assert httpx.get(start(app).url).json() == 0.5


def test_settings_reach_an_app_under_middleware() -> None:
    app = echo_settings()

    class Wrapped:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await self.app(scope, receive, send)

    live = start(Wrapped(app), settings=Settings(sse_interval=0.001))
    assert httpx.get(live.url).json() == 0.001


async def plain(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"plain"})


def test_settings_without_a_fastapi_app_are_refused() -> None:
    with pytest.raises(LabError, match="FastAPI app"):
        start(plain, settings=Settings())


def test_serves_any_asgi_app_a_factory_and_a_name() -> None:
    assert httpx.get(start(plain).url).text == "plain"
    assert httpx.get(start(lambda: plain).url).text == "plain"
    assert httpx.get(start("labserver.service.app:create_app").url + "/healthz").status_code == 200


@pytest.mark.parametrize(
    ("app", "sentence"),
    [
        ("no_such_module:app", "module:attribute"),
        ("labserver.settings:nothing", "module:attribute"),
        ("just words", "module:attribute"),
        (17, "ASGI app such as FastAPI"),
    ],
)
def test_what_is_no_app_is_one_sentence(app: Any, sentence: str) -> None:
    with pytest.raises(LabError, match=sentence):
        start(app)


def test_resolve_does_not_call_an_app() -> None:
    app = FastAPI()
    assert resolve(app) is app
    assert resolve(lambda: app) is app
    assert resolve(plain) is plain


@pytest.mark.parametrize("option", ["reload", "workers", "uds", "fd", "log_config", "no_such_option"])
def test_options_without_meaning_here_are_refused(option: str) -> None:
    with pytest.raises(LabError, match=option):
        start(plain, **{option: True})


def test_socket_options_bound_what_the_system_holds_for_a_client_that_does_not_read() -> None:
    app, held = FastAPI(), [0]

    @app.get("/endless")
    async def endless() -> StreamingResponse:
        async def stream() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 10_000
                held[-1] += 10_000
                await asyncio.sleep(0)  # its end is noticed here

        return StreamingResponse(stream())

    for options in ([], [(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 << 10)]):
        held.append(0)
        live = start(app, socket_options=options)
        with socket.create_connection((live.host, live.port)) as client:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: test\r\n\r\n")
            before = -1
            while not 0 < held[-1] == before:  # until nothing more is taken
                before = held[-1]
                time.sleep(0.3)
    assert 0 < held[2] < held[1] / 2


@pytest.mark.parametrize("option", [(1, 2), (socket.SOL_SOCKET, 1 << 20, 1), 3], ids=str)
def test_a_socket_option_that_the_system_does_not_know_is_one_sentence(option: Any) -> None:
    with pytest.raises(LabError, match="socket_options: the system refuses"):
        start(plain, socket_options=[option])


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize(
    "option",
    [
        {"port": "8000"},
        {"socket_options": 1},
        {"host": 1},
        {"timeout_graceful_shutdown": "x"},
        {"ws": "nope"},
        {"loop": "nope"},
        {"log_level": "nope"},
        {"ssl_certfile": "/nope"},
    ],
    ids=str,
)
def test_a_value_that_uvicorn_can_not_use_is_one_sentence(
    option: dict[str, Any], process: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    ((name, value),) = option.items()
    with pytest.raises(LabError) as refused:
        start("labserver.service.app:create_app", process=process, **option)
    sentence = str(refused.value)
    assert f"{name}={value!r}" in sentence
    assert "ws_max_size" not in sentence
    assert capfd.readouterr() == ("", "")


def test_a_value_of_a_wrong_type_does_not_stop_what_runs() -> None:
    live = start(plain)
    with pytest.raises(LabError, match="an int, without quotes"):
        start(plain, port="8000")
    assert live.alive


def test_the_message_limit_is_that_of_the_settings() -> None:
    live = start(Streams().app, settings=Settings(message_max_bytes=1000))
    with connect(f"{live.ws_url}/ws") as client:
        client.send("x" * 1001)
        with pytest.raises(websockets.ConnectionClosed) as closed:
            client.recv(timeout=5)
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009


def test_ipv6_and_any_address_are_reachable_by_their_url() -> None:
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        live = start(plain, host="::1")
    except LabError:
        pytest.skip("this machine has no IPv6 loopback")
    assert "[::1]" in live.url
    assert httpx.get(live.url).text == "plain"
    assert httpx.get(start(plain, host="0.0.0.0").url).text == "plain"


def test_context_managers_stop() -> None:
    with start(plain) as live:
        assert live.alive
    assert not live.alive


async def test_async_context_manager_stops() -> None:
    async with start(plain) as live, httpx.AsyncClient() as client:
        assert (await client.get(live.url)).text == "plain"
    assert not live.alive


def test_submit_runs_on_the_servers_loop() -> None:
    async def where() -> str:
        return threading.current_thread().name

    live = start(plain)
    assert live.submit(where()).result(5) == "labserver-lab"
    live.stop()
    with pytest.raises(LabError, match="stopped"):
        live.submit(where())


def test_a_request_may_stop_its_own_server() -> None:
    app = FastAPI()
    held: dict[str, LiveServer] = {}

    @app.get("/stop")
    async def stop() -> bool:
        return held["live"].stop()

    live = held["live"] = start(app)
    assert httpx.get(f"{live.url}/stop").json() is False  # it can't wait for its own end
    until(lambda: not live.alive)
    assert rescue().twin == "No server was running."
    live = held["live"] = start(app)
    assert httpx.get(f"{live.url}/stop").json() is False
    assert start(plain).alive


@pytest.mark.parametrize("loop", ["auto", "asyncio"])
def test_a_loop_that_never_turns_is_freed(loop: str) -> None:
    ended, app = [], FastAPI()

    @app.get("/")
    async def tight() -> StreamingResponse:
        async def numbers() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                while True:
                    yield b""  # nothing is written, nothing is awaited: the loop is not reached any more
            finally:
                ended.append("tight")

        return StreamingResponse(numbers())

    live = start(app, loop=loop)
    with httpx.Client() as client, client.stream("GET", live.url) as response:
        chunks = response.iter_raw()
        next(chunks)
        assert live.stop()
    assert ended == ["tight"]


def test_what_blocks_beyond_reach_is_reported_and_not_waited_for() -> None:
    release, app = threading.Event(), FastAPI()

    @app.get("/")
    async def blocks() -> None:
        release.wait(20)

    live = start(app, settings=Settings(stop_timeout=0.3))
    request = threading.Thread(target=httpx.get, args=(live.url,))
    request.start()
    _wait_blocked(live)
    try:
        assert not live.stop()
        for _ in range(2):
            assert rescue().twin == "lab (thread): did not end: restart the kernel"
        with pytest.raises(LabError, match="could not be stopped"):
            start(plain)
    finally:
        release.set()
    request.join(10)
    until(lambda: not live.alive)
    assert rescue().twin == "No server was running."
    assert start(plain).alive


def _wait_blocked(live: LiveServer) -> None:
    """Wait until the server's loop no longer answers."""

    def blocked() -> bool:
        turned = threading.Event()
        live._runner._engine.call(turned.set)  # type: ignore[attr-defined]
        return not turned.wait(0.1)

    until(blocked)


def test_a_grace_period_lets_streams_finish() -> None:
    app = FastAPI()

    @app.get("/")
    async def finite() -> StreamingResponse:
        async def numbers() -> AsyncIterator[bytes]:
            for number in range(10):
                yield b"%d " % number
                await asyncio.sleep(0.02)

        return StreamingResponse(numbers())

    for grace, whole in ((5, True), (None, False)):
        live = start(app, **({"timeout_graceful_shutdown": grace} if grace else {}))
        with httpx.Client() as client, client.stream("GET", live.url) as response:
            chunks = response.iter_raw()
            got = [next(chunks)]
            assert live.stop()
            try:
                got += chunks
            except httpx.RemoteProtocolError:
                assert not whole
            assert (b"".join(got).split()[-1] == b"9") is whole


def test_nothing_leaks_after_thirty_servers() -> None:
    def once() -> None:
        streams = Streams()
        with ExitStack() as clients:
            live = start(streams.app)
            open_streams(live, clients, "/sse", "/ws")
            httpx.get(f"{live.url}/sync", verify=False)  # a worker thread
            assert live.stop()

    once()
    here = psutil.Process()
    threads, descriptors = threading.active_count(), here.num_fds()
    for _ in range(30):
        once()
    until(lambda: threading.active_count() <= threads)
    assert here.num_fds() <= descriptors
    assert [c for c in here.net_connections() if c.status == psutil.CONN_LISTEN] == []


def test_rescue_reports_what_it_did() -> None:
    assert rescue().twin == "No server was running."
    one, two = start(plain, name="two"), start(plain, name="one")
    tape = one.tape().open()
    report = rescue()
    assert report.twin == "one (thread): stopped\ntwo (thread): stopped\n1 open tape: ended"
    assert "<li>one (thread): stopped</li>" in report.html
    assert not one.alive
    assert not two.alive
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(tape.url.rpartition(":")[2])), timeout=2)


def test_a_tape_is_bound_to_the_server() -> None:
    live = start(plain)
    with live.tape() as tape:
        assert httpx.get(tape.url).text == "plain"
    assert tape.events


def test_an_interrupted_start_leaves_nothing() -> None:
    """What a notebook's interrupt button does while a lifespan hangs."""
    code = """
import asyncio, contextlib, os, signal, threading
from fastapi import FastAPI
from labserver.stage import start
@contextlib.asynccontextmanager
async def lifespan(app):
    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
    await asyncio.Event().wait()
    yield
try:
    start(FastAPI(lifespan=lifespan))
except KeyboardInterrupt:
    print([t.name for t in threading.enumerate()])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("['MainThread']\n", "")


def test_a_stop_before_there_is_a_loop_is_not_lost() -> None:
    log = Log(10)
    engine = Engine(plain, log, {})
    engine.ask()
    thread = threading.Thread(target=engine.run)
    thread.start()
    try:
        until(engine.ended.is_set)
    finally:
        engine.ask()
        thread.join(5)
    assert not engine.started.is_set()
    assert "Application startup complete." not in log.messages()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(engine.address, timeout=2)


def test_a_start_interrupted_at_its_first_step_leaves_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interrupt comes while the thread is there and its loop is not."""
    asked, run, ask, begin = threading.Event(), Engine.run, Engine.ask, threading.Thread.start

    def late(engine: Engine) -> None:
        asked.wait(5)
        run(engine)

    def noticed(engine: Engine) -> None:
        ask(engine)
        asked.set()

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name == "labserver-lab":
            raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "run", late)
    monkeypatch.setattr(Engine, "ask", noticed)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        start(plain)
    assert not [thread for thread in threading.enumerate() if thread.name == "labserver-lab"]
    assert rescue().twin == "No server was running."


def test_a_process_ends_although_its_server_was_never_stopped() -> None:
    code = """
import asyncio, contextlib, httpx
from fastapi import FastAPI
from labserver.stage import start
@contextlib.asynccontextmanager
async def lifespan(app):
    yield
    print("lifespan ended")
app = FastAPI(lifespan=lifespan)
@app.get("/")
def worker(): return 1
live = start(app)
httpx.get(live.url)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "lifespan ended\n", "")


def test_first_call_is_quick() -> None:
    code = """
import time
began = time.process_time()
from fastapi import FastAPI
from labserver.stage import start
start(FastAPI())
print(time.process_time() - began)
import sys
print(sorted({"anthropic", "sqlalchemy", "nats"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    seconds, heavy = done.stdout.splitlines()
    assert heavy == "[]"
    assert float(seconds) < 3  # of CPU; 0.8 s on a machine of its own


def test_tls_shows_in_the_urls(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {folder}/key "
        f"-out {folder}/cert -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1",
        shell=True,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl is missing: no certificate for this test")
    streams = Streams()
    live = start(streams.app, ssl_certfile=f"{folder}/cert", ssl_keyfile=f"{folder}/key")
    assert live.url.startswith("https://")
    assert live.ws_url.startswith("wss://")
    with pytest.raises(LabError, match="without ssl_certfile="):
        live.tape()
    trusted = ssl.create_default_context(cafile=f"{folder}/cert")
    with httpx.Client(verify=trusted) as client, client.stream("GET", f"{live.url}/sse") as response:
        chunks = response.iter_raw()
        next(chunks)
        assert live.stop()
    assert streams.ended == ["sse"]
