"""One sample each: load on a running server, and what that cost its process. Nothing here knows of goals or rounds."""

import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

from labserver.bench.figures import Sample
from labserver.bench.load import answered, connect
from labserver.bench.peers import Peer
from labserver.bench.place import Place, Server
from labserver.errors import LabError

__all__ = ["QUICK", "WHOLE", "Measure", "Size", "Under", "chat", "download", "fanout", "idle", "llm_direct", "rows"]

PATIENCE = 10.0  # seconds a request of a measurement may wait for bytes


@dataclass(frozen=True, slots=True)
class Size:
    """How much load: the spec's, or less of it to see that all works.

    Attributes:
        readers: connections of a fan-out, and idle ones.
        few: readers of the row with one that is stalled.
        seconds, warmup: of one sample of a fan-out.
        rows: of NDJSON.
        file_bytes: of a download.
        tokens: of an answer.
        questions: how many are asked per sample.
    """

    readers: int = 1000
    few: int = 100
    seconds: float = 1.5
    warmup: float = 0.3
    rows: int = 100_000
    file_bytes: int = 1 << 30
    tokens: int = 500
    questions: int = 10


WHOLE = Size()
QUICK = Size(readers=100, few=20, seconds=0.3, warmup=0.1, rows=5_000, file_bytes=64 << 20, tokens=200, questions=3)


@dataclass(frozen=True, slots=True)
class Under:
    """What a sample is taken of: a peer's running server, in a place, under so much load."""

    place: Place
    server: Server
    peer: Peer
    size: Size


Measure = Callable[[Under], Sample]


# ---- fan-out


def fanout(under: Under, *, sse: bool = False, readers: int | None = None, **more: Any) -> Sample:
    """Return the server's CPU per delivered message, us, with latencies, errors and how busy both sides were.

    Args:
        under: the server.
        sse: readers of event streams, in place of WebSockets.
        readers: how many, if not the size's.
        more: options of the load generator.

    Raises:
        LabError: nothing came, or the load generator gave up.
    """
    wire, size = under.peer.wire, under.size
    given: dict[str, Any] = {
        "port": under.server.port,
        "pid": under.server.pid,
        "kind": "sse" if sse else "ws",
        "path": wire.sse if sse else wire.ws,
        "publish": wire.publish,
        "hello": wire.hello,
        "greet": wire.greet,
        "head": wire.head,
        "tail": wire.tail,
        "readers": readers or size.readers,
        "seconds": size.seconds,
        "warmup": size.warmup,
        **more,
    }
    found = under.place.load("fanout", *(f"{name}={value}" for name, value in given.items()))
    if not found["deliveries"]:
        raise LabError(f"no message arrived; {found['gone']:.0f} readers were sent away")
    if more.get("frames") and found["compressed"] < found["deliveries"]:
        raise LabError("the server compressed nothing, though the readers asked for it")
    busy = {"server_busy": found["server"] / found["elapsed"], "load_busy": found["self"] / found["elapsed"]}
    return {**found, **busy, "cost": found["server"] / found["deliveries"]}


# ---- memory


def idle(under: Under, *, path: str, upgrade: bool) -> Sample:
    """Return the KiB of the server's memory that one more idle connection takes, after a tenth of them."""
    with ExitStack() as stack:
        _connections(stack, under, path, upgrade, under.size.readers // 10)
        before = under.server.resident()
        _connections(stack, under, path, upgrade, under.size.readers)
        return {"cost": (under.server.resident() - before) / 1024 / under.size.readers}


def _connections(stack: ExitStack, under: Under, path: str, upgrade: bool, count: int) -> None:
    for _ in range(count):
        opened = connect({"port": str(under.server.port)}, path, upgrade=upgrade)
        stack.enter_context(answered(opened, b"HTTP/1.1 101" if upgrade else b"HTTP/1.1 200"))


# ---- one response


def rows(under: Under) -> Sample:
    """Return the server's CPU for all rows of an NDJSON stream, ms, and after how long its first byte came, ms.

    Raises:
        LabError: it sent fewer rows.
    """
    path = f"/stream/items?limit={under.size.rows}"
    _get(under, "/stream/items?limit=1", lines=1)  # what the first request alone pays: imports, the pool
    found = _get(under, path, lines=1)
    if found["lines"] < under.size.rows:
        raise LabError(f"{found['lines']:.0f} rows came of {under.size.rows}")
    return {**found, "cost": found["server"] / 1000, "first": found["first"] / 1000}


def download(under: Under) -> Sample:
    """Return the server's CPU for one file, ms.

    Raises:
        LabError: it sent less.
    """
    found = _get(under, "/download/file.bin", lines=0)
    if found["bytes"] != under.size.file_bytes:
        raise LabError(f"{found['bytes']:.0f} bytes came of {under.size.file_bytes}")
    return {**found, "cost": found["server"] / 1000}


def _get(under: Under, path: str, lines: int) -> Mapping[str, float]:
    port, pid = under.server.port, under.server.pid
    return under.place.load("get", f"port={port}", f"pid={pid}", f"path={path}", f"lines={lines}")


# ---- an LLM's answer


def llm_direct(under: Under) -> Sample:
    """Return the ms after which the SDK hands the first token of an answer to a program that asks the LLM itself."""
    from anthropic import Anthropic

    times = []
    with Anthropic(base_url=f"http://127.0.0.1:{under.server.port}", api_key="none", timeout=PATIENCE) as client:
        for _ in range(under.size.questions + 1):
            begun = time.perf_counter()
            question: Any = {"role": "user", "content": "rivers"}
            with client.messages.stream(model="any", max_tokens=1024, messages=[question]) as answer:
                next(iter(answer.text_stream))
                times.append(time.perf_counter() - begun)
                answer.get_final_message()  # leaves the connection fit for the next question
    return {"cost": median(times[1:]) * 1000}


def chat(under: Under, *, token: str) -> Sample:
    """Return the ms after which the first token comes through the relay, and its CPU for each that follows, us.

    A question is a POST and, on another connection, the events of its answer, as a page asks it.
    """
    times, spent = [], []
    for _ in range(under.size.questions + 1):
        begun = time.perf_counter()
        with _asked(under.server.port, token) as sock:
            came = _until(sock, b"event: token")
            times.append(time.perf_counter() - begun)
            before = under.server.cpu()
            _until(sock, b"event: done", came)
            spent.append((under.server.cpu() - before) / (under.size.tokens - 1))
    return {"cost": median(times[1:]) * 1000, "token": median(spent[1:])}


@contextmanager
def _asked(port: int, token: str) -> Iterator[socket.socket]:
    head = {"authorization": f"Bearer {token}"}
    with _post(port, "/chat", {"prompt": "rivers"}, head) as sock:
        answer = json.loads(_until(sock, b"}").rpartition(b"\r\n\r\n")[2])
    with _request(port, "GET", f"/chat/{answer['id']}/events", head) as events:
        yield events


@contextmanager
def _request(port: int, verb: str, path: str, head: Mapping[str, str], body: bytes = b"") -> Iterator[socket.socket]:
    lines = {"host": "127.0.0.1", "connection": "close", **head}
    if body:
        lines |= {"content-type": "application/json", "content-length": str(len(body))}
    said = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(f"{verb} {path} HTTP/1.1\r\n{said}\r\n".encode() + body)
        yield sock


def _post(port: int, path: str, body: Any, head: Mapping[str, str]) -> Any:
    return _request(port, "POST", path, head, json.dumps(body).encode())


def _until(sock: socket.socket, wanted: bytes, came: bytes = b"") -> bytes:
    """Read until the words `wanted` have come, behind what `came` before; return all.

    Raises:
        LabError: the answer ended, or went silent, before.
    """
    while wanted not in came:
        try:
            piece = sock.recv(1 << 16)
        except OSError:
            piece = b""
        if not piece:
            raise LabError(f"the answer ended without {wanted.decode()!r}: {came[:80].decode(errors='replace')!r}")
        came += piece
    return came
