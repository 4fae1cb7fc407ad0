"""Malformed input for every route of an app: seeded, so that a failure can be run again.

Each item is what one client writes to its socket, in pieces, and how it leaves. Requests are written by hand, since
no client library would send them.
"""

import base64
import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from starlette.routing import Route, WebSocketRoute

__all__ = ["Attack", "attacks"]

TEXTS = (
    "",
    "0",
    "-1",
    "1e999",
    "NaN",
    "9" * 40,
    "null",
    "true",
    "[]",
    "{}",
    '{"type": null}',
    '{"a": [[[[{}]]]]}',
    "[" * 5000,
    '"\\ud800"',
    "'single'",
    "line\nbreak",
    "blank\r\n\r\nline",
    "\x00",
    "ünïcode ☃ \U0001f30d",
    "../" * 6 + "etc/passwd",
    "a" * 70_000,
    "%",
    "%00",
    "${x}",
    "'; --",
)
VALUES = (
    "null",
    "true",
    "-1",
    "1.5",
    "1e999",
    "NaN",
    "9" * 400,
    '""',
    '" "',
    '"\\u0000"',
    '"\\ud800"',
    '"a\\ud83d"',
    '"' + "a" * 70_000 + '"',
    "[]",
    "{}",
    "[" * 3000,
)
HEADERS = (
    ("Last-Event-ID", ("", "-1", "x", "0:0", "9" * 5000, "\x01", "é", "1,2", "::")),
    (
        "Range",
        ("bytes=", "bytes=5-1", "bytes=-0", "items=0-1", "bytes=" + "0-0," * 2000, "bytes=99999999999999999999-"),
    ),
    ("If-None-Match", ("*", '"', "W/", "x" * 5000)),
    ("If-Modified-Since", ("yesterday",)),
    ("Accept-Encoding", ("gzip;q=2", "br, , ,", "\x7f")),
    ("Authorization", ("Bearer", "Bearer a.b.c", "Basic !!", "Bearer " + "x" * 5000, "é")),
    ("Cookie", ("=", ";;;", "token=", "token=a.b.c; token=b", "a" * 5000)),
    ("Content-Type", ("", "application/json; charset=x", "multipart/form-data", "text/plain")),
    ("Sec-WebSocket-Protocol", ("", "a b", ",", "token.x", "a" * 3000)),
    ("Host", ("", "[", "a:b:c")),
    ("Origin", ("null", "][", "http://", "x")),
)


@dataclass(frozen=True, slots=True)
class Attack:
    """What one client does.

    Attributes:
        name: which route and which kind.
        pieces: what it writes, one after the other; it reads what comes between them.
        abrupt: whether it leaves by a reset.
    """

    name: str
    pieces: tuple[bytes, ...]
    abrupt: bool


def attacks(routes: list[object], count: int, seed: int, tokens: tuple[str, ...] = ()) -> Iterator[Attack]:
    """Yield `count` attacks, the routes in turn; with `tokens`, some carry one in their query, cookie or first word."""
    random = Random(seed)
    known = [route for route in routes if isinstance(route, Route | WebSocketRoute)]
    for number in range(count):
        route = known[number % len(known)]
        make = _socket if isinstance(route, WebSocketRoute) else _http
        kind, pieces = make(route, random, tokens)
        yield Attack(f"{number}: {route.path} {kind}", tuple(pieces), random.random() < 0.5)


def _quoted(text: str) -> str:
    """Percent-encode all but letters, digits and some of what a sloppy client leaves as it is."""
    return "".join(c if (c.isalnum() and c.isascii()) or c in "-._~/:=&%" else _percent(c) for c in text)


def _percent(char: str) -> str:
    return "".join(f"%{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))


def _path(route: Route | WebSocketRoute, random: Random) -> str:
    def value(match: re.Match[str]) -> str:
        return _quoted(random.choice((*TEXTS, "x"))[:2000]) or "x"

    return re.sub(r"\{[^}]+\}", value, route.path)


def _query(route: Route | WebSocketRoute, random: Random, tokens: tuple[str, ...]) -> str:
    dependant = getattr(route, "dependant", None)
    names = [parameter.alias for parameter in getattr(dependant, "query_params", [])] + ["x", "token", "after", "limit"]
    chosen = random.sample(names, k=min(len(names), random.randint(0, 3)))
    pairs = [f"{name}={_quoted(random.choice((*TEXTS, *tokens)))[:3000]}" for name in chosen]
    return "?" + "&".join(pairs) if pairs else ""


def _object(route: Route, random: Random) -> bytes:
    """Return an object that has what the endpoint asks for, under its name, and with a value that it may not like."""
    asked = getattr(getattr(route, "dependant", None), "body_params", [])
    names = [name for field in asked for name in getattr(field.field_info.annotation, "model_fields", [field.alias])]
    return ("{" + ", ".join(f'"{name}": {random.choice(VALUES)}' for name in names or ["x"]) + "}").encode()


def _extra(random: Random) -> bytes:
    lines = b""
    for name, values in random.sample(HEADERS, k=random.randint(0, 3)):
        if name != "Host":
            lines += f"{name}: {random.choice(values)}\r\n".encode()
    return lines


def _http(route: Route, random: Random, tokens: tuple[str, ...]) -> tuple[str, list[bytes]]:
    methods = sorted(route.methods or {"GET"})
    method = random.choice([*methods, "POST", "PUT", "BREW"])
    head = f"{method} {_path(route, random)}{_query(route, random, tokens)} HTTP/1.1\r\nHost: x\r\n".encode() + _extra(
        random
    )
    if tokens and random.random() < 0.5:
        head += f"Authorization: Bearer {random.choice(tokens)}\r\n".encode()
    body = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    shape = _object(route, random)
    kinds = {
        "shape": [head + f"Content-Type: application/json\r\nContent-Length: {len(shape)}\r\n\r\n".encode() + shape],
        "json": [head + f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body],
        "no body": [head + b"\r\n"],
        "half a head": [head[: random.randint(1, len(head))]],
        "half a body": [head + b"Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", b'"a":'],
        "bad length": [head + b"Content-Length: -5\r\n\r\n"],
        "bad chunks": [head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"],
        "not UTF-8": [head + b"Content-Type: application/json\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00{"],
        "no HTTP": [random.randbytes(random.randint(1, 400))],
        "no space": [head.replace(b" ", b"", 1) + b"\r\n"],
        "pipelined": [(head + b"Content-Length: 0\r\n\r\n") * 3],
    }
    kind = "shape" if method == "POST" and random.random() < 0.3 else random.choice(list(kinds))
    return f"{method}, {kind}", kinds[kind]


def _socket(route: WebSocketRoute, random: Random, tokens: tuple[str, ...]) -> tuple[str, list[bytes]]:
    path = f"{_path(route, random)}{_query(route, random, tokens)}"
    if tokens and random.random() < 0.4:
        path = f"{path}{'&' if '?' in path else '?'}token={random.choice(tokens)}"
    start = f"GET {path} HTTP/1.1\r\nHost: x\r\n".encode()
    if random.random() < 0.3:
        start += _extra(random)
    if tokens and random.random() < 0.4:
        start += f"Cookie: token={random.choice(tokens)}; access_token={random.choice(tokens)}\r\n".encode()
    key = base64.b64encode(random.randbytes(16))
    shake = (
        start + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + key
    )
    bad_shakes = {
        "no key": start + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n",
        "bad key": start
        + b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ?\r\n\r\n",
        "old version": shake.replace(b"Version: 13", b"Version: 7") + b"\r\n\r\n",
        "no upgrade": start + b"\r\n",
    }
    if random.random() < 0.15:
        kind = random.choice(list(bad_shakes))
        return kind, [bad_shakes[kind]]
    first = [
        _frame(1, json.dumps({"token": token, "type": "auth"}).encode())
        for token in tokens[:1]
        if random.random() < 0.4
    ]
    kinds = _frames(random)
    chosen = random.sample(list(kinds), k=random.randint(1, 3))
    return ", ".join(chosen), [shake + b"\r\n\r\n", *first, *(kinds[kind] for kind in chosen)]


def _frames(random: Random) -> dict[str, bytes]:
    text = random.choice(TEXTS).encode("utf-8", "surrogatepass")
    message = random.choice(
        (b'{"type": "x"}', b'{"type": 5}', b'{"type": "auth", "token": 5}', b'{"token": {}}', b'{"to": 1e999}', b'"x"')
    )
    return {
        "text": _frame(1, text),
        "shape": _frame(1, message),
        "binary": _frame(2, random.randbytes(random.randint(0, 300))),
        "not UTF-8": _frame(1, b"\xff\xfe\xfd"),
        "unmasked": _frame(1, b"hello", mask=False),
        "reserved opcode": _frame(5, b"x"),
        "reserved bit": bytes([0xF1]) + _frame(1, b"x")[1:],
        "continuation of nothing": _frame(0, b"x"),
        "half a message": _frame(1, b"x", fin=False),
        "long ping": _frame(9, b"x" * 200),
        "huge length": b"\x81\xff" + struct.pack("!Q", 1 << 62) + b"abcd",
        "half a frame": _frame(1, b"hello world")[:5],
        "bad close": _frame(8, b"\x00"),
        "bad close code": _frame(8, struct.pack("!H", 1005)),
        "good close": _frame(8, struct.pack("!H", 1000)),
        "after close": _frame(8, struct.pack("!H", 1000)) + _frame(1, b"more"),
        "no frames": random.randbytes(random.randint(1, 200)),
    }


def _frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bool = True) -> bytes:
    """Return one frame (RFC 6455, 5.2); its masking key is zero, which any server takes."""
    size = len(payload)
    bit = 0x80 if mask else 0
    if size < 126:
        length = bytes([bit | size])
    elif size < 65536:
        length = bytes([bit | 126]) + struct.pack("!H", size)
    else:
        length = bytes([bit | 127]) + struct.pack("!Q", size)
    return bytes([(0x80 if fin else 0) | opcode]) + length + (b"\0\0\0\0" if mask else b"") + payload
