"""Bytes in, events out: however they were cut, whatever they were."""

import gzip
import random
from dataclasses import replace

import pytest

from labserver.stage.wire import End, WireEvent, parse

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
GET = b"GET /events HTTP/1.1\r\nHost: x\r\n\r\n"
STREAM = (
    '\ufeff: hello\n\nid: 1\ndata: {"a": 1}\n\nevent: tick\r\ndata: one\r\ndata: two\r\n\r\n'
    "id: 2\nretry: 500\n\n:\n\ndata\n\nevent: done\ndata: \n\nid: 9\ndata: unfin"
).encode()


def meaning(events: list[WireEvent]) -> list[WireEvent]:
    """The events without what depends on the reads: times and arrivals; each direction in its own order."""
    bare = [replace(event, at=0.0, arrivals=()) for event in events]
    return sorted(bare, key=lambda event: event.sender)


@pytest.mark.parametrize("seed", range(6))
def test_events_do_not_depend_on_the_reads(talk, answer, conversation, seed: int) -> None:  # type: ignore[no-untyped-def]
    lines = b"".join(b'{"id": %d, "name": "\xc3\xa4"}\n' % number for number in range(40))
    half = answer("text/event-stream", STREAM, end=False)
    zipped = answer("application/x-ndjson", gzip.compress(lines), more="Content-Encoding: gzip\r\n")
    cut = (End(9.0, "server", "eof"),)
    cases = [
        (*conversation, ()),
        (GET, answer("text/event-stream", STREAM), ()),
        (GET, half, cut),
        (GET + GET, answer("application/x-ndjson", lines) + zipped, ()),
        (GET, answer("text/plain", lines, chunk=4000)[:-3], cut),
        (UPGRADE, conversation[1][:-40], cut),
    ]
    for client, server, ends in cases:
        whole = parse(talk(client, server, *ends))
        assert len(whole) > 2
        assert meaning(parse(talk(client, server, *ends, seed=seed))) == meaning(whole)


def test_random_bytes_never_raise(talk, conversation) -> None:  # type: ignore[no-untyped-def]
    rng = random.Random(7)
    client, server = conversation
    for _ in range(150):
        broken = bytearray(server[:600])
        for _ in range(rng.randrange(1, 6)):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        sent = bytearray(client[: rng.randrange(400)])
        if sent:
            sent[rng.randrange(len(sent))] = rng.randrange(256)
        parse(talk(bytes(sent), bytes(broken), End(2.0, "server", "reset"), seed=rng.randrange(99)))


def test_a_full_tape_is_not_taken_for_a_cut(talk, answer) -> None:  # type: ignore[no-untyped-def]
    gone = End(2.0, "server", "eof")
    half = answer("text/event-stream", b"data: 1\n\ndata: 2", end=False)
    assert [event.kind for event in parse(talk(GET, half, gone, full=True))] == ["open", "open", "event", "full"]
    assert [event.kind for event in parse(talk(GET, half))] == ["open", "open", "event"], "the rest may still come"
    assert [event.kind for event in parse(talk(GET, half, gone))] == ["open", "open", "event", "lost", "cut"]
