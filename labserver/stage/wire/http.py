"""HTTP/1.1 exchanges: requests, their answers, how each answer ended, and bytes that are no HTTP at all."""

import h11

from labserver.stage.wire.body import add_body
from labserver.stage.wire.direction import Direction
from labserver.stage.wire.frames import add_frames
from labserver.stage.wire.label import elide, preview
from labserver.stage.wire.message import Message, answer_parser, read_message, request_parser
from labserver.stage.wire.reading import Reading

__all__ = ["read_exchanges"]

_INTERIM = (100, 102, 103)  # answers that announce another
_HTTP2 = b"PRI * HTTP/2"


def read_exchanges(reading: Reading) -> None:
    """Read a connection from its first request to its end; what follows a 101 are frames."""
    while reading.client.unread:
        request = _request(reading)
        answer = request and _answer(reading, request)
        if not request or not answer:
            return
        if answer.status == 101:
            add_frames(reading, answer.header(b"sec-websocket-extensions"))
            return
        reading.answers.append((reading.exchange, answer))
        add_body(reading, answer)
        if not _add_ending(reading, answer):
            return
        reading.exchange += 1
    if not reading.client.data:
        _add_silence(reading)
    elif reading.server.unread:
        _add_garbage(reading, reading.server, "bytes that nobody asked for")


# --- requests and answers


def _request(reading: Reading) -> Message | None:
    """Read the next request; None if there is none, or something else."""
    client = reading.client
    http2 = client.data.startswith(_HTTP2, client.at)
    request = "HTTP/2 is not parsed" if http2 else read_message(client, request_parser())
    if isinstance(request, Message):
        _add_request(reading, request)
        return request
    if request:
        _add_garbage(reading, client, request)
    elif reading.talk.over:
        reading.add(client, len(client.data), "lost", preview(client.rest), "half a request")
    return None


def _add_request(reading: Reading, request: Message) -> None:
    head, client = request.head, reading.client
    assert isinstance(head, h11.Request)
    path = head.target.decode("latin-1")
    label = f"{head.method.decode()} {elide(path, 60)}" + (", Upgrade: websocket" if request.upgrade else "")
    resumed = request.has(b"last-event-id")
    note = f"Last-Event-ID: {elide(request.header(b'last-event-id'), 40)}" if resumed else "HTTP request"
    raw = client.data[request.start : request.body_start]
    reading.add(client, request.body_start, "open", label, note, raw=raw, name=path)
    if body := client.cut(request.spans):
        size = len(body)
        reading.add(
            client, request.stop, "body", preview(body), f"{size} bytes of body", size=size, raw=body, data=body
        )


def _answer(reading: Reading, request: Message) -> Message | None:
    """Read the answer to a request, and interim ones before it; None if there is none, or something else."""
    server = reading.server
    while isinstance(answer := read_message(server, answer_parser(request)), Message):
        _add_answer(reading, request, answer)
        if answer.status not in _INTERIM:
            return answer
    if server.unread:
        _add_garbage(reading, server, answer or "half an answer")
    else:
        _add_no_answer(reading)
    return None


def _add_answer(reading: Reading, request: Message, answer: Message) -> None:
    assert not isinstance(answer.head, h11.Request)
    label = f"{answer.status} {answer.head.reason.decode('latin-1')}".strip()
    raw = reading.server.data[answer.start : answer.body_start]
    note = _answer_note(request, answer)
    reading.add(reading.server, answer.body_start, "open", label, note, raw=raw, name=str(answer.status))


def _answer_note(request: Message, answer: Message) -> str:
    if answer.status == 101:
        return "from here on: frames"
    if request.upgrade and answer.status not in _INTERIM:
        return "no upgrade: the handshake is refused"
    kind, coding = answer.header(b"content-type").split(";")[0], answer.header(b"content-encoding")
    return (kind or "no body") + (f", {coding}" if coding else "")


# --- ends


def _add_ending(reading: Reading, answer: Message) -> bool:
    """Add how an answer ended; return whether another may follow on this connection."""
    if answer.complete:
        sized = answer.has(b"content-length")
        how = "last chunk" if answer.chunked else "all bytes" if sized else "connection closed"
        reading.add(reading.server, answer.stop, "close", "clean end", f"by the server, {how}")
        return True
    if answer.error and not answer.error.startswith("peer closed"):
        reading.add(reading.server, answer.stop, "error", "not HTTP", elide(answer.error, 60), name="garbage")
    elif reading.client_left and reading.client.end is not None:
        reading.add_end(reading.client.end, "close", "client leaves", "by the client")
    elif reading.server.end is not None:
        reading.add_end(reading.server.end, "cut", "cut", _where_cut(answer))
    return False


def _where_cut(answer: Message) -> str:
    if not answer.chunked:
        return "bytes are missing"
    return "inside a chunk" if answer.spans and not answer.spans[-1].last else "no last chunk"


def _add_no_answer(reading: Reading) -> None:
    """A request without an answer: say who hung up, if anybody did."""
    client, server = reading.client.end, reading.server.end
    if _add_refusal(reading):
        return
    if reading.client_left and client is not None:
        reading.add_end(client, "close", "client leaves", "before the answer")
    elif server is not None:
        reading.add_end(server, "cut", "cut, no answer", "the server hung up without an answer")


def _add_silence(reading: Reading) -> None:
    """A connection on which the client said nothing."""
    if _add_refusal(reading):
        return
    if reading.server.data:
        _add_garbage(reading, reading.server, "bytes that nobody asked for")
    elif reading.client.end is not None:
        reading.add_end(reading.client.end, "close", "client leaves", "without a request")


def _add_refusal(reading: Reading) -> bool:
    end = reading.server.end
    if end is None or end.how != "refused":
        return False
    reading.add_end(end, "error", "connection refused", "nothing listens at the server's address", "refused")
    return True


def _add_garbage(reading: Reading, side: Direction, why: str) -> None:
    rest = side.rest
    label = "TLS, not HTTP" if rest[:1] == b"\x16" else "HTTP/2" if rest.startswith(_HTTP2) else "not HTTP"
    reading.add_rest(side, "error", label, elide(why, 60), name="garbage")
