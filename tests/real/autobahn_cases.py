"""The cases of the Autobahn test suite for WebSocket servers, by its numbers: what is sent, and what has to come back.

Facts only, and the bytes are made here. Sizes of group 9 are a sixteenth of the suite's, its 1,000 messages are 50.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

__all__ = ["CASES", "DEFLATE_OFFERS", "DEFLATE_SIZES", "Case", "frame"]

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
NORMAL, PROTOCOL_ERROR, BAD_DATA = 1000, 1002, 1007
NAMES = {TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}
SCALE, MESSAGES = 16, 50  # group 9: sizes are divided by it; messages of a round trip

Event = tuple[str, bytes]


@dataclass(frozen=True)
class Case:
    """One case.

    Attributes:
        number: the suite's.
        sent: what is written, each piece by itself.
        events: what has to come, in this order.
        codes: the close codes that may come; none when the peer may not close by itself.
        lenient: the events of a peer that is right, but late to notice: "NON-STRICT".
        paused: whether a while goes by after each piece but the last; one that the peer lets pass is ("open", b"").
        rounds: how often it is sent anew, each time when the events have come.
        informational: whether any close is right.
    """

    number: str
    sent: tuple[bytes, ...]
    events: tuple[Event, ...] = ()
    codes: tuple[int, ...] = ()
    lenient: tuple[Event, ...] | None = None
    paused: bool = False
    rounds: int = 1
    informational: bool = False


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """Return a client's frame, masked; `rsv` is the three reserved bits as a number."""
    size = len(payload)
    long = b"" if size < 126 else struct.pack("!H", size) if size < 1 << 16 else struct.pack("!Q", size)
    first, second = fin << 7 | rsv << 4 | opcode, 0x80 | (size if size < 126 else 126 if size < 1 << 16 else 127)
    mask = os.urandom(4)
    key = int.from_bytes((mask * (size // 4 + 1))[:size])
    return bytes([first, second]) + long + mask + (int.from_bytes(payload) ^ key).to_bytes(size)


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


def parts(opcode: int, pieces: Iterable[bytes]) -> bytes:
    """Return a message in fragments."""
    *heads, last = pieces
    frames = [frame(CONT if at else opcode, piece, fin=False) for at, piece in enumerate(heads)]
    return b"".join(frames) + frame(CONT if heads else opcode, last)


def cut(data: bytes, size: int) -> tuple[bytes, ...]:
    return tuple(data[at : at + size] for at in range(0, len(data), size))


def echo(number: str, opcode: int, payload: bytes, chop: int = 0, rounds: int = 1) -> Case:
    sent = frame(opcode, payload)
    return Case(number, cut(sent, chop) if chop else (sent,), ((NAMES[opcode], payload),), rounds=rounds)


def fails(number: str, *sent: bytes, code: int = PROTOCOL_ERROR) -> Case:
    return Case(number, sent, codes=(code,))


def answers_first(number: str, *then: bytes, chop: int = 0, first: bytes = b"") -> Case:
    """Return a case of a good message and a bad frame behind it: the echo comes, and then the end."""
    sent = (first or frame(TEXT, HELLO)) + b"".join(then)
    event = ("text", b"fragment1fragment2" if first else HELLO)
    return Case(number, cut(sent, chop) if chop else (sent,), (event,), (PROTOCOL_ERROR,), lenient=())


HELLO = b"Hello, world!"
ODD = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
PAIR = (b"fragment1", b"fragment2")


def framing() -> Iterator[Case]:
    for group, (opcode, letter) in enumerate([(TEXT, b"*"), (BINARY, b"\xfe")], start=1):
        for number, size in enumerate([0, 125, 126, 127, 128, 65535, 65536], start=1):
            yield echo(f"1.{group}.{number}", opcode, letter * size)
        yield echo(f"1.{group}.8", opcode, letter * 65536, chop=997)


def pings() -> Iterator[Case]:
    def pinged(number: str, *payloads: bytes, before: bytes = b"", chop: int = 0) -> Case:
        sent = before + b"".join(frame(PING, each) for each in payloads)
        return Case(number, cut(sent, chop) if chop else (sent,), tuple(("pong", each) for each in payloads))

    ten = [f"payload-{number}".encode() for number in range(10)]
    yield pinged("2.1", b"")
    yield pinged("2.2", HELLO)
    yield pinged("2.3", ODD)
    yield pinged("2.4", b"\xfe" * 125)
    yield fails("2.5", frame(PING, b"\xfe" * 126))
    yield pinged("2.6", b"\xfe" * 125, chop=1)
    yield pinged("2.7", before=frame(PONG))
    yield pinged("2.8", before=frame(PONG, b"unsolicited"))
    yield pinged("2.9", HELLO, before=frame(PONG, b"unsolicited"))
    yield pinged("2.10", *ten)
    yield pinged("2.11", *ten, chop=1)


def reserved() -> Iterator[Case]:
    yield fails("3.1", frame(TEXT, HELLO, rsv=1))
    yield answers_first("3.2", frame(TEXT, HELLO, rsv=2), frame(PING))
    yield answers_first("3.3", frame(TEXT, HELLO, rsv=3), frame(PING))
    yield answers_first("3.4", frame(TEXT, HELLO, rsv=4), frame(PING), chop=1)
    yield fails("3.5", frame(BINARY, ODD, rsv=5))
    yield fails("3.6", frame(BINARY, HELLO, rsv=6))
    yield fails("3.7", frame(CLOSE, rsv=7))


def opcodes() -> Iterator[Case]:
    for group, first in enumerate([3, 11], start=1):
        yield fails(f"4.{group}.1", frame(first))
        yield fails(f"4.{group}.2", frame(first + 1, b"reserved opcode"))
        yield answers_first(f"4.{group}.3", frame(first + 2), frame(PING))
        yield answers_first(f"4.{group}.4", frame(first + 3, HELLO), frame(PING))
        yield answers_first(f"4.{group}.5", frame(first + 4, HELLO), frame(PING), chop=1)


def fragments() -> Iterator[Case]:
    one, two = PAIR
    whole = (("text", one + two),)
    ping, ponged = frame(PING, b"ping"), (("pong", b"ping"),)
    yield fails("5.1", frame(PING, one, fin=False) + frame(CONT, two))
    yield fails("5.2", frame(PONG, one, fin=False) + frame(CONT, two))
    head, tail = frame(TEXT, one, fin=False), frame(CONT, two)
    for number, sent in enumerate([(head + tail,), (head, tail), cut(head + tail, 1)], start=3):
        yield Case(f"5.{number}", sent, whole)
    for number, sent in enumerate([(head + ping + tail,), (head, ping, tail), cut(head + ping + tail, 1)], start=6):
        yield Case(f"5.{number}", sent, ponged + whole)
    for start, fin in ((9, True), (12, False)):
        lost, good = frame(CONT, b"nothing to continue", fin=fin), frame(TEXT, HELLO)
        for number, sent in enumerate([(lost + good,), (lost, good), cut(lost + good, 1)], start=start):
            yield fails(f"5.{number}", *sent)
    yield answers_first("5.15", frame(CONT, one, fin=False), frame(TEXT, two), first=head + tail)
    for number, fin in ((16, False), (17, True)):
        yield fails(f"5.{number}", (frame(CONT, one, fin=fin) + head + tail) * 2)
    yield fails("5.18", head + frame(TEXT, two))
    five = [f"fragment{number}".encode() for number in range(1, 6)]
    first, *more, last = five
    middle = [frame(CONT, piece, fin=False) for piece in more]
    pieces = [frame(TEXT, first, fin=False), middle[0], frame(PING, b"1"), *middle[1:], frame(PING, b"2")]
    events = (("pong", b"1"), ("pong", b"2"), ("text", b"".join(five)))
    yield Case("5.19", (b"".join(pieces[:3]), b"".join(pieces[3:]) + frame(CONT, last)), events)
    yield Case("5.20", (*pieces, frame(CONT, last)), events)


KOSME = bytes.fromhex("cebae1bdb9cf83cebcceb5")  # a Greek word, of 2, 3, 2, 2 and 2 bytes
UMLAUTS = "Hello-\u00b5@\u00df\u00f6\u00e4\u00fc\u00e0\u00e1-UTF-8!!".encode()
SURROGATE, TOO_HIGH, EDITED = b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"edited"


def utf8() -> Iterator[Case]:
    yield echo("6.1.1", TEXT, b"")
    yield Case("6.1.2", (parts(TEXT, [b"", b"", b""]),), (("text", b""),))
    yield Case("6.1.3", (parts(TEXT, [b"", b"middle", b""]),), (("text", b"middle"),))
    yield echo("6.2.1", TEXT, UMLAUTS)
    yield Case("6.2.2", (parts(TEXT, [UMLAUTS[:14], UMLAUTS[14:]]),), (("text", UMLAUTS),))
    yield Case("6.2.3", (parts(TEXT, cut(UMLAUTS, 1)),), (("text", UMLAUTS),))
    yield Case("6.2.4", (parts(TEXT, cut(KOSME, 1)),), (("text", KOSME),))
    bad = KOSME + SURROGATE + EDITED
    yield fails("6.3.1", frame(TEXT, bad), code=BAD_DATA)
    yield fails("6.3.2", parts(TEXT, cut(bad, 1)), code=BAD_DATA)
    yield from fail_fast()
    for group, (texts, valid) in enumerate(sequences(), start=5):
        for number, text in enumerate(texts, start=1):
            good = valid if isinstance(valid, bool) else number in valid
            yield (
                echo(f"6.{group}.{number}", TEXT, text)
                if good
                else fails(f"6.{group}.{number}", frame(TEXT, text), code=BAD_DATA)
            )


def fail_fast() -> Iterator[Case]:
    """Yield 6.4: frame by frame a ping asks who is still listening; within a frame only time tells."""
    bad = KOSME + TOO_HIGH + EDITED
    splits = {1: (KOSME, TOO_HIGH, EDITED), 2: (bad[:12], bad[12:13], bad[13:])}
    for number, (first, second, third) in splits.items():
        sent = frame(TEXT, first, fin=False), frame(PING, b"A"), frame(CONT, second, fin=False), frame(PING, b"B")
        once, twice = (("pong", b"A"),), (("pong", b"A"), ("pong", b"B"))
        yield Case(f"6.4.{number}", (*sent, frame(CONT, third)), once, (BAD_DATA,), lenient=twice)
    for number, (first, second, third) in splits.items():
        whole = frame(TEXT, bad)
        head = len(whole) - len(bad) + len(first)
        sent = whole[:head], whole[head : head + len(second)], whole[-len(third) :]
        once, twice = (("open", b""),), (("open", b""), ("open", b""))
        yield Case(f"6.4.{number + 2}", sent, once, (BAD_DATA,), lenient=twice, paused=True)


def sequences() -> Iterator[tuple[list[bytes], bool | set[int]]]:
    """Yield groups 6.5 to 6.23, after Kuhn's UTF-8 stress test: texts, and which of them are UTF-8 (RFC 3629)."""

    def many(*texts: str) -> list[bytes]:
        return [bytes.fromhex(each) for each in texts]

    lonely = [(0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD)]
    cut_off = many("c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf")
    inside = ["24", "c2a2", "e282ac", "f0a4ada2"]
    yield [*(b"hello" + text + b"world" for text in many(*inside)), KOSME], True
    yield [KOSME[:size] for size in range(1, 12)], {2, 5, 7, 9, 11}
    yield many("00", "c280", "e0a080", "f0908080"), True
    yield many("f888808080", "fc8480808080"), False
    yield many("7f", "dfbf", "efbfbf", "f48fbfbf"), True
    yield many("f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf"), False
    yield many("ed9fbf", "ee8080", "efbfbd", "f48fbfbf", "f4908080"), {1, 2, 3, 4}
    yield [*many("80", "bf", "80bf", "80bf80", "80bf80bf", "80bf80bf80", "80bf" * 3), bytes(range(0x80, 0xBF))], False
    yield [b"".join(bytes([byte, 0x20]) for byte in range(*each)) for each in lonely], False
    yield cut_off, False
    yield [b"".join(cut_off)], False
    yield many("fe", "ff", "fefeffff"), False
    yield many("c0af", "e080af", "f08080af", "f8808080af", "fc80808080af"), False
    yield many("c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf"), False
    yield many("c080", "e08080", "f0808080", "f880808080", "fc8080808080"), False
    halves = ["eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf"]
    yield many(*halves), False
    yield many(*(high + low for high in halves[:4] for low in ("edb080", "edbfbf"))), False
    planes = [chr(plane << 16 | last).encode() for plane in range(1, 17) for last in (0xFFFE, 0xFFFF)]
    yield [*many("efbfbe", "efbfbf"), *planes], True
    yield [chr(code).encode() for code in range(0xFFF9, 0x10000)], True


def closes() -> Iterator[Case]:
    def closed(number: str, *sent: bytes, events: tuple[Event, ...] = (), codes: tuple[int, ...] = (NORMAL,)) -> Case:
        return Case(number, (b"".join(sent),), events, codes)

    done = close(NORMAL)
    yield echo("7.1.1", TEXT, HELLO)
    yield closed("7.1.2", done, frame(CLOSE))
    yield closed("7.1.3", done, frame(PING))
    yield closed("7.1.4", done, frame(TEXT, HELLO))
    yield closed("7.1.5", frame(TEXT, PAIR[0], fin=False), done, frame(CONT, PAIR[1]))
    big = frame(TEXT, b"BAsd7&jh23" * 26215), frame(TEXT, HELLO), done, frame(PING)
    yield Case("7.1.6", (b"".join(big),), informational=True)
    yield closed("7.3.1", frame(CLOSE), codes=(NORMAL, 1005))
    yield closed("7.3.2", frame(CLOSE, b"a"), codes=(PROTOCOL_ERROR,))
    yield closed("7.3.3", done)
    yield closed("7.3.4", close(NORMAL, HELLO))
    yield closed("7.3.5", close(NORMAL, b"*" * 123))
    yield closed("7.3.6", close(NORMAL, b"*" * 124), codes=(PROTOCOL_ERROR,))
    yield closed("7.5.1", close(NORMAL, KOSME + SURROGATE + EDITED), codes=(PROTOCOL_ERROR, BAD_DATA))
    valid = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999]
    for number, code in enumerate(valid, start=1):
        yield closed(f"7.7.{number}", close(code), codes=(NORMAL, code))
    for number, code in enumerate([0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999], start=1):
        yield closed(f"7.9.{number}", close(code), codes=(PROTOCOL_ERROR,))
    for number, code in ((1, 5000), (2, 65535)):
        yield Case(f"7.13.{number}", (close(code),), informational=True)


def limits() -> Iterator[Case]:
    kib = 1024 // SCALE
    for first, opcode, letter in ((1, TEXT, b"*"), (2, BINARY, b"\xfe")):
        for number, size in enumerate([64, 256, 1024, 4096, 8192, 16384], start=1):
            yield echo(f"9.{first}.{number}", opcode, letter * size * kib)
        message = letter * 4096 * kib
        for number in range(9):
            sent = parts(opcode, cut(message, 64 << 2 * number))
            yield Case(f"9.{first + 2}.{number + 1}", (sent,), ((NAMES[opcode], message),))
        for number in range(6):
            yield echo(f"9.{first + 4}.{number + 1}", opcode, letter * 1024 * kib, chop=64 << number)
        for number, size in enumerate([0, 16, 64, 256, 1024, 4096], start=1):
            yield echo(f"9.{first + 6}.{number}", opcode, letter * size, rounds=MESSAGES)
    big = b"*" * 65536
    yield Case("10.1.1", (parts(TEXT, cut(big, 1300)),), (("text", big),))


GROUPS = (framing, pings, reserved, opcodes, fragments, utf8, closes, limits)
CASES = {case.number: case for group in GROUPS for case in group()}

DEFLATE_SIZES = (16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072)  # 12.1.1 to 12.1.10
DEFLATE_OFFERS = {  # 13.1 to 13.7: what a client asks of the server's own side, in order of preference
    "13.1": "permessage-deflate",
    "13.2": "permessage-deflate; server_no_context_takeover",
    "13.3": "permessage-deflate; server_max_window_bits=9",
    "13.4": "permessage-deflate; server_max_window_bits=15",
    "13.5": "permessage-deflate; server_no_context_takeover; server_max_window_bits=9",
    "13.6": "permessage-deflate; server_no_context_takeover; server_max_window_bits=15",
    "13.7": "permessage-deflate; server_no_context_takeover; server_max_window_bits=9, "
    "permessage-deflate; server_no_context_takeover, permessage-deflate",
}
