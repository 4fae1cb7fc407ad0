"""`/ws/echo` under the cases of the Autobahn test suite: plain uvicorn, and our protocol in its place.

The suite runs on Python 2.7 alone; `published_suite.py` beside this file runs it where there is one, and compares it
with the two tables below. Here a client of our own sends the same by the same numbers, each group in one go.
"""

import asyncio
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from autobahn_cases import BINARY, CASES, CLOSE, DEFLATE_OFFERS, DEFLATE_SIZES, NAMES, NORMAL, TEXT, Case, close, frame

from labserver.realtime.direct import protocols
from labserver.realtime.limits import Limits
from labserver.stage import LiveServer, start

PLAIN = {  # what uvicorn's websockets-sansio does otherwise
    **dict.fromkeys(("3.2", "3.3", "4.1.3", "4.1.4", "4.2.3", "4.2.4", "5.15"), "NON-STRICT"),  # drops what it had read
    **dict.fromkeys(("6.4.1", "6.4.2", "6.4.3", "6.4.4"), "NON-STRICT"),  # decodes a text when it has the whole
    "7.1.5": "FAILED",  # closes 1002 at a close frame amid a message
    **dict.fromkeys(("7.1.6", "7.13.1", "7.13.2"), "INFORMATIONAL"),
}
DIRECT = {  # what ours does otherwise
    **dict.fromkeys(("6.4.3", "6.4.4"), "NON-STRICT"),  # sees a frame when it has the whole
    **dict.fromkeys(("7.1.6", "7.13.1", "7.13.2"), "INFORMATIONAL"),
}
# in plain uvicorn the reads decide which octets come together; a client that writes on octet by octet, 3.4, 4.1.5 and
# 4.2.5, is reset by the server's close, and loses the answer where it had not read it
RACES = {"3.4", "4.1.5", "4.2.5", "6.4.3", "6.4.4"}
TABLES = {"plain": PLAIN, "direct": DIRECT}
GROUPS = sorted({number.partition(".")[0] for number in CASES}, key=int)
DEADLINE = 30.0  # seconds for a case
PAUSE = 0.2  # seconds in which a peer may notice that a frame which is not whole is bad
AT_ONCE = 8  # cases
SERVED = {
    "plain": {"ws": "websockets-sansio"},
    "direct": protocols(Limits(message_max_bytes=16 << 20)),
}


@dataclass
class Peer:
    """A connection to the server, and what came over it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""
    events: list[tuple[str, bytes]] = field(default_factory=list)
    code: int | None = None  # of the close frame that came
    closed: bool = False
    inflate: Callable[[bytes], bytes] | None = None

    async def send(self, data: bytes) -> None:
        try:
            self.writer.write(data)
            await self.writer.drain()
        except ConnectionError:  # it has closed: what it said before can still be read
            pass

    async def receive(self) -> bool:
        """Take one frame; return whether there was one."""
        try:
            first, size = await self.reader.readexactly(2)
            if size > 125:
                size = int.from_bytes(await self.reader.readexactly(2 if size == 126 else 8))
            payload = await self.reader.readexactly(size)
        except (asyncio.IncompleteReadError, ConnectionError):
            return False
        assert first & 0xB0 == 0x80, f"a server's frame begins with {first:#x}"
        if first & 0x40:
            assert self.inflate is not None
            payload = self.inflate(payload)
        if first & 0xF == CLOSE:
            self.closed, self.code = True, struct.unpack("!H", payload[:2])[0] if payload else None
        else:
            self.events.append((NAMES[first & 0xF], payload))
        return True

    async def read_until(self, number: int) -> None:
        """Read until so many events are there, or the end."""
        while len(self.events) < number and not self.closed and await self.receive():
            pass

    async def read_all(self) -> None:
        while await self.receive():
            pass


async def connected(live: LiveServer, offer: str = "") -> Peer:
    peer = Peer(*await asyncio.open_connection(live.host, live.port))
    lines = [
        "GET /ws/echo HTTP/1.1",
        f"Host: {live.host}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version: 13",
        *([f"Sec-WebSocket-Extensions: {offer}"] if offer else []),
    ]
    peer.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    peer.head = (await peer.reader.readuntil(b"\r\n\r\n")).decode()
    assert peer.head.startswith("HTTP/1.1 101 ")
    return peer


async def exchange(case: Case, peer: Peer) -> None:
    """Send what the case sends, and take what comes until the end."""
    for _ in range(case.rounds):
        expected = len(peer.events) + len(case.events)
        for at, piece in enumerate(case.sent):
            if at and case.paused:
                await passed(peer)
            await peer.send(piece)
        if not case.codes and not case.informational:
            await peer.read_until(expected)
    if not case.codes and not case.informational:
        await peer.send(close(NORMAL))
    await peer.read_all()


async def passed(peer: Peer) -> None:
    """Note ("open", b"") unless the peer ends in the meantime."""
    done, _ = await asyncio.wait([task := asyncio.create_task(peer.receive())], timeout=PAUSE)
    if not done:
        task.cancel()
        await asyncio.wait([task])
        peer.events.append(("open", b""))


def verdict(case: Case, peer: Peer) -> str:
    """Return what the suite would say, and why it says "FAILED"."""
    if case.informational:
        return "INFORMATIONAL"
    codes = case.codes or (NORMAL,)
    clean = peer.closed or (bool(case.codes) and NORMAL not in codes)  # who fails a connection may just hang up
    if not clean or peer.code not in (*codes, None):
        return f"FAILED: closed with {peer.code}"
    events = tuple(peer.events)
    if events == case.events * case.rounds:
        return "OK"
    return "NON-STRICT" if events == case.lenient else f"FAILED: {str(events)[:200]}"


async def played(case: Case, live: LiveServer, gate: asyncio.Semaphore) -> str:
    async with gate:
        try:
            async with asyncio.timeout(DEADLINE):
                peer = await connected(live)
                try:
                    await exchange(case, peer)
                    return verdict(case, peer)
                finally:
                    peer.writer.transport.abort()
        except TimeoutError:
            return "FAILED: nothing more came"


async def verdicts(live: LiveServer, group: str) -> dict[str, str]:
    cases = [case for number, case in CASES.items() if number.partition(".")[0] == group]
    gate = asyncio.Semaphore(AT_ONCE)
    answers = await asyncio.gather(*(played(case, live, gate) for case in cases))
    return {case.number: answer for case, answer in zip(cases, answers, strict=True)}


@pytest.fixture(scope="module", params=["plain", "direct"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[str, LiveServer]]:
    from labserver.service.app import create_app

    options: dict[str, Any] = {**SERVED[request.param], "ws_max_size": 16 << 20, "ws_per_message_deflate": True}
    with start(create_app(), name="conformance", **options) as live:
        yield request.param, live
        assert live.errors() == [] or request.param == "plain"  # uvicorn logs a traceback for bad UTF-8


@pytest.mark.parametrize("group", GROUPS)
async def test_each_case_of_the_group_ends_as_the_table_says(served: tuple[str, LiveServer], group: str) -> None:
    kind, live = served
    found = await verdicts(live, group)
    known = {number: TABLES[kind].get(number, "OK") for number in found}
    assert {
        number: answer
        for number, answer in found.items()
        if answer.partition(":")[0] != known[number] and not (number in RACES and answer in ("OK", "NON-STRICT"))
    } == {}


def test_ours_is_nowhere_laxer_than_uvicorns_and_fails_nothing() -> None:
    assert DIRECT.items() <= PLAIN.items()
    assert "FAILED" not in DIRECT.values()
    assert set(PLAIN) <= set(CASES)


def test_the_table_has_every_case_of_the_suite_without_compression() -> None:
    sizes = {group: sum(number.startswith(f"{group}.") for number in CASES) for group in GROUPS}
    assert sizes == {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 54, "10": 1}


def test_a_wrong_answer_is_told_from_a_right_one() -> None:
    case, peer = CASES["1.1.2"], Peer(None, None, events=list(CASES["1.1.2"].events), code=NORMAL, closed=True)  # type: ignore[arg-type]
    assert verdict(case, peer) == "OK"
    peer.events.append(("text", b"more"))
    assert verdict(case, peer).startswith("FAILED: (")
    peer.events, peer.code = list(case.events), 1002
    assert verdict(case, peer) == "FAILED: closed with 1002"
    peer.code, peer.closed = None, False
    assert verdict(case, peer) == "FAILED: closed with None"


# ---- 12 and 13: permessage-deflate


class Deflate:
    """The client's side of the extension, without context takeover of its own (RFC 7692)."""

    def __init__(self, answer: str) -> None:
        self.fresh = "server_no_context_takeover" in answer
        self.decoder = zlib.decompressobj(wbits=-15)

    def inflate(self, data: bytes) -> bytes:
        if self.fresh:
            self.decoder = zlib.decompressobj(wbits=-15)
        return self.decoder.decompress(data + b"\x00\x00\xff\xff")

    @staticmethod
    def message(opcode: int, text: bytes) -> bytes:
        packed = zlib.compressobj(wbits=-9)
        return frame(opcode, (packed.compress(text) + packed.flush(zlib.Z_SYNC_FLUSH))[:-4], rsv=4)


async def deflated(live: LiveServer, offer: str, opcode: int, sizes: tuple[int, ...]) -> tuple[str, bool]:
    """Send a message of each size twice; return what was agreed upon, and whether each came back as it was."""
    peer = await connected(live, offer)
    try:
        agreed = re.search(r"(?im)^sec-websocket-extensions: *(.*?)\r$", peer.head)
        assert agreed is not None
        deflate = Deflate(agreed[1])
        peer.inflate = deflate.inflate
        texts = [(b'{"id": 7, "name": "item", "price": 3.5}, ' * (size // 40 + 1))[:size] for size in sizes] * 2
        for at, text in enumerate(texts, start=1):
            await peer.send(deflate.message(opcode, text))
            await peer.read_until(at)
        await peer.send(close(NORMAL))
        await peer.read_all()
        return agreed[1], (peer.events, peer.code) == ([(NAMES[opcode], text) for text in texts], NORMAL)
    finally:
        peer.writer.transport.abort()


OFFER = "permessage-deflate; client_no_context_takeover; client_max_window_bits"


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_12_compressed_messages_of_every_size_come_back(served: tuple[str, LiveServer], opcode: int) -> None:
    async with asyncio.timeout(DEADLINE):
        agreed, same = await deflated(served[1], OFFER, opcode, DEFLATE_SIZES)
    assert agreed.startswith("permessage-deflate")
    assert same


@pytest.mark.parametrize("group", DEFLATE_OFFERS)
async def test_13_what_a_client_asks_of_the_servers_side_is_kept(served: tuple[str, LiveServer], group: str) -> None:
    offers = DEFLATE_OFFERS[group].replace("permessage-deflate", OFFER)
    async with asyncio.timeout(DEADLINE):
        agreed, same = await deflated(served[1], offers, TEXT, (16, 1024, 131072))
    first = DEFLATE_OFFERS[group].partition(",")[0]
    assert "server_no_context_takeover" in agreed or "server_no_context_takeover" not in first
    if bits := re.search(r"server_max_window_bits=(\d+)", first):
        agreed_bits = re.search(r"server_max_window_bits=(\d+)", agreed)
        assert agreed_bits is not None
        assert int(agreed_bits[1]) <= int(bits[1])
    assert same
