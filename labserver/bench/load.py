"""The load generator in Python, where there is no compiler: `load.c` says what it does and how it is called.

It is slower than what it measures, and its result shows that: compare its `self` with `server`.
"""

import json
import os
import selectors
import socket
import sys
import time
from collections import Counter
from typing import Any, NoReturn

__all__ = ["Fanout", "get", "main"]

MARK, WAIT = 12, 10.0  # bytes of @0000000001#; seconds that a handshake may take
STALL, QUIET = 1.0, 0.25  # seconds until a stalled reader is replaced; of silence after which all are greeted
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)
MASK = bytes((0x11, 0x22, 0x44, 0x88))

Options = dict[str, str]


def fail(why: str) -> NoReturn:
    """Print why there is no result, and end."""
    print(json.dumps({"error": why}))
    sys.exit(1)


def cpu_us(pid: int) -> float:
    """Return the CPU time of a process, us."""
    if pid == os.getpid():
        return time.process_time() * 1e6
    try:
        return time.clock_gettime(~pid << 3 | 2) * 1e6  # clock_getcpuclockid(3), which Python does not have
    except (AttributeError, OSError):
        import psutil  # type: ignore[import-untyped]

        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system) * 1e6


def masked(text: str) -> bytes:
    """Return a client's text frame."""
    data = text.encode()
    head = bytes((0x81, 0x80 | len(data))) if len(data) < 126 else b"\x81\xfe" + len(data).to_bytes(2, "big")
    return head + MASK + bytes(byte ^ MASK[at & 3] for at, byte in enumerate(data))


def connect(options: Options, path: str, *, upgrade: bool, receive_buffer: int = 0) -> socket.socket:
    """Return a connected socket on which the request was sent."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(WAIT)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        sock.connect(("127.0.0.1", int(options["port"])))
    except OSError:
        fail("the server does not accept a connection")
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n" if options.get("deflate", "0") != "0" else ""
    more = UPGRADE + extension if upgrade else "Accept: */*\r\nConnection: close\r\n"
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{options['port']}\r\n{more}\r\n".encode())
    return sock


def answered(sock: socket.socket, start: bytes) -> socket.socket:
    """Read the head of the answer, and nothing of what follows."""
    head = b""
    try:
        while not head.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)
            if not byte:
                break
            head += byte
    except OSError:
        head = b""
    if not head:
        fail("the server does not answer a handshake")
    if not head.startswith(start):
        fail("the server refused a connection")
    return sock


class Reader:
    """One connection that receives: what it has seen."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.carry, self.last, self.skip = sock, b"", 0, 0
        self.seen: set[int] = set()


class Fanout:
    """One publisher, many readers; `run` returns what was counted."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.frames = options.get("frames", "0") != "0"
        self.upgrade = options.get("kind", "ws") != "sse"
        self.selector = selectors.DefaultSelector()
        self.published = self.done = self.fresh = 0
        self.counts: Counter[str] = Counter()
        self.left: dict[int, int] = {}
        self.sent: dict[int, float] = {}
        self.late: list[float] = []
        self.measuring = False
        self.readers: list[Reader] = []
        self.stalled: socket.socket | None = None
        self.restall = 0.0

    def number(self, name: str, otherwise: float) -> float:
        return float(self.options.get(name, otherwise))

    def run(self) -> dict[str, Any]:
        """Connect, warm up, measure; return the counts."""
        count = int(self.number("readers", 1000))
        path = self.options.get("path", "/ws")
        self.readers = [self._open(path, self.upgrade, "hello") for _ in range(count)]
        self.publisher = self._open(self.options.get("publish", "/publish"), True, "greet")
        end = time.monotonic() + 20 * QUIET
        while self._turn(QUIET) and time.monotonic() < end:
            pass
        if self.number("stalled", 0):
            self._stall()
        self._all_subscribed(count)
        return self._measure()

    def _open(self, path: str, upgrade: bool, hello: str) -> Reader:
        start = b"HTTP/1.1 101" if upgrade else b"HTTP/1.1 200"
        sock = answered(connect(self.options, path, upgrade=upgrade), start)
        if upgrade:
            for line in filter(None, self.options.get(hello, "").split("\n")):
                sock.sendall(masked(line))
        reader = Reader(sock)
        self.selector.register(sock, selectors.EVENT_READ, reader)
        return reader

    def _stall(self) -> None:
        if self.stalled is not None:
            self.stalled.close()
            self.counts["returned"] += 1
        path = self.options.get("path", "/ws")
        self.restall = time.monotonic() + STALL
        self.stalled = connect(self.options, path, upgrade=self.upgrade, receive_buffer=4096)

    def _all_subscribed(self, count: int) -> None:
        """Publish until one message has reached all; what a reader missed before does not count."""
        for _ in range(10):
            self.fresh = 0
            self._publish(1)
            end = time.monotonic() + self.number("patience", 5)
            while self.fresh < count and time.monotonic() < end and not self.counts["gone"]:
                self._turn(0.01)
            if self.fresh >= count or self.counts["gone"]:
                break
        else:
            fail("some readers never get a message")
        for reader in self.readers:
            reader.last = self.published
        self.done = self.published
        self.counts = Counter(gone=self.counts["gone"])

    def _measure(self) -> dict[str, Any]:
        patience, flight, pid = self.number("patience", 5), int(self.number("flight", 1)), int(self.options["pid"])
        moved, before, first, begun, server, own = time.monotonic(), self.done, 0, 0.0, 0.0, 0.0
        end = moved + self.number("warmup", 0.3)
        while not self.counts["gone"] and time.monotonic() - moved < patience:
            if self.done > before:
                before, moved = self.done, time.monotonic()
            if time.monotonic() < end or self.done < self.published:
                if time.monotonic() < end and self.published - self.done < flight:
                    self._publish(flight - self.published + self.done)
            elif not self.measuring:
                self.measuring, first, begun = True, self.done, time.monotonic()
                self.counts["deliveries"] = 0
                end = begun + self.number("seconds", 1.5)
                server, own = cpu_us(pid), cpu_us(os.getpid())
            else:
                break
            self._turn(0.01)
        over, server, own = time.monotonic(), cpu_us(pid) - server, cpu_us(os.getpid()) - own
        self.counts["lost"] += sum(self.published - reader.last for reader in self.readers)
        late = sorted(self.late) or [0.0]
        while not self.counts["gone"] and self._turn(0.02):
            pass
        names = ("deliveries", "lost", "doubled", "disordered", "gone", "returned", "compressed")
        return {
            "elapsed": (over - begun) * 1e6,
            "server": server,
            "self": own,
            "messages": self.done - first,
            **{name: self.counts[name] for name in names},
            "p50": late[len(late) // 2] * 1e6,
            "p99": late[len(late) * 99 // 100] * 1e6,
        }

    def _publish(self, messages: int) -> None:
        burst = b""
        for _ in range(messages):
            self.published += 1
            self.left[self.published] = len(self.readers)
            start = f'{{"n":"@{self.published:010d}#","pad":"'
            data = start + "x" * (int(self.number("size", 100)) - len(start) - 2) + '"}'
            burst += masked(self.options.get("head", "") + data + self.options.get("tail", ""))
            self.sent[self.published] = time.monotonic()
        self.publisher.sock.settimeout(WAIT)
        self.publisher.sock.sendall(burst)

    def _turn(self, wait: float) -> int:
        events = self.selector.select(wait)
        for key, _ in events:
            self._take(key.data)
        if self.stalled is not None and time.monotonic() > self.restall:
            self._stall()
        while self.done < self.published and self.left[self.done + 1] <= 0:
            self.done += 1
            del self.left[self.done]
        return len(events)

    def _take(self, reader: Reader) -> None:
        reader.sock.setblocking(False)
        try:
            data = reader.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.counts["gone"] += 1
            self.selector.unregister(reader.sock)
            reader.sock.close()
        elif reader is not self.publisher:
            data = reader.carry + data
            reader.carry = self._scan_frames(reader, data) if self.frames else self._scan_marks(reader, data)

    def _scan_marks(self, reader: Reader, data: bytes) -> bytes:
        at = data.find(b"@")
        while at >= 0:
            mark = data[at : at + MARK]
            if len(mark) < MARK:
                return mark
            if mark[-1:] == b"#" and mark[1:-1].isdigit():
                self._received(reader, int(mark[1:-1]))
            at = data.find(b"@", at + 1)
        return b""

    def _scan_frames(self, reader: Reader, data: bytes) -> bytes:
        while len(data) > reader.skip:
            data, reader.skip = data[reader.skip :], 0
            head = 2 if len(data) < 2 or data[1] < 126 else 4 if data[1] == 126 else 10
            if len(data) < head:
                return data
            reader.skip = head + (data[1] if head == 2 else int.from_bytes(data[2:head], "big"))
            self.counts["compressed"] += data[0] == 0xC1
            if data[0] & 0x0F == 1 and self.published:
                self._received(reader, reader.last + 1 if reader.last else self.published)
        reader.skip -= len(data)
        return b""

    def _received(self, reader: Reader, found: int) -> None:
        if not 0 < found <= self.published or found in reader.seen:
            self.counts["doubled"] += 1
            return
        reader.last = reader.last or found - 1
        reader.seen.add(found)
        if found < reader.last:
            self.counts.update(disordered=1, lost=-1, deliveries=1)
            return
        for missing in range(reader.last + 1, found):
            self.counts["lost"] += 1
            self.left[missing] = self.left.get(missing, 0) - 1
        reader.last = found
        self.left[found] = self.left.get(found, 0) - 1
        self.fresh += found == self.published
        self.counts["deliveries"] += 1
        if self.measuring:
            self.late.append(time.monotonic() - self.sent[found])


def get(options: Options) -> dict[str, Any]:
    """Read one response; return its times and bytes, and with `lines` how many lines end an object."""
    pid, lines = int(options["pid"]), options.get("lines", "0") != "0"
    begun, server, own = time.monotonic(), cpu_us(pid), cpu_us(os.getpid())
    with answered(connect(options, options.get("path", "/"), upgrade=False), b"HTTP/1.1 200") as sock:
        first, total, found, tail = 0.0, 0, 0, b""
        while data := sock.recv(1 << 20):
            first = first or time.monotonic() - begun
            total += len(data)
            if lines:
                found += data.count(b"}\n") + (tail == b"}" and data[:1] == b"\n")
                tail = data[-1:]
    times = {"elapsed": (time.monotonic() - begun) * 1e6, "server": cpu_us(pid) - server}
    return {**times, "self": cpu_us(os.getpid()) - own, "first": first * 1e6, "bytes": total, "lines": found}


def main(arguments: list[str]) -> None:
    """Do what the arguments say and print the result as one line of JSON."""
    way, options = arguments[0], dict(each.split("=", 1) for each in arguments[1:])
    try:
        print(json.dumps(get(options) if way == "get" else Fanout(options).run()))
    except OSError as error:
        fail(f"the connection broke: {error.strerror}")


if __name__ == "__main__":
    main(sys.argv[1:])
