"""The clients against servers that are kind, broken and hostile, all real: what they yield, and what they ask."""

import asyncio
import gc
import json
import socket as sockets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from starlette.requests import Request as StarletteRequest
from websockets.asyncio.server import ServerConnection, serve
from websockets.http11 import Request, Response

from labserver.realtime.client import Ended, Event, Gap, Retry, StreamFailed, events, records, socket
from labserver.realtime.codes import CODES, FORBIDDEN, NORMAL, RESTART, UNAUTHENTICATED, Refused
from labserver.realtime.limits import Limits
from labserver.realtime.streams import EventStream
from labserver.school.hostile import Hostile, Reply, in_turn
from labserver.stage import LiveServer, fault_proxy
from labserver.stage.proxies.fault_proxy import FaultProxy

from .wire import DEADLINE, Lab, Marked, publish, served, until

FATAL = [204, 302, 400, 401, 403, 404, 410, 422]
PASSING = [408, 425, 429, 500, 502, 503, 504]
DIRECT = {"proxy": None}  # no proxy of the machine's


class Waits(list[float]):
    """Notes the waits that a client means to have, and lets it go on at once."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)
        await asyncio.sleep(0)

    def retry(self, **options: Any) -> Retry:
        return Retry(**{"attempts": 8, "jitter": lambda: 1.0, "sleep": self, **options})


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture(autouse=True)
async def nothing_left() -> AsyncIterator[None]:
    """No task outlives a test, whoever collects."""
    yield
    await until(lambda: len(asyncio.all_tasks()) == 1, 5)


def says(*values: Any, first: int = 1, end: str = "cut", **reply: Any) -> Reply:
    """Return an answer with a message for each value, numbered from `first`."""
    return Reply(tuple(message(n, value) for n, value in enumerate(values, first)), end, **reply)  # type: ignore[arg-type]


def message(n: int, value: Any, name: str = "message") -> bytes:
    return f"id: e-{n}\nevent: {name}\ndata: {json.dumps(value)}\n\n".encode()


DONE = Reply((message(99, {}, "done"),))


async def heard(stream: Any) -> list[Any]:
    """Return what a stream yields, up to its end: (event or "gap", data)."""
    async with stream as items:
        return [_short(item) async for item in items]


def _short(item: Any) -> Any:
    if isinstance(item, Gap):
        return "gap", item.id
    return (item.event, item.data) if isinstance(item, Event) else item


# ---- what an answer means


async def test_a_stream_is_resumed_after_every_way_to_break(hostile: Hostile, waits: Waits) -> None:
    endings = ("cut", "reset", "whole", "silent")
    replies = [says(n, first=n, end=end) for n, end in enumerate(endings, 1)]
    hostile.script("/", in_turn(*replies, Reply(end="reset", status=0), DONE))
    got = await heard(events(f"{hostile.url}/", retry=waits.retry(), silence=1.0))
    assert got == [*(("message", n) for n in (1, 2, 3, 4)), ("done", {})]
    asked = [visit.last_event_id for visit in hostile.visits("/")]
    assert asked == [None, "e-1", "e-2", "e-3", "e-4", "e-4"]
    assert waits == [1, 1, 1, 1, 2]  # a message ends a row of failures


@pytest.mark.parametrize("status", FATAL)
async def test_a_refusal_for_good_ends_at_once(status: int, hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply(status=status)))
    with pytest.raises(Ended) as ended:
        await heard(events(f"{hostile.url}/", retry=waits.retry(), token="t"))
    assert ended.value.code == status
    assert len(hostile.visits("/")) == 1
    assert waits == []


@pytest.mark.parametrize("status", PASSING)
async def test_a_refusal_for_now_is_waited_for_as_it_asks(status: int, hostile: Hostile, waits: Waits) -> None:
    later = (("Retry-After", "7"),)
    hostile.script("/", in_turn(Reply(status=status), Reply(status=status, headers=later), DONE))
    assert await heard(events(f"{hostile.url}/", retry=waits.retry())) == [("done", {})]
    assert waits == [1, 7 + 2]


@pytest.mark.parametrize("said", ["soon", "-1", "9" * 400, "Fri, 31 Dec 1999 23:59:59 GMT", "1.5"])
async def test_an_odd_retry_after_is_no_reason_to_fail(said: str, hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply(status=503, headers=(("Retry-After", said),)), DONE))
    await heard(events(f"{hostile.url}/", retry=waits.retry()))
    assert waits == [86_401 if said.isdigit() else 1]


@pytest.mark.parametrize("kind", ["text/html", "", "text/event-stream-not"])
@pytest.mark.parametrize("client", [events, records])
async def test_what_is_no_stream_ends_at_once(client: Any, kind: str, hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply((b"data: 1\n\n",), "whole", headers=(("Content-Type", kind),))))
    with pytest.raises(Ended, match="no stream"):
        await heard(client(f"{hostile.url}/", retry=waits.retry()))
    assert waits == []


async def test_the_type_may_have_parameters_and_any_case(hostile: Hostile) -> None:
    hostile.script("/", in_turn(Reply(DONE.pieces, headers=(("Content-Type", "Text/Event-Stream; charset=utf-8"),))))
    assert await heard(events(f"{hostile.url}/")) == [("done", {})]


async def test_a_server_that_is_not_there_yet_is_waited_for(waits: Waits) -> None:
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Ended) as ended:
        await heard(events(f"http://127.0.0.1:{port}/", retry=waits.retry(attempts=5, cap=4.0)))
    assert waits == [1, 2, 4, 4, 4]
    assert isinstance(ended.value.__cause__, StreamFailed)
    with pytest.raises(Ended):
        await heard(socket(f"ws://127.0.0.1:{port}/", retry=waits.retry(attempts=2), dial=DIRECT))


async def test_a_finite_stream_without_its_end_is_a_failure_and_says_so(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(says(1, end="whole")))
    with pytest.raises(Ended, match="without done, error or drain"):
        await heard(events(f"{hostile.url}/", retry=waits.retry(attempts=0)))


async def test_an_url_that_is_none_is_not_tried_again(waits: Waits) -> None:
    for client in (events, records):
        with pytest.raises(Ended, match="protocol"):
            await heard(client("example.org", retry=waits.retry()))
    assert waits == []


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_a_wait_that_can_not_be_is_refused(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="0 < base <= cap"):
        Retry(base=base, cap=cap)


async def test_waits_are_spread_over_the_whole_of_a_growing_ceiling(hostile: Hostile) -> None:
    waits = Waits()
    hostile.script("/", in_turn(Reply(status=503)))
    with pytest.raises(Ended):
        await heard(events(f"{hostile.url}/", retry=Retry(base=1, cap=64, attempts=100, sleep=waits)))
    assert all(wait <= 2.0**n for n, wait in enumerate(waits[:6]))
    assert max(waits) > 48
    assert min(waits[6:]) < 16


# ---- what an event stream says


async def test_retry_of_the_stream_is_the_least_wait(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply((b"retry: 3000\n",), "cut"), Reply(status=503), says(1), DONE))
    await heard(events(f"{hostile.url}/", retry=waits.retry()))
    assert waits == [3 + 1, 3 + 2, 3 + 1]


async def test_drain_is_a_reason_to_come_back_when_it_says(hostile: Hostile, waits: Waits) -> None:
    goodbye = b'retry: 2500\nevent: drain\ndata: {"retry": 2500}\n\n'
    hostile.script("/", in_turn(Reply((message(1, 1), goodbye), "hold"), DONE))
    assert await heard(events(f"{hostile.url}/", retry=waits.retry())) == [("message", 1), ("done", {})]
    assert waits == [3.5]
    assert hostile.visits("/")[1].last_event_id == "e-1"


@pytest.mark.parametrize(
    ("data", "reason"),
    [('{"reason": "too dear"}', "too dear"), ("no JSON", "no JSON"), ('"text"', "text"), ("[1]", "[1]")],
)
async def test_error_is_raised(data: str, reason: str, hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply((message(1, 1), f"event: error\ndata: {data}\n\n".encode()))))
    async with events(f"{hostile.url}/", retry=waits.retry()) as feed:
        assert (await anext(feed)).data == 1
        with pytest.raises(StreamFailed, match=reason.strip("[]")):
            await anext(feed)
    assert waits == []


async def test_done_is_the_last_event_whatever_its_data(hostile: Hostile) -> None:
    hostile.script("/", in_turn(Reply((b"event: done\ndata:\n\ndata: 2\n\n",))))
    assert await heard(events(f"{hostile.url}/")) == [("done", None)]


@pytest.mark.parametrize("number", [1, 2])
async def test_a_message_that_is_not_newer_is_reported(number: int, hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(says(1, 2), says("again", first=number)))
    with pytest.raises(StreamFailed, match=f"e-{number} came after e-2"):
        await heard(events(f"{hostile.url}/", retry=waits.retry()))


async def test_ids_of_another_form_or_epoch_and_no_ids_are_no_doubles(hostile: Hostile, waits: Waits) -> None:
    pieces = (
        b"id: 5\ndata: 1\n\n",
        b"id: 5\ndata: 2\n\n",
        b"data: 3\n\n",
        b"id: e-9\ndata: 4\n\n",
        b"id: f-1\ndata: 5\n\n",
    )
    hostile.script("/", in_turn(Reply(pieces, "cut"), Reply((b"id\ndata: 6\n\n",), "cut"), DONE))
    got = await heard(events(f"{hostile.url}/", retry=waits.retry()))
    assert [data for _, data in got[:-1]] == [1, 2, 3, 4, 5, 6]
    assert [visit.last_event_id for visit in hostile.visits("/")] == [None, "f-1", None]


async def test_an_id_goes_back_as_the_bytes_it_came_as(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply(("id: é 7\n\n".encode(),), "cut"), DONE))
    await heard(events(f"{hostile.url}/", retry=waits.retry()))
    assert hostile.visits("/")[1].headers["last-event-id"].encode("latin-1").decode() == "é 7"


async def test_an_id_that_no_header_can_hold_ends_clearly(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply((b"id: 7 \n\n",), "cut")))
    with pytest.raises(Ended):
        await heard(events(f"{hostile.url}/", retry=waits.retry()))
    assert len(hostile.visits("/")) == 1


async def test_a_gap_is_an_event_and_so_is_a_start_in_place_of_a_resume(hostile: Hostile, waits: Waits) -> None:
    def opening(kind: str, n: int) -> bytes:
        return message(n, {"id": f"e-{n}"}, kind)

    hostile.script(
        "/",
        in_turn(
            Reply((opening("start", 3), message(4, 4), opening("gap", 7), message(8, 8)), "cut"),
            Reply((opening("resume", 8), message(9, 9)), "cut"),
            Reply((opening("start", 20), message(21, 21), message(22, {}, "done"))),
        ),
    )
    got = await heard(events(f"{hostile.url}/", retry=waits.retry()))
    numbers = [("message", 4), ("gap", "e-7"), ("message", 8), ("message", 9), ("gap", "e-20"), ("message", 21)]
    assert got == [*numbers, ("done", {})]


async def test_after_is_where_it_begins(hostile: Hostile) -> None:
    hostile.script("/", in_turn(DONE))
    await heard(events(f"{hostile.url}/", after="e-5", headers={"X-Mine": "1"}))
    assert hostile.visits("/")[0].last_event_id == "e-5"
    assert hostile.visits("/")[0].headers["x-mine"] == "1"


@pytest.mark.parametrize("piece", [b"data: {not json\n\n", b"data: " + b"x" * 5000])
async def test_what_can_not_be_understood_ends_and_is_not_asked_for_again(
    piece: bytes, hostile: Hostile, waits: Waits
) -> None:
    hostile.script("/", in_turn(Reply((piece,))))
    with pytest.raises(Ended, match="not understood"):
        await heard(events(f"{hostile.url}/", retry=waits.retry(), limit=1000))
    assert len(hostile.visits("/")) == 1


async def test_silence_is_a_failure_and_a_comment_is_none(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(says(1, end="silent"), Reply((message(2, 2),), "hold")))
    async with events(f"{hostile.url}/", retry=waits.retry(), silence=1.5) as feed:
        assert [(await anext(feed)).data for _ in range(2)] == [1, 2]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await anext(feed)
    assert len(hostile.visits("/")) == 2


# ---- tokens


def tokens(*given: str) -> tuple[Callable[[], Awaitable[str]], list[str]]:
    left, asked = list(given), []

    async def token() -> str:
        asked.append(left.pop(0))
        return asked[-1]

    return token, asked


async def test_a_fresh_token_is_asked_for_once_and_used_at_once(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply(status=401), says(1), Reply(status=401), DONE))
    token, _ = tokens("a", "b", "c")
    assert await heard(events(f"{hostile.url}/", retry=waits.retry(), token=token)) == [("message", 1), ("done", {})]
    sent = [visit.headers["authorization"] for visit in hostile.visits("/")]
    assert sent == ["Bearer a", "Bearer b", "Bearer b", "Bearer c"]
    assert waits == [1, 2]


async def test_a_fresh_token_that_is_refused_ends(hostile: Hostile, waits: Waits) -> None:
    hostile.script("/", in_turn(Reply(status=401)))
    token, asked = tokens("a", "b", "c")
    with pytest.raises(Ended) as ended:
        await heard(events(f"{hostile.url}/", retry=waits.retry(), token=token))
    assert (ended.value.code, asked) == (401, ["a", "b"])


async def test_a_token_that_ends_in_the_stream_is_renewed_without_a_loop(hostile: Hostile, waits: Waits) -> None:
    expired = b'event: error\ndata: {"code": 4401, "reason": "the token expired"}\n\n'
    hostile.script("/", in_turn(Reply((message(1, 1), expired)), Reply((expired,)), Reply((expired,)), DONE))
    token, asked = tokens(*"abcd")
    assert len(await heard(events(f"{hostile.url}/", retry=waits.retry(), token=token))) == 2
    assert asked == [*"abcd"]
    assert waits == [2, 4]  # at once, but only for the first


async def test_what_the_token_function_raises_reaches_the_caller(hostile: Hostile, waits: Waits) -> None:
    async def token() -> str:
        raise httpx.ConnectError("no login today")

    with pytest.raises(httpx.ConnectError, match="no login today"):
        await heard(events(f"{hostile.url}/", retry=waits.retry(), token=token))
    with pytest.raises(httpx.ConnectError, match="no login today"):
        await heard(socket("ws://127.0.0.1:9/", retry=waits.retry(), token=token))


# ---- who leaves, leaves nothing


async def test_who_leaves_early_closes_the_connection_without_the_collector(
    hostile: Hostile, no_collector: None
) -> None:
    hostile.script("/", in_turn(says(1, 2, end="hold")))
    async with events(f"{hostile.url}/") as feed:
        async for _ in feed:
            break
        assert hostile.visits("/")[0].left is None
    await until(lambda: hostile.visits("/")[0].left)


async def test_who_is_cancelled_leaves_nothing_either(hostile: Hostile, no_collector: None) -> None:
    hostile.script("/", in_turn(says(1, end="hold")))
    task = asyncio.create_task(heard(events(f"{hostile.url}/")))
    await until(lambda: hostile.visits("/"))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: hostile.visits("/")[0].left)


async def test_the_callers_client_is_used_and_stays_open(hostile: Hostile) -> None:
    hostile.script("/", in_turn(DONE))
    async with httpx.AsyncClient(headers={"X-Client": "mine"}) as client:
        await heard(events(f"{hostile.url}/", client=client))
        assert not client.is_closed
    assert hostile.visits("/")[0].headers["x-client"] == "mine"


# ---- NDJSON


def lines(*values: Any, end: str = "whole", status: int = 200, tail: bytes = b"") -> Reply:
    body = b"".join(json.dumps(value).encode() + b"\n" for value in values) + tail
    pieces = tuple(bytes([each]) for each in body)
    return Reply(pieces, end, status, (("Content-Type", "application/x-ndjson"),))  # type: ignore[arg-type]


async def test_records_are_read_to_the_last(hostile: Hostile) -> None:
    hostile.script("/", in_turn(lines({"id": 1}, "é", None, [2], {"done": True, "count": 4})))
    assert await heard(records(f"{hostile.url}/")) == [{"id": 1}, "é", None, [2]]


async def test_history_that_is_not_whole_says_so(hostile: Hostile) -> None:
    hostile.script("/", in_turn(lines({"id": "e-7"}, {"done": True, "gap": True, "id": "e-7"})))
    assert await heard(records(f"{hostile.url}/")) == [{"id": "e-7"}, ("gap", "e-7")]


@pytest.mark.parametrize(
    ("reply", "error", "reason"),
    [
        (lines({"id": 1}), Ended, "without a last record"),
        (lines({"id": 1}, tail=b'{"done": true}'), Ended, "without a last record"),
        (lines({"id": 1}, end="cut"), Ended, "incomplete"),
        (lines({"id": 1}, {"error": "the source broke"}), StreamFailed, "the source broke"),
        (lines({"id": 1}, tail=b"{broken\n"), Ended, "not understood"),
        (lines({"id": 1}, tail=b'"' + b"x" * 2000), Ended, "more than 1000 bytes"),
    ],
)
async def test_records_without_a_good_end_raise_after_what_came(
    reply: Reply, error: type[Exception], reason: str, hostile: Hostile, waits: Waits
) -> None:
    hostile.script("/", in_turn(reply))
    async with records(f"{hostile.url}/", limit=1000, retry=waits.retry()) as feed:
        assert await anext(feed) == {"id": 1}
        with pytest.raises(error, match=reason):
            await anext(feed)
    assert waits == []


@pytest.fixture
def breaking() -> Iterator[tuple[str, list[str]]]:
    """A server whose records end twice before the last, and the queries that it was asked with."""
    asked: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["query_string"].decode())
        answer = {0: '{"id": 1}\n{"id": 2}\n{"i', 1: '{"id": 3}\n', 2: '{"done": true}\n'}[len(asked) - 1]
        start_ = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/x-ndjson")]}
        await send(start_)
        await send({"type": "http.response.body", "body": answer.encode()})

    with served(Lab(), "plain", app, lifespan="off") as live:
        yield f"{live.url}/items?limit=9", asked


async def test_records_that_have_a_cursor_are_resumed(breaking: tuple[str, list[str]], waits: Waits) -> None:
    url, asked = breaking
    got = await heard(records(url, by="id", retry=waits.retry()))
    assert got == [{"id": 1}, {"id": 2}, {"id": 3}]
    assert asked == ["limit=9", "limit=9&after=2", "limit=9&after=3"]


async def test_a_record_without_the_cursor_ends(hostile: Hostile) -> None:
    hostile.script("/", in_turn(lines({"id": 1}, {"name": 2})))
    with pytest.raises(Ended, match="KeyError"):
        await heard(records(f"{hostile.url}/", by="id"))


# ---- WebSockets

Handler = Callable[[ServerConnection], Awaitable[None]]


class Peer:
    """A WebSocket server that does for each connection in turn what it is told, and for all later ones the last."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = [ServerConnection.wait_closed]
        self.refusals: list[tuple[int, dict[str, str]]] = []
        self.requests: list[Request] = []
        self.said: list[Any] = []
        self.url = ""

    def refuse(self, line: ServerConnection, request: Request) -> Response | None:
        self.requests.append(request)
        if not self.refusals:
            return None
        status, headers = self.refusals.pop(0)
        response = line.respond(status, "")  # type: ignore[arg-type]
        response.headers.update(headers)
        return response

    async def handle(self, line: ServerConnection) -> None:
        handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
        await handler(line)

    async def listen(self, line: ServerConnection) -> Any:
        self.said.append(json.loads(await line.recv()))
        return self.said[-1]

    def queries(self) -> list[str]:
        return [request.path.partition("?")[2] for request in self.requests]


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    async with serve(peer.handle, "127.0.0.1", 0, process_request=peer.refuse, close_timeout=1) as server:
        peer.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws/c"
        yield peer


def frame(n: int, data: Any, name: str = "message") -> str:
    return json.dumps({"id": f"e-{n}", "channel": "c", "event": name, "data": data})


def ends(*frames: str | bytes, code: int = NORMAL, reason: str = "") -> Handler:
    """Say these and close."""

    async def handler(line: ServerConnection) -> None:
        for each in frames:
            await line.send(each)
        await line.close(code, reason)

    return handler


@pytest.mark.parametrize("code", [code for code in CODES if code not in (1000, 1006)])
async def test_a_close_code_ends_or_not_as_the_table_has_it(code: int, peer: Peer, waits: Waits) -> None:
    peer.handlers = [ends(frame(1, 1), code=code, reason="so it is"), ends(frame(2, 2))]
    line = socket(peer.url, retry=waits.retry(), dial=DIRECT, token="t")
    if CODES[code].reconnect:
        assert await heard(line) == [("message", 1), ("message", 2)]
        assert peer.queries() == ["", "after=e-1"]
        assert waits == [1]
        return
    with pytest.raises(Ended, match="so it is") as ended:
        await heard(line)
    assert ended.value.code == code
    assert len(peer.requests) == 1


async def test_a_connection_that_breaks_or_says_no_code_is_resumed(peer: Peer, waits: Waits) -> None:
    async def breaks(line: ServerConnection) -> None:
        await line.send(frame(1, 1))
        line.transport.abort()

    async def garbage(line: ServerConnection) -> None:
        line.transport.write(b"\xff" * 100)
        await line.wait_closed()

    peer.handlers = [breaks, ends(frame(2, 2), code=1001), garbage, ends(frame(3, 3, "done"), code=1011)]
    got = await heard(socket(f"{peer.url}?a=b", retry=waits.retry(), dial=DIRECT))
    assert got == [("message", 1), ("message", 2), ("done", 3)]
    assert peer.queries() == ["a=b", "a=b&after=e-1", "a=b&after=e-2", "a=b&after=e-2"]


async def test_a_restart_is_waited_for_as_long_as_it_says(peer: Peer, waits: Waits) -> None:
    peer.handlers = [ends(frame(1, 1), code=1012, reason="retry=2500"), ends()]
    await heard(socket(peer.url, retry=waits.retry(), dial=DIRECT))
    assert waits == [2.5 + 1]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 426, 429, 503, 200])
async def test_a_refused_upgrade_ends_or_not_as_a_refused_stream(status: int, peer: Peer, waits: Waits) -> None:
    peer.refusals, peer.handlers = [(status, {"Retry-After": "7"})], [ends(frame(1, 1))]
    line = socket(peer.url, retry=waits.retry(), dial=DIRECT, token="t")
    if status in PASSING:
        assert await heard(line) == [("message", 1)]
        assert waits == [7 + 1]
        return
    with pytest.raises(Ended) as ended:
        await heard(line)
    assert (ended.value.code, waits) == (status, [])


async def test_an_expired_token_is_replaced_once(peer: Peer, waits: Waits) -> None:
    start_ = json.dumps({"type": "start", "id": "e-0"})
    peer.refusals = [(401, {})]
    peer.handlers = [ends(start_, code=UNAUTHENTICATED), ends(start_, frame(1, 1), code=UNAUTHENTICATED)]
    token, asked = tokens(*"abcdefghijkl")
    line = socket(peer.url, retry=waits.retry(attempts=2), dial=DIRECT, token=token)
    peer.handlers.append(ends(code=UNAUTHENTICATED))
    with pytest.raises(Ended):
        await heard(line)
    sent = [request.headers["Authorization"] for request in peer.requests]
    assert sent == [f"Bearer {each}" for each in asked]
    assert len(asked) == 4


async def test_a_silent_socket_is_left_and_a_ping_is_a_sign_of_life(peer: Peer, waits: Waits) -> None:
    async def silent(line: ServerConnection) -> None:
        await line.wait_closed()

    async def pings(line: ServerConnection) -> None:
        for _ in range(6):
            await line.send('{"type": "ping"}')
            assert await peer.listen(line) == {"type": "pong"}
            await asyncio.sleep(0.5)
        await line.send(frame(1, 1, "done"))

    peer.handlers = [silent, pings]
    assert await heard(socket(peer.url, silence=2, retry=waits.retry(), dial=DIRECT)) == [("done", 1)]
    assert len(peer.requests) == 2


@pytest.mark.parametrize("said", ["[]", "1", '{"id": 1}', "{}", "no JSON", '{"id": "e-1", "event": "x"}', b"\xff", ""])
async def test_frames_of_another_protocol_end_clearly(said: str | bytes, peer: Peer, waits: Waits) -> None:
    peer.handlers = [ends(said)]
    with pytest.raises(Ended, match=r"protocol|understood"):
        await heard(socket(peer.url, retry=waits.retry(), dial=DIRECT))
    assert len(peer.requests) == 1


async def test_frames_of_a_later_version_are_passed_over(peer: Peer) -> None:
    peer.handlers = [ends('{"type": "weather"}', '{"type": "ack", "id": "e-9", "key": "nobody"}', frame(1, 1))]
    assert await heard(socket(peer.url, dial=DIRECT)) == [("message", 1)]


async def test_a_socket_tells_gaps_doubles_and_errors_as_a_stream_does(peer: Peer, waits: Waits) -> None:
    gap = json.dumps({"type": "gap", "id": "e-5"})
    peer.handlers = [ends(frame(1, 1), gap, frame(6, 6), frame(6, 6))]
    async with socket(peer.url, dial=DIRECT) as line:
        assert [_short(await anext(line)) for _ in range(3)] == [("message", 1), ("gap", "e-5"), ("message", 6)]
        with pytest.raises(StreamFailed, match="e-6 came after e-6"):
            await anext(line)
        with pytest.raises(StreamFailed, match="e-6 came after e-6"):  # the end stays
            await anext(line)
    peer.handlers = [ends(frame(7, {"reason": "too dear"}, "error"))]
    with pytest.raises(StreamFailed, match="too dear"):
        await heard(socket(peer.url, dial=DIRECT, retry=waits.retry()))


async def test_what_is_too_big_for_this_side_is_not_asked_for_again(peer: Peer, waits: Waits) -> None:
    peer.handlers = [ends(frame(1, "x" * 2000))]
    with pytest.raises(Ended) as ended:
        await heard(socket(peer.url, limit=1000, retry=waits.retry(), dial=DIRECT))
    assert (ended.value.code, len(peer.requests)) == (1009, 1)


async def test_a_publish_is_said_again_until_it_is_answered_with_the_same_key(peer: Peer, waits: Waits) -> None:
    async def breaks(line: ServerConnection) -> None:
        await peer.listen(line)
        line.transport.abort()

    async def answers(line: ServerConnection) -> None:
        said = await peer.listen(line)
        await line.send(json.dumps({"type": "ack", "id": "e-1", "key": said["key"]}))
        await line.wait_closed()

    peer.handlers = [breaks, breaks, answers]
    async with socket(peer.url, retry=waits.retry(), dial=DIRECT) as line:
        assert await line.publish({"text": "é"}, event="greeting") == "e-1"
    assert peer.said[0] == peer.said[1] == peer.said[2]
    assert {**peer.said[0], "key": ""} == {"type": "publish", "data": {"text": "é"}, "event": "greeting", "key": ""}


async def test_a_refused_publish_raises_and_the_socket_goes_on(peer: Peer) -> None:
    async def refuses(line: ServerConnection) -> None:
        key = (await peer.listen(line))["key"]
        await line.send(json.dumps({"type": "error", "code": FORBIDDEN, "reason": "not here", "key": key}))
        await line.send(frame(1, 1, "done"))

    peer.handlers = [refuses]
    async with socket(peer.url, dial=DIRECT) as line:
        with pytest.raises(Refused, match="not here") as refused:
            await line.publish(1)
        assert refused.value.code == FORBIDDEN
        assert [_short(each) async for each in line] == [("done", 1)]
        with pytest.raises(Ended):
            await line.publish(2)


async def test_whoever_waits_for_an_answer_hears_of_the_end(peer: Peer) -> None:
    async def closes(line: ServerConnection) -> None:
        await peer.listen(line)
        await line.close(4403, "no longer")

    peer.handlers = [closes]
    async with socket(peer.url, dial=DIRECT) as line:
        with pytest.raises(Ended, match="no longer"):
            await line.publish(1)
        with pytest.raises(Ended, match="no longer"):
            await anext(line)


async def test_leaving_ends_a_publish_that_waits(peer: Peer) -> None:
    async def listens(line: ServerConnection) -> None:
        await peer.listen(line)
        await line.wait_closed()

    peer.handlers = [listens]
    async with socket(peer.url, dial=DIRECT) as line:
        waiting = asyncio.create_task(line.publish(1))
        await until(lambda: peer.said)
        given_up = asyncio.create_task(line.publish(2, key="k"))
        await until(lambda: len(line._asking) == 2)
        with pytest.raises(ValueError, match="on its way"):
            await line.publish(3, key="k")
        given_up.cancel()
        await asyncio.wait([given_up])
        assert len(line._asking) == 1
    with pytest.raises(Ended):
        await waiting


@pytest.mark.parametrize(("data", "event"), [("\ud800", None), (1, "done"), (object(), None), (1, "two words")])
async def test_what_can_not_be_published_is_refused_here(data: Any, event: str | None, peer: Peer) -> None:
    async with socket(peer.url, dial=DIRECT) as line:
        with pytest.raises(ValueError, match=r"not JSON|as its name"):
            await line.publish(data, event)


async def test_a_publish_is_answered_behind_any_number_of_messages(peer: Peer) -> None:
    async def floods(line: ServerConnection) -> None:
        for n in range(1, 2001):
            await line.send(frame(n, n))
        said = await peer.listen(line)
        await line.send(json.dumps({"type": "ack", "id": "e-2001", "key": said["key"]}))
        await line.close()

    peer.handlers = [floods]
    async with socket(peer.url, dial=DIRECT) as line:
        assert (await anext(line)).data == 1
        assert await line.publish("me") == "e-2001"
        assert [each.data async for each in line] == list(range(2, 2001))


async def test_a_caller_who_does_not_iterate_holds_the_server_back(peer: Peer) -> None:
    sent = 0

    async def floods(line: ServerConnection) -> None:
        nonlocal sent
        for n in range(1, 1000):
            await line.send(frame(n, "x" * 100_000))
            sent = n

    peer.handlers = [floods]
    async with socket(peer.url, dial=DIRECT) as line:
        await until(lambda: line._heard.qsize() >= 64)
        seen = -1
        while seen != sent:  # until nothing moves any more
            seen = sent
            await asyncio.sleep(0.3)
        assert line._heard.qsize() == 64
        assert sent < 900


async def test_a_socket_that_is_left_says_goodbye_and_keeps_nothing(peer: Peer, no_collector: None) -> None:
    closed: list[int | None] = []

    async def holds(line: ServerConnection) -> None:
        await line.send(frame(1, 1))
        await line.wait_closed()
        closed.append(line.close_code)

    peer.handlers = [holds]
    async with socket(peer.url, dial=DIRECT) as line:
        async for _ in line:
            break
    await until(lambda: closed)
    assert closed == [NORMAL]


async def test_a_peer_that_answers_no_close_is_left_all_the_same() -> None:
    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass
        writer.close()

    server = await asyncio.start_server(deaf, "127.0.0.1", 0)
    async with server, asyncio.timeout(DEADLINE):
        async with socket(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/", dial=DIRECT) as line:
            waiting = asyncio.create_task(anext(line))
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await waiting


# ---- against channels


class Resumable(Lab):
    """The lab, for clients that come back as an EventSource does."""

    async def events(self, request: StarletteRequest) -> Marked:
        after = request.headers.get("last-event-id")
        return Marked(self, EventStream(self.channels, request.path_params["channel"], after=after))


@pytest.fixture
def lab() -> Lab:
    return Resumable(Limits(sse_retry=0.0, drain_seconds=0.0, history_messages=300))


@pytest.fixture(params=["direct", "plain"])
def live(request: pytest.FixtureRequest, lab: Lab) -> Iterator[LiveServer]:
    with served(lab, request.param) as live:
        yield live


@pytest.fixture
def faults(live: LiveServer) -> Iterator[FaultProxy]:
    with fault_proxy(live, name="client") as proxy:
        yield proxy


@asynccontextmanager
async def follower(
    wire: str, proxy: FaultProxy, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep, **options: Any
) -> AsyncIterator[AsyncIterator[Event]]:
    retry = Retry(base=0.01, cap=0.02, sleep=sleep)
    stream: Any = (
        socket(f"{proxy.ws_url}/ws/c?publish=1", retry=retry, dial=DIRECT, **options)
        if wire == "ws"
        else events(f"{proxy.url}/sse/c", retry=retry, **options)
    )
    async with stream as feed:
        yield feed


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_cuts_anywhere_lose_and_double_nothing(wire: str, lab: Lab, live: LiveServer, faults: FaultProxy) -> None:
    async def publisher() -> None:
        for n in range(1, 201):
            await publish(live, lab, {"n": n, "text": "é" * 50})

    async def cutter() -> None:
        for size in (1500, 900, 2500, 700, 5000):
            faults.set(cut_after=size)
            faults.cut()
            await asyncio.sleep(0.05)
        faults.set(cut_after=None)
        faults.cut()

    async with follower(wire, faults, after="e-0") as feed, asyncio.TaskGroup() as group:
        group.create_task(publisher())
        group.create_task(cutter())
        got = []
        async for event in feed:
            assert not isinstance(event, Gap)
            got.append(event.data["n"])
            if got[-1] == 200:
                break
        assert got == list(range(1, 201))
    await until(lab.empty)


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_a_line_that_went_dead_is_left_and_nothing_is_lost(
    wire: str, lab: Lab, live: LiveServer, faults: FaultProxy
) -> None:
    async with follower(wire, faults, silence=1.0) as feed:
        first = asyncio.ensure_future(anext(feed))
        await until(lambda: lab.channels.open)
        await publish(live, lab, 1)
        assert (await first).data == 1
        faults.set(black_hole=True)
        await publish(live, lab, 2)
        second = asyncio.ensure_future(anext(feed))
        await until(lambda: faults.connections > 1)  # it came again, by itself
        assert not second.done()
        faults.set(black_hole=False)
        assert (await second).data == 2


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_an_end_that_nobody_hears_of_is_found_by_its_silence(
    wire: str, lab: Lab, live: LiveServer, faults: FaultProxy
) -> None:
    async with follower(wire, faults, silence=1.0) as feed:
        first = asyncio.ensure_future(anext(feed))
        await until(lambda: lab.channels.open)
        faults.set(half_open=True)
        (connection,) = lab.channels.open
        live.submit(_call(connection.cut)).result(DEADLINE)
        await until(lambda: connection not in lab.channels.open and lab.channels.open)
        await publish(live, lab, 1)
        assert (await first).data == 1
        faults.set(half_open=False)


async def _call(function: Callable[[], object]) -> None:
    function()


async def test_a_publish_over_a_breaking_line_is_stored_once(lab: Lab, live: LiveServer, faults: FaultProxy) -> None:
    async with follower("ws", faults) as line:
        ids = [await line.publish(0)]  # type: ignore[attr-defined]
        faults.set(black_hole=True)
        waiting = [asyncio.create_task(line.publish(n)) for n in range(1, 4)]  # type: ignore[attr-defined]
        await asyncio.sleep(0.1)
        faults.cut()
        faults.set(black_hole=False)
        ids += await asyncio.gather(*waiting)
        faults.set(cut_after=1)
        again = asyncio.create_task(line.publish(4))  # type: ignore[attr-defined]
        await asyncio.sleep(0.2)
        faults.set(cut_after=None)
        faults.cut()
        ids.append(await again)
        assert ids == [f"e-{n}" for n in range(1, 6)]
        got = [await anext(line) for _ in ids]
        assert [(each.id, each.data) for each in got] == list(zip(ids, range(5), strict=True))
    history = await asyncio.wrap_future(live.submit(lab.channels.engine.history("c", None, None, 100)))
    assert [message_.data for message_ in history.messages] == [*"01234"]


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_a_trimmed_history_reaches_the_caller_as_a_gap(
    wire: str, lab: Lab, live: LiveServer, faults: FaultProxy
) -> None:
    waits, gate = Waits(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        waits.append(seconds)
        await gate.wait()

    async with follower(wire, faults, sleep=sleep) as feed:
        first = asyncio.ensure_future(anext(feed))
        await until(lambda: lab.channels.open)
        await publish(live, lab, 1)
        assert (await first).data == 1
        second = asyncio.ensure_future(anext(feed))
        faults.cut()
        await until(lambda: waits)
        await publish(live, lab, *range(2, 311))
        gate.set()
        assert _short(await second) == ("gap", "e-10")
        assert [(await anext(feed)).data for _ in range(300)] == [*range(11, 311)]


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_a_drain_moves_a_client_on_and_loses_nothing(
    wire: str, lab: Lab, live: LiveServer, faults: FaultProxy
) -> None:
    waits = Waits()
    async with follower(wire, faults, sleep=waits) as feed:
        first = asyncio.ensure_future(anext(feed))
        await until(lambda: lab.channels.open)
        (connection,) = lab.channels.open
        live.submit(_call(lambda: connection.close((RESTART, "retry=1250", 1.25)))).result(DEADLINE)
        await until(lambda: lab.channels.open - {connection})
        await publish(live, lab, 1)
        assert (await first).data == 1
    assert 1.25 <= waits[0] < 1.3


@pytest.mark.parametrize("wire", ["ws", "sse"])
@pytest.mark.parametrize("last", ["done", "error"])
async def test_the_last_message_of_a_channel_ends_its_readers(
    wire: str, last: Any, lab: Lab, live: LiveServer, faults: FaultProxy
) -> None:
    async with follower(wire, faults) as feed:
        first = asyncio.ensure_future(anext(feed))
        await until(lambda: lab.channels.open)
        await asyncio.wrap_future(live.submit(lab.channels.end("c", {"reason": "r"}, last)))
        if last == "error":
            with pytest.raises(StreamFailed, match="r"):
                await first
            return
        assert _short(await first) == ("done", {"reason": "r"})
        with pytest.raises(StopAsyncIteration):
            await anext(feed)


async def test_a_token_is_renewed_over_the_socket(lab: Lab, live: LiveServer) -> None:
    async with socket(f"{live.ws_url}/ws/c?ttl=30&publish=1", dial=DIRECT) as line:
        await line.publish(1)
        assert await line.renew("60") > 0
        with pytest.raises(Ended) as ended:
            await line.renew("bad")
        assert ended.value.code == UNAUTHENTICATED


@pytest.mark.parametrize("wire", ["ws", "sse"])
async def test_many_clients_come_and_go_without_a_trace(
    wire: str, lab: Lab, live: LiveServer, faults: FaultProxy, no_collector: None
) -> None:
    async def one(n: int) -> None:
        async with follower(wire, faults) as feed:
            with_one = asyncio.ensure_future(anext(feed))
            await until(lambda: lab.channels.open)
            if n % 2:
                with_one.cancel()
            await asyncio.wait([with_one], timeout=0.01)
            with_one.cancel()
            await asyncio.wait([with_one])

    await asyncio.gather(*map(one, range(20)))
    await until(lab.empty)
    await until(lambda: faults.connections == 0)
    gc.collect()
