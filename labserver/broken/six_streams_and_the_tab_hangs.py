"""The twin of `production` whose page opens a stream for each channel."""

import asyncio
import json
import random
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from inspect import ismethod
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, Path, Query, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.requests import HTTPConnection
from fastapi.responses import HTMLResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, generate_latest

from labserver.patterns.origin import same_origin
from labserver.settings import Settings, get_settings

PATTERN = "production"
WRONG = "Over HTTP/1.1 a browser opens six connections to a server: the seventh stream, and every other request, waits."

HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # no copy in a cache, no wait in nginx
NO_STORE = {"Cache-Control": "no-store"}
RESTART = 1012  # the server restarts (IANA's registry of close codes)
NAME = "[a-z0-9]{1,20}"
BODY_MAX = 16 << 10  # bytes of a published text

Limits = Annotated[Settings, Depends(get_settings)]
Channel = Annotated[str, Path(pattern=f"^{NAME}$")]
Channels = Annotated[str, Query(pattern=f"^{NAME}(,{NAME}){{0,19}}$", description="names, with commas between them")]

metrics = CollectorRegistry()
streams = Gauge("feed_open_streams", "Streams that are open now.", ["kind"], registry=metrics)
sent = Counter("feed_sent", "What went out to clients.", ["what"], registry=metrics)
drains = Counter("feed_drains", "How often this server was asked to end.", registry=metrics)


class Listener:
    """A client of some channels. Its queue holds channels and texts; None: say goodbye, and end."""

    def __init__(self, channels: str, settings: Settings) -> None:
        self.channels = channels.split(",")
        self.room = settings.sse_outbox_events
        self.queue: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
        self.why = ""
        self.left = asyncio.Event()

    def offer(self, channel: str, text: str) -> None:
        """Put a text into the queue; a client that reads too slowly is better off when it begins anew."""
        self.queue.put_nowait((channel, text))
        if self.queue.qsize() > self.room:
            self.end("you read too slowly")

    def end(self, why: str) -> None:
        """Have the client told goodbye, once."""
        if not self.why:
            self.why = why
            self.queue.put_nowait(None)


class Drain:
    """The end of this server as its streams live it: each is told to go before uvicorn stops."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.begun = False
        self.hurry = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.before: dict[int, Any] = {}  # who heard each signal

    def chain(self) -> None:
        """Hear the signals before who hears them now, uvicorn. Only a main thread has signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if threading.current_thread() is threading.main_thread() and ismethod(handler):
                self.before[number] = handler
                signal.signal(number, self.on_signal)

    def on_signal(self, number: int, frame: Any) -> None:
        """The first begins the drain, and is passed on when that is done; the second is passed on at once."""
        first, self.begun = not self.begun, True
        self.loop.call_soon_threadsafe(self.drain_first if first else self.pass_on, number, frame)

    def drain_first(self, number: int, frame: Any) -> None:
        self.task = asyncio.create_task(self.run())
        self.task.add_done_callback(lambda _: self.before[number](number, frame))

    def pass_on(self, number: int, frame: Any) -> None:
        self.hurry.set()
        self.loop.call_later(0.05, self.before[number], number, frame)  # the streams' turn comes first

    async def run(self) -> None:
        """Tell each stream, spread over `drain_seconds`, and wait until it has left; not long for one that is deaf."""
        self.begun = True
        drains.inc()
        told = random.sample(list(listeners), len(listeners))
        with suppress(TimeoutError):
            for listener in told:
                listener.end("the server restarts")
                with suppress(TimeoutError):
                    await asyncio.wait_for(self.hurry.wait(), self.settings.drain_seconds / len(told))
            async with asyncio.timeout(self.settings.goodbye_timeout):
                for listener in told:
                    await listener.left.wait()

    async def run_now(self) -> None:
        """Tell all at once."""
        self.hurry.set()
        await self.run()


drain: Drain
listeners: set[Listener] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Be ready to drain: by a signal, or, where there are none, by whoever stops the server (`state["drain"]`)."""
    global drain
    drain = Drain(app.dependency_overrides.get(get_settings, get_settings)())
    drain.chain()
    yield {"drain": drain.run_now}


router = APIRouter(dependencies=[Depends(same_origin)], lifespan=lifespan)


async def subscribe(connection: HTTPConnection, channels: Channels, settings: Limits) -> AsyncIterator[Listener]:
    """Be among the listeners, however the stream ends. Who comes while the server drains is told so at once."""
    listener, kind = Listener(channels, settings), connection.scope["type"]  # "http" or "websocket"
    listeners.add(listener)
    streams.labels(kind).inc()
    if drain.begun:
        listener.end("the server restarts")
    try:
        yield listener
    finally:
        listeners.discard(listener)
        streams.labels(kind).dec()
        listener.left.set()


Subscription = Annotated[Listener, Depends(subscribe)]


def comeback(settings: Settings) -> float:
    """Return after how many seconds a client is to come back: each another time, so that they don't come as one."""
    return settings.sse_retry * random.uniform(0.5, 1.5)


def encode(event: str, data: str, retry: float | None = None) -> str:
    """Return one event in the wire's form; `data` is JSON or another single line, `retry` seconds."""
    sent.labels(event if event == "drain" else "event").inc()
    return f"event: {event}\n" + (f"retry: {retry * 1000:.0f}\n" if retry is not None else "") + f"data: {data}\n\n"


@router.get("/feed")
async def feed(request: Request, listener: Subscription, settings: Limits) -> StreamingResponse:
    """All channels that a page wants over one connection; `same_origin` has looked whose page it is."""

    async def stream() -> AsyncIterator[str]:
        yield encode("ready", ",".join(listener.channels), settings.sse_retry)
        while True:
            try:
                item = await asyncio.wait_for(listener.queue.get(), settings.sse_keepalive)
            except TimeoutError:
                sent.labels("heartbeat").inc()
                yield ": heartbeat\n\n"
                continue
            if item is None:
                yield encode("drain", listener.why, comeback(settings))
                return
            channel, text = item
            yield encode(channel, json.dumps(text))

    origin = request.headers.get("origin")
    readable = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true"} if origin else {}
    headers = {**HEADERS, "Vary": "Origin", **readable}
    return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)


@router.websocket("/feed/ws")
async def socket_feed(websocket: WebSocket, listener: Subscription, settings: Limits) -> None:
    """The same for a WebSocket, whose heartbeat is uvicorn's ping. It ends with 1012, and the seconds as its reason."""
    await websocket.accept()

    async def listen() -> None:
        while True:
            await websocket.receive_text()  # nothing is expected from the client but its leaving

    try:
        async with asyncio.TaskGroup() as tasks:
            listening = tasks.create_task(listen())
            while (item := await listener.queue.get()) is not None:
                await websocket.send_text(json.dumps({"channel": item[0], "text": item[1]}))
                sent.labels("event").inc()
            listening.cancel()
        sent.labels("drain").inc()
        await websocket.close(RESTART, f"{listener.why}: come back in {comeback(settings):.1f} s")
    except* KeyError:  # a binary message has no "text"
        await websocket.close(1003, "text messages only")
    except* (WebSocketDisconnect, RuntimeError):
        pass  # it has left


@router.post("/feed/{channel}", status_code=202, max_body_size=BODY_MAX)
async def publish(channel: Channel, text: Annotated[str, Body(embed=True)]) -> dict[str, int]:
    """Say something on a channel, JSON such as `{"text": "hello"}`; the answer says how many listen to it."""
    to = [listener for listener in listeners if channel in listener.channels and not listener.why]
    for listener in to:
        listener.offer(channel, text)
    return {"listeners": len(to)}


@router.get("/healthz")
async def healthz(response: Response) -> dict[str, str]:
    """The process answers: there is no need to kill it."""
    response.headers.update(NO_STORE)
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(response: Response) -> dict[str, str]:
    """Whether a balancer may send new clients here: not while the server drains."""
    response.headers.update(NO_STORE)
    response.status_code = 503 if drain.begun else 200
    return {"status": "draining" if drain.begun else "ready"}


@router.get("/metrics")
async def read_metrics() -> Response:
    """For Prometheus."""
    return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST, headers=NO_STORE)


@router.get("/feed/page")
async def page(channels: Channels) -> HTMLResponse:
    """A page that hears its channels."""
    return HTMLResponse("""\
        <!doctype html>
        <title>feed</title>
        <ol id="heard"></ol>
        <script>
          const names = new URLSearchParams(location.search).get("channels").split(",");
          const hear = event => heard.append(Object.assign(document.createElement("li"), {textContent: event.data}));
          for (const name of names) new EventSource("../feed?channels=" + name).addEventListener(name, hear);
        </script>
    """)
